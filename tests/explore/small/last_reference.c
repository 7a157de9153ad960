/* Both see that another one holds a reference, and nobody frees; or each thinks it is the last. */
#include "small.h"
static atomic_int references = 2, freed;
THREAD(drop) {
#ifdef FIXED
    if (atomic_fetch_sub(&references, 1) == 1) atomic_fetch_add(&freed, 1);
#else
    if (atomic_load(&references) == 1) atomic_fetch_add(&freed, 1);
    atomic_fetch_sub(&references, 1);
#endif
    return 0;
}
int main(void) {
    run(drop, drop);
    CHECK(freed == 1);
}
