#include "report.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
static int a[2], b[2], ep;
static void events(const char *what, int max) {
    struct epoll_event found[8];
    int n = epoll_wait(ep, found, max, 0);
    printf("%s: %d", what, n);
    for (int i = 0; i < n; i++) printf(" %x/%d", found[i].events, found[i].data.u32);
    puts("");
}
static int control(int how, int fd, unsigned what, unsigned data) {
    struct epoll_event event = {.events = what, .data.u32 = data};
    return epoll_ctl(ep, how, fd, &event);
}
static void drain(int fd) {
    char text[100000];
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    while (read(fd, text, sizeof text) > 0) {}
    fcntl(fd, F_SETFL, flags);
}
static void polled(const char *what, int fd, short wanted) {
    struct pollfd p = {fd, wanted, 0x7777};
    int n = poll(&p, 1, 0);
    printf("%s: %d %x\n", what, n, p.revents);
}
int main(void) {
    CALL(pipe(a));
    CALL(pipe(b));
    polled("empty read end", a[0], POLLIN | POLLRDNORM | POLLPRI | POLLOUT);
    polled("empty write end", a[1], POLLIN | POLLOUT | POLLWRNORM | POLLWRBAND);
    CALL(write(a[1], "xyz", 3));
    polled("read end", a[0], POLLIN | POLLRDNORM | POLLRDBAND);
    polled("nothing wanted", a[0], 0);
    polled("closed", 77, POLLIN);
    polled("negative", -1, POLLIN);
    int file = open("/etc/passwd", O_RDONLY), null = open("/dev/null", O_RDWR), directory = open("/", O_RDONLY);
    polled("file", file, POLLIN | POLLOUT | POLLPRI | POLLRDNORM | POLLWRNORM);
    polled("null", null, POLLIN | POLLOUT | POLLPRI | POLLRDNORM | POLLWRNORM);
    polled("directory", directory, POLLIN | POLLOUT);
    fcntl(a[1], F_SETFL, O_NONBLOCK);
    static char block[100000];
    CALL(write(a[1], block, sizeof block));
    CALL(write(a[1], block, 1));
    polled("full", a[1], POLLOUT);
    CALL(read(a[0], block, 4095));
    polled("4095 read", a[1], POLLOUT);
    CALL(read(a[0], block, 1));
    polled("4096 read", a[1], POLLOUT);
    drain(a[0]);
    fd_set readers, writers, odd;
    FD_ZERO(&readers);
    FD_ZERO(&writers);
    FD_ZERO(&odd);
    FD_SET(a[0], &readers), FD_SET(b[0], &readers), FD_SET(a[1], &writers), FD_SET(a[0], &odd);
    struct timeval soon = {0, 1000};
    CALL(write(b[1], "q", 1));
    CALL(select(20, &readers, &writers, &odd, &soon));
    printf("%d %d %d %d\n", !!FD_ISSET(a[0], &readers), !!FD_ISSET(b[0], &readers), !!FD_ISSET(a[1], &writers), !!FD_ISSET(a[0], &odd));
    FD_SET(40, &readers); // within the smallest table that Linux has: beyond it descriptors are not looked at
    CALL(select(100, &readers, NULL, NULL, &soon));
    CALL(select(-1, NULL, NULL, NULL, &soon));
    soon.tv_usec = -5;
    CALL(select(0, NULL, NULL, NULL, &soon));
    soon.tv_usec = 100;
    CALL(select(0, NULL, NULL, NULL, &soon));
    drain(b[0]);

    ep = epoll_create1(0);
    CALL(control(EPOLL_CTL_ADD, a[0], EPOLLIN, 1));
    CALL(control(EPOLL_CTL_ADD, a[0], EPOLLIN, 1));
    CALL(control(EPOLL_CTL_MOD, b[0], EPOLLIN, 1));
    CALL(control(EPOLL_CTL_DEL, b[0], 0, 0));
    CALL(control(EPOLL_CTL_ADD, file, EPOLLIN, 1));
    CALL(control(EPOLL_CTL_ADD, directory, EPOLLIN, 1));
    CALL(control(EPOLL_CTL_ADD, null, EPOLLIN, 1));
    CALL(control(EPOLL_CTL_ADD, ep, EPOLLIN, 1));
    CALL(control(EPOLL_CTL_ADD, 77, EPOLLIN, 1));
    CALL(control(99, a[0], EPOLLIN, 1));
    CALL(epoll_wait(ep, NULL, 0, 0));
    CALL(epoll_wait(ep, NULL, -1, 0));
    CALL(epoll_wait(a[0], NULL, 1, 0));
    events("nothing yet", 8);
    CALL(control(EPOLL_CTL_ADD, b[0], EPOLLIN, 2));
    CALL(write(b[1], "1", 1));
    CALL(write(a[1], "1", 1));
    events("both", 8);
    events("level: again", 8);
    events("one at a time", 1);
    events("one at a time", 1);
    events("one at a time", 1);
    drain(b[0]);
    events("one drained", 8);
    drain(a[0]);
    events("both drained", 8);
    CALL(control(EPOLL_CTL_MOD, a[0], EPOLLIN | EPOLLET, 11));
    CALL(write(a[1], "1", 1));
    events("edge", 8);
    events("edge: once", 8);
    CALL(write(a[1], "2", 1));
    events("edge: more came", 8);
    events("edge: once", 8);
    char c;
    CALL(read(a[0], &c, 1));
    events("edge: partly read", 8);
    CALL(control(EPOLL_CTL_MOD, a[0], EPOLLIN | EPOLLET, 12));
    events("edge: set again", 8);
    events("edge: set again, once", 8);
    drain(a[0]);
    CALL(write(a[1], "3", 1));
    drain(a[0]);
    events("edge: came and went", 8);
    CALL(control(EPOLL_CTL_MOD, a[0], EPOLLIN | EPOLLONESHOT, 13));
    CALL(write(a[1], "4", 1));
    events("oneshot", 8);
    events("oneshot: spent", 8);
    CALL(write(a[1], "5", 1));
    events("oneshot: spent", 8);
    CALL(control(EPOLL_CTL_MOD, a[0], EPOLLIN | EPOLLONESHOT, 14));
    events("oneshot: set again", 8);
    events("oneshot: spent", 8);
    CALL(control(EPOLL_CTL_MOD, a[0], EPOLLIN | EPOLLONESHOT | EPOLLET, 15));
    events("oneshot edge", 8);
    CALL(write(a[1], "6", 1));
    events("oneshot edge: spent", 8);
    CALL(control(EPOLL_CTL_MOD, a[0], EPOLLIN | EPOLLONESHOT | EPOLLET, 16));
    events("oneshot edge: set again", 8);
    drain(a[0]);
    CALL(control(EPOLL_CTL_MOD, a[0], EPOLLIN | EPOLLONESHOT | EPOLLET, 17));
    events("oneshot edge: nothing there", 8);
    CALL(write(a[1], "7", 1));
    events("oneshot edge: then it came", 8);
    CALL(control(EPOLL_CTL_ADD, a[1], EPOLLOUT | EPOLLET, 18));
    events("write end", 8);
    CALL(write(a[1], "8", 1));
    events("write end after a write", 8);
    drain(a[0]);
    events("write end after a read", 8);
    CALL(control(EPOLL_CTL_DEL, a[0], 0, 0));
    CALL(control(EPOLL_CTL_DEL, a[0], 0, 0));
    CALL(control(EPOLL_CTL_DEL, a[1], 0, 0));

    int copy = dup(b[0]);
    CALL(control(EPOLL_CTL_ADD, copy, EPOLLIN, 20));
    CALL(write(b[1], "9", 1));
    events("a file under two numbers", 8);
    CALL(close(copy));
    events("one number closed", 8);
    drain(b[0]);
    CALL(close(b[1]));
    events("hung up", 8);
    polled("hung up", b[0], POLLIN);
    CALL(read(b[0], &c, 1));
    CALL(close(b[0]));
    events("closed", 8);
    signal(SIGPIPE, SIG_IGN);
    CALL(pipe(b));
    CALL(control(EPOLL_CTL_ADD, b[1], EPOLLOUT, 21));
    CALL(close(b[0]));
    events("no reader", 8);
    polled("no reader", b[1], POLLOUT);
    CALL(write(b[1], "x", 1));

    int counter = eventfd(2, EFD_NONBLOCK);
    uint64_t value = 0;
    CALL(control(EPOLL_CTL_ADD, counter, EPOLLIN | EPOLLOUT | EPOLLET, 30));
    events("eventfd", 8);
    CALL(read(counter, &value, 8));
    printf("%llu\n", (unsigned long long)value);
    CALL(read(counter, &value, 8));
    CALL(read(counter, &value, 4));
    value = UINT64_MAX;
    CALL(write(counter, &value, 8));
    value = UINT64_MAX - 1;
    CALL(write(counter, &value, 8));
    polled("eventfd full", counter, POLLIN | POLLOUT);
    value = 1;
    CALL(write(counter, &value, 8));
    events("eventfd", 8);
    CALL(read(counter, &value, 8));
    int semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
    for (int i = 0; i < 4; i++) CALL(read(semaphore, &value, 8));

    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    CALL(timer >= 0);
    struct itimerspec when = {{0, 0}, {0, 2000000}}, left;
    CALL(read(timer, &value, 8));
    CALL(timerfd_settime(timer, 0, &when, NULL));
    CALL(control(EPOLL_CTL_ADD, timer, EPOLLIN, 31));
    struct epoll_event found;
    CALL(control(EPOLL_CTL_DEL, counter, 0, 0));
    CALL(control(EPOLL_CTL_DEL, b[1], 0, 0));
    CALL(epoll_wait(ep, &found, 1, -1));
    printf("%x %d\n", found.events, found.data.u32);
    CALL(read(timer, &value, 8));
    printf("%llu\n", (unsigned long long)value);
    CALL(read(timer, &value, 8));
    CALL(timerfd_gettime(timer, &left));
    printf("%ld %ld\n", left.it_value.tv_sec, left.it_value.tv_nsec);
    when.it_value.tv_nsec = 2000000000;
    CALL(timerfd_settime(timer, 0, &when, NULL));
    CALL(timerfd_create(99, 0));

    int outer = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 40};
    CALL(epoll_ctl(outer, EPOLL_CTL_ADD, ep, &event));
    CALL(epoll_ctl(ep, EPOLL_CTL_ADD, outer, &event));
    CALL(control(EPOLL_CTL_ADD, a[0], EPOLLIN, 41));
    CALL(epoll_wait(outer, &found, 1, 0));
    CALL(write(a[1], "x", 1));
    CALL(epoll_wait(outer, &found, 1, 0));
    printf("%x %d\n", found.events, found.data.u32);
    polled("epoll", ep, POLLIN);
    CALL(fcntl(outer, F_GETFD));
    return 0;
}
