// Process groups, sessions, orphans, subreapers, PR_SET_PDEATHSIG, and the terminal of a session.
#include "program.h"
static volatile sig_atomic_t got;
static void h(int s) {
    got = s;
    char b[30];
    int n = snprintf(b, 30, "handler %d\n", s);
    write(1, b, n);
}
int main(void) {
    int s;
    pid_t p, q;
    int pp[2];
    char b;
    if ((p = fork()))
        return WEXITSTATUS(wst(p));
    setsid();
    P("%s\n", en(setsid()));
    P("setpgid leader %s\n", en(setpgid(0, 0)));
    p = CHILD(P("child setsid %d sid %d pg %d\n", setsid() == getpid(), getsid(0) == getpid(),
                getpgrp() == getpid());
              P("in other session %s\n", en(setpgid(0, getppid()))));
    wst(p);
    P("bad pid %s\n", en(setpgid(999999, 0)));
    P("negative %s\n", en(setpgid(0, -1)));
    P("getsid bad %s\n", en(getsid(999999)));
    P("getpgid bad %s\n", en(getpgid(999999)));
    pipe(pp);
    p = CHILD(close(pp[1]); read(pp[0], &b, 1); execl("/bin/sh", "sh", "-c", "read x; exit 3", (char *)0));
    P("setpgid child %s\n", en(setpgid(p, p)));
    P("is %d\n", getpgid(p) == p);
    kill(p, SIGKILL);
    wst(p);
    pipe(pp);
    int g[2];
    pipe(g);
    p = CHILD(close(g[0]); fcntl(g[1], F_SETFD, FD_CLOEXEC); execl("/bin/sleep", "sleep", "100", (char *)0));
    close(g[1]);
    read(g[0], &b, 1);
    P("after exec %s\n", en(setpgid(p, p)));
    kill(p, 9);
    wst(p);
    // kill groups
    pid_t c[3];
    pipe(g);
    for (int i = 0; i < 3; i++) {
        c[i] = CHILD(setpgid(0, i ? c[0] : 0); signal(SIGTERM, SIG_DFL); write(g[1], "x", 1); pause());
        setpgid(c[i], c[0]);
    }
    for (int i = 0; i < 3; i++)
        read(g[0], &b, 1);
    P("killpg %s\n", en(killpg(c[0], SIGTERM)));
    for (int i = 0; i < 3; i++)
        P("%s ", ws(wst(c[i])));
    P("\nempty group %s\n", en(killpg(c[0], 0)));
    P("kill -1 perm? %d\n", 1);
    P("kill bad sig %s\n", en(kill(getpid(), 65)));
    P("kill 0 sig0 %s\n", en(kill(0, 0)));
    // orphaned stopped group: HUP + CONT
    pipe(g);
    p = CHILD(pid_t k = fork(); if (!k) {
        setpgid(0, 0);
        signal(SIGHUP, h);
        signal(SIGCONT, h);
        write(g[1], "r", 1);
        raise(SIGSTOP);
        usleep(1000);
        write(g[1], got ? "g" : "n", 1);
        _exit(0);
    } setpgid(k, k);
              int st; waitpid(k, &st, WUNTRACED); P("grandchild %s\n", ws(st)); _exit(0));
    wst(p);
    read(g[0], &b, 1);
    read(g[0], &b, 1);
    P("orphan got %c\n", b);
    // orphaned background stop signals ignored
    p = CHILD(pid_t k = fork(); if (!k) {
        setsid();
        signal(SIGTSTP, SIG_DFL);
        raise(SIGTSTP);
        write(g[1], "T", 1);
        _exit(0);
    } _exit(0));
    wst(p);
    read(g[0], &b, 1);
    P("tstp in orphan: %c goes on\n", b);
    // subreaper
    P("subreaper %s\n", en(prctl(PR_SET_CHILD_SUBREAPER, 1)));
    int v = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &v);
    P("is %d\n", v);
    pid_t me = getpid();
    p = CHILD(pid_t k = fork(); if (!k) {
        while (getppid() != me)
            usleep(100);
        write(g[1], "S", 1);
        _exit(42);
    } _exit(1));
    P("%s\n", ws(wst(p)));
    read(g[0], &b, 1);
    q = wait(&s);
    P("reaped %c %s other %d\n", b, ws(s), q != p);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    // pdeathsig
    p = CHILD(pid_t k = fork(); if (!k) {
        prctl(PR_SET_PDEATHSIG, SIGUSR1);
        int ds;
        prctl(PR_GET_PDEATHSIG, &ds);
        P("pdeath %d\n", ds);
        signal(SIGUSR1, h);
        write(g[1], "1", 1);
        while (!got)
            usleep(100);
        write(g[1], "2", 1);
        _exit(0);
    } char z;
              read(g[0], &z, 1); _exit(0));
    wst(p);
    read(g[0], &b, 1);
    P("after death %c\n", b);
    // pdeathsig cleared by fork
    p = CHILD(prctl(PR_SET_PDEATHSIG, SIGUSR1); pid_t k = fork(); if (!k) {
        int ds = -1;
        prctl(PR_GET_PDEATHSIG, &ds);
        P("forked pdeath %d\n", ds);
        _exit(0);
    } wst(k));
    wst(p);
    // pty and tcsetpgrp
    int m = posix_openpt(O_RDWR | O_NOCTTY);
    grantpt(m);
    unlockpt(m);
    char *n = ptsname(m);
    p = CHILD(setsid(); int t = open(n, O_RDWR); int pg = -1;
              P("tcgetpgrp self %d tcgetsid %d\n", tcgetpgrp(t) == getpgrp(), tcgetsid(t) == getsid(0));
              pid_t k = fork(); if (!k) {
                  setpgid(0, 0);
                  signal(SIGTTOU, SIG_IGN);
                  P("set %s\n", en(tcsetpgrp(t, getpgrp())));
                  P("is %d\n", tcgetpgrp(t) == getpgrp());
                  _exit(0);
              } setpgid(k, k);
              wst(k); P("bg read %s\n", ({
                            signal(SIGTTIN, SIG_IGN);
                            char z;
                            en(read(t, &z, 1));
                        }));
              signal(SIGTTOU, SIG_IGN); P("back %s\n", en(tcsetpgrp(t, getpgrp())));
              P("bad %s\n", en(tcsetpgrp(t, 999999))); signal(SIGINT, h); write(g[1], "k", 1);
              while (!got) usleep(100); got = 0; signal(SIGHUP, h);
              P("notty ioctl %s\n", en(ioctl(t, TIOCNOTTY))); P("after %s\n", en(tcgetpgrp(t))););
    read(g[0], &b, 1);
    write(m, "\3", 1);
    wst(p);
    // session leader exit sends HUP to foreground
    pipe(g);
    p = CHILD(setsid(); int t = open(n, O_RDWR); pid_t k = fork(); if (!k) {
        signal(SIGHUP, h);
        write(g[1], "a", 1);
        while (!got)
            usleep(100);
        write(g[1], got == SIGHUP ? "H" : "?", 1);
        _exit(0);
    } char z;
              read(g[0], &z, 1); _exit(0));
    wst(p);
    read(g[0], &b, 1);
    P("hup %c\n", b);
    return 0;
}
