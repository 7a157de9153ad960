// system() and popen(): statuses, pipes, and what becomes of signals.
#include "program.h"
int main(void) {
    P("system null %d\n", system(NULL) != 0);
    P("%s\n", ws(system("exit 3")));
    P("%s\n", ws(system("kill -9 $$")));
    P("%s\n", ws(system("nonexistent_cmd_x 2>/dev/null")));
    signal(SIGINT, SIG_DFL);
    struct sigaction sa;
    P("%s\n", ws(system("echo a; echo b | tr b c")));
    sigaction(SIGINT, 0, &sa);
    P("int restored %d\n", sa.sa_handler == SIG_DFL);
    signal(SIGCHLD, SIG_IGN);
    int r = system("true");
    P("sigign %d %s\n", r, r < 0 ? strerrorname_np(errno) : "");
    signal(SIGCHLD, SIG_DFL);
    FILE *f = popen("echo x; echo y; exit 4", "r");
    char l[100];
    while (fgets(l, 100, f))
        P("got %s", l);
    P("pclose %s\n", ws(pclose(f)));
    f = popen("cat", "w");
    fputs("through cat\n", f);
    P("pclose %s\n", ws(pclose(f)));
    f = popen("cat", "re");
    P("re %d\n", f != NULL);
    if (f) {
        int fl = fcntl(fileno(f), F_GETFD);
        P("cloexec %d\n", fl);
        pclose(f);
    }
    f = popen("true", "x");
    P("bad mode %d %s\n", f != NULL, strerrorname_np(errno));
    FILE *a = popen("sleep 0.01; echo A", "r"), *b = popen("echo B", "r");
    P("%s", fgets(l, 100, b));
    P("%s", fgets(l, 100, a));
    pclose(a);
    pclose(b);
    errno = 0;
    P("pclose big %s\n", ws(pclose(popen("head -c 200000 /dev/zero >/dev/null", "r"))));
    f = popen("head -c 200000 /dev/zero", "r");
    size_t n = 0, k;
    char buf[4096];
    while ((k = fread(buf, 1, 4096, f)) > 0)
        n += k;
    P("read %zu %s\n", n, ws(pclose(f)));
    f = popen("yes", "r");
    fgets(l, 100, f);
    P("yes: %s", l);
    P("pclose %s\n", ws(pclose(f)));
    setenv("FOO", "bar", 1);
    system("echo $FOO");
    return 0;
}
