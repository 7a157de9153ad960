/* races: a list is grown by two */
#include "small.h"
struct cell {
    struct cell *next;
};
static struct cell *head, cells[2];
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static void push(struct cell *cell) {
    EITHER((void)m, pthread_mutex_lock(&m));
    cell->next = head;
    head = cell;
    EITHER((void)m, pthread_mutex_unlock(&m));
}
THREAD(one) { return push(&cells[0]), (void *)0; }
THREAD(two) { return push(&cells[1]), (void *)0; }
int main(void) {
    run(one, two);
    return !head || !head->next;
}
