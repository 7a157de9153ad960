/* Unguarded increments: how many are lost is the schedule's doing. */
#include <pthread.h>
#include <stdio.h>

enum { ROUNDS = 300 };
static volatile int counter;

static void *count(void *argument) {
    for (int i = 0; i < ROUNDS; i++) {
        int seen = counter;
        for (volatile int j = 0; j < 5; j++) {
        }
        counter = seen + 1;
    }
    return argument;
}

int main(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, count, NULL);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    printf("%d of %d\n", counter, 3 * ROUNDS);
    return 0;
}
