/* Makes the system calls that it reads from descriptor 0, seven words each, and prints what each gives. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PLACE ((unsigned char *)0x10000000)
#define TEXTS ((unsigned char *)0x20000000)
#define NOTHING ((unsigned char *)0x30000000)
#define PAGE 4096

static void words(int offset, const uint64_t *values, int count) { memcpy(PLACE + offset, values, 8 * count); }

static void fill(void)
{
    memset(PLACE, 0, PAGE);
    memset(PLACE + PAGE, 0xff, PAGE);
    words(0x100, (uint64_t[]){0x10000800, 16, 0x10000900, 8}, 4);           /* two pieces of memory */
    words(0x140, (uint64_t[]){0x10000800, 16, 0xdead0000, 8}, 4);           /* the second is nowhere */
    words(0x180, (uint64_t[]){0x10000800, 1ull << 63, 0x10000900, 8}, 4);   /* too long */
    words(0x1c0, (uint64_t[]){3 | 1ull << 32, 5 | 1ull << 32, ~0u, 6 | 4ull << 32}, 4); /* struct pollfd */
    words(0x200, (uint64_t[]){0, 1000000000, 0, (uint64_t)-1}, 4);          /* times that are none */
    words(0x240, (uint64_t[]){0x10000800, 0, 0x10000100, 2, 0, 0, 0}, 7);   /* struct msghdr */
    words(0x2c0, (uint64_t[]){0x6c696600000001, 0x65, 0, 0}, 4);            /* a socket's name */
    words(0x300, (uint64_t[]){1, 4, 0, 0}, 4);                              /* struct flock, limits, and so on */
}

int main(void)
{
    static uint64_t calls[100000][7];
    size_t size = 0, got;
    while ((got = read(0, (char *)calls + size, sizeof calls - size)) > 0)
        size += got;
    mmap(PLACE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(TEXTS, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(NOTHING, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(TEXTS, 'x', PAGE);
    static const char *texts[] = {"file", "dir", "none", "file/x", "", "/", "link", "dir/../file", "loop", "fifo"};
    for (int i = 0; i < 10; i++)
        strcpy((char *)TEXTS + 64 * i, texts[i]);
    memset(TEXTS + 700, 'y', 300);
    TEXTS[1000] = 0;
    mprotect(TEXTS, PAGE, PROT_READ);
    mkdir("dir", 0755);
    symlink("file", "link");
    symlink("loop", "loop");
    mkfifo("fifo", 0600);
    close(open("dir/inner", O_CREAT | O_WRONLY, 0644));
    for (int fd = 0; fd < 40; fd++)
        if (fd != 1 && fd != 2)
            close(fd);
    open("/dev/null", O_RDWR);
    open("file", O_RDWR | O_CREAT, 0644);
    write(3, "0123456789abcdef", 16);
    open("dir", O_RDONLY | O_DIRECTORY);
    int pair[2];
    pipe2(pair, O_NONBLOCK);
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair);
    epoll_create1(0);
    eventfd(3, EFD_NONBLOCK);
    timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    open("file", O_WRONLY);
    open("file", O_PATH);
    sigset_t set;
    sigemptyset(&set);
    signalfd(-1, &set, SFD_NONBLOCK);
    memfd_create("m", MFD_ALLOW_SEALING);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    alarm(20);
    for (size_t i = 0; i < size / sizeof *calls; i++) {
        uint64_t *c = calls[i];
        fill();
        errno = 0;
        long result = syscall(c[0], c[1], c[2], c[3], c[4], c[5], c[6]);
        dprintf(1, "%zu %ld %s\n", i, result, result == -1 ? strerrorname_np(errno) : "");
    }
    return 0;
}
