/* What a program may make the kernel hold: files in flight, threads, epoll interests; and instances nested in many ways. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILES = 253, ROOM = CMSG_SPACE(FILES * sizeof(int)) };

static int send_files(int sock, const int *fds)
{
    char byte = 0, control[ROOM];
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = ROOM};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){CMSG_LEN(FILES * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(head), fds, FILES * sizeof(int));
    return sendmsg(sock, &message, MSG_DONTWAIT) < 0 ? errno : 0;
}

static void flight(void)
{
    int error = EAGAIN, pair[2], fds[FILES];
    while (error == EAGAIN && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) {
        do {
            for (int i = 0; i < FILES; i++) fds[i] = eventfd(0, 0);
            error = send_files(pair[0], fds);
            for (int i = 0; i < FILES; i++) close(fds[i]);
        } while (!error);
    }
    printf("%s\n", strerrorname_np(error));
}

static void threads(void)
{
    char *stack = (char *)mmap(0, 65536, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 65536 - 64;
    long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, result = 0, made = 0;
    for (; made < 100000 && result >= 0; made++) {
        register long tid asm("r10") = 0, tls asm("r8") = 0;
        asm volatile("syscall\n test %%rax, %%rax\n jnz 1f\n 2: mov $34, %%eax\n syscall\n jmp 2b\n1:"
                     : "=a"(result) : "a"(56), "D"(flags), "S"(stack), "d"(0), "r"(tid), "r"(tls) : "rcx", "r11", "memory");
    }
    printf("%s\n", strerrorname_np(-result));
    fflush(stdout);
    _exit(made == 100000);
}

static void interests(void)
{
    int error = 0, files[100], instance;
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){4096, 4096});
    for (int i = 0; i < 100; i++) files[i] = eventfd(0, 0);
    while (!error && (instance = epoll_create1(0)) >= 0)
        for (int i = 0; i < 100 && !error; i++)
            if (epoll_ctl(instance, EPOLL_CTL_ADD, files[i], &(struct epoll_event){EPOLLIN})) error = errno;
    printf("%s\n", strerrorname_np(error));
}

static void nested(int wide)
{
    enum { LEVELS = 4, WIDE = 12 };
    int instances[LEVELS][WIDE], file = eventfd(0, EFD_NONBLOCK), refused = 0;
    struct epoll_event event = {EPOLLIN};
    for (int level = 0; level < LEVELS; level++)
        for (int w = 0; w < wide; w++) {
            instances[level][w] = epoll_create1(0);
            for (int v = 0; level && v < wide; v++)
                refused += epoll_ctl(instances[level][w], EPOLL_CTL_ADD, instances[level - 1][v], &event) != 0;
        }
    refused += epoll_ctl(instances[0][0], EPOLL_CTL_ADD, file, &event) != 0;
    refused += 1000 * (epoll_ctl(instances[1][0], EPOLL_CTL_ADD, file, &event) != 0);
    for (int w = 0; w < wide; w++)
        for (int v = 0; v < wide; v++) epoll_ctl(instances[2][w], EPOLL_CTL_DEL, instances[1][v], &event);
    refused += 10000 * (epoll_ctl(instances[0][0], EPOLL_CTL_MOD, file, &event) != 0);
    for (int v = 0; v < wide; v++) refused += 100000 * (epoll_ctl(instances[2][0], EPOLL_CTL_ADD, instances[1][v], &event) != 0);
    eventfd_write(file, 1);
    printf("refused %d, ready %d\n", refused, epoll_wait(instances[LEVELS - 1][0], &event, 1, 0));
}

static void executes(void)
{
    int error = 0;
    for (int made = 0; made < 40 && !error; made++) {
        int tell[2];
        if (pipe2(tell, O_CLOEXEC)) break;
        pid_t child = fork();
        if (!child) {
            execl("/bin/sleep", "sleep", "1000", (char *)0);
            write(tell[1], &errno, sizeof errno);
            _exit(0);
        }
        close(tell[1]);
        if (child < 0) error = errno;
        else if (read(tell[0], &error, sizeof error) <= 0) error = 0;
        close(tell[0]);
    }
    printf("%s\n", strerrorname_np(error));
    fflush(stdout);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
}

static void connections(void)
{
    int error = 0, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in name = {AF_INET, htons(5000), {htonl(INADDR_LOOPBACK)}};
    bind(listener, (void *)&name, sizeof name), listen(listener, 100000);
    for (int made = 0; made < 20000 && !error; made++) {
        int end = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(end, (void *)&name, sizeof name) && errno != EINPROGRESS) error = errno;
        close(end);
    }
    printf("%s\n", strerrorname_np(error));
}

int main(int argc, char **argv)
{
    if (argc > 2 && setuid(1000)) return 1;
    switch (argv[1][0]) {
    case 'f': flight(); break;
    case 't': threads(); break;
    case 'i': interests(); break;
    case 'e': executes(); break;
    case 'c': connections(); break;
    case 'n': nested(4), nested(7), nested(12); break;
    }
    return 0;
}
