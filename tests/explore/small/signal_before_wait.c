/* Who waits does not look whether what it waits for has happened. */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static int done;
THREAD(work) {
    pthread_mutex_lock(&m);
    done = 1;
    pthread_cond_signal(&c);
    pthread_mutex_unlock(&m);
    return 0;
}
THREAD(wait_for) {
    pthread_mutex_lock(&m);
    if (EITHER(1, !done)) pthread_cond_wait(&c, &m);
    pthread_mutex_unlock(&m);
    return 0;
}
int main(void) { run(wait_for, work); }
