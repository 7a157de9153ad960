/* Peterson's algorithm: each must give the turn to the other, not take it. */
#include "small.h"
static atomic_int flag[2], turn, inside;
static void enter(int me) {
    int other = 1 - me;
    atomic_store(&flag[me], 1);
    atomic_store(&turn, EITHER(me, other));
    while (atomic_load(&flag[other]) && atomic_load(&turn) == other) {}
    CHECK(atomic_fetch_add(&inside, 1) == 0);
    atomic_fetch_sub(&inside, 1);
    atomic_store(&flag[me], 0);
}
THREAD(one) { return enter(0), (void *)0; }
THREAD(two) { return enter(1), (void *)0; }
int main(void) { run(one, two); }
