/* A reference count that is looked at after it was taken down: who comes last is not who takes the last one. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static atomic_int references = 2, freed;
static void *release(void *nothing) {
#ifdef FIXED
    if (atomic_fetch_sub(&references, 1) == 1) atomic_fetch_add(&freed, 1);
#else
    atomic_fetch_sub(&references, 1);
    if (atomic_fetch_add(&references, 0) == 0) atomic_fetch_add(&freed, 1);
#endif
    return nothing;
}
int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, release, 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    return freed != 1;
}
