#include <stdio.h>
#include <unistd.h>

int main(void) {
    puts("asking");
    fflush(stdout);
    return getppid() == 0;
}
