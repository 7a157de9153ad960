/* Two threads print; nobody says who comes first. */
#include <pthread.h>
#include <unistd.h>
#ifndef TURNS
#define TURNS 2
#endif
static void *say(void *letter) {
    for (int i = 0; i < TURNS; i++) write(1, letter, 1);
    return 0;
}
int main(void) {
    pthread_t threads[2];
    pthread_create(&threads[0], 0, say, "a");
    pthread_create(&threads[1], 0, say, "b");
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
}
