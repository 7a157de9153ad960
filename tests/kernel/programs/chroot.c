/* chroot: the root that paths begin at, and the ways out of it. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void where(void) {
    char path[4096];
    long n = syscall(SYS_getcwd, path, sizeof path);
    printf("cwd %s (%ld)\n", n < 0 ? strerrorname_np(errno) : strncmp(path, "(unreachable)", 13) ? path : "(unreachable)", n < 0 ? -1 : strncmp(path, "(unreachable)", 13) ? n : 0);
}
static void look(const char *path) {
    struct stat st;
    errno = 0;
    printf("%s: %s\n", path, stat(path, &st) < 0 ? strerrorname_np(errno) : S_ISDIR(st.st_mode) ? "directory" : "file");
}
int main(void) {
    mkdir("jail", 0755), mkdir("jail/in", 0755), mkdir("jail/in/deep", 0755);
    close(open("jail/inner", O_CREAT | O_WRONLY, 0600)), close(open("outer", O_CREAT | O_WRONLY, 0600));
    symlink("/inner", "jail/absolute"), symlink("../../../outer", "jail/in/up");
    int here = open(".", O_RDONLY | O_DIRECTORY);
    CALL(chroot("nowhere"));
    CALL(chroot("outer"));
    CALL(chroot((char *)8));
    if (!fork()) {
        CALL(chroot("jail"));
        where();
        look("/inner"), look("/outer"), look("outer"), look("../outer"), look("/../inner"), look("jail/absolute"), look("jail/in/up");
        CALL(chdir("/"));
        where();
        look("inner"), look("../inner"), look("absolute"), look("in/up"), look("/in/deep/../../..");
        CALL(chdir("in/deep"));
        where();
        CALL(open("/made", O_CREAT | O_WRONLY, 0600) < 0 ? -1 : 0);
        CALL(rename("/made", "/in/moved"));
        look("../moved");
        fflush(stdout);
        if (!fork()) {
            look("/inner");
            CALL(chroot("/in"));
            CALL(chdir("/"));
            look("/deep"), look("/../inner");
            where();
            fflush(stdout);
            _exit(0);
        }
        wait(NULL);
        look("/inner");
        CALL(fchdir(here));
        where();
        look("outer"), look("../jail");
        CALL(chroot("."));
        where();
        look("/outer");
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    look("jail/inner"), look("jail/in/moved"), look("jail/made");
    setegid(1000), seteuid(1000);
    CALL(chroot("jail"));
    return 0;
}
