#include "report.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
static void text(const char *name) {
    char buffer[200] = {0};
    int fd = open(name, O_RDONLY);
    long n = read(fd, buffer, 199);
    printf("%s: %ld [", name, n);
    for (long i = 0; i < n; i++) putchar(buffer[i] ? buffer[i] : '.');
    puts("]");
    close(fd);
}
static void facts(const char *what, int fd) {
    struct stat st;
    if (fstat(fd, &st) < 0) puts(strerrorname_np(errno));
    else printf("%s: type %o nlink %ld size %ld\n", what, st.st_mode & S_IFMT, (long)st.st_nlink, (long)st.st_size);
}
static int by_name(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
static void list(const char *path) {
    DIR *d = opendir(path);
    char *names[64];
    int n = 0;
    struct dirent *e;
    if (d == NULL) {
        puts(strerrorname_np(errno));
        return;
    }
    while ((e = readdir(d)) != NULL && n < 64) {
        char line[300];
        sprintf(line, "%s/%d", e->d_name, e->d_type);
        names[n++] = strdup(line);
    }
    closedir(d);
    qsort(names, n, sizeof *names, by_name);
    printf("%s:", path);
    for (int i = 0; i < n; i++) printf(" %s", names[i]);
    puts("");
}
int main(void) {
    umask(022);
    int a = open("a", O_RDWR | O_CREAT | O_APPEND, 0644), b = open("a", O_RDWR);
    CALL(write(a, "one", 3));
    CALL(write(b, "TWO!", 4));
    CALL(write(a, "three", 5));
    CALL(lseek(a, 0, SEEK_CUR));
    CALL(lseek(a, 1, SEEK_SET));
    CALL(write(a, "4", 1));
    CALL(lseek(a, 0, SEEK_CUR));
    CALL(pwrite(a, "Z", 1, 0));
    text("a");
    CALL(fcntl(b, F_GETFL) & ~O_LARGEFILE);
    CALL(fcntl(a, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    CALL(fcntl(a, F_SETFL, O_NONBLOCK));
    CALL(fcntl(a, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    CALL(write(a, "now here", 8));
    text("a");
    CALL(ftruncate(b, 40));
    CALL(lseek(b, 100, SEEK_SET));
    CALL(write(b, "end", 3));
    facts("with a hole", b);
    CALL(ftruncate(b, 10));
    text("a");
    CALL(read(b, (char[4]){0}, 4));

    int c = dup(b), d = dup3(b, 50, O_CLOEXEC), e = fcntl(b, F_DUPFD_CLOEXEC, 60);
    printf("%d %d\n", d, e);
    CALL(lseek(b, 5, SEEK_SET));
    CALL(lseek(c, 0, SEEK_CUR));
    CALL(fcntl(c, F_GETFD));
    CALL(fcntl(d, F_GETFD));
    CALL(fcntl(e, F_GETFD));
    CALL(dup3(b, b, 0));
    CALL(dup2(b, b));
    CALL(dup2(77, 78));
    CALL(dup2(77, 77));
    CALL(dup3(b, 50, O_APPEND));
    CALL(dup2(b, 50));
    CALL(fcntl(50, F_GETFD));
    CALL(fcntl(50, F_SETFD, FD_CLOEXEC));
    CALL(fcntl(50, F_GETFD));
    CALL(ioctl(50, FIONCLEX));
    CALL(fcntl(50, F_GETFD));
    CALL(fcntl(b, 9999));
    CALL(close(77));
    CALL(syscall(SYS_close_range, 50, 60, 0));
    CALL(close(50));
    CALL(syscall(SYS_close_range, 9, 8, 0));

    struct iovec three[3] = {{"abc", 3}, {NULL, 0}, {"defg", 4}};
    CALL(lseek(b, 0, SEEK_SET));
    CALL(writev(b, three, 3));
    text("a");
    char x[3], y[100];
    struct iovec two[2] = {{x, 3}, {y, 100}};
    CALL(lseek(b, 0, SEEK_SET));
    CALL(readv(b, two, 2));
    printf("%.3s %.4s\n", x, y);
    CALL(preadv(b, two, 2, 4));
    CALL(pwritev(b, three, 3, 2));
    text("a");
    CALL(writev(b, three, -1));
    CALL(writev(b, three, 0));
    CALL(writev(b, three, 2000));
    two[1].iov_len = (size_t)SSIZE_MAX;
    CALL(readv(b, two, 2));
    two[1].iov_base = (void *)8;
    two[1].iov_len = 5;
    CALL(lseek(b, 0, SEEK_SET));
    CALL(readv(b, two, 2));
    CALL(lseek(b, 0, SEEK_CUR));
    CALL(read(b, (void *)8, 4));
    CALL(write(b, (void *)8, 4));
    CALL(read(b, (void *)8, 0));

    CALL(link("a", "linked"));
    facts("linked", b);
    CALL(unlink("a"));
    facts("one name gone", b);
    text("linked");
    CALL(unlink("linked"));
    facts("no name", b);
    CALL(pread(b, y, 5, 0));
    CALL(write(b, "still", 5));
    facts("written without a name", b);
    CALL(open("linked", O_RDWR));

    CALL(mkdir("d", 0755));
    CALL(mkdir("d/e", 0700));
    CALL(mkdir("d", 0755));
    CALL(close(open("d/f", O_CREAT | O_WRONLY, 0600)));
    CALL(symlink("f", "d/s"));
    CALL(symlink("absent", "d/broken"));
    list("d");
    CALL(rename("d/f", "d/g"));
    CALL(rename("d/e", "d/g"));
    CALL(rename("d/g", "d/e"));
    CALL(rename("d", "d/e/x"));
    CALL(rename("absent", "d/y"));
    CALL(mkdir("other", 0755));
    CALL(rename("d/e", "other"));
    CALL(close(open("other/full", O_CREAT | O_WRONLY, 0600)));
    CALL(mkdir("d/e", 0755));
    CALL(rename("d/e", "other"));
    CALL(renameat2(AT_FDCWD, "d/g", AT_FDCWD, "other/full", RENAME_NOREPLACE));
    CALL(renameat2(AT_FDCWD, "d/g", AT_FDCWD, "other/full", RENAME_EXCHANGE));
    CALL(rename("d/s", "d/s"));
    list("d");
    list("other");
    CALL(rmdir("d"));
    CALL(unlink("d"));
    CALL(rmdir("other/full"));
    CALL(readlink("d/broken", y, 100));
    CALL(readlink("d/broken", y, 3));
    CALL(readlink("d", y, 100));
    CALL(open("d/broken", O_RDONLY));
    CALL(open("d/broken", O_RDONLY | O_NOFOLLOW));
    CALL(open("d/broken", O_CREAT | O_EXCL | O_RDWR, 0600));
    CALL(access("d/broken", F_OK));
    CALL(faccessat(AT_FDCWD, "d/broken", F_OK, AT_SYMLINK_NOFOLLOW));
    int dir = open("d", O_RDONLY | O_DIRECTORY);
    CALL(openat(dir, "g", O_RDONLY) >= 0);
    CALL(openat(dir, "../other", O_RDONLY) >= 0);
    CALL(openat(b, "g", O_RDONLY));
    CALL(read(dir, y, 10));
    CALL(write(dir, y, 10));
    CALL(fchdir(dir));
    CALL(access("g", R_OK));
    CALL(fchdir(b));
    CALL(chdir(".."));
    int path = open("d/g", O_PATH);
    CALL(read(path, y, 1));
    CALL(fstatat(path, "", &(struct stat){0}, AT_EMPTY_PATH));
    CALL(fchmod(path, 0600));
    CALL(syscall(SYS_getdents64, dir, y, 5));
    CALL(syscall(SYS_getdents64, b, y, 100));
    CALL(unlink("d/g"));
    CALL(fstatat(AT_FDCWD, "d/g", &(struct stat){0}, 0));
    struct stat st;
    CALL(fstat(dir, &st));
    CALL(rename("d", "moved"));
    CALL(openat(dir, "broken", O_PATH | O_NOFOLLOW) >= 0);
    CALL(unlinkat(dir, "e", 0));
    CALL(unlinkat(dir, "e", AT_REMOVEDIR));
    int memory = memfd_create("x", MFD_ALLOW_SEALING);
    CALL(ftruncate(memory, 5000));
    facts("memfd", memory);
    CALL(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK));
    CALL(ftruncate(memory, 10));
    CALL(fcntl(memory, F_GET_SEALS));
    CALL(fallocate(memory, 0, 0, 9000));
    facts("memfd", memory);
    CALL(posix_fallocate(memory, 0, 9500));
    int pair[2];
    CALL(pipe2(pair, O_CLOEXEC | O_NONBLOCK));
    CALL(read(pair[0], y, 1));
    CALL(fcntl(pair[0], F_GETFD));
    CALL(fcntl(pair[1], F_GETPIPE_SZ));
    CALL(fcntl(pair[1], F_SETPIPE_SZ, 5000));
    CALL(lseek(pair[0], 0, SEEK_CUR));
    CALL(write(pair[0], "x", 1));
    CALL(write(pair[1], "hello", 5));
    CALL(getpeername(b, NULL, NULL));
    CALL(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, NULL, NULL));
    CALL(send(pair[1], "x", 1, 0));
    CALL(shutdown(77, 0));
    int unix_socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {AF_UNIX, "/absent/socket"};
    CALL(connect(unix_socket, (void *)&address, sizeof address));
    CALL(connect(unix_socket, (void *)&address, 2));
    CALL(connect(b, (void *)&address, sizeof address));
    strcpy(address.sun_path, "/etc/passwd");
    CALL(connect(unix_socket, (void *)&address, sizeof address));
    memset(address.sun_path, 0, 20);
    address.sun_path[1] = 'q';
    CALL(connect(unix_socket, (void *)&address, sizeof address));
    CALL(getpeername(unix_socket, NULL, NULL));
    CALL(fcntl(unix_socket, F_GETFD));
    CALL(lseek(unix_socket, 0, SEEK_CUR));
    CALL(fstat(unix_socket, &st));
    printf("%o\n", st.st_mode);
    CALL(write(unix_socket, "x", 1));
    CALL(socket(AF_UNIX, 77, 0));
    CALL(socket(AF_UNIX, SOCK_STREAM, 9));
    int waiting = 0;
    CALL(ioctl(pair[0], FIONREAD, &waiting));
    printf("%d\n", waiting);
    CALL(ftruncate(pair[1], 0));
    CALL(pread(pair[0], y, 1, 0));
    CALL(pipe2(pair, 0x40));
    CALL(utimensat(AT_FDCWD, "moved", (struct timespec[2]){{1000, 5}, {2000, 7}}, 0));
    stat("moved", &st);
    printf("%ld %ld %ld %ld\n", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    CALL(chmod("moved", 0500));
    stat("moved", &st);
    printf("%o\n", st.st_mode);
    CALL(mkdir("deep", 0700));
    char longest[5000];
    memset(longest, 'n', 4999);
    longest[4999] = 0;
    CALL(open(longest, O_RDONLY));
    longest[256] = 0;
    CALL(open(longest, O_CREAT | O_RDWR, 0600));
    longest[255] = 0;
    CALL(close(open(longest, O_CREAT | O_RDWR, 0600)));
    CALL(symlink("loop", "loop"));
    CALL(open("loop", O_RDONLY));
    CALL(stat("loop/x", &st));
    return 0;
}
