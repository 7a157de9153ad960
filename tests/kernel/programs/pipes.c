#include "report.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/timerfd.h>
#include <sys/stat.h>
static void on_pipe(int s) { (void)s; write(1, "SIGPIPE\n", 8); }
static char big[200000];
int main(void) {
    int p[2], n;
    char text[16] = {0};
    struct stat st;
    CALL(pipe2(p, O_NONBLOCK));
    CALL(read(p[0], text, 5));
    CALL(write(p[1], "abcdef", 6));
    CALL(ioctl(p[0], FIONREAD, &n)); CALL(n);
    CALL(read(p[0], text, 4));
    CALL(read(p[0], text, 4));
    CALL(write(p[1], big, sizeof big));
    CALL(write(p[1], big, 1));
    CALL(read(p[0], big, 4096));
    CALL(write(p[1], big, 4097));
    CALL(read(p[1], text, 1));
    CALL(write(p[0], text, 1));
    CALL(lseek(p[0], 0, SEEK_SET));
    CALL(pread(p[0], text, 1, 0));
    CALL(fcntl(p[0], F_GETPIPE_SZ));
    CALL(fcntl(p[0], F_SETPIPE_SZ, 100000));
    fstat(p[0], &st); printf("%o\n", st.st_mode);
    struct pollfd f[4] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}, {99, POLLIN, 0}, {-1, POLLIN, 0}};
    CALL(poll(f, 4, 0));
    printf("%x %x %x %x\n", f[0].revents, f[1].revents, f[2].revents, f[3].revents);
    while (read(p[0], big, sizeof big) > 0) {}
    CALL(poll(f, 2, 10)); printf("%x %x\n", f[0].revents, f[1].revents);
    CALL(poll(f, 1, 10));
    fd_set r, w; FD_ZERO(&r); FD_ZERO(&w); FD_SET(p[0], &r); FD_SET(p[1], &w);
    struct timeval tv = {0, 1000};
    CALL(select(p[1] + 1, &r, &w, NULL, &tv)); printf("%d %d\n", FD_ISSET(p[0], &r) != 0, FD_ISSET(p[1], &w) != 0);
    FD_ZERO(&r); FD_SET(77, &r);
    CALL(select(78, &r, NULL, NULL, &tv));
    int e = epoll_create1(0); struct epoll_event ev = {EPOLLIN, {.u64 = 42}}, got[3];
    CALL(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
    CALL(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
    CALL(epoll_ctl(e, EPOLL_CTL_MOD, p[1], &ev));
    CALL(epoll_ctl(e, EPOLL_CTL_ADD, e, &ev));
    CALL(epoll_wait(e, got, 3, 0));
    write(p[1], "x", 1);
    CALL(epoll_wait(e, got, 3, -1)); printf("%x %d\n", got[0].events, (int)got[0].data.u64);
    CALL(epoll_wait(e, got, 0, 0));
    ev.events = EPOLLIN | EPOLLONESHOT;
    CALL(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
    CALL(epoll_wait(e, got, 3, 0)); CALL(epoll_wait(e, got, 3, 0));
    ev.events = EPOLLIN | EPOLLET;
    CALL(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
    CALL(epoll_wait(e, got, 3, 0)); CALL(epoll_wait(e, got, 3, 0));
    write(p[1], "y", 1);
    CALL(epoll_wait(e, got, 3, 0));
    CALL(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL));
    CALL(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL));
    int v = eventfd(3, EFD_NONBLOCK); unsigned long long c = 4;
    CALL(write(v, &c, 8)); CALL(read(v, &c, 8)); CALL(c); CALL(read(v, &c, 8)); CALL(read(v, &c, 4));
    c = -1; CALL(write(v, &c, 8));
    int s = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    CALL(read(s, &c, 8)); CALL(c); CALL(read(s, &c, 8)); CALL(read(s, &c, 8));
    int t = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec its = {{0, 0}, {0, 20000000}};
    CALL(timerfd_settime(t, 0, &its, NULL)); CALL(read(t, &c, 8)); CALL(c);
    close(p[1]);
    while (read(p[0], big, sizeof big) > 0) {}
    CALL(read(p[0], text, 1));
    f[0].revents = 0; CALL(poll(f, 1, -1)); printf("%x\n", f[0].revents);
    CALL(pipe(p)); close(p[0]);
    signal(SIGPIPE, on_pipe);
    CALL(write(p[1], "x", 1));
    signal(SIGPIPE, SIG_IGN);
    CALL(write(p[1], "x", 1));
    CALL(pipe2(p, 0x1234567));
    CALL(pipe((int *)1));
    return 0;
}
