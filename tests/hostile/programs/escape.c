/* Attempts to get at a secret file of the host, at its processes and at its kernel: by names, links, descriptors, sockets and calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#include <sys/resource.h>
#define T(c) do { errno = 0; long r_ = (long)(c); printf("%-70s %ld %s\n", #c, r_, r_ < 0 ? strerrorname_np(errno) : ""); fflush(stdout); } while (0)
static void look(const char *path)
{
    char b[200]; int fd = open(path, O_RDONLY);
    long n = fd < 0 ? -1 : read(fd, b, sizeof b - 1);
    if (n > 0) b[n] = 0;
    printf("look %-60s %s%s\n", path, fd < 0 ? strerrorname_np(errno) : n < 0 ? strerrorname_np(errno) : "", n > 0 && strstr(b, "SECRET") ? " GOT THE SECRET" : n > 0 ? " (something else)" : "");
    fflush(stdout);
    if (fd >= 0) close(fd);
}
int main(int argc, char **argv)
{
    char *out = argv[1], *w = argv[2], p[4096]; /* out: host path of the secret; w: writable dir */
    int host = atoi(argv[3]);
    look(out);
    snprintf(p, sizeof p, "/proc/self/root%s", out); look(p);
    snprintf(p, sizeof p, "/proc/1/root%s", out); look(p);
    snprintf(p, sizeof p, "/proc/%d/root%s", host, out); look(p);
    snprintf(p, sizeof p, "/proc/%d/cwd/secret", host); look(p);
    snprintf(p, sizeof p, "/proc/%d/environ", host); look(p);
    snprintf(p, sizeof p, "/proc/self/cwd/../../../../../../../..%s", out); look(p);
    snprintf(p, sizeof p, "%s/../secret", w); look(p);
    snprintf(p, sizeof p, "%s/link", w); look(p);
    snprintf(p, sizeof p, "%s/dirlink/secret", w); look(p);
    snprintf(p, sizeof p, "%s/dirlink/../secret", w); look(p);
    for (int i = 0; i < 40; i++) { snprintf(p, sizeof p, "/proc/self/fd/%d", i); char b[300]; long n = readlink(p, b, 299); if (n > 0) { b[n] = 0; printf("fd %d %s\n", i, b); snprintf(p, sizeof p, "/proc/self/fd/%d/secret", i); look(p); snprintf(p, sizeof p, "/proc/self/fd/%d/../secret", i); look(p);} }
    chdir(w);
    T(symlink(out, "mylink")); look("mylink");
    T(open("mylink", O_WRONLY | O_TRUNC));
    T(open("mylink", O_WRONLY | O_CREAT, 0600));
    T(truncate("mylink", 0));
    T(chmod("mylink", 0777));
    T(link(out, "hard")); look("hard");
    T(link("mylink", "hard2")); look("hard2");
    T(linkat(AT_FDCWD, "mylink", AT_FDCWD, "hard3", AT_SYMLINK_FOLLOW)); look("hard3");
    T(rename(out, "moved")); T(rename("mylink", out));
    T(rename("file", "../file")); T(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "../secret", 2));
    T(symlink("..", "up")); look("up/secret");
    T(open("up/new", O_CREAT | O_WRONLY, 0600));
    T(mkdir("up/newdir", 0700)); T(unlink("up/secret")); T(rmdir("up/outdir"));
    T(mknod("dev", S_IFBLK | 0600, 0x801)); T(mknod("cdev", S_IFCHR | 0600, 0x101)); T(mkfifo("fifo", 0600));
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    T(openat(dir, "../secret", O_RDONLY)); T(openat(dir, "../../../../../../etc/shadow", O_RDONLY));
    struct { unsigned long f, m, r; } how = {O_RDONLY, 0, 0}; T(syscall(437, dir, "../secret", &how, sizeof how));
    how.r = 0x10; T(syscall(437, dir, "/../secret", &how, sizeof how));
    char h[200] = {100}; int id; *(int *)h = 128; T(syscall(SYS_name_to_handle_at, AT_FDCWD, ".", h, &id, 0)); T(syscall(SYS_open_by_handle_at, dir, h, 0));
    struct sockaddr_un un = {AF_UNIX, "sock"}; int s = socket(AF_UNIX, SOCK_STREAM, 0); T(bind(s, (void *)&un, sizeof un));
    strcpy(un.sun_path, "/run/dbus/system_bus_socket"); T(connect(s, (void *)&un, sizeof un));
    un.sun_path[0] = 0; strcpy(un.sun_path + 1, "/tmp/.X11-unix/X0"); T(connect(s, (void *)&un, sizeof un));
    T(socket(AF_NETLINK, SOCK_RAW, 0)); T(socket(AF_PACKET, SOCK_RAW, 768)); T(socket(40, SOCK_STREAM, 0)); T(socket(38, SOCK_SEQPACKET, 0)); T(socket(AF_INET, SOCK_RAW, 1)); T(socket(AF_INET6, SOCK_STREAM, 0));
    T(syscall(425, 8, p)); T(syscall(321, 0, p, 128)); T(syscall(298, p, 0, -1, -1, 0)); T(syscall(323, 0));
    T(ptrace(PTRACE_ATTACH, host, 0, 0)); T(ptrace(PTRACE_TRACEME, 0, 0, 0)); struct iovec v = {p, 8}, rv = {(void *)0x400000, 8}; T(syscall(SYS_process_vm_readv, host, &v, 1, &rv, 1, 0)); T(syscall(SYS_process_vm_writev, host, &v, 1, &rv, 1, 0));
    T(kill(host, 0)); T(kill(host, 9)); T(kill(1, 9)); T(kill(-1, 0)); T(syscall(SYS_tgkill, host, host, 9)); T(syscall(434, host, 0)); T(syscall(SYS_kcmp, host, getpid(), 0, 0, 0)); T(syscall(SYS_prlimit64, host, 7, 0, p)); T(syscall(SYS_sched_setaffinity, host, 8, p)); T(setpriority(PRIO_PROCESS, host, 19));
    T(unshare(0x20000)); T(syscall(SYS_setns, dir, 0)); T(mount("x", "/", "tmpfs", 0, 0)); T(umount2("/", 0)); T(syscall(SYS_pivot_root, ".", ".")); look("../secret"); look("/../secret");
    T(ioctl(0, 0x5412, "x")); T(ioctl(1, 0x5412, "x")); T(ioctl(0, 0x540E, 0)); T(ioctl(0, 0x541C, "x"));
    T(syscall(SYS_reboot, 0xfee1dead, 672274793, 0x1234567)); T(syscall(SYS_sethostname, "x", 1)); T(syscall(SYS_init_module, p, 10, "")); T(syscall(SYS_kexec_load, 0, 0, 0, 0)); T(syscall(SYS_iopl, 3)); T(syscall(SYS_ioperm, 0, 10, 1)); T(syscall(SYS_settimeofday, p, 0)); T(syscall(SYS_swapon, "x", 0)); T(syscall(SYS_acct, "x")); T(syscall(SYS_quotactl, 0, 0, 0, 0)); T(syscall(SYS_add_key, "user", "x", "y", 1, -4)); T(syscall(SYS_bpf, 0, 0, 0)); T(syscall(SYS_shmget, 1, 1L << 40, 01600)); T(syscall(SYS_msgget, 1, 01600)); T(syscall(SYS_semget, 1, 32000, 01600)); T(syscall(SYS_io_setup, 1 << 30, p)); T(syscall(SYS_vmsplice, 1, &v, 1, 0)); T(syscall(SYS_memfd_secret, 0)); T(syscall(SYS_seccomp, 1, 0, p)); T(prctl(PR_SET_MM, 1, 0, 0, 0)); fflush(stdout); if (!fork()) { T(prctl(PR_SET_SECCOMP, 1)); syscall(SYS_exit, 0); }
    /* A root of its own is the guest's, and lies in its tree; the old way out of one leads to the guest's. */
    T(mkdir("jail", 0700)); T(chroot("jail")); T(chdir("../../../../../../../..")); look("../secret"); look("/../secret"); look(out);
    T(fchdir(dir)); look("../secret"); T(chdir("../../../../../../../..")); look("../secret"); look(out); T(chroot(".")); look(out);
    return 0;
}
