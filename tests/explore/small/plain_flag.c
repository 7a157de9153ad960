/* races: one waits for a flag that is a plain variable */
#include "small.h"
#ifdef FIXED
static atomic_int ready;
#else
static volatile int ready;
#endif
static int data;
THREAD(send) {
    data = 7;
    ready = 1;
    return 0;
}
THREAD(receive) {
    while (!ready) {}
    CHECK(data == 7);
    return 0;
}
int main(void) { run(send, receive); }
