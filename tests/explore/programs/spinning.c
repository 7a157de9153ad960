/* One waits in a loop for what the other does: with a locked instruction, or with plain loads. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static atomic_int locked;
static volatile int plain;
static void *set(void *nothing) {
    atomic_store(&locked, 1);
    plain = 1;
    return nothing;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, set, 0);
    while (!atomic_fetch_add(&locked, 0)) {}
    while (!plain) {}
    pthread_join(thread, 0);
    puts("done");
}
