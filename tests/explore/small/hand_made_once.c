/* Only one makes it; the other does not wait until it is made. */
#include "small.h"
static atomic_int begun, value;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void make(void) { atomic_store(&value, 42); }
THREAD(use) {
#ifdef FIXED
    (void)begun;
    pthread_once(&once, make);
#else
    (void)once;
    if (!atomic_exchange(&begun, 1)) make();
#endif
    CHECK(atomic_load(&value) == 42);
    return 0;
}
int main(void) { run(use, use); }
