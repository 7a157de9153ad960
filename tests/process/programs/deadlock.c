/* Two threads that take two mutexes in opposite orders, a third that waits for a robust one whose owner never lets it go. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>

static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER, second = PTHREAD_MUTEX_INITIALIZER, kept;
static pthread_barrier_t barrier;

static void *backwards(void *argument) {
    pthread_setname_np(pthread_self(), "backwards");
    pthread_mutex_lock(&second);
    pthread_barrier_wait(&barrier);
    pthread_mutex_lock(&first);
    return argument;
}

static void *forwards(void *argument) {
    pthread_setname_np(pthread_self(), "forwards");
    pthread_mutex_lock(&first);
    pthread_mutex_lock(&kept);
    pthread_barrier_wait(&barrier);
    pthread_mutex_lock(&second);
    return argument;
}

static void *robust(void *argument) {
    pthread_setname_np(pthread_self(), "robust");
    pthread_barrier_wait(&barrier);
    pthread_mutex_lock(&kept);
    return argument;
}

int main(void) {
    pthread_t threads[3];
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&kept, &attr);
    pthread_barrier_init(&barrier, NULL, 3);
    pthread_create(&threads[0], NULL, backwards, NULL);
    pthread_create(&threads[1], NULL, forwards, NULL);
    pthread_create(&threads[2], NULL, robust, NULL);
    puts("before");
    fflush(stdout);
    pthread_join(threads[0], NULL);
    return 0;
}
