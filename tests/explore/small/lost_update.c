/* Reading and writing an atomic counter are two steps. */
#include "small.h"
static atomic_int count;
THREAD(add) {
#ifdef FIXED
    atomic_fetch_add(&count, 1);
#else
    int seen = atomic_load(&count);
    atomic_store(&count, seen + 1);
#endif
    return 0;
}
int main(void) {
    run(add, add);
    CHECK(count == 2);
}
