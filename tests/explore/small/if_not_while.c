/* Two are woken for one item; who comes second does not look again. */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static int items, stop;
THREAD(take) {
    pthread_mutex_lock(&m);
    EITHER(if, while) (!items && !stop) pthread_cond_wait(&c, &m);
    if (!stop) CHECK(items-- > 0);
    pthread_mutex_unlock(&m);
    return 0;
}
int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, take, 0);
    pthread_mutex_lock(&m);
    items = 1;
    pthread_cond_broadcast(&c);
    pthread_mutex_unlock(&m);
    pthread_mutex_lock(&m);
    stop = 1;
    pthread_cond_broadcast(&c);
    pthread_mutex_unlock(&m);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
}
