#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static int (*f)(int);
static void *worker(void *u) {
    pthread_mutex_lock(&m);
    int (*g)(int) = f;
#ifdef FIXED
    if (g) g(3);
    pthread_mutex_unlock(&m);
#else
    pthread_mutex_unlock(&m);
    if (g) g(3);
#endif
    return 0;
}
int main(void) {
    void *h = dlopen("./plugin.so", RTLD_NOW);
    pthread_t t;
    f = (int (*)(int))dlsym(h, "twice");
    pthread_create(&t, 0, worker, 0);
    pthread_mutex_lock(&m); f = 0; pthread_mutex_unlock(&m);
    dlclose(h);
    pthread_join(t, 0);
    puts("done");
}
