// execve, execveat and fexecve: scripts, files that are none, descriptors, arguments, signals, from a thread.
#include "program.h"
static char me[300];
static void *ex(void *x) {
    execl(me, me, "say", "from a thread", (char *)0);
    return 0;
}
static void *sleeper(void *x) {
    for (;;)
        pause();
}
static void mk(const char *n, const char *t, int mode) {
    unlink(n);
    int f = open(n, O_CREAT | O_TRUNC | O_WRONLY, 0777);
    write(f, t, strlen(t));
    close(f);
    chmod(n, mode);
}
static void tryx(const char *l, const char *p, char **a) {
    pid_t q = fork();
    if (!q) {
        execve(p, a, environ);
        P("%s: %s\n", l, strerrorname_np(errno));
        _exit(99);
    }
    int s = wst(q);
    P("%s -> %s\n", l, ws(s));
}
#define A(...) ((char *[]){__VA_ARGS__, NULL})
int main(int c, char **v) {
    if (c > 1 && !strcmp(v[1], "say")) {
        char cm[20] = {0};
        prctl(PR_GET_NAME, cm);
        P("say");
        for (int i = 2; i < c; i++)
            P(" <%s>", v[i]);
        P(" tid==pid %d name %s\n", gettid() == getpid(), cm);
        return 11;
    }
    if (c > 1 && !strcmp(v[1], "fds")) {
        P("fds");
        for (int i = 0; i < 30; i++)
            if (fcntl(i, F_GETFD) >= 0)
                P(" %d", i);
        P("\n");
        return 0;
    }
    me[readlink("/proc/self/exe", me, 299)] = 0;
    char dir[] = "/tmp/p16xXXXXXX";
    mkdtemp(dir);
    chdir(dir);
    pid_t p = fork();
    if (!p) {
        pthread_t t;
        pthread_create(&t, 0, sleeper, 0);
        pthread_create(&t, 0, ex, 0);
        pause();
    }
    P("%s\n", ws(wst(p)));
    p = vfork();
    if (!p) {
        execl("/nonexistent", "x", (char *)0);
        _exit(errno);
    }
    P("vfork failed exec %s\n", ws(wst(p)));
    mk("s1", "#!/bin/sh\necho script $0 $*; exit 9\n", 0755);
    tryx("script", "./s1", A("zero", "a", "b"));
    mk("s2", "#!/bin/echo one two  three\n", 0755);
    tryx("shebang args", "./s2", A("x", "y"));
    mk("s3", "#!/nonexistent\n", 0755);
    tryx("shebang noent", "./s3", A("x"));
    mk("s4", "#!./s2\n", 0755);
    tryx("nested", "./s4", A("x", "z"));
    mk("s5", "#!./s4 more\n", 0755);
    tryx("nested 2", "./s5", A("x", "z"));
    mk("s6", "#!./s5\n", 0755);
    mk("s7", "#!./s6\n", 0755);
    mk("s8", "#!./s7\n", 0755);
    tryx("too nested", "./s8", A("x", "z"));
    mk("s9", "#!./s9\n", 0755);
    tryx("self", "./s9", A("x"));
    char big[400];
    memset(big, 'a', 399);
    big[399] = 0;
    memcpy(big, "#!/bin/echo ", 12);
    big[398] = '\n';
    mk("s10", big, 0755);
    tryx("long line", "./s10", A("x", "tail"));
    memset(big, 'b', 399);
    memcpy(big, "#!/", 3);
    mk("s11", big, 0755);
    tryx("long interp", "./s11", A("x"));
    mk("s12", "#!\n", 0755);
    tryx("empty shebang", "./s12", A("x"));
    mk("s13", "#! /bin/echo\tq \n", 0755);
    tryx("blanks", "./s13", A("x", "y"));
    mk("e1", "plain text\n", 0755);
    tryx("text", "./e1", A("x"));
    mk("e2", "", 0755);
    tryx("empty", "./e2", A("x"));
    mk("e3", "\177ELF\2\1\1", 0755);
    tryx("short elf", "./e3", A("x"));
    mk("e4", "#!/bin/sh\n", 0644);
    if (getuid())
        tryx("noexec", "./e4", A("x"));
    else
        P("root\n");
    tryx("dir", ".", A("x"));
    tryx("notdir", "./s1/x", A("x"));
    tryx("loop", ({
             symlink("l1", "l2");
             symlink("l2", "l1");
             "./l1";
         }),
         A("x"));
    tryx("ldso", "/lib64/ld-linux-x86-64.so.2", A("ld.so", me, "say", "via ldso"));
    tryx("ldso argv0", "/lib64/ld-linux-x86-64.so.2", A("ld.so", "--argv0", "renamed", me, "say", "q"));
    tryx("ldso missing", "/lib64/ld-linux-x86-64.so.2", A("ld.so", "./nope"));
    int f = open(me, O_RDONLY | O_CLOEXEC);
    p = fork();
    if (!p) {
        syscall(SYS_execveat, f, "", A("q", "say", "at empty"), environ, AT_EMPTY_PATH);
        P("no %s\n", en(-1));
        _exit(1);
    }
    P("%s\n", ws(wst(p)));
    p = fork();
    if (!p) {
        fexecve(f, A("q", "say", "fexecve"), environ);
        _exit(1);
    }
    P("%s\n", ws(wst(p)));
    int sc = open("s1", O_RDONLY | O_CLOEXEC);
    p = fork();
    if (!p) {
        int r = syscall(SYS_execveat, sc, "", A("q", "w"), environ, AT_EMPTY_PATH);
        P("script cloexec %s\n", en(r));
        _exit(1);
    }
    P("%s\n", ws(wst(p)));
    sc = open("s1", O_RDONLY);
    p = fork();
    if (!p) {
        dup2(sc, 20);
        int r = syscall(SYS_execveat, 20, "", A("q", "w"), environ, AT_EMPTY_PATH);
        P("script fd %s\n", en(r));
        _exit(1);
    }
    P("%s\n", ws(wst(p)));
    int d = open(".", O_RDONLY | O_DIRECTORY);
    p = fork();
    if (!p) {
        int r = syscall(SYS_execveat, d, "s1", A("q", "w"), environ, 0);
        P("at dir %s\n", en(r));
        _exit(1);
    }
    P("%s\n", ws(wst(p)));
    symlink("s1", "ln");
    p = fork();
    if (!p) {
        int r = syscall(SYS_execveat, d, "ln", A("q", "w"), environ, AT_SYMLINK_NOFOLLOW);
        P("nofollow %s\n", en(r));
        _exit(1);
    }
    P("%s\n", ws(wst(p)));
    close(d);
    close(sc);
    for (int i = 3; i < 30; i++)
        close(i);
    int a = open("/dev/null", 0), b = open("/dev/null", O_CLOEXEC);
    dup2(a, 12);
    fcntl(12, F_SETFD, FD_CLOEXEC);
    dup3(a, 15, O_CLOEXEC);
    (void)b;
    tryx("cloexec", me, A("m", "fds"));
    p = fork();
    if (!p) {
        fcntl(15, F_SETFD, 0);
        execl(me, me, "fds", (char *)0);
    }
    P("%s\n", ws(wst(p)));
    char *huge = malloc(200000);
    memset(huge, 'x', 199999);
    huge[199999] = 0;
    tryx("E2BIG", me, A("m", "say", huge));
    char **many = malloc(sizeof(char *) * 20001);
    for (int i = 0; i < 20000; i++)
        many[i] = "arg";
    many[20000] = 0;
    p = fork();
    if (!p) {
        many[0] = "sh";
        execve("/bin/true", many, environ);
        _exit(1);
    }
    P("many args %s\n", ws(wst(p)));
    p = fork();
    if (!p) {
        execve("/bin/true", 0, 0);
        _exit(1);
    }
    P("null argv %s\n", ws(wst(p)));
    p = fork();
    if (!p) {
        signal(SIGUSR1, SIG_IGN);
        signal(SIGUSR2, (void *)sleeper);
        sigset_t m;
        sigemptyset(&m);
        sigaddset(&m, SIGUSR1);
        sigprocmask(SIG_BLOCK, &m, 0);
        raise(SIGUSR1);
        execl("/bin/sh", "sh", "-c",
              "grep -E '^(SigBlk|SigIgn|SigCgt|SigPnd|ShdPnd)' /proc/self/status | head -4 | sed 's/.*://' | "
              "tr -d '\\t' | head -2",
              (char *)0);
    }
    P("%s\n", ws(wst(p)));
    p = fork();
    if (!p) {
        execl("./s1", "s1", (char *)0);
    }
    P("%s\n", ws(wst(p)));
    execvp("sh", A("sh", "-c", "cd /; rm -rf \"$1\"; echo removed", "sh", dir));
    return 0;
}
