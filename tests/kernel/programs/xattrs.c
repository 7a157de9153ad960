/* Extended attributes: set, read, listed, removed; what is refused; that they stay with the file. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
static char value[70000];
static int order(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
static void list(const char *path) {
    char names[4096], *each[64];
    int n = 0;
    long size = listxattr(path, names, sizeof names);
    for (char *p = names; p < names + size; p += strlen(p) + 1)
        if (strncmp(p, "security.", 9))
            each[n++] = p;
    qsort(each, n, sizeof *each, order);
    printf("%s:", path);
    for (int i = 0; i < n; i++) {
        char text[64] = {0};
        long got = getxattr(path, each[i], text, sizeof text - 1);
        printf(" %s=%s (%ld)", each[i], text, got);
    }
    putchar('\n');
}
int main(void) {
    int fd = open("file", O_CREAT | O_RDWR, 0600);
    mkdir("dir", 0755), symlink("file", "link"), symlink("nothing", "dangling"), mkfifo("fifo", 0600);
    CALL(setxattr("file", "user.one", "first", 5, 0));
    CALL(setxattr("file", "user.two", "second", 6, XATTR_CREATE));
    CALL(setxattr("file", "user.two", "third", 5, XATTR_CREATE));
    CALL(setxattr("file", "user.two", "2nd", 3, XATTR_REPLACE));
    CALL(setxattr("file", "user.three", "x", 1, XATTR_REPLACE));
    CALL(setxattr("file", "user.three", "x", 1, XATTR_REPLACE | XATTR_CREATE));
    CALL(setxattr("file", "user.three", "x", 1, 4));
    CALL(setxattr("file", "user.empty", "", 0, 0));
    CALL(setxattr("file", "user.empty", NULL, 0, 0));
    CALL(setxattr("file", "trusted.root", "only", 4, 0));
    list("file");
    list("link");
    CALL(getxattr("file", "user.one", value, 5));
    CALL(getxattr("file", "user.one", value, 4));
    CALL(getxattr("file", "user.one", NULL, 0));
    CALL(getxattr("file", "user.one", value, 0));
    CALL(getxattr("file", "user.one", NULL, 5));
    CALL(getxattr("file", "user.none", value, 5));
    CALL(getxattr("file", "user.", value, 5));
    CALL(getxattr("file", "user", value, 5));
    CALL(getxattr("file", "none.x", value, 5));
    CALL(setxattr("file", "none.x", value, 5, 0));
    CALL(setxattr("file", "user.", value, 5, 0));
    CALL(setxattr("file", "", value, 5, 0));
    CALL(getxattr("file", "", value, 5));
    CALL(setxattr("file", "user.x", (void *)8, 5, 0));
    CALL(setxattr("file", (void *)8, "x", 1, 0));
    CALL(setxattr("file", "user.x", value, 70000, 0));
    memset(value, 'n', 300), memcpy(value, "user.", 5), value[300] = 0;
    CALL(setxattr("file", value, "x", 1, 0));
    value[255] = 0;
    CALL(setxattr("dir", value, "x", 1, 0));
    CALL(removexattr("dir", value));
    CALL(listxattr("file", NULL, 0) >= 40);
    CALL(listxattr("file", value, 3));
    CALL(listxattr("nothing", value, 3));
    CALL(setxattr("nothing", "user.x", "x", 1, 0));
    CALL(setxattr("dangling", "user.x", "x", 1, 0));
    CALL(lsetxattr("link", "user.x", "x", 1, 0));
    CALL(lsetxattr("link", "trusted.x", "of the link", 11, 0));
    CALL(lgetxattr("link", "trusted.x", value, 100));
    CALL(getxattr("link", "trusted.x", value, 100));
    CALL(lremovexattr("link", "trusted.x"));
    CALL(lgetxattr("link", "user.one", value, 100));
    CALL(setxattr("fifo", "user.x", "x", 1, 0));
    CALL(getxattr("fifo", "user.x", value, 1));
    CALL(setxattr("fifo", "trusted.x", "x", 1, 0));
    CALL(setxattr("dir", "user.of", "dir", 3, 0));
    list("dir");
    CALL(fsetxattr(fd, "user.fd", "by fd", 5, 0));
    CALL(fgetxattr(fd, "user.fd", value, 100));
    CALL(fremovexattr(fd, "user.one"));
    CALL(fremovexattr(fd, "user.one"));
    CALL(flistxattr(fd, NULL, 0) >= 40);
    CALL(fsetxattr(99, "user.fd", "x", 1, 0));
    int path = open("file", O_PATH), read_only = open("file", O_RDONLY);
    CALL(fgetxattr(path, "user.fd", value, 100));
    CALL(fsetxattr(path, "user.fd", "x", 1, 0));
    CALL(fsetxattr(read_only, "user.ro", "x", 1, 0));
    list("file");
    link("file", "other"), rename("file", "moved");
    list("other");
    list("moved");
    int copy = open("copy", O_CREAT | O_RDWR, 0600);
    list("copy");
    CALL(removexattr("moved", "user.none"));
    CALL(removexattr("moved", "none.x"));
    CALL(removexattr("nothing", "user.x"));
    truncate("moved", 0);
    list("moved");
    int pipes[2];
    pipe(pipes);
    CALL(fsetxattr(pipes[0], "user.x", "x", 1, 0));
    CALL(setxattr("/proc/self/status", "user.x", "x", 1, 0));
    CALL(getxattr("/proc/self/status", "user.x", value, 1));
    setegid(1000), seteuid(1000);
    CALL(getxattr("moved", "user.two", value, 100));
    CALL(getxattr("moved", "trusted.root", value, 100));
    CALL(setxattr("moved", "trusted.root", "x", 1, 0));
    CALL(setxattr("moved", "user.x", "x", 1, 0));
    CALL(fsetxattr(fd, "user.x", "x", 1, 0));
    list("dir");
    return 0;
}
