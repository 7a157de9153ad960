// Process descriptors: waiting, polling, signals, descriptors of another process.
#include "program.h"
#include <sys/pidfd.h>
int main(void) {
    siginfo_t i;
    int s;
    pid_t p = CHILD(pause());
    int f = pidfd_open(p, 0);
    P("open %d cloexec %d\n", f >= 0, fcntl(f, F_GETFD));
    struct pollfd pf = {f, POLLIN, 0};
    P("poll %d\n", poll(&pf, 1, 0));
    P("sig0 %s\n", en(pidfd_send_signal(f, 0, 0, 0)));
    P("kill %s\n", en(pidfd_send_signal(f, SIGTERM, 0, 0)));
    P("poll %d %d\n", poll(&pf, 1, -1), pf.revents);
    P("read %s\n", ({
          char b;
          en(read(f, &b, 1));
      }));
    P("waitid %s", en(waitid(P_PIDFD, f, &i, WEXITED)));
    P(" %d %d\n", i.si_code, i.si_status);
    P("after %s\n", en(pidfd_send_signal(f, SIGTERM, 0, 0)));
    P("again %s\n", en(waitid(P_PIDFD, f, &i, WEXITED)));
    close(f);
    P("self %d\n", pidfd_open(getpid(), 0) >= 0);
    P("bad flags %s\n", en(pidfd_open(getpid(), 1)));
    P("bad pid %s\n", en(pidfd_open(0, 0)));
    P("gone %s\n", en(pidfd_open(p, 0)));
    P("not pidfd %s\n", en(pidfd_send_signal(0, 0, 0, 0)));
    int pp[2];
    pipe(pp);
    p = CHILD(int n = open("/etc/hostname", O_RDONLY); dup2(n, 50); write(pp[1], "x", 1); pause());
    char b;
    read(pp[0], &b, 1);
    f = pidfd_open(p, 0);
    int g = pidfd_getfd(f, 50, 0);
    P("getfd %d\n", g >= 0);
    char buf[10];
    P("read>0 %d cloexec %d\n", read(g, buf, 10) > 0, fcntl(g, F_GETFD));
    P("bad fd %s\n", en(pidfd_getfd(f, 77, 0)));
    P("flags %s\n", en(pidfd_getfd(f, 50, 1)));
    kill(p, 9);
    wst(p);
    P("dead %s\n", en(pidfd_getfd(f, 50, 0)));
    struct pidclone {
        uint64_t flags, pidfd, ctid, ptid, sig, stack, ss, tls, st, sts, cg;
    } a = {0};
    int fd = -1;
    a.flags = 0x1000;
    a.pidfd = (uintptr_t)&fd;
    a.sig = SIGCHLD;
    p = syscall(SYS_clone3, &a, sizeof a);
    if (!p)
        _exit(9);
    P("clone3 pidfd %d\n", fd >= 0);
    waitid(P_PIDFD, fd, &i, WEXITED);
    P("%d\n", i.si_status);
    f = pidfd_open(getpid(), O_NONBLOCK);
    P("nonblock %d\n", f >= 0);
    p = CHILD(pause());
    f = syscall(SYS_pidfd_open, p, O_NONBLOCK);
    P("wait nonblock %s\n", en(waitid(P_PIDFD, f, &i, WEXITED)));
    kill(p, 9);
    wst(p);
    // of a sibling / parent
    pid_t me = getpid();
    p = CHILD(int q = pidfd_open(me, 0); P("parent's %d\n", q >= 0); siginfo_t j;
              P("not my child %s\n", en(waitid(P_PIDFD, q, &j, WEXITED | WNOHANG))));
    wst(p);
    // siginfo by pidfd
    sigset_t m;
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    sigprocmask(SIG_BLOCK, &m, 0);
    p = CHILD(siginfo_t j; sigwaitinfo(&m, &j); P("code %d val %d\n", j.si_code, j.si_value.sival_int));
    f = pidfd_open(p, 0);
    memset(&i, 0, sizeof i);
    i.si_signo = SIGUSR1;
    i.si_code = SI_QUEUE;
    i.si_pid = getpid();
    i.si_value.sival_int = 77;
    int sent = pidfd_send_signal(f, SIGUSR1, &i, 0);
    wst(p);
    P("send %s\n", en(sent));
    f = pidfd_open(getpid(), 0);
    i.si_signo = SIGUSR2;
    P("mismatch %s\n", en(pidfd_send_signal(f, SIGUSR1, &i, 0)));
    return 0;
}
