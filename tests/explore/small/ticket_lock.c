/* A ticket is drawn in two steps: two have the same. */
#include "small.h"
static atomic_int next, serving, inside;
THREAD(enter) {
#ifdef FIXED
    int mine = atomic_fetch_add(&next, 1);
#else
    int mine = atomic_load(&next);
    atomic_store(&next, mine + 1);
#endif
    while (atomic_load(&serving) != mine) {}
    CHECK(atomic_fetch_add(&inside, 1) == 0);
    atomic_fetch_sub(&inside, 1);
    atomic_fetch_add(&serving, 1);
    return 0;
}
int main(void) { run(enter, enter); }
