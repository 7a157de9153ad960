/* A race whose read and write lie in one basic block: it shows only where a thread loses the CPU between two instructions. */
#include <pthread.h>
#include <stdio.h>

static volatile int count;

static void *add(void *unused) {
    (void)unused;
    for (int i = 0; i < 2000; ++i) {
        int value = count;
        count = value + 1;
    }
    return NULL;
}

int main(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; ++i) pthread_create(&threads[i], NULL, add, NULL);
    for (int i = 0; i < 3; ++i) pthread_join(threads[i], NULL);
    printf("%d of 6000\n", count);
    return 0;
}
