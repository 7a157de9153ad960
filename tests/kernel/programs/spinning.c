/* Code that makes no calls: timers come to it, others run beside it, and it is ended from outside. */
#define _GNU_SOURCE
#include "report.h"
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static volatile int hits;
static void on_signal(int signo) { hits++; }
static void spin(const char *what, int until) {
    while (hits < until)
        ;
    printf("%s: %d\n", what, hits);
    fflush(stdout);
}
int main(void) {
    struct itimerval once = {{0, 0}, {0, 50000}}, twice = {{0, 20000}, {0, 20000}}, off = {0};
    signal(SIGALRM, on_signal), signal(SIGVTALRM, on_signal), signal(SIGPROF, on_signal), signal(SIGUSR1, on_signal);
    CALL(setitimer(ITIMER_REAL, &once, NULL));
    spin("real", 1);
    CALL(setitimer(ITIMER_VIRTUAL, &once, NULL));
    spin("virtual", 2);
    CALL(setitimer(ITIMER_PROF, &once, NULL));
    spin("prof", 3);
    hits = 0;
    CALL(setitimer(ITIMER_REAL, &twice, NULL));
    while (hits < 2)
        ;
    CALL(setitimer(ITIMER_REAL, &off, NULL));
    hits = 0;
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec in = {{0, 0}, {0, 30000000}};
    CALL(timer_create(CLOCK_MONOTONIC, &event, &timer));
    CALL(timer_settime(timer, 0, &in, NULL));
    spin("posix", 1);
    pid_t child = fork();
    if (!child)
        for (;;)
            ;
    CALL(usleep(50000));
    CALL(waitpid(child, NULL, WNOHANG));
    CALL(kill(child, SIGTERM));
    int status;
    CALL(waitpid(child, &status, 0) == child);
    printf("ended by %d\n", WTERMSIG(status));
    child = fork();
    if (!child) {
        usleep(30000);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    spin("from a child", 2);
    CALL(waitpid(child, &status, 0) == child);
    return 0;
}
