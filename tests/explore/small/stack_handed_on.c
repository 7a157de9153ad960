/* races: a thread is given what its maker goes on to write */
#include "small.h"
static void *read_it(void *given) { return (void *)(long)*(int *)given; }
int main(void) {
    pthread_t thread;
    int value = 1;
    pthread_create(&thread, 0, read_it, &value);
    EITHER(value = 2, (void)0);
    pthread_join(thread, 0);
    value = 3;
    return value - 3;
}
