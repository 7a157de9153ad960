/* races: each has a lock, but not the same */
#include "small.h"
static pthread_mutex_t a = PTHREAD_MUTEX_INITIALIZER, b = PTHREAD_MUTEX_INITIALIZER;
static int count;
static void add(pthread_mutex_t *m) {
    pthread_mutex_lock(m);
    count++;
    pthread_mutex_unlock(m);
}
THREAD(one) { return add(&a), (void *)0; }
THREAD(two) { return add(EITHER(&b, &a)), (void *)0; }
int main(void) {
    (void)b;
    run(one, two);
    return count > 2;
}
