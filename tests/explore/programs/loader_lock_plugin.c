#include <pthread.h>
extern pthread_mutex_t *shared;
__attribute__((constructor)) static void up(void) { pthread_mutex_lock(shared); pthread_mutex_unlock(shared); }
