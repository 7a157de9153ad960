/* Each reads under one lock what it writes under the other. */
#include "small.h"
static pthread_rwlock_t a = PTHREAD_RWLOCK_INITIALIZER, b = PTHREAD_RWLOCK_INITIALIZER;
static void both(pthread_rwlock_t *read, pthread_rwlock_t *write) {
    pthread_rwlock_rdlock(read);
    EITHER((void)0, pthread_rwlock_unlock(read));
    pthread_rwlock_wrlock(write);
    pthread_rwlock_unlock(write);
    EITHER(pthread_rwlock_unlock(read), (void)0);
}
THREAD(one) { return both(&a, &b), (void *)0; }
THREAD(two) { return both(&b, &a), (void *)0; }
int main(void) { run(one, two); }
