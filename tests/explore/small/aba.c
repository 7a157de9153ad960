/* A stack of three cells: between a look at the top and the exchange it is popped twice and pushed back. */
#include "small.h"
static atomic_int top = 1;
static atomic_int below[4] = {0, 2, 3, 0};
static int pop(void) {
    for (;;) {
        int seen = atomic_load(&top), cell = seen & 7;
        if (!cell) return 0;
        int next = atomic_load(&below[cell]);
        if (atomic_compare_exchange_strong(&top, &seen, EITHER(next, next | ((seen & ~7) + 8)))) return cell;
    }
}
static void push(int cell) {
    int seen = atomic_load(&top);
    do atomic_store(&below[cell], seen & 7);
    while (!atomic_compare_exchange_strong(&top, &seen, EITHER(cell, cell | ((seen & ~7) + 8))));
}
static atomic_int had[4];
THREAD(one) {
    int cell = pop();
    CHECK(!cell || !atomic_exchange(&had[cell], 1));
    return 0;
}
THREAD(two) {
    int first = pop(), second = pop();
    CHECK(!second || !atomic_exchange(&had[second], 1));
    if (first) push(first);
    return 0;
}
int main(void) {
    run(one, two);
    for (int cell; (cell = pop());) CHECK(!atomic_exchange(&had[cell], 1));
}
