/* Readers and a writer wait at one condition; a signal wakes one of them, perhaps the one it means nothing to. */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static int turn;
static void *wait_turn(void *number) {
    pthread_mutex_lock(&m);
    while (turn != (int)(long)number) pthread_cond_wait(&c, &m);
    turn++;
    EITHER(pthread_cond_signal, pthread_cond_broadcast)(&c);
    pthread_mutex_unlock(&m);
    return 0;
}
int main(void) {
    pthread_t threads[2];
    for (long i = 2; i > 0; i--) pthread_create(&threads[i - 1], 0, wait_turn, (void *)i);
    wait_turn((void *)0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
}
