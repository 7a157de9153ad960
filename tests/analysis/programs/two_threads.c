/* Two threads add to one number, without a lock; with an argument, one of them executes another program. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static int number;

static void *add(void *program) {
    int before = number;
    if (program) execl(program, program, (char *)0);
    number = before + 1;
    return 0;
}

int main(int argc, char **argv) {
    pthread_t one, two;
    pthread_create(&one, 0, add, argc > 1 ? argv[1] : 0);
    pthread_create(&two, 0, add, 0);
    pthread_join(one, 0);
    pthread_join(two, 0);
    printf("%d\n", number);
    return 0;
}
