/* The data are written before the flag; who sees the flag sees the data. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#ifdef FIXED
static _Atomic int flag;
#else
static int flag;
#endif
static int data;
static void *send(void *nothing) {
    data = 7;
    flag = 1;
    return nothing;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, send, 0);
    int seen = flag;
    if (seen)
        printf("%d\n", data);
    else
        puts("not yet");
    pthread_join(thread, 0);
}
