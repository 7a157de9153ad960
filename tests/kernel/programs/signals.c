#include "report.h"
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <fenv.h>
static volatile int depth, hits;
static void plain(int s) { printf("plain %d\n", s); hits++; }
static void info(int s, siginfo_t *i, void *u) {
    ucontext_t *c = u;
    printf("info %d code %d self %d value %d mask %d\n", s, i->si_code, i->si_pid == getpid(), i->si_value.sival_int,
           sigismember(&c->uc_sigmask, SIGUSR2));
}
static void nested(int s) {
    int here = ++depth;
    printf("enter %d depth %d\n", s, here);
    if (here < 3) raise(s);
    printf("leave %d depth %d\n", s, here);
}
static void skip(int s, siginfo_t *i, void *u) {
    ucontext_t *c = u;
    printf("fault %d code %d addr %lx trap %lld err %lld\n", s, i->si_code, (long)i->si_addr & 0xfff,
           c->uc_mcontext.gregs[REG_TRAPNO], c->uc_mcontext.gregs[REG_ERR]);
    c->uc_mcontext.gregs[REG_RIP] += s == SIGILL ? 2 : c->uc_mcontext.gregs[REG_R15];
    c->uc_mcontext.gregs[REG_RBX] = 77;
}
static char alt[1 << 16];
static void on_alt(int s) { char x; printf("alt %d %d\n", s, &x > alt && &x < alt + sizeof alt); stack_t o; sigaltstack(NULL, &o); printf("flags %d\n", o.ss_flags); CALL(sigaltstack(&o, NULL)); }
static void doubles(int s) { (void)s; volatile double x = 1.5; for (int i = 0; i < 5; i++) x *= 3.3; fesetround(FE_DOWNWARD); }
static void set(int s, void *h, int flags) {
    struct sigaction a = {.sa_flags = flags};
    a.sa_handler = h;
    CALL(sigaction(s, &a, NULL));
}
int main(void) {
    sigset_t m, o;
    set(SIGUSR1, plain, 0); CALL(raise(SIGUSR1)); CALL(kill(getpid(), SIGUSR1)); CALL(kill(getpid(), 0));
    CALL(kill(getpid(), 99)); CALL(kill(123456, 0));
    CALL(sigaction(SIGKILL, &(struct sigaction){0}, NULL)); CALL(sigaction(0, NULL, NULL)); CALL(sigaction(65, NULL, NULL));
    set(SIGUSR2, info, SA_SIGINFO); CALL(sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 5})); CALL(raise(SIGUSR2));
    sigemptyset(&m); sigaddset(&m, SIGUSR1); sigaddset(&m, SIGKILL);
    CALL(sigprocmask(SIG_BLOCK, &m, &o)); CALL(raise(SIGUSR1)); CALL(raise(SIGUSR1));
    CALL(sigpending(&o)); CALL(sigismember(&o, SIGUSR1)); CALL(sigprocmask(SIG_UNBLOCK, &m, &o)); CALL(sigismember(&o, SIGKILL)); CALL(hits);
    CALL(sigprocmask(9, &m, NULL));
    set(SIGRTMIN, info, SA_SIGINFO); sigaddset(&m, SIGRTMIN); sigprocmask(SIG_BLOCK, &m, NULL);
    for (int i = 0; i < 3; i++) sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i});
    siginfo_t si; struct timespec ts = {0, 1000000};
    CALL(sigwaitinfo(&m, &si)); CALL(si.si_value.sival_int);
    CALL(sigprocmask(SIG_UNBLOCK, &m, NULL));
    sigprocmask(SIG_BLOCK, &m, NULL); CALL(sigtimedwait(&m, &si, &ts));
    raise(SIGUSR1); sigemptyset(&o); CALL(sigsuspend(&o)); sigprocmask(SIG_SETMASK, NULL, &o); CALL(sigismember(&o, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &m, NULL);
    set(SIGHUP, nested, 0); depth = 2; raise(SIGHUP); depth = 0;
    set(SIGHUP, nested, SA_NODEFER); raise(SIGHUP); depth = 5;
    set(SIGHUP, plain, SA_RESETHAND); raise(SIGHUP); struct sigaction now; sigaction(SIGHUP, NULL, &now); CALL(now.sa_handler == SIG_DFL);
    set(SIGHUP, SIG_IGN, 0); CALL(raise(SIGHUP)); CALL(raise(SIGCHLD)); CALL(raise(SIGWINCH));
    stack_t st = {alt, 0, sizeof alt};
    CALL(sigaltstack(&st, NULL)); set(SIGUSR1, on_alt, SA_ONSTACK); raise(SIGUSR1);
    st.ss_size = 100; CALL(sigaltstack(&st, NULL)); st.ss_flags = 99; CALL(sigaltstack(&st, NULL));
    struct sigaction f = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &f, NULL); sigaction(SIGFPE, &f, NULL); sigaction(SIGILL, &f, NULL); sigaction(SIGTRAP, &f, NULL);
    long rbx = 1;
    register long len asm("r15") = 2;
    asm volatile("mov (%%rax), %%cl" : "+b"(rbx), "+r"(len) : "a"(0x123L) : "rcx", "memory"); CALL(rbx);
    asm volatile("mov %%cl, (%%rax)" : "+r"(len) : "a"(0x456L) : "rbx", "memory");
    asm volatile("mov (%%rax), %%cl" : "+r"(len) : "a"(0x8000000000000000L) : "rbx", "rcx", "memory");
    asm volatile("xor %%edx,%%edx; idiv %%ecx" : "+r"(len) : "a"(1), "c"(0) : "rbx", "rdx");
    asm volatile("ud2" : "+r"(len) : : "rbx");
    len = 0; asm volatile("int3" : "+r"(len) : : "rbx");
    double x = 2.25; set(SIGUSR1, doubles, 0); raise(SIGUSR1); printf("%g %d\n", x * 2, fegetround() == FE_TONEAREST);
    set(SIGALRM, plain, 0); alarm(1); hits = 0; CALL(pause()); CALL(hits); CALL(alarm(10)); CALL(alarm(0));
    struct itimerval it = {{0, 0}, {0, 50000}};
    setitimer(ITIMER_REAL, &it, NULL); ts = (struct timespec){5, 0}; CALL(nanosleep(&ts, &ts)); CALL(ts.tv_sec);
    int p[2]; pipe(p); char c;
    setitimer(ITIMER_REAL, &it, NULL); CALL(read(p[0], &c, 1));
    set(SIGALRM, plain, SA_RESTART); it.it_interval.tv_usec = 0; setitimer(ITIMER_REAL, &it, NULL); ts = (struct timespec){0, 100000000};
    CALL(nanosleep(&ts, NULL));
    timer_t tid; struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 9};
    CALL(timer_create(CLOCK_MONOTONIC, &ev, &tid)); struct itimerspec its = {{0, 0}, {0, 1000000}};
    CALL(timer_settime(tid, 0, &its, NULL)); ts = (struct timespec){1, 0}; CALL(nanosleep(&ts, NULL)); CALL(timer_delete(tid)); CALL(timer_delete(tid));
    set(SIGSEGV, SIG_DFL, 0); fflush(stdout);
    if (getenv("DIE")) kill(getpid(), atoi(getenv("DIE")));
    sigset_t all; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, NULL);
    *(volatile int *)8 = 1;
    return 0;
}
