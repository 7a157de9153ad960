/* A thread is cancelled where it could wait, and takes the lock with it. */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static sem_t s;
static void give_back(void *mutex) { pthread_mutex_unlock(mutex); }
static void nothing(__attribute__((unused)) void *mutex) {}
THREAD(work) {
    pthread_mutex_lock(&m);
    pthread_cleanup_push(EITHER(nothing, give_back), &m);
    sem_wait(&s);
    pthread_cleanup_pop(0);
    pthread_mutex_unlock(&m);
    return 0;
}
int main(void) {
    pthread_t thread;
    sem_init(&s, 0, 1);
    pthread_create(&thread, 0, work, 0);
    pthread_cancel(thread);
    pthread_join(thread, 0);
    pthread_mutex_lock(&m);
    (void)give_back, (void)nothing;
}
