// Record locks of processes and of open files, and flock, across fork and exec.
#include "program.h"
#ifndef F_OFD_SETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif
static int lk(int f, int cmd, int t, long a, long n) {
    struct flock l = {.l_type = t, .l_whence = SEEK_SET, .l_start = a, .l_len = n};
    return fcntl(f, cmd, &l);
}
static void get(const char *w, int f, int cmd, long a, long n) {
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = a, .l_len = n};
    int r = fcntl(f, cmd, &l);
    P("%s: %s type %d %ld %ld pid %d\n", w, en(r), l.l_type, (long)l.l_start, (long)l.l_len,
      l.l_pid > 0 ? 1 : l.l_pid);
}
int main(void) {
    char n[] = "/tmp/p16lXXXXXX";
    int f = mkstemp(n);
    ftruncate(f, 100);
    P("set %s\n", en(lk(f, F_SETLK, F_WRLCK, 0, 10)));
    pid_t p = CHILD(get("child sees", f, F_GETLK, 0, 0); P("child %s\n", en(lk(f, F_SETLK, F_WRLCK, 5, 1)));
                    P("beyond %s\n", en(lk(f, F_SETLK, F_WRLCK, 10, 1))));
    wst(p);
    get("gone with it", f, F_GETLK, 0, 0);
    int g = open(n, O_RDWR);
    close(g);
    p = CHILD(get("close of another fd drops", f, F_GETLK, 0, 0));
    wst(p);
    P("ofd %s\n", en(lk(f, F_OFD_SETLK, F_WRLCK, 0, 10)));
    p = CHILD(P("child shares %s\n", en(lk(f, F_OFD_SETLK, F_WRLCK, 0, 10))); int h = open(n, O_RDWR);
              get("own file", h, F_OFD_GETLK, 0, 0); get("posix sees", h, F_GETLK, 0, 0);
              P("own %s\n", en(lk(h, F_OFD_SETLK, F_RDLCK, 0, 10))););
    wst(p);
    g = open(n, O_RDWR);
    close(g);
    p = CHILD(int h = open(n, O_RDWR); get("still", h, F_OFD_GETLK, 0, 0));
    wst(p);
    P("unlock %s\n", en(lk(f, F_OFD_SETLK, F_UNLCK, 0, 0)));
    int pp[2];
    pipe(pp);
    char b;
    lk(f, F_SETLK, F_WRLCK, 0, 1);
    p = CHILD(write(pp[1], "x", 1); P("waits %s\n", en(lk(f, F_SETLKW, F_WRLCK, 0, 1))));
    read(pp[0], &b, 1);
    usleep(2000);
    P("release\n");
    lk(f, F_SETLK, F_UNLCK, 0, 1);
    wst(p);
    // each waits for the other: one of the two is told
    lk(f, F_SETLK, F_WRLCK, 0, 1);
    pipe(pp);
    p = CHILD(lk(f, F_SETLK, F_WRLCK, 1, 1); write(pp[1], "x", 1); int r = lk(f, F_SETLKW, F_WRLCK, 0, 1);
              _exit(r < 0 && errno == EDEADLK));
    read(pp[0], &b, 1);
    int told = lk(f, F_SETLKW, F_WRLCK, 1, 1) < 0 && errno == EDEADLK;
    lk(f, F_SETLK, F_UNLCK, 0, 0);
    P("told %d\n", told + WEXITSTATUS(wst(p)));
    // split, upgrade
    lk(f, F_SETLK, F_WRLCK, 0, 30);
    lk(f, F_SETLK, F_UNLCK, 10, 10);
    lk(f, F_SETLK, F_RDLCK, 25, 3);
    p = CHILD(get("a", f, F_GETLK, 0, 0); get("b", f, F_GETLK, 10, 10); get("c", f, F_GETLK, 15, 100);
              get("d", f, F_GETLK, 26, 1); P("rd %s\n", en(lk(f, F_SETLK, F_RDLCK, 25, 3))));
    wst(p);
    lk(f, F_SETLK, F_UNLCK, 0, 0);
    // exec keeps them
    int in[2];
    pipe(in);
    pipe2(pp, O_CLOEXEC);
    p = CHILD(close(in[1]); dup2(in[0], 0); lk(f, F_SETLK, F_WRLCK, 0, 5);
              execl("/bin/cat", "cat", (char *)0));
    close(pp[1]);
    read(pp[0], &b, 1);
    get("exec keeps", f, F_GETLK, 0, 0);
    close(in[1]);
    wst(p);
    get("free", f, F_GETLK, 0, 0);
    // flock across fork
    P("flock %s\n", en(flock(f, LOCK_EX)));
    p = CHILD(P("same file %s\n", en(flock(f, LOCK_EX | LOCK_NB))); int h = open(n, O_RDWR);
              P("other %s\n", en(flock(h, LOCK_SH | LOCK_NB))); flock(f, LOCK_UN);
              P("unlocked by child %s\n", en(flock(h, LOCK_SH | LOCK_NB))));
    wst(p);
    P("mine %s\n", en(flock(f, LOCK_EX | LOCK_NB)));
    P("lockf %s\n", en(lockf(f, F_TLOCK, 5)));
    p = CHILD(lseek(f, 0, 0); P("test %s\n", en(lockf(f, F_TEST, 5))));
    wst(p);
    unlink(n);
    return 0;
}
