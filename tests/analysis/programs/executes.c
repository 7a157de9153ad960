/* Executes the program that its arguments name: in this process, or in a child. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int status = 0;
    if (argc < 3) return 0;
    if (!strcmp(argv[1], "child") && fork()) {
        wait(&status);
        return WEXITSTATUS(status);
    }
    if (!strcmp(argv[1], "vfork") && vfork()) {
        wait(&status);
        execv(argv[2], argv + 2);
    }
    execv(argv[2], argv + 2);
    return 1;
}
