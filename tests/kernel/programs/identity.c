#include "report.h"
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/futex.h>
#include <time.h>
int main(int argc, char **argv) {
    char name[17] = {0}, link[4096];
    printf("%d %s\n", argc, argv[argc - 1]);
    CALL(getpid() == syscall(SYS_gettid)); CALL(getppid() > 0); CALL(getuid() == geteuid()); CALL(getuid()); CALL(getgid());
    CALL(prctl(PR_GET_NAME, name)); puts(name);
    CALL(prctl(PR_SET_NAME, "a-name-that-is-too-long")); prctl(PR_GET_NAME, name); puts(name);
    CALL(prctl(12345)); CALL(prctl(PR_GET_DUMPABLE)); CALL(prctl(PR_SET_DUMPABLE, 9));
    struct rlimit l; CALL(getrlimit(99, &l)); getrlimit(RLIMIT_STACK, &l); CALL(l.rlim_cur);
    l.rlim_cur = l.rlim_max; l.rlim_max -= 1; CALL(l.rlim_cur == RLIM_INFINITY ? setrlimit(RLIMIT_CPU, &l) : -1);
    l = (struct rlimit){8, 8}; CALL(setrlimit(RLIMIT_NOFILE, &l));
    int n = 0; while (open("/dev/null", O_RDONLY) >= 0) n++; CALL(n >= 1); printf("%s\n", strerrorname_np(errno)); CALL(dup(0)); CALL(dup2(0, 8)); close(7);
    cpu_set_t cpus; CALL(sched_getaffinity(0, 3, &cpus)); ZERO(sched_getaffinity(0, sizeof cpus, &cpus)); CALL(CPU_COUNT(&cpus) > 0);
    CALL(sched_getscheduler(0)); CALL(sched_get_priority_max(SCHED_FIFO)); CALL(sched_yield()); CALL(sched_get_priority_max(77));
    CALL(waitpid(-1, NULL, 0)); CALL(getsid(0) > 0); CALL(getpgid(123456));
    uint32_t w = 5; struct timespec ts = {0, 1000000};
    CALL(syscall(SYS_futex, &w, FUTEX_WAIT, 4, NULL)); CALL(syscall(SYS_futex, &w, FUTEX_WAIT, 5, &ts)); CALL(syscall(SYS_futex, &w, FUTEX_WAKE, 1));
    CALL(syscall(SYS_futex, (char *)&w + 1, FUTEX_WAKE, 1)); CALL(syscall(SYS_futex, 8, FUTEX_WAIT, 1, NULL));
    CALL(syscall(SYS_futex, &w, FUTEX_WAIT_BITSET, 5, NULL, NULL, 0)); CALL(syscall(SYS_futex, &w, 99));
    CALL(clock_gettime(77, &ts)); CALL(clock_getres(CLOCK_MONOTONIC, &ts)); CALL(ts.tv_nsec);
    struct timespec a, b; clock_gettime(CLOCK_MONOTONIC, &a); ts = (struct timespec){0, 30000000}; CALL(nanosleep(&ts, NULL)); clock_gettime(CLOCK_MONOTONIC, &b);
    CALL((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 >= 30);
    ts.tv_nsec = 2000000000; CALL(nanosleep(&ts, NULL)); ts.tv_sec = -1; ts.tv_nsec = 0; CALL(nanosleep(&ts, NULL));
    CALL(getrandom(link, 10, 0)); CALL(getrandom(link, 10, 77)); CALL(getrandom((void *)1, 10, 0));
    CALL(syscall(SYS_brk, 0) > 0); CALL(syscall(SYS_arch_prctl, 0x3001, 0)); CALL(syscall(SYS_getcwd, link, 0));
    ssize_t k = readlink("/proc/self/exe", link, sizeof link); CALL(k > 0 && !strcmp(basename(realpath("/proc/self/exe", NULL)), "identity"));
    CALL(getauxval(AT_PAGESZ)); CALL(getauxval(AT_CLKTCK)); puts((char *)getauxval(AT_PLATFORM)); CALL(getauxval(AT_SECURE)); CALL(getauxval(AT_PHENT));
    CALL(getauxval(AT_RANDOM) != 0); puts((char *)getauxval(AT_EXECFN)); CALL(((uintptr_t)__builtin_frame_address(0) & 15));
    int fd = open("/proc/self/cmdline", O_RDONLY); k = read(fd, link, sizeof link); CALL(k == (ssize_t)(strlen(argv[0]) + 1 + strlen(argv[1]) + 1 + (argc > 2 ? strlen(argv[2]) + 1 : 0)));
    close(fd); FILE *m = fopen("/proc/self/maps", "r"); int stack = 0, heap = 0, self = 0;
    while (fgets(link, sizeof link, m)) { stack += !!strstr(link, "[stack]"); heap += !!strstr(link, "[heap]"); self += !!strstr(link, "/identity"); if (strstr(link, "[stack]")) printf("%td\n", strstr(link, "[stack]") - link); }
    CALL(stack); CALL(heap > 0); CALL(self > 0); fclose(m);
    fd = open("/proc/self/fd/1", O_PATH); CALL(fd >= 0); CALL(read(fd, link, 1)); close(fd);
    CALL(open("/proc/self/status", O_WRONLY)); CALL(open("/proc/999999", O_RDONLY)); CALL(mkdir("/proc/x", 0700));
    CALL(getpriority(PRIO_PROCESS, 0));
    return 300;
}
