/* Two write into one pipe; who reads takes the first byte for the first thread's. */
#include "small.h"
static int ends[2];
static sem_t first;
THREAD(one) {
    CHECK(write(ends[1], "1", 1) == 1);
    sem_post(&first);
    return 0;
}
THREAD(two) {
    EITHER((void)0, sem_wait(&first));
    CHECK(write(ends[1], "2", 1) == 1);
    return 0;
}
int main(void) {
    char byte;
    CHECK(pipe(ends) == 0);
    sem_init(&first, 0, 0);
    run(one, two);
    CHECK(read(ends[0], &byte, 1) == 1 && byte == '1');
}
