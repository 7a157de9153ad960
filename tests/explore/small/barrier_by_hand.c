/* A barrier made by hand: between counting and waiting the other one has counted, too, and told nobody. */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static atomic_int came;
THREAD(meet) {
    int last = atomic_fetch_add(&came, 1) == 1;
    pthread_mutex_lock(&m);
    if (last) pthread_cond_broadcast(&c);
    if (EITHER(!last, atomic_load(&came) < 2)) pthread_cond_wait(&c, &m);
    pthread_mutex_unlock(&m);
    return 0;
}
int main(void) { run(meet, meet); }
