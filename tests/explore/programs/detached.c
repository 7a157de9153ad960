/* The process may end before a thread that nobody waits for has printed. */
#include <pthread.h>
#include <stdio.h>
static void *work(void *nothing) {
    puts("worker");
    fflush(stdout);
    return nothing;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
#ifdef FIXED
    pthread_join(thread, 0);
#else
    pthread_detach(thread);
#endif
}
