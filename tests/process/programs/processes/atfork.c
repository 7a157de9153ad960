// Fork handlers and their order; fork in constructors, destructors, exit handlers, threads; exit in a child.
#include "program.h"
static char after[100];
#define H(n)                                                                                                 \
    static void p##n(void) {                                                                                 \
        P("prepare %d\n", n);                                                                                \
    }                                                                                                        \
    static void a##n(void) {                                                                                 \
        strcat(after, " " #n);                                                                               \
    }                                                                                                        \
    static void c##n(void) {                                                                                 \
        P("child %d\n", n);                                                                                  \
    }
H(1) H(2) H(3) static int once;
static void forks(void) {
    if (!once++) {
        P("in handler\n");
    }
}
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static void lk(void) {
    pthread_mutex_lock(&mu);
}
static void ul(void) {
    pthread_mutex_unlock(&mu);
}
static void *thr(void *x) {
    for (int i = 0; i < 20; i++) {
        pthread_mutex_lock(&mu);
        usleep(10);
        pthread_mutex_unlock(&mu);
        sched_yield();
    }
    return 0;
}
static void atex(void) {
    fflush(stdout);
    pid_t p = fork();
    if (!p) {
        P("forked at exit\n");
        _exit(4);
    }
    P("atexit child %s\n", ws(wst(p)));
}
__attribute__((constructor)) static void ctor(void) {
    pid_t p = fork();
    if (!p) {
        P("in constructor\n");
        _exit(2);
    }
    P("ctor child %s\n", ws(wst(p)));
}
__attribute__((destructor)) static void dtor(void) {
    fflush(stdout);
    pid_t p = fork();
    if (!p) {
        P("in destructor\n");
        _exit(2);
    }
    P("dtor child %s\n", ws(wst(p)));
}
static __thread int tv = 5;
static void *inthr(void *x) {
    tv = 9;
    pid_t p = fork();
    if (!p) {
        P("thread child tv %d tid==pid %d self %d\n", tv, (int)(gettid() == getpid()),
          (int)(pthread_self() == (pthread_t)x || 1));
        pthread_exit(0);
    }
    P("from thread %s\n", ws(wst(p)));
    return 0;
}
static pthread_key_t key;
static void kd(void *v) {
    P("key destructor %s\n", (char *)v);
}
static void *keyed(void *x) {
    pthread_setspecific(key, "k");
    pid_t p = fork();
    if (!p) {
        pthread_exit(0);
    }
    P("keyed %s\n", ws(wst(p)));
    return 0;
}
int main(void) {
    pthread_atfork(p1, a1, c1);
    pthread_atfork(p2, a2, c2);
    pthread_atfork(p3, a3, 0);
    pthread_atfork(forks, 0, 0);
    fflush(stdout);
    pid_t p = fork();
    if (!p)
        _exit(1);
    P("%s, parent%s\n", ws(wst(p)), after);
    P("vfork runs none:\n");
    p = vfork();
    if (!p)
        _exit(3);
    P("%s\n", ws(wst(p)));
    P("_Fork runs none:\n");
    p = _Fork();
    if (!p)
        _exit(5);
    P("%s\n", ws(wst(p)));
    pthread_atfork(lk, ul, ul);
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], 0, thr, 0);
    for (int i = 0; i < 4; i++) {
        p = fork();
        if (!p) {
            pthread_mutex_lock(&mu);
            pthread_mutex_unlock(&mu);
            void *m = malloc(1000);
            free(m);
            FILE *f = fopen("/dev/null", "r");
            fclose(f);
            _exit(10 + i);
        }
        P("%s\n", ws(wst(p)));
    }
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], 0);
    pthread_t q;
    pthread_create(&q, 0, inthr, 0);
    pthread_join(q, 0);
    pthread_key_create(&key, kd);
    pthread_create(&q, 0, keyed, 0);
    pthread_join(q, 0);
    atexit(atex);
    p = fork();
    if (!p)
        exit(6);
    P("%s\n", ws(wst(p)));
    return 0;
}
