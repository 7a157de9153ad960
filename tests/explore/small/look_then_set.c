/* A lock of two steps: look whether it is free, then take it. */
#include "small.h"
static atomic_int locked, inside;
static int take(void) {
#ifdef FIXED
    return !atomic_exchange(&locked, 1);
#else
    if (atomic_load(&locked)) return 0;
    atomic_store(&locked, 1);
    return 1;
#endif
}
THREAD(enter) {
    if (!take()) return 0;
    CHECK(atomic_fetch_add(&inside, 1) == 0);
    atomic_fetch_sub(&inside, 1);
    atomic_store(&locked, 0);
    return 0;
}
int main(void) { run(enter, enter); }
