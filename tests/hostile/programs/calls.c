/* System calls with numbers and addresses that are too large; what Linux says of each. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define TELL(call) \
    do { \
        errno = 0; \
        long result = (long)(call); \
        printf("%s = %ld, %d\n", #call, result, errno); \
    } while (0)
#define PAST ((void *)0x7ffffffff000)
#define HIGH ((void *)0x800000000000)

static void policies(void) {
    static char mask[8192];
    for (int bits = 0; bits < 64; bits++)
        TELL(syscall(SYS_get_mempolicy, 0, mask, 1UL << bits, 0, 0));
}

static void edges(void) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = page + 4096;
    munmap(end, 4096);
    int zero = open("/dev/zero", O_RDWR), pipes[2], pair[2];
    (void)!pipe2(pipes, O_NONBLOCK);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    TELL(mmap(PAST, 4096, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    TELL(mmap((char *)PAST - 4096, 8192, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    TELL(mmap(HIGH, 4096, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    TELL(munmap(PAST, 4096));
    TELL(munmap(HIGH, 4096));
    TELL(mprotect(PAST, 4096, PROT_READ));
    TELL(read(zero, (char *)PAST - 8, 16));
    TELL(read(zero, PAST, 1));
    TELL(read(zero, HIGH, 1));
    TELL(read(zero, page, 1UL << 47));
    TELL(read(zero, page, -1UL));
    TELL(pread(zero, page, 1UL << 47, 0));
    TELL(write(pipes[1], (char *)PAST - 8, 16));
    TELL(write(pipes[1], end - 4, 8));
    TELL(read(pipes[0], end - 4, 8));
    TELL(read(zero, end - 4, 8));
    TELL(syscall(SYS_getrandom, end - 4, 100, 0));
    TELL(syscall(SYS_getrandom, PAST, 100, 0));
    TELL(send(pair[0], end - 4, 8, 0));
    TELL(recv(pair[1], PAST, 8, MSG_DONTWAIT));
    struct iovec vectors[2] = {{page, 8}, {PAST, 8}};
    TELL(writev(pipes[1], vectors, 2));
    TELL(syscall(SYS_mincore, page, 1UL << 46, page));
    TELL(poll((struct pollfd *)PAST, 1, 0));
    TELL(epoll_wait(epoll_create1(0), (struct epoll_event *)page, 0x7fffffff, 0));
    TELL(epoll_wait(epoll_create1(0), (struct epoll_event *)page, 1 << 20, 0));
    TELL(syscall(SYS_select, 0x7fffffff, 0, 0, 0, &(struct timeval){0}));
    TELL(syscall(SYS_poll, page, 0xffffffff, 0));
}

static void owners(void) {
    for (uint32_t id = 0x80000000; id; id += 0x40000000) {
        uint32_t ids[3] = {1, 2, 3};
        TELL(syscall(SYS_setresuid, id, id, -1));
        TELL(syscall(SYS_getresuid, ids, ids + 1, ids + 2));
        printf("%x %x %lx\n", ids[0], ids[1], syscall(SYS_geteuid));
        TELL(syscall(SYS_setfsuid, 0xfffffffe));
    }
}

static void counters(void) {
    int counter = eventfd(1, EFD_NONBLOCK);
    uint64_t value = -2;
    TELL(write(counter, &value, 8));
    value = -1;
    TELL(write(counter, &value, 8));
    value = -3;
    TELL(write(counter, &value, 8));
    TELL(read(counter, &value, 8));
    printf("%lx\n", value);
}

/* Half a year, and more than any clock has, with something that is ready: nobody waits. */
static void waits(void) {
    int pipes[2];
    (void)!pipe(pipes);
    (void)!write(pipes[1], "x", 1);
    for (int i = 0; i < 2; i++) {
        long seconds = i ? 0x7fffffffffffffff : 15552000;
        fd_set set;
        FD_ZERO(&set);
        FD_SET(pipes[0], &set);
        TELL(select(pipes[0] + 1, &set, NULL, NULL, &(struct timeval){seconds, 0}));
        TELL(ppoll(&(struct pollfd){pipes[0], POLLIN}, 1, &(struct timespec){seconds, 0}, NULL));
    }
    TELL(poll(&(struct pollfd){pipes[0], POLLIN}, 1, 0x7fffffff));
}

int main(void) {
    policies();
    edges();
    owners();
    counters();
    waits();
    return 0;
}
