/* Who is told of a descriptor by signals: F_SETOWN and its kin, F_SETSIG, O_ASYNC. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int count, of, code, band;
static void on_signal(int signo, siginfo_t *info, void *context) {
    count++, code = info->si_code;
    of = signo == SIGIO ? -1 : info->si_fd, band = signo == SIGIO ? -1 : info->si_band;
}
static void said(const char *what, int fd) {
    printf("%s: %d signals, of it %d, code %d, band %x\n", what, count, of == fd, code, band);
    count = 0;
    fflush(stdout);
}
int main(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGIO, &action, NULL);
    sigaction(SIGRTMIN, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    int p[2], s[2];
    pipe(p);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    CALL(fcntl(p[0], F_GETOWN));
    CALL(fcntl(p[0], F_GETSIG));
    CALL(fcntl(p[0], F_SETOWN, 999999));
    CALL(fcntl(p[0], F_SETOWN, -999999));
    CALL(fcntl(p[0], F_SETSIG, 65));
    CALL(fcntl(p[0], F_SETSIG, -1));
    CALL(fcntl(p[0], F_SETOWN, getpid()));
    CALL(fcntl(p[0], F_GETOWN) == getpid());
    struct f_owner_ex ex = {7, 7};
    CALL(fcntl(p[0], F_GETOWN_EX, &ex));
    printf("%d %d\n", ex.type, ex.pid == getpid());
    ex.type = 9;
    CALL(fcntl(p[0], F_SETOWN_EX, &ex));
    ex.type = F_OWNER_TID, ex.pid = 999999;
    CALL(fcntl(p[0], F_SETOWN_EX, &ex));
    ex.pid = getpid();
    CALL(fcntl(p[0], F_SETOWN_EX, &ex));
    CALL(fcntl(p[0], F_GETOWN_EX, &ex));
    printf("%d %d\n", ex.type, ex.pid == getpid());
    CALL(fcntl(p[0], F_SETOWN, -getpgrp()));
    errno = 0;
    ex.type = F_OWNER_PID, ex.pid = 0;
    CALL(fcntl(p[0], F_SETOWN_EX, &ex));
    CALL(fcntl(p[0], F_GETOWN));
    CALL(fcntl(p[0], F_SETFL, O_ASYNC));
    CALL(fcntl(p[0], F_GETFL) & O_ASYNC);
    write(p[1], "x", 1);
    said("nobody", p[0]);
    fcntl(p[0], F_SETOWN, getpid());
    write(p[1], "x", 1);
    said("me", p[0]);
    fcntl(p[0], F_SETSIG, SIGRTMIN);
    CALL(fcntl(p[0], F_GETSIG));
    write(p[1], "x", 1);
    said("a signal of one's own", p[0]);
    fcntl(p[0], F_SETSIG, SIGUSR1);
    write(p[1], "x", 1);
    said("another", p[0]);
    CALL(fcntl(p[0], F_SETFL, 0));
    CALL(fcntl(p[0], F_GETFL) & O_ASYNC);
    write(p[1], "x", 1);
    said("off", p[0]);
    int on = 1;
    CALL(ioctl(p[0], FIOASYNC, &on));
    CALL(fcntl(p[0], F_GETFL) & O_ASYNC);
    write(p[1], "x", 1);
    said("on by ioctl", p[0]);
    fcntl(p[0], F_SETOWN, -getpgrp());
    if (!fork()) {
        write(p[1], "x", 1);
        _exit(count);
    }
    int status;
    wait(&status);
    printf("child %d\n", WEXITSTATUS(status));
    said("the group", p[0]);
    fcntl(s[0], F_SETOWN, getpid());
    fcntl(s[0], F_SETSIG, SIGRTMIN);
    CALL(fcntl(s[0], F_SETFL, O_ASYNC));
    write(s[1], "x", 1);
    said("a socket", s[0]);
    int file = open("plain", O_CREAT | O_RDWR, 0600), event = eventfd(0, 0), i = inotify_init1(0);
    CALL(fcntl(file, F_SETFL, O_ASYNC));
    CALL(fcntl(file, F_GETFL) & O_ASYNC);
    CALL(ioctl(file, FIOASYNC, &on));
    CALL(fcntl(event, F_SETFL, O_ASYNC));
    CALL(fcntl(event, F_GETFL) & O_ASYNC);
    CALL(fcntl(i, F_SETOWN, getpid()));
    CALL(fcntl(i, F_SETSIG, SIGRTMIN));
    CALL(fcntl(i, F_SETFL, O_ASYNC));
    CALL(fcntl(i, F_GETFL) & O_ASYNC);
    inotify_add_watch(i, "plain", IN_MODIFY);
    write(file, "x", 1);
    said("inotify", i);
    CALL(fcntl(file, F_SETOWN, getpid()));
    CALL(fcntl(file, F_GETOWN) == getpid());
    CALL(fcntl(99, F_SETOWN, 0));
    return 0;
}
