/* A semaphore is asked, without waiting, for what is posted after the thread was made. */
#include "small.h"
static sem_t s;
THREAD(take) {
    CHECK(EITHER(sem_trywait(&s), sem_wait(&s)) == 0);
    return 0;
}
int main(void) {
    pthread_t thread;
    sem_init(&s, 0, 0);
    pthread_create(&thread, 0, take, 0);
    sem_post(&s);
    pthread_join(thread, 0);
}
