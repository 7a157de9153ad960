/* Says that it is ready, and has a child that never rests: only a signal ends the two. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    if (fork() == 0)
        for (;;)
            ;
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
