/* openat2 and its RESOLVE_ flags. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static char paths_top[4096];
static void try(int dir, const char *path, unsigned long long flags, unsigned long long resolve) {
    struct open_how how = {.flags = flags, .resolve = resolve};
    errno = 0;
    int fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    printf("%s %llx %llx: %s", path, flags, resolve, fd < 0 ? strerrorname_np(errno) : "ok");
    struct stat st;
    if (fd >= 0 && !fstat(fd, &st)) {
        char link[64], shown[4096] = {0};
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        readlink(link, shown, sizeof shown - 1);
        printf(" %o %s", st.st_mode & S_IFMT, strcmp(paths_top, shown) ? strrchr(shown, '/') : "above");
        close(fd);
    }
    putchar('\n');
    fflush(stdout);
}
int main(void) {
    mkdir("top", 0755), mkdir("top/in", 0755), mkdir("top/in/deep", 0755), mkdir("etc", 0755), mkdir("top/etc", 0755);
    close(open("top/in/file", O_CREAT | O_WRONLY, 0600)), close(open("outside", O_CREAT | O_WRONLY, 0600));
    close(open("top/etc/inner", O_CREAT | O_WRONLY, 0600));
    symlink("in/file", "top/link"), symlink("../outside", "top/up"), symlink("/etc/inner", "top/absolute"), symlink("loop", "top/loop");
    symlink("in", "top/dirlink"), symlink("/", "top/root"), symlink("../../../../etc/inner", "top/far");
    symlink("/proc/self/fd/0", "top/magic"), symlink("nothing", "top/dangling");
    getcwd(paths_top, sizeof paths_top);
    int top = open("top", O_RDONLY | O_DIRECTORY);
    const char *paths[] = {
        "in/file", "./in/../in/file", "../outside", "in/../../outside", "../top/..", "link", "up", "absolute", "far", "loop", "dirlink/file",
        "dirlink/", "root", "dangling", "/etc/inner", "/", "/in/file", "/../in/file", "nothing", "in/file/", "magic", ".", "in/deep/../.."};
    unsigned long long flags[] = {
        0, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_XDEV, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
        RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    for (unsigned f = 0; f < sizeof flags / sizeof *flags; f++)
        for (unsigned p = 0; p < sizeof paths / sizeof *paths; p++)
            if (f && flags[f] != RESOLVE_NO_XDEV || strcmp(paths[p], "root") && strcmp(paths[p], "/") && strcmp(paths[p], "magic") && strcmp(paths[p], "/etc/inner") && strcmp(paths[p], "absolute"))
                try(top, paths[p], O_RDONLY, flags[f]);
    try(top, "link", O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
    try(top, "link", O_RDONLY | O_NOFOLLOW, 0);
    try(top, "up", O_PATH | O_NOFOLLOW, RESOLVE_BENEATH);
    try(top, "in/file", O_RDONLY, RESOLVE_BENEATH | RESOLVE_IN_ROOT);
    try(top, "in/file", O_RDONLY, 0x40);
    try(top, "in/file", O_RDONLY, RESOLVE_CACHED);
    try(top, "in/file", O_RDWR | O_TRUNC, RESOLVE_CACHED);
    try(top, "in/new", O_CREAT | O_RDWR, RESOLVE_IN_ROOT);
    try(top, "/in/newer", O_CREAT | O_RDWR, RESOLVE_IN_ROOT);
    try(top, "/proc/self/exe", O_RDONLY, RESOLVE_NO_MAGICLINKS);
    try(top, "/proc/self/exe", O_PATH | O_NOFOLLOW, RESOLVE_NO_MAGICLINKS);
    try(top, "/proc/self/cwd/outside", O_RDONLY, RESOLVE_NO_MAGICLINKS);
    try(top, "/proc/self/cwd/outside", O_RDONLY, RESOLVE_NO_SYMLINKS);
    try(top, "/proc/self/status", O_RDONLY, RESOLVE_NO_XDEV);
    try(AT_FDCWD, "outside", O_RDONLY, RESOLVE_NO_XDEV);
    try(AT_FDCWD, "/proc", O_RDONLY, RESOLVE_NO_XDEV);
    try(AT_FDCWD, "/proc/self/exe", O_RDONLY, RESOLVE_NO_XDEV);
    try(AT_FDCWD, "top/in/file", O_RDONLY, RESOLVE_BENEATH);
    try(AT_FDCWD, "top/../outside", O_RDONLY, RESOLVE_IN_ROOT);
    try(AT_FDCWD, "/outside", O_RDONLY, RESOLVE_IN_ROOT);
    struct open_how how = {.flags = O_RDONLY, .mode = 0600};
    CALL(syscall(SYS_openat2, top, "in/file", &how, sizeof how));
    how.mode = 0, how.flags = O_RDONLY | 0x80000000000ull;
    CALL(syscall(SYS_openat2, top, "in/file", &how, sizeof how));
    how.flags = O_CREAT | O_RDWR, how.mode = 0100600;
    CALL(syscall(SYS_openat2, top, "in/file", &how, sizeof how));
    how.flags = O_PATH | O_RDWR, how.mode = 0;
    CALL(syscall(SYS_openat2, top, "in/file", &how, sizeof how) < 0 ? -1 : 0);
    CALL(syscall(SYS_openat2, top, "in/file", &how, 8));
    CALL(syscall(SYS_openat2, top, "in/file", &how, 5000));
    CALL(syscall(SYS_openat2, 99, "in/file", &how, sizeof how));
    CALL(syscall(SYS_openat2, top, "in/file", (void *)8, sizeof how));
    return 0;
}
