/* The page goes when the worker says it is done, which is before its last write. */
#include "small.h"
#include <sys/mman.h>
static sem_t done;
static volatile char *page;
THREAD(work) {
    page[0] = 1;
    EITHER(sem_post(&done), (void)0);
    page[1] = 1;
    EITHER((void)0, sem_post(&done));
    return 0;
}
int main(void) {
    pthread_t thread;
    page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sem_init(&done, 0, 0);
    pthread_create(&thread, 0, work, 0);
    sem_wait(&done);
    munmap((void *)page, 4096);
    pthread_join(thread, 0);
}
