#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <semaphore.h>
static sem_t used;
static void *worker(void *use) { ((void (*)(void))use)(); sem_post(&used); return 0; }
int main(void) {
    void *h = dlopen("./plugin.so", RTLD_NOW);
    pthread_t t;
    sem_init(&used, 0, 0);
    pthread_create(&t, 0, worker, dlsym(h, "use"));
    sem_wait(&used);
#ifdef FIXED
    pthread_join(t, 0);
    dlclose(h);
#else
    dlclose(h);
    pthread_join(t, 0);
#endif
    puts("done");
}
