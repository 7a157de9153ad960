/* What the small programs share: each has a fault that some schedule shows, and with -DFIXED none. */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef FIXED
#define EITHER(faulty, mended) mended
#else
#define EITHER(faulty, mended) faulty
#endif
#define CHECK(what) do { if (!(what)) _exit(3); } while (0)
#define THREAD(name) static void *name(__attribute__((unused)) void *given)
typedef void *Body(void *);
static inline void run(Body *one, Body *two) {
    pthread_t first, second;
    pthread_create(&first, 0, one, 0);
    pthread_create(&second, 0, two, 0);
    pthread_join(first, 0);
    pthread_join(second, 0);
}
