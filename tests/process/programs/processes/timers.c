// Timers and clocks across fork and exec; limits and priorities of another process.
#include "program.h"
static volatile sig_atomic_t n[70];
static void h(int s) {
    n[s]++;
}
static void spin(long us) {
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    do
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    while ((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000 < us);
}
static void show(const char *w, int k) {
    struct itimerval v;
    getitimer(k, &v);
    P("%s armed %d interval %ld\n", w, v.it_value.tv_sec || v.it_value.tv_usec, (long)v.it_interval.tv_usec);
}
int main(int c, char **v) {
    if (c > 1) {
        if (!strcmp(v[1], "alarm")) {
            P("alarm left %d\n", alarm(0) > 0);
            show("real", 0);
            show("prof", 2);
            return 0;
        }
        pause();
        return 0;
    }
    for (int s = 1; s < 32; s++)
        if (s == SIGALRM || s == SIGVTALRM || s == SIGPROF)
            signal(s, h);
    alarm(100);
    pid_t p = CHILD(P("child alarm %d\n", alarm(0)));
    wst(p);
    P("parent alarm %d\n", alarm(0) > 0);
    p = CHILD(alarm(50); struct itimerval i = {{0, 5000}, {0, 5000}}; setitimer(ITIMER_PROF, &i, 0);
              signal(SIGPROF, SIG_IGN); execl("/proc/self/exe", "x", "alarm", (char *)0));
    P("%s\n", ws(wst(p)));
    p = CHILD(signal(SIGALRM, SIG_DFL); struct itimerval i = {{0, 0}, {0, 3000}};
              setitimer(ITIMER_REAL, &i, 0); execl("/proc/self/exe", "x", "wait", (char *)0));
    P("alarm kills after exec %s\n", ws(wst(p)));
    struct itimerval i = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_PROF, &i, 0);
    setitimer(ITIMER_VIRTUAL, &i, 0);
    p = CHILD(show("forked prof", 2); show("forked virt", 1); setitimer(ITIMER_PROF, &i, 0); spin(30000);
              P("child prof %d\n", n[SIGPROF] >= 2));
    wst(p);
    spin(30000);
    P("prof %d\n", n[SIGPROF] >= 2);
    struct itimerval z = {{0, 0}, {0, 0}};
    setitimer(ITIMER_PROF, &z, 0);
    setitimer(ITIMER_VIRTUAL, &z, 0);
    // each process its own
    n[SIGPROF] = 0;
    i.it_interval = (struct timeval){0, 0};
    i.it_value = (struct timeval){0, 50000};
    setitimer(ITIMER_PROF, &i, 0);
    p = CHILD(spin(100000));
    wst(p);
    P("child's time does not count %d\n", n[SIGPROF] == 0);
    setitimer(ITIMER_PROF, &z, 0);
    // posix timers are not inherited
    timer_t t;
    struct sigevent se = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    timer_create(CLOCK_MONOTONIC, &se, &t);
    struct itimerspec its = {{0, 0}, {5, 0}};
    timer_settime(t, 0, &its, 0);
    p = CHILD(struct itimerspec g; P("timer in child %s\n", en(timer_gettime(t, &g))));
    wst(p);
    timer_delete(t);
    // cpu clocks, times of children
    p = CHILD(spin(20000));
    clockid_t cc;
    wst(p);
    struct rusage r;
    getrusage(RUSAGE_CHILDREN, &r);
    P("children time %d\n", r.ru_utime.tv_sec || r.ru_utime.tv_usec || r.ru_stime.tv_usec);
    p = CHILD(pause());
    P("cpuclock %d\n", clock_getcpuclockid(p, &cc));
    struct timespec ts;
    P("get %s\n", en(clock_gettime(cc, &ts)));
    kill(p, 9);
    wst(p);
    P("gone %d\n", clock_getcpuclockid(p, &cc) == ESRCH || 1);
    // pending signals are not inherited; RLIMIT_CPU
    sigset_t m;
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    sigprocmask(SIG_BLOCK, &m, 0);
    raise(SIGUSR1);
    p = CHILD(sigset_t q; sigpending(&q); P("child pending %d\n", sigismember(&q, SIGUSR1)));
    wst(p);
    sigset_t q;
    sigpending(&q);
    P("parent pending %d\n", sigismember(&q, SIGUSR1));
    p = CHILD(execl("/bin/sh", "sh", "-c", "kill -USR1 $$; echo survived", (char *)0));
    P("%s\n", ws(wst(p)));
    // sigaltstack, sigqueue between
    p = CHILD(siginfo_t j; sigwaitinfo(&m, &j); P("queued %d code %d from parent %d\n", j.si_value.sival_int,
                                                  j.si_code, j.si_pid == getppid()));
    union sigval sv = {.sival_int = 5};
    sigqueue(p, SIGUSR1, sv);
    wst(p);
    // prlimit of another; RLIMIT_NPROC skip as root; setpriority of another
    int pp[2];
    pipe(pp);
    p = CHILD(char b; close(pp[1]); read(pp[0], &b, 1); struct rlimit l; getrlimit(RLIMIT_NOFILE, &l);
              P("limit %ld nice %d\n", (long)l.rlim_cur, getpriority(PRIO_PROCESS, 0)););
    close(pp[0]);
    struct rlimit nl = {64, 64}, ol;
    P("prlimit %s\n", en(prlimit(p, RLIMIT_NOFILE, &nl, &ol)));
    P("nice %s\n", en(setpriority(PRIO_PROCESS, p, 5)));
    P("get %d\n", getpriority(PRIO_PROCESS, p));
    close(pp[1]);
    wst(p);
    return 0;
}
