/* races: two count without a lock */
#include "small.h"
static int count;
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
THREAD(add) {
    EITHER((void)m, pthread_mutex_lock(&m));
    count++;
    EITHER((void)m, pthread_mutex_unlock(&m));
    return 0;
}
int main(void) {
    run(add, add);
    return count > 2;
}
