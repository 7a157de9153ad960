// What the programs of this folder share.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <dlfcn.h>
#include <mqueue.h>
#include <sys/file.h>
#include <sys/ioctl.h>
extern char **environ;
// The result of a call: the number, or the name of the error.
static const char *en(long r) {
    static char b[8][40];
    static int i;
    i = (i + 1) % 8;
    if (r < 0)
        snprintf(b[i], 40, "-%s", strerrorname_np(errno));
    else
        snprintf(b[i], 40, "%ld", r);
    return b[i];
}
// Print at once, so that a child has nothing to print again.
#define P(...) (printf(__VA_ARGS__), fflush(stdout))
static int wst(pid_t p) {
    int s = -1;
    while (waitpid(p, &s, 0) < 0 && errno == EINTR)
        ;
    return s;
}
// How a wait status reads.
static const char *ws(int s) {
    static char b[4][40];
    static int i;
    i = (i + 1) % 4;
    if (WIFEXITED(s))
        snprintf(b[i], 40, "exit %d", WEXITSTATUS(s));
    else if (WIFSIGNALED(s))
        snprintf(b[i], 40, "sig %d%s", WTERMSIG(s), WCOREDUMP(s) ? "" : "");
    else if (WIFSTOPPED(s))
        snprintf(b[i], 40, "stop %d", WSTOPSIG(s));
    else if (WIFCONTINUED(s))
        snprintf(b[i], 40, "cont");
    else
        snprintf(b[i], 40, "?%x", s);
    return b[i];
}
// The id of a child that runs the statements and ends.
#define CHILD(...)                                                                                           \
    ({                                                                                                       \
        pid_t p_ = fork();                                                                                   \
        if (!p_) {                                                                                           \
            __VA_ARGS__;                                                                                     \
            fflush(stdout);                                                                                  \
            _exit(0);                                                                                        \
        }                                                                                                    \
        p_;                                                                                                  \
    })
