/* Waits for a signal that nobody sends. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    puts("waiting");
    fflush(stdout);
    pause();
    return 0;
}
