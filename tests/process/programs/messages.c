/* A thread with a name that takes three messages from a pipe, and main, which yields between them. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

static int fds[2];

static void *receiver(void *argument) {
    char byte;
    for (int i = 0; i < 3; i++)
        if (read(fds[0], &byte, 1) != 1) return argument;
    return NULL;
}

int main(void) {
    pthread_t thread;
    void *result;
    if (pipe(fds)) return 1;
    pthread_create(&thread, NULL, receiver, &thread);
    pthread_setname_np(thread, "receiver");
    for (int i = 0; i < 3; i++) {
        if (write(fds[1], "x", 1) != 1) return 1;
        if (i < 2) sched_yield(); // the last message is still there when main joins
    }
    pthread_join(thread, &result);
    return result != NULL;
}
