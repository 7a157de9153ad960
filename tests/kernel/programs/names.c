#include "report.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }
static void list(const char *path) {
    struct dirent **found;
    int n = scandir(path, &found, NULL, by_name);
    printf("%s:", path);
    for (int i = 0; i < n; i++) printf(" %s/%d", found[i]->d_name, found[i]->d_type);
    putchar('\n');
}
static void touch(const char *path) { close(open(path, O_CREAT | O_WRONLY, 0644)); }
static void look(const char *path) {
    struct stat st;
    if (lstat(path, &st) < 0) { printf("%s %s\n", path, strerrorname_np(errno)); return; }
    printf("%s %o links %ld size %ld\n", path, st.st_mode, (long)st.st_nlink, S_ISDIR(st.st_mode) ? 0 : (long)st.st_size);
}
int main(void) {
    char text[PATH_MAX];
    umask(022);
    CALL(mkdir("d", 0777));
    CALL(mkdir("d", 0777));
    CALL(mkdir("no/d", 0777));
    CALL(mkdir("d/e/", 0750));
    CALL(mkdir(".", 0777));
    touch("d/f");
    look("d"); look("d/e"); look("d/f");
    CALL(symlink("f", "d/s"));
    CALL(symlink("", "d/t"));
    CALL(symlink("loop", "loop"));
    CALL(symlink("nowhere", "dangling"));
    CALL(open("loop", O_RDONLY));
    CALL(open("dangling", O_RDONLY));
    CALL(open("dangling", O_CREAT | O_EXCL | O_WRONLY, 0600));
    CALL(open("d/s", O_NOFOLLOW));
    ZERO(open("d/s", O_RDONLY));
    ZERO(open("dangling", O_CREAT | O_WRONLY, 0600));
    look("nowhere");
    memset(text, 0, sizeof text);
    CALL(readlink("d/s", text, sizeof text));
    CALL(readlink("d/f", text, sizeof text));
    CALL(readlink("d/s", text, 0));
    look("d/s");
    CALL(link("d/f", "d/hard"));
    look("d/f");
    CALL(link("d", "d2"));
    CALL(link("d/f", "d/hard"));
    CALL(link("absent", "x"));
    CALL(linkat(AT_FDCWD, "d/s", AT_FDCWD, "d/slink", 0));
    look("d/slink");
    CALL(rename("d/hard", "d/f"));
    look("d/hard");
    CALL(rename("d/f", "d/g"));
    list("d");
    CALL(rename("d", "d/e/inside"));
    CALL(rename("d/e", "d/g"));
    CALL(rename("d/g", "d/e"));
    CALL(rename("absent", "x"));
    CALL(rename("d/e", "moved"));
    touch("moved/in");
    CALL(rename("d", "moved"));
    list("moved"); list("d");
    CALL(mkdir("empty", 0700));
    CALL(rename("d", "empty"));
    list("empty");
    look("d");
    CALL(rename("empty", "d"));
    CALL(renameat2(AT_FDCWD, "d", AT_FDCWD, "moved", RENAME_NOREPLACE));
    CALL(renameat2(AT_FDCWD, "d", AT_FDCWD, "moved", RENAME_EXCHANGE));
    list("moved"); list("d");
    CALL(renameat2(AT_FDCWD, "d", AT_FDCWD, "moved", 77));
    CALL(rmdir("d"));
    CALL(rmdir("moved/g"));
    CALL(rmdir("."));
    CALL(rmdir("moved/.."));
    CALL(unlink("moved"));
    CALL(unlink("moved/g"));
    CALL(unlink("moved/g"));
    CALL(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
    CALL(unlink("d/in"));
    CALL(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
    CALL(chdir("moved"));
    printf("%s\n", strrchr(getcwd(text, sizeof text), '/'));
    CALL(syscall(79, text, 1));
    int here = open(".", O_RDONLY);
    CALL(chdir(".."));
    CALL(openat(here, "absent", O_RDONLY));
    ZERO(openat(here, "new", O_CREAT | O_WRONLY, 0640));
    CALL(openat(99, "new", O_RDONLY));
    ZERO(openat(99, "/", O_RDONLY));
    CALL(fchdir(here));
    list(".");
    CALL(fchdir(0) < 0);
    CALL(chdir("new"));
    CALL(chdir(".."));
    CALL(chmod("moved/new", 0));
    look("moved/new");
    CALL(fchmodat(AT_FDCWD, "moved/new", 04711, 0));
    look("moved/new");
    CALL(access("moved/new", F_OK));
    CALL(access("moved/new", X_OK));
    CALL(access("absent", F_OK));
    CALL(access("moved", 99));
    CALL(mkdir("gone", 0700));
    CALL(chdir("gone"));
    CALL(rmdir("../gone"));
    CALL(getcwd(text, sizeof text) ? 0 : -1);
    CALL(open("x", O_CREAT | O_WRONLY, 0600));
    CALL(chdir(".."));
    memset(text, 'a', 300); text[300] = 0;
    CALL(mkdir(text, 0700));
    memset(text, '/', PATH_MAX - 1); text[PATH_MAX - 1] = 0;
    ZERO(access(text, F_OK));
    char longer[PATH_MAX + 10];
    memset(longer, '/', sizeof longer); longer[sizeof longer - 1] = 0;
    CALL(access(longer, F_OK));
    struct timespec times[2] = {{1, 5}, {2, 7}};
    struct stat st;
    CALL(utimensat(AT_FDCWD, "moved/new", times, 0));
    stat("moved/new", &st);
    printf("%ld.%09ld %ld.%09ld\n", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    times[0].tv_nsec = UTIME_OMIT; times[1].tv_nsec = 2000000000;
    CALL(utimensat(AT_FDCWD, "moved/new", times, 0));
    struct statx sx;
    CALL(statx(AT_FDCWD, "moved/new", 0, STATX_BASIC_STATS, &sx));
    printf("%o %d %ld\n", sx.stx_mode, sx.stx_nlink, (long)sx.stx_mtime.tv_sec);
    CALL(fstatat(AT_FDCWD, "moved/new", &st, 0x80000000));
    CALL(fstatat(here, "", &st, AT_EMPTY_PATH));
    printf("%o\n", st.st_mode);
    return 0;
}
