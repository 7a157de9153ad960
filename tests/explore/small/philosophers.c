/* Three forks, each philosopher takes the left one first. */
#include "small.h"
static pthread_mutex_t forks[3] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static void *dine(void *number) {
    long left = (long)number, right = (left + 1) % 3;
    long first = EITHER(left, left < right ? left : right), second = left + right - first;
    pthread_mutex_lock(&forks[first]);
    pthread_mutex_lock(&forks[second]);
    pthread_mutex_unlock(&forks[second]);
    pthread_mutex_unlock(&forks[first]);
    return 0;
}
int main(void) {
    pthread_t threads[2];
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], 0, dine, (void *)i);
    dine((void *)2);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
}
