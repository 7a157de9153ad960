/* Each thread is given the address of the loop's variable. */
#include "small.h"
static atomic_int seen[3], number;
static void *work(void *given) {
    (void)given;
    int mine = EITHER(atomic_load(&number), (int)(long)given);
    atomic_fetch_add(&seen[mine], 1);
    return 0;
}
int main(void) {
    pthread_t threads[2];
    for (long i = 0; i < 2; i++) {
        atomic_store(&number, (int)i);
        pthread_create(&threads[i], 0, work, (void *)i);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    CHECK(seen[0] == 1 && seen[1] == 1);
}
