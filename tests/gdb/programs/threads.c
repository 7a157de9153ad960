#include <pthread.h>
#include <signal.h>
#include <stdio.h>

static __thread int mine;
static pthread_barrier_t all;
static volatile int caught;

static void handler(int number) { caught += number; }

static void *body(void *arg) {
    mine = (int)(long)arg;
    pthread_barrier_wait(&all);
    pthread_barrier_wait(&all);
    return arg;
}

int main(void) {
    pthread_t threads[2];
    signal(SIGUSR1, handler);
    pthread_barrier_init(&all, 0, 3);
    mine = 100;
    for (long i = 0; i < 2; i++)
        pthread_create(&threads[i], 0, body, (void *)(i + 1));
    pthread_barrier_wait(&all);
    raise(SIGUSR1);
    pthread_barrier_wait(&all);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], 0);
    printf("caught %d\n", caught);
    return 0;
}
