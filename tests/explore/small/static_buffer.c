/* races: a function has one buffer for all its callers */
#include "small.h"
static char *digits(int number) {
    static EITHER(, _Thread_local) char buffer[8];
    for (int i = 6; i >= 0; i--, number /= 10) buffer[i] = (char)('0' + number % 10);
    return buffer;
}
THREAD(one) { return (void *)(long)digits(1)[6]; }
THREAD(two) { return (void *)(long)digits(2)[6]; }
int main(void) { run(one, two); }
