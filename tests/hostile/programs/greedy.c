/* Asks for as much as it can of everything that a kernel keeps for a process, and never touches a page of it itself. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char block[1 << 20];

int main(void) {
    for (int i = 0; i < 400; i++) {
        int ends[2], pair[2];
        if (pipe2(ends, O_NONBLOCK)) break;
        fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        (void)!write(ends[1], block, sizeof block);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair)) break;
        (void)!write(pair[0], block, sizeof block);
    }
    for (int fd = 3; fd < 200; fd++) close(fd);
    for (int i = 0; i < 200000; i++) {
        timer_t timer;
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
        if (timer_create(CLOCK_MONOTONIC, &event, &timer)) break;
    }
    sigset_t blocked;
    sigfillset(&blocked);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    for (int i = 0; i < 100000; i++)
        if (sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i})) break;
    int memory = memfd_create("large", 0);
    for (long size = 1; size > 0; size <<= 1) (void)!ftruncate(memory, size);
    (void)!pwrite(memory, block, sizeof block, 1L << 40);
    (void)!fallocate(memory, 0, 0, 1L << 40);
    struct iovec vectors[1024];
    for (int i = 0; i < 1024; i++) vectors[i] = (struct iovec){block, sizeof block};
    int zero = open("/dev/zero", O_RDWR), pair[2];
    (void)!readv(zero, vectors, 1024);
    (void)!writev(zero, vectors, 1024);
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair);
    (void)!writev(pair[0], vectors, 1024);
    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair);
    (void)!writev(pair[0], vectors, 1024);
    syscall(SYS_getrandom, block, 1UL << 40, 0);
    syscall(SYS_mincore, block, 1UL << 46, block);
    syscall(SYS_sched_getaffinity, 0, 1UL << 31, block);
    syscall(SYS_get_mempolicy, 0, block, 1UL << 40, 0, 0);
    epoll_wait(epoll_create1(0), (struct epoll_event *)block, 1 << 27, 0);
    for (int i = 0; i < 200000; i++) {
        char name[64];
        snprintf(name, sizeof name, "/tmp/a-file-of-many-%d", i);
        int fd = open(name, O_CREAT | O_WRONLY, 0600);
        if (fd < 0) break;
        close(fd);
    }
    return 0;
}
