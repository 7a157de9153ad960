/* Both threads store, then look at the other's: on one CPU at least one sees the other's store. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static atomic_int x, y;
static int seen_x, seen_y;
static void *one(void *nothing) {
    atomic_store_explicit(&x, 1, memory_order_relaxed);
    seen_y = atomic_load_explicit(&y, memory_order_relaxed);
    return nothing;
}
static void *two(void *nothing) {
    atomic_store_explicit(&y, 1, memory_order_relaxed);
    seen_x = atomic_load_explicit(&x, memory_order_relaxed);
    return nothing;
}
int main(void) {
    pthread_t threads[2];
    pthread_create(&threads[0], 0, one, 0);
    pthread_create(&threads[1], 0, two, 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    printf("%d%d\n", seen_y, seen_x);
}
