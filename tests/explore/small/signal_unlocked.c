/* Done is set without the lock: between the look and the wait it is signalled, and nobody hears. */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static atomic_int done;
THREAD(wait_for) {
    pthread_mutex_lock(&m);
    while (!atomic_load(&done)) pthread_cond_wait(&c, &m);
    pthread_mutex_unlock(&m);
    return 0;
}
THREAD(finish) {
    EITHER((void)0, pthread_mutex_lock(&m));
    atomic_store(&done, 1);
    EITHER((void)0, pthread_mutex_unlock(&m));
    pthread_cond_signal(&c);
    return 0;
}
int main(void) { run(wait_for, finish); }
