/* What is made is on the device of its directory: mount points, and `find -xdev`, are told by that. */
#define _GNU_SOURCE
#include "report.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
static dev_t here;
static ino_t seen[16];
static int count;
static void same(const char *path) {
    struct stat st;
    if (lstat(path, &st)) printf("%s: errno %d\n", path, errno);
    else {
        printf("%s: here %d", path, st.st_dev == here);
        int again = 0;
        for (int i = 0; i < count; i++) again |= seen[i] == st.st_ino;
        seen[count++] = st.st_ino;
        printf(" known inode %d\n", again);
    }
}
int main(void) {
    struct stat st;
    stat(".", &st);
    here = st.st_dev;
    CALL(mkdir("folder", 0755));
    CALL(mkdir("folder/inner", 0755));
    CALL(close(open("file", O_CREAT | O_RDWR, 0644)));
    CALL(close(open("folder/file", O_CREAT | O_RDWR, 0644)));
    CALL(symlink("file", "link"));
    CALL(mkfifo("fifo", 0600));
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un a = {AF_UNIX, "socket"};
    CALL(bind(s, (void *)&a, sizeof a));
    CALL(link("file", "hard"));
    int t = open(".", O_TMPFILE | O_RDWR, 0600);
    fstat(t, &st);
    printf("nameless: here %d\n", st.st_dev == here);
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", t);
    CALL(linkat(AT_FDCWD, name, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    same(".");
    same("folder");
    same("folder/inner");
    same("file");
    same("folder/file");
    same("link");
    same("fifo");
    same("socket");
    same("hard");
    same("named");
    struct stat up;
    stat("folder/inner/..", &st);
    stat("folder", &up);
    printf("above %d\n", st.st_ino == up.st_ino && st.st_dev == up.st_dev);
    stat("/proc", &st);
    printf("another device: /proc %d", st.st_dev != here);
    stat("/dev", &st);
    printf(" /dev %d\n", st.st_dev != here);
    return 0;
}
