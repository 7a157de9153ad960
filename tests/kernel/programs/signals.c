#include "report.h"
#include <signal.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
static volatile int depth, runs;
static char stack[65536];
static void show_mask(const char *what) {
    sigset_t set, pending;
    sigprocmask(SIG_SETMASK, NULL, &set);
    sigpending(&pending);
    printf("%s: blocked", what);
    for (int i = 1; i < 65; i++) if (sigismember(&set, i) == 1) printf(" %d", i);
    printf(", pending");
    for (int i = 1; i < 65; i++) if (sigismember(&pending, i) == 1) printf(" %d", i);
    puts("");
}
static sigset_t of(int one, int two) {
    sigset_t set;
    sigemptyset(&set);
    if (one) sigaddset(&set, one);
    if (two) sigaddset(&set, two);
    return set;
}
static void full(int signo, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    char here;
    printf("%*ssignal %d code %d mine %d %d value %d on the stack %d flags %x\n", depth * 2, "", signo, info->si_code,
           info->si_pid == getpid(), info->si_uid == getuid(), info->si_code == SI_QUEUE || info->si_code == SI_TIMER ? info->si_value.sival_int : -1,
           &here >= stack && &here < stack + sizeof stack, u->uc_stack.ss_flags);
    show_mask("  in the handler");
    runs++;
}
static volatile int again;
static void nested(int signo) {
    depth++;
    printf("%*senter %d\n", depth * 2, "", signo);
    if (depth < 3 && again-- > 0) raise(signo == SIGUSR1 ? SIGUSR2 : SIGUSR1);
    if (depth == 1 && again-- > 0) raise(signo);
    printf("%*sleave %d\n", depth * 2, "", signo);
    depth--;
}
static void count(int signo) { runs++; }
static void install(int signo, void (*handler)(int), int flags, sigset_t mask) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags, .sa_mask = mask};
    CALL(sigaction(signo, &action, NULL));
}
static void show_action(int signo) {
    struct sigaction action;
    sigaction(signo, NULL, &action);
    printf("%d: %s flags %x mask %d\n", signo, action.sa_handler == SIG_DFL ? "default" : action.sa_handler == SIG_IGN ? "ignored" : "handler",
           action.sa_flags & ~0x04000000, sigismember(&action.sa_mask, SIGALRM));
}
static sigjmp_buf back;
static void jump(int signo) { siglongjmp(back, signo); }
int main(void) {
    union sigval value = {.sival_int = 42};
    sigset_t none = of(0, 0), usr = of(SIGUSR1, SIGUSR2), old;
    show_mask("at the start");
    install(SIGUSR1, (void (*)(int))full, SA_SIGINFO, of(SIGALRM, SIGHUP));
    CALL(kill(getpid(), SIGUSR1));
    CALL(raise(SIGUSR1));
    CALL(sigqueue(getpid(), SIGUSR1, value));
    show_action(SIGUSR1);
    CALL(sigprocmask(SIG_BLOCK, &usr, &old));
    kill(getpid(), SIGUSR1);
    sigqueue(getpid(), SIGUSR1, value);
    CALL(kill(getpid(), SIGUSR1));
    show_mask("blocked");
    CALL(sigprocmask(SIG_UNBLOCK, &usr, NULL));
    show_mask("unblocked");
    int rt = SIGRTMIN + 3;
    install(rt, (void (*)(int))full, SA_SIGINFO | SA_NODEFER, none);
    sigset_t rtset = of(rt, rt + 1);
    install(rt + 1, (void (*)(int))full, SA_SIGINFO, none);
    sigprocmask(SIG_BLOCK, &rtset, NULL);
    for (int i = 0; i < 3; i++) {
        value.sival_int = i;
        sigqueue(getpid(), rt + 1, value);
        sigqueue(getpid(), rt, value);
    }
    show_mask("queued");
    CALL(sigprocmask(SIG_UNBLOCK, &rtset, NULL));
    install(SIGUSR1, nested, 0, none);
    install(SIGUSR2, nested, 0, none);
    again = 5;
    raise(SIGUSR1);
    puts("with nodefer");
    again = 5;
    install(SIGUSR1, nested, SA_NODEFER, none);
    install(SIGUSR2, nested, SA_NODEFER, none);
    raise(SIGUSR1);
    install(SIGUSR2, count, SA_RESETHAND, none);
    show_action(SIGUSR2);
    raise(SIGUSR2);
    show_action(SIGUSR2);
    install(SIGUSR2, count, SA_RESETHAND | SA_NODEFER | SA_RESTART, of(SIGALRM, 0));
    raise(SIGUSR2);
    show_action(SIGUSR2);
    CALL(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
    CALL(sigaction(SIGSTOP, &(struct sigaction){.sa_handler = count}, NULL));
    CALL(sigaction(65, &(struct sigaction){.sa_handler = count}, NULL));
    CALL(sigaction(0, NULL, NULL));
    CALL(kill(getpid(), 0));
    CALL(kill(getpid(), 65));
    CALL(kill(getpid(), -1));
    CALL(kill(999999, 0));
    CALL(sigqueue(getpid(), 65, value));
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    show_mask("all");
    sigprocmask(SIG_SETMASK, &old, NULL);
    CALL(sigprocmask(77, &usr, NULL));
    CALL(sigprocmask(77, NULL, NULL));

    signal(SIGUSR1, SIG_IGN);
    sigprocmask(SIG_BLOCK, &usr, NULL);
    raise(SIGUSR1);
    show_mask("ignored and blocked");
    signal(SIGUSR1, SIG_DFL);
    show_mask("now default");
    signal(SIGUSR1, SIG_IGN);
    show_mask("ignored again");
    sigprocmask(SIG_UNBLOCK, &usr, NULL);
    raise(SIGCHLD), raise(SIGURG), raise(SIGWINCH), raise(SIGCONT);

    install(SIGUSR1, (void (*)(int))full, SA_SIGINFO, none);
    sigprocmask(SIG_BLOCK, &usr, NULL);
    raise(SIGUSR1);
    sigset_t wait = of(SIGUSR2, 0);
    CALL(sigsuspend(&wait));
    show_mask("after sigsuspend");
    siginfo_t info;
    struct timespec zero = {0, 0}, bit = {0, 1000000}, bad = {0, -1};
    CALL(sigtimedwait(&usr, &info, &zero));
    CALL(sigtimedwait(&usr, &info, &bit));
    CALL(sigtimedwait(&usr, &info, &bad));
    value.sival_int = 7;
    sigqueue(getpid(), SIGUSR2, value);
    CALL(sigwaitinfo(&usr, &info));
    printf("%d %d %d\n", info.si_signo, info.si_code, info.si_value.sival_int);
    raise(SIGUSR2), raise(SIGUSR1);
    int got;
    for (int i = 0; i < 2; i++) {
        CALL(sigwait(&usr, &got));
        printf("%d\n", got);
    }
    install(SIGALRM, count, 0, none);
    struct itimerval soon = {{0, 0}, {0, 2000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    CALL(sigwaitinfo(&usr, &info));
    int p[2];
    char c;
    pipe(p);
    setitimer(ITIMER_REAL, &soon, NULL);
    CALL(read(p[0], &c, 1));
    setitimer(ITIMER_REAL, &soon, NULL);
    CALL(pause());
    setitimer(ITIMER_REAL, &soon, NULL);
    struct timespec second = {1, 0}, rest = {9, 9};
    CALL(nanosleep(&second, &rest));
    printf("%ld %d\n", rest.tv_sec, rest.tv_nsec > 0);
    sigprocmask(SIG_UNBLOCK, &usr, NULL);

    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack}, was;
    CALL(sigaltstack(&alternate, &was));
    printf("%x %zu\n", was.ss_flags, was.ss_size);
    install(SIGUSR1, (void (*)(int))full, SA_SIGINFO | SA_ONSTACK, none);
    raise(SIGUSR1);
    install(SIGUSR1, (void (*)(int))full, SA_SIGINFO, none);
    raise(SIGUSR1);
    alternate.ss_size = 100;
    CALL(sigaltstack(&alternate, NULL));
    alternate.ss_flags = 77;
    CALL(sigaltstack(&alternate, NULL));
    alternate.ss_flags = SS_DISABLE;
    CALL(sigaltstack(&alternate, &was));
    printf("%x %zu\n", was.ss_flags, was.ss_size);

    install(SIGUSR1, jump, 0, of(SIGALRM, 0));
    for (volatile int i = 0; i < 2; i++) {
        int from = sigsetjmp(back, 1);
        printf("jumped %d\n", from);
        show_mask("after the jump");
        if (!from) raise(SIGUSR1);
    }
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = rt, .sigev_value.sival_int = 5};
    CALL(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = {{0, 0}, {0, 1000000}};
    CALL(timer_settime(timer, 0, &when, NULL));
    runs = 0;
    while (runs == 0) pause();
    CALL(timer_getoverrun(timer));
    CALL(timer_delete(timer));
    CALL(timer_delete(timer));
    event.sigev_notify = SIGEV_NONE;
    CALL(timer_create(CLOCK_REALTIME, &event, &timer));
    CALL(timer_settime(timer, 0, &(struct itimerspec){{0, 0}, {0, 1000000000}}, NULL));
    CALL(alarm(0));
    return runs;
}
