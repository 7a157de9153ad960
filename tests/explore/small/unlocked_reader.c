/* races: only who writes takes the lock */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static int value;
THREAD(set) {
    pthread_mutex_lock(&m);
    value = 1;
    pthread_mutex_unlock(&m);
    return 0;
}
THREAD(get) {
    EITHER((void)0, pthread_mutex_lock(&m));
    int seen = value;
    EITHER((void)0, pthread_mutex_unlock(&m));
    return (void *)(long)seen;
}
int main(void) { run(set, get); }
