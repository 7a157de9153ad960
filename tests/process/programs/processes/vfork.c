// Threads go on while one of them waits for the child of a vfork, or for a program that it has spawned.
#include "program.h"
static volatile int stop;
static int calls[3], wrong[3];

static void *works(void *number) {
    int own = gettid(), at = (int)(long)number;
    while (!stop) {
        calls[at]++;
        wrong[at] += gettid() != own || getpid() == own;
        sched_yield();
    }
    return 0;
}

int main(void) {
    pthread_t threads[3];
    for (long i = 0; i < 3; i++)
        pthread_create(&threads[i], 0, works, (void *)i);
    for (int i = 0; i < 5; i++) {
        pid_t p = vfork();
        if (!p)
            _exit(i);
        P("vfork %s\n", ws(wst(p)));
    }
    P("system %s\n", ws(system("exit 3")));
    stop = 1;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], 0);
        P("thread %d worked %d wrong %d\n", i, calls[i] > 0, wrong[i]);
    }
    return 0;
}
