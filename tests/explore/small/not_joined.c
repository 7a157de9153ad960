/* The result is read before the thread that makes it has ended. */
#include "small.h"
static atomic_int result;
THREAD(work) {
    atomic_store(&result, 7);
    return 0;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
    EITHER(CHECK(atomic_load(&result) == 7), (void)0);
    pthread_join(thread, 0);
    CHECK(atomic_load(&result) == 7);
}
