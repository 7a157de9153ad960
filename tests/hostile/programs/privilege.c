/* What only root may do to files, in a directory that is passed through. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define TELL(call) (errno = 0, (call), printf("%s: %s\n", #call, errno == EPERM ? "EPERM" : errno ? "other" : "done"))

int main(void) {
    int fd = open("made", O_RDWR | O_CREAT | O_EXCL, 06755);
    TELL(fchmod(fd, 0700));
    TELL(fchmod(fd, 04755));
    TELL(chmod("made", 02755));
    TELL(chmod("made", 01644));
    TELL(fchown(fd, 1234, -1));
    TELL(lchown("made", -1, 1234));
    TELL(chown("made", getuid(), getgid()));
    TELL(mkdir("folder", 06755));
    TELL(chmod("folder", 02755));
    TELL(chown("folder", 1234, 1234));
    symlink("made", "link");
    TELL(lchown("link", 1234, 1234));
    mknod("device", S_IFCHR | 0666, makedev(1, 3));
    mknod("fifo", S_IFIFO | 06666, 0);
    int old = open("set-id", O_WRONLY);
    TELL(write(old, "new", 3));
    return 0;
}
