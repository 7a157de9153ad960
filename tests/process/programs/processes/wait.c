// wait4 and waitid with each option, and what SIGCHLD does.
#include "program.h"
static void info(const char *l, int r, siginfo_t *i, pid_t p) {
    P("%s: %s pid %d code %d status %d signo %d\n", l, en(r), i->si_pid == p, i->si_code, i->si_status,
      i->si_signo);
}
static volatile sig_atomic_t chld;
static void h(int s, siginfo_t *i, void *u) {
    chld++;
}
int main(void) {
    int hold[2];
    char b;
    pipe(hold);
    siginfo_t i;
    int s;
    struct rusage ru;
    pid_t p = CHILD(_exit(300));
    memset(&i, 0, sizeof i);
    int r = waitid(P_PID, p, &i, WEXITED | WNOWAIT);
    info("nowait", r, &i, p);
    r = waitid(P_PID, p, &i, WEXITED);
    info("again", r, &i, p);
    r = waitid(P_PID, p, &i, WEXITED);
    P("gone %s\n", en(r));
    p = CHILD(raise(SIGTERM));
    r = waitid(P_ALL, 0, &i, WEXITED);
    info("killed", r, &i, p);
    p = CHILD(abort());
    r = waitid(P_ALL, 0, &i, WEXITED);
    P("abort %d %d\n", i.si_code == CLD_KILLED || i.si_code == CLD_DUMPED, i.si_status);
    p = CHILD(raise(SIGSTOP); read(hold[0], &b, 1); _exit(4));
    r = waitid(P_PID, p, &i, WSTOPPED);
    info("stopped", r, &i, p);
    r = waitid(P_PID, p, &i, WSTOPPED | WNOHANG);
    P("again %s pid %d\n", en(r), i.si_pid);
    kill(p, SIGCONT);
    r = waitid(P_PID, p, &i, WCONTINUED);
    info("continued", r, &i, p);
    write(hold[1], "x", 1);
    r = waitid(P_PID, p, &i, WEXITED);
    info("exited", r, &i, p);
    memset(&i, 1, sizeof i);
    p = CHILD(pause());
    r = waitid(P_PID, p, &i, WEXITED | WNOHANG);
    P("nohang %s pid %d signo %d\n", en(r), i.si_pid, i.si_signo);
    kill(p, SIGKILL);
    P("%s\n", ws(wst(p)));
    P("no options %s\n", en(waitid(P_ALL, 0, &i, 0)));
    P("bad options %s\n", en(waitid(P_ALL, 0, &i, 0x10000 | WEXITED)));
    P("bad type %s\n", en(waitid(9, 0, &i, WEXITED)));
    P("no child %s\n", en(waitid(P_ALL, 0, &i, WEXITED)));
    P("wait4 none %s\n", en(wait4(-1, &s, WNOHANG, 0)));
    p = CHILD(setpgid(0, 0); pause());
    usleep(1000);
    setpgid(p, p);
    P("pgid none %s\n", en(waitpid(-getpgrp(), &s, WNOHANG)));
    kill(-p, SIGUSR1);
    r = waitid(P_PGID, p, &i, WEXITED);
    info("by pgid", r, &i, p);
    p = CHILD(setpgid(0, 0); _exit(1));
    setpgid(p, p);
    P("own group %s\n", en(waitpid(0, &s, WNOHANG)));
    P("group %d\n", waitpid(-p, &s, 0) == p);
    p = CHILD(_exit(2));
    r = wait4(p, &s, 0, &ru);
    P("wait4 %d %s ru %d\n", r == p, ws(s), ru.ru_maxrss >= 0);
    // SIGCHLD
    struct sigaction sa = {.sa_sigaction = h, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGCHLD, &sa, 0);
    p = CHILD(_exit(0));
    wst(p);
    P("chld %d\n", chld);
    chld = 0;
    p = CHILD(raise(SIGSTOP));
    waitpid(p, &s, WUNTRACED);
    P("stop chld %d\n", chld);
    kill(p, SIGCONT);
    wst(p);
    P("cont/exit chld>=2 %d\n", chld >= 2);
    chld = 0;
    sa.sa_flags |= SA_NOCLDSTOP;
    sigaction(SIGCHLD, &sa, 0);
    p = CHILD(raise(SIGSTOP));
    waitpid(p, &s, WUNTRACED);
    P("nocldstop %d\n", chld);
    kill(p, SIGCONT);
    wst(p);
    P("exit %d\n", chld);
    sa.sa_flags |= SA_NOCLDWAIT;
    chld = 0;
    sigaction(SIGCHLD, &sa, 0);
    p = CHILD(_exit(3));
    P("nocldwait %s", en(waitpid(p, &s, 0)));
    P(" chld %d\n", chld);
    signal(SIGCHLD, SIG_IGN);
    p = CHILD(_exit(3));
    P("ign %s\n", en(wait(&s)));
    signal(SIGCHLD, SIG_DFL);
    p = CHILD(_exit(3));
    P("dfl %s\n", ws(wst(p)));
    // zombie, kill zombie
    p = CHILD(_exit(3));
    waitid(P_PID, p, &i, WEXITED | WNOWAIT);
    P("kill zombie %s getpgid %d\n", en(kill(p, SIGTERM)), getpgid(p) == getpgrp());
    wst(p);
    P("kill gone %s\n", en(kill(p, 0)));
    // wait interrupted
    struct sigaction sb = {.sa_sigaction = h, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &sb, 0);
    pid_t me = getpid();
    p = CHILD(for (int n = 0; n < 30; n++) {
        usleep(10000);
        kill(me, SIGUSR1);
    } _exit(0));
    P("eintr %s\n", en(waitpid(p, &s, 0)));
    P("%s\n", ws(wst(p)));
    // __WALL etc, clone with other signal
    signal(SIGUSR2, SIG_IGN);
    p = syscall(SYS_clone, SIGUSR2, 0, 0, 0, 0);
    if (!p)
        _exit(8);
    P("plain %s\n", en(waitpid(p, &s, 0)));
    P("wclone %d\n", waitpid(p, &s, __WCLONE) == p);
    p = syscall(SYS_clone, 0, 0, 0, 0, 0);
    if (!p)
        _exit(8);
    P("wall %d %s\n", waitpid(p, &s, __WALL) == p, ws(s));
    // thread waits for another thread's child / __WNOTHREAD
    p = CHILD(_exit(1));
    pthread_t t;
    void *w(void *x) {
        int s2;
        P("nothread %s\n", en(waitpid(-1, &s2, __WNOTHREAD | WNOHANG)));
        P("other thread %d\n", waitpid(*(pid_t *)x, &s2, 0) == *(pid_t *)x);
        return 0;
    }
    pthread_create(&t, 0, w, &p);
    pthread_join(t, 0);
    p = CHILD(_exit(1));
    waitid(P_PID, p, &i, WEXITED | WNOWAIT);
    P("a zombie does not go on %s\n", en(waitid(P_PID, p, &i, WCONTINUED)));
    wst(p);
    return 0;
}
