/* A semaphore that guards a section lets two in. */
#include "small.h"
static sem_t s;
static atomic_int inside;
THREAD(enter) {
    sem_wait(&s);
    CHECK(atomic_fetch_add(&inside, 1) == 0);
    atomic_fetch_sub(&inside, 1);
    sem_post(&s);
    return 0;
}
int main(void) {
    sem_init(&s, 0, EITHER(2, 1));
    run(enter, enter);
}
