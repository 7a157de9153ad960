/* races: neighbours in one word are written together */
#include "small.h"
static struct {
    unsigned a : 4;
    EITHER(, unsigned : 0;)
    unsigned b : 4;
} fields;
THREAD(one) { return fields.a = 1, (void *)0; }
THREAD(two) { return fields.b = 1, (void *)0; }
int main(void) {
    run(one, two);
    return fields.a + fields.b > 2;
}
