/* The parent that was there before: what it is to signals; /dev/tty; tee; names of sockets without a place. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
static void on_signal(int signo) {}
static void parent(void) {
    pid_t up = getppid();
    CALL(kill(up, 0));
    CALL(kill(up, SIGCONT));
    CALL(kill(up, SIGURG));
    CALL(kill(up, SIGWINCH));
    CALL(kill(up, 99));
    CALL(sigqueue(up, SIGURG, (union sigval){.sival_int = 5}));
    CALL(syscall(SYS_tkill, up, SIGURG));
    CALL(syscall(SYS_tgkill, up, up, SIGURG));
    CALL(syscall(SYS_tgkill, up, getpid(), SIGURG));
    ZERO(getpgid(up));
    CALL(sched_getscheduler(up));
    CALL(getpriority(PRIO_PROCESS, up));
    CALL(setpgid(up, 0));
    int fd;
    ZERO(fd = syscall(SYS_pidfd_open, up, 0));
    CALL(syscall(SYS_pidfd_send_signal, fd, SIGURG, NULL, 0));
    signal(SIGUSR1, on_signal);
    int d = open("/proc/self", O_RDONLY | O_DIRECTORY), all = open("/proc", O_RDONLY), tasks = open("/proc/self/task", O_RDONLY);
    CALL(syscall(SYS_pidfd_send_signal, d, SIGUSR1, NULL, 0));
    CALL(syscall(SYS_pidfd_send_signal, all, SIGUSR1, NULL, 0));
    CALL(syscall(SYS_pidfd_send_signal, tasks, SIGUSR1, NULL, 0));
    d = open("/proc/self", O_PATH);
    CALL(syscall(SYS_pidfd_send_signal, d, SIGUSR1, NULL, 0));
    d = open("/proc/self/status", O_RDONLY);
    CALL(syscall(SYS_pidfd_send_signal, d, SIGUSR1, NULL, 0));
    CALL(waitpid(up, NULL, WNOHANG));
    struct rlimit limit;
    CALL(prlimit(up, RLIMIT_NOFILE, NULL, &limit));
}
static void terminal(void) {
    CALL(open("/dev/tty", O_RDWR));
    int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
    CALL(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY));
    unlockpt(master);
    ZERO(slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    CALL(isatty(slave));
    CALL(fcntl(slave, F_GETFD));
    CALL(fcntl(slave, F_GETFL) & ~0x8000);
    CALL(ioctl(slave, TIOCGPTPEER, O_RDWR));
    CALL(strcmp(ttyname(slave), ptsname(master)));
    CALL(open("/dev/tty", O_RDWR));
    fflush(stdout);
    if (!fork()) {
        setsid();
        CALL(open("/dev/tty", O_RDWR));
        CALL(ioctl(slave, TIOCSCTTY, 0));
        signal(SIGHUP, SIG_IGN);
        int tty;
        ZERO(tty = open("/dev/tty", O_RDWR));
        struct stat st;
        fstat(tty, &st);
        printf("%x\n", (unsigned)st.st_rdev);
        CALL(isatty(tty));
        CALL(tcgetpgrp(tty) == getpgrp());
        CALL(write(tty, "hello", 5));
        CALL(ioctl(tty, TIOCGPTPEER, O_RDWR));
        CALL(ioctl(tty, TIOCNOTTY));
        CALL(open("/dev/tty", O_RDWR));
        _exit(0);
    }
    wait(NULL);
    char text[16] = {0};
    CALL(read(master, text, 15));
    puts(text);
    struct stat st;
    stat("/dev/tty", &st);
    printf("%o %x\n", st.st_mode, (unsigned)st.st_rdev);
}
static void tees(void) {
    int a[2], b[2], f = open("file", O_CREAT | O_RDWR, 0600);
    char text[32] = {0};
    pipe(a), pipe(b);
    write(a[1], "hello", 5);
    write(a[1], " there", 6);
    CALL(tee(a[0], b[1], 7, 0));
    CALL(read(b[0], text, sizeof text));
    puts(text);
    CALL(tee(a[0], b[1], 100, 0));
    CALL(tee(a[0], b[1], 100, SPLICE_F_NONBLOCK));
    CALL(read(a[0], text, sizeof text));
    puts(text);
    CALL(tee(a[0], b[1], 100, SPLICE_F_NONBLOCK));
    CALL(tee(a[0], b[1], 0, 0));
    CALL(tee(a[0], a[1], 10, 0));
    CALL(tee(a[1], b[1], 10, 0));
    CALL(tee(a[0], b[0], 10, 0));
    CALL(tee(a[0], f, 10, 0));
    CALL(tee(f, b[1], 10, 0));
    CALL(tee(99, b[1], 10, 0));
    CALL(tee(a[0], b[1], 10, 99));
    fcntl(b[1], F_SETFL, O_NONBLOCK);
    static char big[1 << 16];
    while (write(b[1], big, sizeof big) > 0)
        ;
    write(a[1], "x", 1);
    CALL(tee(a[0], b[1], 10, 0));
    CALL(tee(a[0], b[1], 10, SPLICE_F_NONBLOCK));
    close(b[0]);
    signal(SIGPIPE, on_signal);
    CALL(tee(a[0], b[1], 10, 0));
    pipe(b);
    close(a[1]);
    read(a[0], text, 1);
    CALL(tee(a[0], b[1], 10, 0));
    struct iovec v[2] = {{"one", 3}, {"two", 3}};
    CALL(vmsplice(b[1], v, 2, 0));
    memset(text, 0, sizeof text);
    CALL(read(b[0], text, sizeof text));
    puts(text);
    CALL(vmsplice(f, v, 2, 0));
    CALL(vmsplice(b[1], v, 2, 99));
}
static void names(void) {
    int s[2], in = socket(AF_INET, SOCK_STREAM, 0);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    struct sockaddr_storage where;
    socklen_t size = sizeof where, negative = -1;
    CALL(getpeername(s[0], NULL, NULL));
    CALL(getpeername(s[0], NULL, &size));
    CALL(getpeername(s[0], (void *)&where, NULL));
    CALL(getpeername(s[0], (void *)&where, &negative));
    CALL(getpeername(in, NULL, NULL));
    CALL(getpeername(99, NULL, NULL));
    CALL(getsockname(s[0], NULL, NULL));
    CALL(getsockname(s[0], NULL, &size));
    CALL(getsockname(in, NULL, &size));
    CALL(getsockname(in, (void *)&where, &negative));
    size = 2;
    CALL(getsockname(in, NULL, &size));
    CALL(getsockname(in, (void *)&where, &size));
    printf("%u\n", size);
    size = 0;
    CALL(getsockname(in, NULL, &size));
    printf("%u\n", size);
    CALL(accept(in, NULL, NULL));
    CALL(recvfrom(s[0], &where, 0, MSG_DONTWAIT, NULL, NULL));
}
int main(void) {
    parent();
    terminal();
    tees();
    names();
    return 0;
}
