#include "report.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <time.h>
static void limit(const char *name, int which) {
    struct rlimit l;
    CALL(getrlimit(which, &l));
    printf("%s\n", name);
}
int main(int argc, char **argv) {
    printf("%d\n", getpid() == (int)syscall(SYS_gettid));
    printf("%d %d %d\n", getuid() == geteuid(), getgid() == getegid(), getppid() > 0);
    CALL(kill(getppid(), 0));
    CALL(sched_getscheduler(getppid()));
    CALL(kill(getppid(), 999));
    uid_t r, e, s;
    CALL(getresuid(&r, &e, &s));
    printf("%d\n", r == e && e == s && r == getuid());
    CALL(setuid(getuid()));
    CALL(setresuid(-1, -1, -1));
    CALL(setgid(getgid()));
    CALL(getgroups(0, NULL) >= 0);
    CALL(getgroups(-1, NULL));
    printf("%o\n", umask(0123));
    printf("%o\n", umask(07777));
    printf("%o\n", umask(022));
    CALL(getpriority(PRIO_PROCESS, 0) >= 0);
    CALL(getpriority(99, 0));
    CALL(getpgid(0) > 0);
    CALL(getpgid(999999));
    CALL(getsid(0) > 0);
    struct rlimit l = {100, 200};
    CALL(setrlimit(RLIMIT_NOFILE, &l));
    CALL(getrlimit(RLIMIT_NOFILE, &l));
    printf("%ld %ld\n", (long)l.rlim_cur, (long)l.rlim_max);
    CALL(dup2(0, 99));
    CALL(dup2(0, 100));
    CALL(fcntl(0, F_DUPFD, 100));
    CALL(fcntl(0, F_DUPFD, 99));
    CALL(sysconf(_SC_OPEN_MAX));
    l.rlim_cur = 300;
    CALL(setrlimit(RLIMIT_NOFILE, &l));
    CALL(getrlimit(99, &l));
    l.rlim_cur = 4096, l.rlim_max = RLIM_INFINITY;
    CALL(setrlimit(RLIMIT_FSIZE, &(struct rlimit){1000, RLIM_INFINITY}));
    CALL(setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}));
    struct utsname u;
    CALL(uname(&u));
    printf("%s %s %d\n", u.sysname, u.machine, u.release[0] >= '3');
    CALL(uname(NULL));
    struct sysinfo info;
    CALL(sysinfo(&info));
    printf("%d %d %d %d\n", info.totalram > 0, info.mem_unit, info.procs > 0, info.uptime >= 0);
    char name[16];
    CALL(prctl(PR_GET_NAME, name));
    puts(name);
    CALL(prctl(PR_SET_NAME, "a name longer than fifteen"));
    CALL(prctl(PR_GET_NAME, name));
    puts(name);
    CALL(prctl(PR_GET_DUMPABLE));
    CALL(prctl(PR_SET_DUMPABLE, 0));
    CALL(prctl(PR_GET_DUMPABLE));
    CALL(prctl(PR_SET_DUMPABLE, 7));
    CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CALL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    CALL(prctl(PR_SET_PDEATHSIG, 9));
    int signo = 0;
    CALL(prctl(PR_GET_PDEATHSIG, &signo));
    printf("%d\n", signo);
    CALL(prctl(12345));
    cpu_set_t set;
    CALL(sched_getaffinity(0, sizeof set, &set) >= 0);
    printf("%d\n", CPU_COUNT(&set) > 0);
    CALL(sched_getaffinity(0, 1, &set));
    CALL(sched_yield());
    CALL(sched_getscheduler(0));
    CALL(sched_get_priority_max(SCHED_FIFO));
    CALL(sched_get_priority_min(SCHED_FIFO));
    CALL(sched_get_priority_max(99));
    struct timespec t;
    CALL(clock_getres(CLOCK_MONOTONIC, &t));
    printf("%ld %ld\n", t.tv_sec, t.tv_nsec);
    CALL(clock_gettime(99, &t));
    CALL(clock_gettime(CLOCK_MONOTONIC_RAW, &t));
    CALL(clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){0, 2000000000}, NULL));
    CALL(clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){-1, 0}, NULL));
    CALL(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &(struct timespec){0, 1}, NULL));
    CALL(time(NULL) > 1600000000);
    struct tms spent;
    CALL(times(&spent) != -1);
    struct rusage usage;
    CALL(getrusage(RUSAGE_SELF, &usage));
    CALL(getrusage(99, &usage));
    CALL(getrandom(name, sizeof name, 0));
    CALL(syscall(SYS_getrandom, name, 4, 0x100));
    CALL(syscall(SYS_getcpu, NULL, NULL, NULL));
    CALL(syscall(9999));
    CALL(gethostname(name, 1));
    char here[4096];
    CALL(getcwd(here, 1) != NULL);
    CALL(chdir("/usr/lib"));
    puts(getcwd(here, sizeof here));
    CALL(chdir("absent"));
    CALL(chdir("/etc/passwd"));
    CALL(isatty(0));
    for (int i = 0; i < argc; i++) puts(i ? argv[i] : "");
    return 7;
}
