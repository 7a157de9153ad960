#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t *shared = &m;
static void *worker(void *u) {
    pthread_mutex_lock(&m);
#ifdef FIXED
    pthread_mutex_unlock(&m);
    void *h = dlopen("libm.so.6", RTLD_NOW);
#else
    void *h = dlopen("libm.so.6", RTLD_NOW);
    pthread_mutex_unlock(&m);
#endif
    return h;
}
int main(void) {
    pthread_t t;
    pthread_create(&t, 0, worker, 0);
    void *h = dlopen("./plugin.so", RTLD_NOW);
    pthread_join(t, 0);
    puts(h ? "done" : dlerror());
}
