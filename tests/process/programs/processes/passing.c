// Descriptors and credentials over sockets; pipes and FIFOs between processes.
#include "program.h"
static int sendfd(int s, int *fd, int n, const char *t) {
    char cb[CMSG_SPACE(sizeof(int) * 10)];
    memset(cb, 0, sizeof cb);
    struct iovec io = {(void *)t, strlen(t)};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
    if (n) {
        m.msg_control = cb;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n);
        memcpy(CMSG_DATA(c), fd, sizeof(int) * n);
    }
    return sendmsg(s, &m, 0);
}
static int recvfd(int s, int *fd, int max, char *t, int fl, int *mf) {
    char cb[CMSG_SPACE(sizeof(int) * 10)];
    struct iovec io = {t, 50};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = cb, .msg_controllen = CMSG_SPACE(sizeof(int) * max)};
    int r = recvmsg(s, &m, fl);
    if (mf)
        *mf = m.msg_flags;
    int n = 0;
    if (r >= 0) {
        t[r] = 0;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (c && c->cmsg_type == SCM_RIGHTS) {
            n = (c->cmsg_len - CMSG_LEN(0)) / 4;
            memcpy(fd, CMSG_DATA(c), n * 4);
        }
    } else
        return -1;
    return n;
}
int main(void) {
    int sv[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, sv);
    int fd[10];
    char t[60];
    int mf;
    pid_t p = CHILD(close(sv[0]); int pp[2]; pipe(pp); write(pp[1], "through the pipe", 16);
                    sendfd(sv[1], pp, 1, "one"); close(pp[0]); close(pp[1]));
    close(sv[1]);
    int n = recvfd(sv[0], fd, 1, t, 0, &mf);
    P("%d %s\n", n, t);
    char b[60] = {0};
    read(fd[0], b, 50);
    P("%s eof %zd\n", b, read(fd[0], b, 50));
    wst(p);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, sv);
    p = CHILD(int f = open("/etc/passwd", O_RDONLY); lseek(f, 3, 0); int a[3] = {f, f, 0};
              sendfd(sv[1], a, 3, "three"));
    n = recvfd(sv[0], fd, 10, t, MSG_CMSG_CLOEXEC, &mf);
    P("%d %s cloexec %d offset %ld\n", n, t, fcntl(fd[0], F_GETFD), (long)lseek(fd[0], 0, 1));
    lseek(fd[0], 9, 0);
    P("shared offset %ld\n", (long)lseek(fd[1], 0, 1));
    wst(p);
    p = CHILD(int a[3] = {0, 1, 2}; sendfd(sv[1], a, 3, "cut"));
    n = recvfd(sv[0], fd, 1, t, 0, &mf);
    P("truncated %d ctrunc %d\n", n, !!(mf & MSG_CTRUNC));
    wst(p);
    P("bad fd %s\n", ({
          int a = 999;
          en(sendfd(sv[1], &a, 1, "x"));
      }));
    // creds
    int one = 1;
    setsockopt(sv[0], SOL_SOCKET, SO_PASSCRED, &one, 4);
    p = CHILD(send(sv[1], "c", 1, 0));
    char cb[100];
    struct iovec io = {t, 50};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = cb, .msg_controllen = 100};
    recvmsg(sv[0], &m, 0);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    struct ucred *u = (void *)CMSG_DATA(c);
    P("cred type %d pid %d uid %d\n", c->cmsg_type, u->pid == p, u->uid == getuid());
    wst(p);
    // listener shared by forked workers
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un a = {AF_UNIX};
    a.sun_path[0] = 0;
    strcpy(a.sun_path + 1, "p16listener");
    socklen_t al = sizeof(sa_family_t) + 12;
    bind(l, (void *)&a, al);
    listen(l, 8);
    pid_t w[3];
    for (int i = 0; i < 3; i++)
        w[i] = CHILD(int k = accept(l, 0, 0); char z[20]; int r = read(k, z, 20);
                     for (int j = 0; j < r; j++) z[j] -= 32; write(k, z, r); close(k));
    close(l);
    int sum = 0;
    for (int i = 0; i < 3; i++) {
        int k = socket(AF_UNIX, SOCK_STREAM, 0);
        connect(k, (void *)&a, al);
        struct ucred uc;
        socklen_t ul = sizeof uc;
        getsockopt(k, SOL_SOCKET, SO_PEERCRED, &uc, &ul);
        write(k, "hello", 5);
        char z[20] = {0};
        read(k, z, 20);
        P("%s peer parent %d\n", z, uc.pid == getpid());
        close(k);
    }
    for (int i = 0; i < 3; i++)
        wst(w[i]);
    int k = socket(AF_UNIX, SOCK_STREAM, 0);
    P("refused %s\n", en(connect(k, (void *)&a, al)));
    // pipes: SIGPIPE, EOF, atomic writes, FIFO between processes
    int pp[2];
    pipe(pp);
    p = CHILD(close(pp[0]); signal(SIGPIPE, SIG_DFL); usleep(1000); write(pp[1], "x", 1));
    close(pp[0]);
    P("%s\n", ws(wst(p)));
    close(pp[1]);
    mkfifo("/tmp/p16fifo", 0600);
    p = CHILD(int f = open("/tmp/p16fifo", O_WRONLY); dprintf(f, "over the fifo"));
    int f = open("/tmp/p16fifo", O_RDONLY);
    memset(b, 0, 60);
    read(f, b, 50);
    P("%s %zd\n", b, read(f, b, 50));
    wst(p);
    P("nonblock writer %s\n", en(open("/tmp/p16fifo", O_WRONLY | O_NONBLOCK)));
    close(f);
    P("ENXIO %s\n", en(open("/tmp/p16fifo", O_WRONLY | O_NONBLOCK)));
    unlink("/tmp/p16fifo");
    pipe(pp);
    for (int i = 0; i < 4; i++)
        w[i % 3] =
            CHILD(char z[100]; memset(z, 'a' + i, 100); for (int j = 0; j < 50; j++) write(pp[1], z, 100));
    close(pp[1]);
    int bad = 0, tot = 0;
    char z[100];
    for (;;) {
        int g = 0, r;
        while (g < 100 && (r = read(pp[0], z + g, 100 - g)) > 0)
            g += r;
        if (g < 100)
            break;
        tot++;
        for (int j = 1; j < 100; j++)
            if (z[j] != z[0]) {
                bad++;
                break;
            }
    }
    P("atomic %d bad %d\n", tot, bad);
    while (wait(0) > 0)
        ;
    // O_APPEND
    char nm[] = "/tmp/p16aXXXXXX";
    close(mkstemp(nm));
    for (int i = 0; i < 3; i++)
        CHILD(int x = open(nm, O_WRONLY | O_APPEND); for (int j = 0; j < 20; j++) write(x, "line\n", 5));
    while (wait(0) > 0)
        ;
    struct stat st;
    stat(nm, &st);
    P("append %ld\n", (long)st.st_size);
    unlink(nm);
    return 0;
}
