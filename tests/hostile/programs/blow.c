/* Programs that want all there is: processes, mappings, file names, signals, stacks. Each ends by itself or by a limit. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
static void bomb(void) { int n = 0; for (;;) { int c = fork(); if (c < 0) { if (getpid() == 1000) printf("fork errno %s after %d\n", strerrorname_np(errno), n), fflush(stdout); for (;;) pause(); } if (!c) { for (;;) pause(); } n++; } }
static void tree(void) { for (;;) if (fork() < 0) { if (getpid()==1000) printf("errno %s\n", strerrorname_np(errno)), fflush(stdout); _exit(0);} }
static void zombies(void) { long n = 0; for (;;n++) { int c = fork(); if (!c) _exit(0); if (c < 0) { printf("zombies errno %s after %ld\n", strerrorname_np(errno), n); return; } if (n>3000) {printf("enough\n"); return;} } }
static void vforks(void) { long n=0; for (;n<20000;n++) { int c = vfork(); if (!c) _exit(0); waitpid(c,0,0);} printf("vforks ok\n"); }
static void execs(char *me) { char c[20]; snprintf(c, 20, "%d", getenv("N") ? atoi(getenv("N")) + 1 : 1); setenv("N", c, 1); if (atoi(c) > 60) { puts("execs ok"); return; } execl("/proc/self/exe", me, "x", NULL); perror("exec"); }
static void deep(void) { int n = 0; for (; n < 20000; n++) if (mkdir("dddddddddddddddddddddddddddddddddddddddddddddddddd", 0700) || chdir("dddddddddddddddddddddddddddddddddddddddddddddddddd")) { break; } char b[100]; printf("deep %d errno %d; getcwd %p %d\n", n, errno, getcwd(b, 100), errno); for (int i=0;i<n;i++) if (chdir("..")) {printf("up %d\n", errno); break;} errno=0; printf("rename into itself %d %d\n", rename("dddddddddddddddddddddddddddddddddddddddddddddddddd", "dddddddddddddddddddddddddddddddddddddddddddddddddd/dddddddddddddddddddddddddddddddddddddddddddddddddd/x"), errno); }
static void maps(void) { long n = 0; for (;; n++) if (mmap((void*)(0x10000000 + n * 8192), 4096, n & 1 ? 1 : 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) break; printf("maps %ld %s\n", n, strerrorname_np(errno)); }
static void sparse(void) { int f = open("/tmp/s", O_CREAT | O_RDWR, 0600); for (int s = 10; s < 63; s++) { errno = 0; pwrite(f, "x", 1, 1L << s); if (errno) { printf("sparse 2^%d %s\n", s, strerrorname_np(errno)); break; } } ftruncate(f, 1L << 50); printf("%s\n", strerrorname_np(errno)); for (int i = 0; i < 100; i++) { char n[30]; sprintf(n, "/tmp/f%d", i); f = open(n, O_CREAT | O_RDWR, 0600); if (fallocate(f, 0, 0, 1 << 26)) { printf("falloc %d %s\n", i, strerrorname_np(errno)); break; } } }
static void huge(void) { static char b[65536]; struct iovec v[1024]; for (int i = 0; i < 1024; i++) v[i] = (struct iovec){b, sizeof b}; int z = open("/dev/zero", O_RDWR), f = open("/tmp/x", O_CREAT | O_RDWR, 0600), p[2]; pipe(p);
  printf("%zd %zd\n", readv(z, v, 1024), pwritev(f, v, 1024, 0)); fcntl(p[1], F_SETFL, O_NONBLOCK); printf("sendfile %zd\n", sendfile(p[1], z, 0, 1L << 40)); printf("cfr %ld\n", syscall(326, z, 0, f, 0, 1L << 40, 0)); printf("splice %zd\n", splice(z, 0, p[1], 0, 1L << 40, 1)); printf("tee %zd\n", tee(p[0], p[1], 1L << 40, 2));
  memset(b, 'a', sizeof b); b[65535]=0; printf("xattr %d\n", setxattr("/tmp/x", "user.x", b, 65535, 0)); for (int i = 0; i < 100000; i++) { char n[40]; sprintf(n, "user.%d", i); if (setxattr("/tmp/x", n, b, 60000, 0)) { printf("xattrs %d %s\n", i, strerrorname_np(errno)); break; } } }
static void flood(void) { sigset_t s; sigfillset(&s); sigprocmask(0, &s, 0); int n = 0; for (int i = 0; i < 300000; i++) { union sigval v = {.sival_int = i}; if (sigqueue(getpid(), SIGRTMIN + i % 20, v)) { n = i; break; } } printf("queued %d %s\n", n, strerrorname_np(errno)); int in = inotify_init1(0); n = 0; for (; n < 200000; n++) { char p[40]; sprintf(p, "/tmp/i%d", n); close(open(p, O_CREAT, 0600)); if (inotify_add_watch(in, p, IN_ALL_EVENTS) < 0) break; } printf("watches %d %s\n", n, strerrorname_np(errno)); for (int i = 0; i < 200000; i++) close(open("/tmp/i0", O_RDWR)); }
static void h(int s) { raise(SIGUSR1); }
static void recurse(void) { stack_t st = {.ss_sp = malloc(1 << 20), .ss_size = 1 << 20}; struct sigaction a = {.sa_handler = h, .sa_flags = SA_NODEFER}; sigaction(SIGUSR1, &a, 0); raise(SIGUSR1); }
static void robust(void) { struct { void *next; long off; void *pend; } *r = mmap(0, 4096, 3, MAP_PRIVATE|MAP_ANONYMOUS,-1,0); r->next = r; struct {void*n;} *x = (void*)((char*)r + 512); r->next = x; x->n = x; syscall(SYS_set_robust_list, r, 24); syscall(SYS_exit, 0); }
static void sock(void) { for (int i = 0; i < 100000; i++) { int s = socket(AF_INET, SOCK_STREAM, 0); if (s < 0) { printf("sockets %d %s\n", i, strerrorname_np(errno)); break; } listen(s, 1 << 30); } }
static void names(void) { long n = 0; char b[300]; for (;; n++) { memset(b, 'n', 250); sprintf(b + 200, "%ld", n); int f = syscall(SYS_memfd_create, b, 0); if (f < 0) break; close(f); if (n > 100000) break; } printf("names %ld\n", n); for (n = 0; n < 1000000; n++) { char p[300]; memset(p, 'x', 240); memcpy(p, "/tmp/", 5); sprintf(p + 230, "%ld", n); if (symlink(b, p)) break; } printf("links %ld %s\n", n, strerrorname_np(errno)); }
static void unknown(void) { for (long i = 0; i < 200000; i++) syscall(1000 + i); for (long i = 0; i < 2000; i++) { syscall(SYS_prctl, i, i); syscall(SYS_ioctl, 1, i, 0); } puts("unknown ok"); }
static void brks(void) { void *p; long n = 0; while ((p = sbrk(1 << 20)) != (void *)-1) { memset(p, 1, 1 << 20); n++; } printf("brk %ld MB\n", n); while (mremap(p = mmap(0, 4096, 3, 0x22, -1, 0), 4096, 1 << 24, 1) != MAP_FAILED) ; puts("mremap ok"); }
static void semaphores(void) { long n = 0; while (semget(IPC_PRIVATE, 32000, 0600 | IPC_CREAT) >= 0) n++; printf("semaphores %s\n", n > 3 ? strerrorname_np(errno) : "none"); }
static char *endless(void) { return mmap(0, 1L << 40, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); }
static void zeros(void) { read(open("/dev/zero", O_RDONLY), endless(), 1L << 31); }
static void mincores(void) { char *b = endless(); mincore(b, 1L << 39, (unsigned char *)b + (1L << 39)); }
int main(int c, char **v) { chdir("/tmp"); char *m = v[1];
#define M(x) if (!strcmp(m, #x)) x();
M(bomb) M(tree) M(zombies) M(vforks) M(deep) M(maps) M(sparse) M(huge) M(flood) M(recurse) M(robust) M(sock) M(names) M(unknown) M(brks) M(semaphores) M(zeros) M(mincores) if (!strcmp(m, "x")) execs(v[0]);
fflush(stdout); return 0; }
