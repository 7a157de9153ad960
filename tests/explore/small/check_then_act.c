/* The last seat is looked for under the lock, and taken under it a second time. */
#include "small.h"
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static int seats = 1;
THREAD(book) {
    pthread_mutex_lock(&m);
    int free = seats > 0;
    EITHER(pthread_mutex_unlock(&m); pthread_mutex_lock(&m), (void)0);
    if (free) seats--;
    pthread_mutex_unlock(&m);
    return 0;
}
int main(void) {
    run(book, book);
    CHECK(seats == 0);
}
