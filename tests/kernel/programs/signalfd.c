/* Signals read from descriptors, alone, with poll and epoll, and from a child. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    CALL(fd);
    struct signalfd_siginfo info[4];
    CALL(read(fd, info, sizeof info));
    CALL(read(fd, info, 100));
    CALL(signalfd(-1, &set, 3));
    CALL(signalfd(0, &set, 0));
    raise(SIGUSR1);
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 77});
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 78});
    struct pollfd p = {fd, POLLIN, 0};
    CALL(poll(&p, 1, 0));
    int n = read(fd, info, sizeof info) / sizeof *info;
    for (int i = 0; i < n; i++)
        printf("%u code %d from me %d value %d\n", info[i].ssi_signo, info[i].ssi_code, info[i].ssi_pid == getpid(), info[i].ssi_int);
    CALL(poll(&p, 1, 0));
    sigdelset(&set, SIGUSR1);
    CALL(signalfd(fd, &set, 0) == fd ? 0 : -1);
    raise(SIGUSR1);
    CALL(read(fd, info, sizeof info));
    sigaddset(&set, SIGUSR1);
    signalfd(fd, &set, 0);
    CALL(read(fd, info, sizeof info));
    int e = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.u32 = 5}};
    CALL(epoll_ctl(e, EPOLL_CTL_ADD, fd, &event));
    CALL(epoll_wait(e, &event, 1, 0));
    if (!fork()) {
        usleep(1000);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    CALL(epoll_wait(e, &event, 1, -1));
    CALL(read(fd, info, sizeof *info));
    printf("%u %d\n", info[0].ssi_signo, info[0].ssi_pid != getpid());
    wait(NULL);
    fcntl(fd, F_SETFL, 0);
    CALL(read(fd, info, sizeof *info));
    printf("%u\n", info[0].ssi_signo);
    if (!fork()) {
        usleep(1000);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    CALL(read(fd, info, sizeof *info));
    printf("%u\n", info[0].ssi_signo);
    wait(NULL);
    return 0;
}
