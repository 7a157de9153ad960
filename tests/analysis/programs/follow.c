// Starts processes: what each of them does wrong is its own. With "child" it is the program that another one executes.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *handle;
static void (*function(const char *name))(void) { return (void (*)(void))dlsym(handle, name); }

static void told(const char *what, pid_t pid) {
    int status;
    if (!pid) _exit(0);
    waitpid(pid, &status, 0);
    printf("%s %x\n", what, status);
    fflush(stdout);
}

static pid_t spawn(char **argv, const char *what) {
    pid_t pid = fork();
    if (!pid) {
        execl(argv[0], argv[0], what, (char *)0);
        _exit(1);
    }
    return pid;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "none")) handle = dlopen("./plugin.so", RTLD_NOW);
    if (!strcmp(what, "child") || !strcmp(what, "none")) {
        if (handle) function("touch")(), dlclose(handle);
        return 5;
    }
    pid_t pid = fork();
    if (!pid) function("crash")();
    told("crashes", pid);
    pid = fork();
    if (!pid) dlclose(handle), dlclose(handle);
    told("closes twice", pid);
    pid = fork();
    if (!pid) execl("./absent", "absent", (char *)0), abort();
    told("aborts", pid);
    pid = fork();
    if (!pid) pause();
    kill(pid, SIGKILL);
    told("is killed", pid);
    told("executes", spawn(argv, "child"));
    told("executes another way", spawn(argv, "none"));
    if (!strcmp(what, "goes on")) execl(argv[0], argv[0], "child", (char *)0);
    return 0;
}
