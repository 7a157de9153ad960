/* inotify and dnotify: what each change of a file or directory is told as, to whom, and in which order. */
#define _GNU_SOURCE
#include "report.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static unsigned cookies[64], known;
static int fd;
static void drain(const char *what) {
    static char room[1 << 20];
    static const struct { unsigned bit; const char *name; } names[] = {
        {1, "access"}, {2, "modify"}, {4, "attrib"}, {8, "close_write"}, {16, "close_nowrite"}, {32, "open"}, {64, "moved_from"},
        {128, "moved_to"}, {256, "create"}, {512, "delete"}, {1024, "delete_self"}, {2048, "move_self"}, {0x2000, "unmount"},
        {0x4000, "overflow"}, {0x8000, "ignored"}, {0x40000000, "dir"}};
    printf("-- %s\n", what);
    ssize_t n;
    while ((n = read(fd, room, sizeof room)) > 0)
        for (char *p = room; p < room + n;) {
            struct inotify_event *e = (void *)p;
            printf("%d", e->wd);
            for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
                if (e->mask & names[i].bit)
                    printf(" %s", names[i].name);
            if (e->len)
                printf(" %s (%u)", e->name, e->len);
            if (e->cookie) {
                unsigned i = 0;
                while (i < known && cookies[i] != e->cookie)
                    i++;
                cookies[i] = e->cookie;
                known = i == known ? known + 1 : known;
                printf(" cookie %u", i);
            }
            putchar('\n');
            p += sizeof *e + e->len;
        }
    fflush(stdout);
}
static void make(const char *name, const char *text) {
    int f = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (*text)
        write(f, text, strlen(text));
    close(f);
}
static volatile int signals, last_fd;
static void on_signal(int signo, siginfo_t *info, void *context) { signals++, last_fd = info->si_fd; }
static void dnotify(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGIO, &action, NULL);
    sigaction(SIGRTMIN, &action, NULL);
    mkdir("dn", 0755);
    int d = open("dn", O_RDONLY | O_DIRECTORY), f = open("plain", O_CREAT | O_RDWR, 0644);
    CALL(fcntl(f, F_NOTIFY, DN_CREATE));
    CALL(fcntl(d, F_NOTIFY, DN_CREATE));
    make("dn/a", "");
    printf("signals %d\n", signals);
    make("dn/b", "");
    printf("signals %d\n", signals);
    CALL(fcntl(d, F_SETSIG, SIGRTMIN));
    CALL(fcntl(d, F_GETSIG));
    CALL(fcntl(d, F_NOTIFY, DN_CREATE | DN_DELETE | DN_RENAME | DN_ATTRIB | DN_MODIFY | DN_ACCESS | DN_MULTISHOT));
    signals = 0;
    make("dn/c", "");
    printf("signals %d of it %d\n", signals, last_fd == d);
    chmod("dn/c", 0600);
    printf("signals %d\n", signals);
    rename("dn/c", "dn/d");
    printf("signals %d\n", signals);
    make("dn/d", "text");
    printf("signals %d\n", signals);
    unlink("dn/d");
    printf("signals %d\n", signals);
    CALL(fcntl(d, F_NOTIFY, 0));
    unlink("dn/b");
    printf("signals %d\n", signals);
    CALL(fcntl(d, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
    close(d);
    make("dn/e", "");
    printf("signals %d\n", signals);
}
static void overflow(void) {
    mkdir("many", 0755);
    make("many/x", ""), make("many/y", "");
    int few = inotify_init1(IN_NONBLOCK), left;
    inotify_add_watch(few, "many", IN_ATTRIB);
    for (int i = 0; i < 10000; i++)
        chmod("many/x", 0600), chmod("many/y", 0600);
    CALL(ioctl(few, FIONREAD, &left));
    printf("%d bytes\n", left);
    int events = 0, over = 0;
    static char room[1 << 16];
    for (ssize_t n; (n = read(few, room, sizeof room)) > 0;)
        for (char *p = room; p < room + n; p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len) {
            events++;
            if (((struct inotify_event *)p)->mask & IN_Q_OVERFLOW)
                over++, printf("overflow %d %d\n", ((struct inotify_event *)p)->wd, events);
        }
    printf("%d events, %d overflow\n", events, over);
    close(few);
}
int main(int argc, char **argv) {
    CALL(inotify_init1(12345) < 0 ? -1 : 0);
    fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CALL(fd);
    CALL(fcntl(fd, F_GETFD));
    CALL(fcntl(fd, F_GETFL) & ~0x8000);
    mkdir("d", 0755), mkdir("e", 0755), mkdir("d/sub", 0755);
    make("f", "hello");
    CALL(inotify_add_watch(fd, "d", 0));
    CALL(inotify_add_watch(fd, "nowhere", IN_ALL_EVENTS));
    CALL(inotify_add_watch(fd, "f", IN_ALL_EVENTS | IN_ONLYDIR));
    CALL(inotify_add_watch(0, "f", IN_ALL_EVENTS));
    CALL(inotify_add_watch(99, "f", IN_ALL_EVENTS));
    CALL(inotify_add_watch(fd, (char *)8, IN_ALL_EVENTS));
    CALL(inotify_add_watch(fd, "f", IN_ALL_EVENTS | IN_MASK_ADD | IN_MASK_CREATE));
    CALL(inotify_rm_watch(fd, 5));
    CALL(inotify_rm_watch(0, 1));
    CALL(inotify_add_watch(fd, "d", IN_ALL_EVENTS));
    CALL(inotify_add_watch(fd, "d", IN_ALL_EVENTS));
    CALL(inotify_add_watch(fd, "d", IN_ALL_EVENTS | IN_MASK_CREATE));
    CALL(inotify_add_watch(fd, "f", IN_ALL_EVENTS));
    char small[20];
    CALL(read(fd, small, 20));
    CALL(write(fd, small, 1));
    CALL(lseek(fd, 0, SEEK_SET));
    make("d/new", "text");
    drain("a new file");
    make("d/new", "");
    drain("truncated by open");
    int f = open("f", O_RDWR);
    char byte[8];
    read(f, byte, 2), read(f, byte, 2), read(f, byte, 7), read(f, byte, 1);
    write(f, "more", 4), pwrite(f, "m", 1, 0), ftruncate(f, 3), fchmod(f, 0600), fallocate(f, 0, 0, 100);
    drain("a file by itself");
    close(f);
    drain("closed");
    truncate("f", 0);
    drain("truncate");
    chmod("f", 0644), chown("f", 0, 0), chown("f", -1, -1);
    drain("chmod, chown");
    utimensat(AT_FDCWD, "f", NULL, 0);
    drain("both times");
    struct timespec times[2] = {{0, UTIME_OMIT}, {5, 5}};
    utimensat(AT_FDCWD, "f", times, 0);
    times[1].tv_nsec = UTIME_OMIT, times[0].tv_nsec = 3;
    utimensat(AT_FDCWD, "f", times, 0);
    drain("one time each");
    f = open("d/new", O_RDWR);
    int g = dup(f);
    close(f);
    drain("one of two descriptors closed");
    write(g, "x", 1);
    rename("d/new", "d/newer");
    drain("renamed within");
    write(g, "y", 1);
    drain("written after that");
    rename("d/newer", "e/out");
    drain("moved out");
    write(g, "y", 1);
    close(g);
    drain("written outside");
    rename("e/out", "d/back");
    drain("moved in");
    make("d/victim", "");
    drain("victim made");
    rename("d/back", "d/victim");
    drain("moved over");
    link("d/victim", "d/second");
    drain("linked");
    link("f", "d/ff");
    drain("a watched file linked");
    symlink("victim", "d/symbolic");
    drain("a symbolic link");
    mkfifo("d/fifo", 0644);
    drain("a fifo");
    chmod("d/symbolic", 0600);
    drain("by the link");
    mkdir("d/inner", 0755);
    rmdir("d/inner");
    drain("a directory comes and goes");
    CALL(inotify_add_watch(fd, "d/sub", IN_ALL_EVENTS));
    rename("d/sub", "d/bus");
    drain("a watched directory moved");
    int dir = open("d/bus", O_RDONLY | O_DIRECTORY);
    char entries[512];
    getdents64(dir, entries, sizeof entries);
    fchmod(dir, 0700);
    drain("a watched directory read");
    rmdir("d/bus");
    drain("and removed while open");
    close(dir);
    drain("and closed");
    unlink("d/second");
    drain("one of two names gone");
    f = open("f", O_RDONLY);
    unlink("f");
    drain("a watched file unlinked while open");
    chmod("d/ff", 0600);
    close(f);
    drain("and closed");
    f = open("d/ff", O_WRONLY);
    unlink("d/ff");
    drain("its last name gone");
    write(f, "z", 1);
    close(f);
    drain("and closed");
    int p = open("d/victim", O_PATH);
    close(p);
    drain("by path only");
    struct stat st;
    stat("d/victim", &st), access("d/victim", R_OK), readlink("d/symbolic", entries, 10);
    drain("looked at");
    CALL(open("d/victim", O_CREAT | O_EXCL | O_RDWR, 0600));
    CALL(open("d/nothing", O_RDWR));
    CALL(mkdir("d/victim", 0700));
    drain("failures");
    f = open("d/victim", O_RDWR | O_CREAT, 0600);
    g = open("d/copy", O_RDWR | O_CREAT, 0600);
    write(f, "0123456789", 10);
    drain("two files");
    off_t at = 0;
    sendfile(g, f, &at, 5);
    drain("sendfile");
    loff_t from = 0;
    copy_file_range(f, &from, g, NULL, 4, 0);
    drain("copy_file_range");
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, g, 0);
    map[0] = 'm';
    msync(map, 4096, MS_SYNC);
    munmap(map, 4096);
    drain("through a mapping");
    close(f), close(g);
    drain("both closed");
    CALL(inotify_add_watch(fd, "d", IN_CREATE));
    make("d/only", "x");
    drain("only create");
    CALL(inotify_add_watch(fd, "d", IN_DELETE | IN_MASK_ADD));
    make("d/only2", "x");
    unlink("d/only2");
    drain("create and delete");
    CALL(inotify_add_watch(fd, "d", IN_ALL_EVENTS | IN_EXCL_UNLINK));
    f = open("d/only", O_RDWR);
    unlink("d/only");
    write(f, "x", 1);
    close(f);
    drain("unlinked excluded");
    CALL(inotify_rm_watch(fd, 1));
    make("d/quiet", "x");
    drain("no longer watched");
    CALL(inotify_rm_watch(fd, 1));
    CALL(inotify_add_watch(fd, "d", IN_CREATE | IN_ONESHOT));
    make("d/one", ""), make("d/two", "");
    drain("one shot");
    CALL(inotify_add_watch(fd, "d/symbolic", IN_ALL_EVENTS | IN_DONT_FOLLOW));
    CALL(inotify_add_watch(fd, "d/symbolic", IN_ALL_EVENTS));
    unlink("d/symbolic");
    drain("the link itself");
    CALL(inotify_add_watch(fd, "e", IN_ALL_EVENTS));
    if (!fork()) {
        make("e/child", "");
        execl("/bin/true", "true", NULL);
        _exit(0);
    }
    wait(NULL);
    drain("from a child");
    make("e/r", ""), make("e/s", "");
    drain("two");
    renameat2(AT_FDCWD, "e/r", AT_FDCWD, "e/s", RENAME_EXCHANGE);
    drain("exchanged");
    rename("e/r", "e/r");
    drain("to itself");
    make("e/v", ""), make("e/w", "");
    drain("two more");
    CALL(inotify_add_watch(fd, "e/v", IN_ALL_EVENTS));
    CALL(inotify_add_watch(fd, "e/w", IN_ALL_EVENTS));
    rename("e/v", "e/w");
    drain("a watched file takes a watched name");
    make("e/x", "");
    drain("one more");
    f = open("e/w", O_RDONLY);
    rename("e/x", "e/w");
    drain("over one that is open");
    close(f);
    drain("which is closed");
    unlink("e/w");
    drain("gone");
    struct pollfd look = {fd, POLLIN | POLLOUT, 0};
    CALL(poll(&look, 1, 0));
    int e = epoll_create1(0), left;
    struct epoll_event event = {EPOLLIN, {.u32 = 5}};
    CALL(epoll_ctl(e, EPOLL_CTL_ADD, fd, &event));
    CALL(epoll_wait(e, &event, 1, 0));
    unlink("e/r");
    CALL(poll(&look, 1, 0));
    printf("%x\n", look.revents);
    CALL(epoll_wait(e, &event, 1, 0));
    CALL(ioctl(fd, FIONREAD, &left));
    printf("%d bytes\n", left);
    CALL(read(fd, small, 20));
    CALL(read(fd, entries, 32));
    drain("the rest");
    if (!fork()) {
        usleep(2000);
        unlink("e/s");
        _exit(0);
    }
    CALL(epoll_wait(e, &event, 1, -1));
    drain("waited for");
    fcntl(fd, F_SETFL, 0);
    if (!fork()) {
        usleep(2000);
        unlink("e/child");
        _exit(0);
    }
    CALL(read(fd, entries, sizeof entries));
    wait(NULL), wait(NULL);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    int own = inotify_add_watch(fd, argv[0], IN_ALL_EVENTS), status;
    if (!fork()) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        *(volatile int *)8 = 1;
    }
    wait(&status);
    printf("%x\n", status);
    drain("a child that dies reads no program");
    inotify_rm_watch(fd, own);
    drain("not watched");
    f = open("tmp", O_RDONLY | O_CREAT, 0600);
    overflow();
    dnotify();
    struct stat is;
    fstat(fd, &is);
    printf("%o %ld\n", is.st_mode, (long)is.st_size);
    char path[64], shown[64] = {0};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    readlink(path, shown, sizeof shown - 1);
    puts(shown);
    const char *limits[] = {"max_queued_events", "max_user_instances"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/proc/sys/fs/inotify/%s", limits[i]);
        int l = open(path, O_RDONLY);
        CALL(read(l, shown, sizeof shown));
    }
    return 0;
}
