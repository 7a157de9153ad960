// /proc of other processes.
#include "program.h"
#include <dirent.h>
static void cat(const char *w, pid_t p, const char *n, int nul) {
    char f[60], b[4000];
    snprintf(f, 60, "/proc/%d/%s", p, n);
    int d = open(f, O_RDONLY);
    if (d < 0) {
        P("%s: %s\n", w, en(-1));
        return;
    }
    int k = read(d, b, 3999);
    close(d);
    if (k < 0) {
        P("%s: %s\n", w, en(-1));
        return;
    }
    b[k] = 0;
    if (nul)
        for (int i = 0; i < k; i++)
            if (!b[i])
                b[i] = '|';
    P("%s: %s%s", w, b, k && b[k - 1] == '\n' ? "" : "\n");
}
static char state(pid_t p) {
    char f[60], b[500];
    snprintf(f, 60, "/proc/%d/stat", p);
    int d = open(f, O_RDONLY);
    if (d < 0)
        return '!';
    int k = read(d, b, 499);
    close(d);
    b[k] = 0;
    return strrchr(b, ')')[2];
}
static void field(pid_t p, const char *name) {
    char f[60], l[300];
    snprintf(f, 60, "/proc/%d/status", p);
    FILE *x = fopen(f, "r");
    while (x && fgets(l, 300, x))
        if (!strncmp(l, name, strlen(name))) {
            P("%s", l);
        }
    if (x)
        fclose(x);
}
int main(void) {
    int pp[2], s;
    char b, l[300];
    pipe(pp);
    pid_t p = CHILD(write(pp[1], "x", 1); execl("/bin/sleep", "sleep", "100", (char *)0));
    read(pp[0], &b, 1);
    while (1) {
        char f[60];
        snprintf(f, 60, "/proc/%d/comm", p);
        int d = open(f, O_RDONLY);
        char z[20] = {0};
        read(d, z, 19);
        close(d);
        if (!strcmp(z, "sleep\n"))
            break;
        usleep(1000);
    }
    while (state(p) != 'S')
        usleep(1000);
    cat("comm", p, "comm", 0);
    cat("cmdline", p, "cmdline", 1);
    char f[60];
    snprintf(f, 60, "/proc/%d/exe", p);
    int n = readlink(f, l, 299);
    l[n > 0 ? n : 0] = 0;
    P("exe %s\n", l);
    snprintf(f, 60, "/proc/%d/cwd", p);
    n = readlink(f, l, 299);
    char cw[300];
    getcwd(cw, 300);
    P("cwd same %d\n", !strncmp(l, cw, n));
    P("state %c\n", state(p));
    kill(p, SIGSTOP);
    waitpid(p, &s, WUNTRACED);
    P("state %c\n", state(p));
    kill(p, SIGCONT);
    kill(p, 9);
    siginfo_t i;
    waitid(P_PID, p, &i, WEXITED | WNOWAIT);
    P("state %c\n", state(p));
    cat("zombie cmdline", p, "cmdline", 1);
    snprintf(f, 60, "/proc/%d/exe", p);
    P("zombie exe %s\n", en(readlink(f, l, 299)));
    wst(p);
    P("state %c\n", state(p));
    cat("gone", p, "comm", 0);
    p = CHILD(prctl(PR_SET_NAME, "renamed"); write(pp[1], "x", 1); pause());
    read(pp[0], &b, 1);
    cat("name", p, "comm", 0);
    snprintf(f, 60, "/proc/%d/status", p);
    field(p, "Name");
    field(p, "Threads");
    {
        char q[60];
        snprintf(q, 60, "/proc/%d/status", p);
        FILE *x = fopen(q, "r");
        int pok = 0;
        while (fgets(l, 300, x)) {
            int v;
            if (sscanf(l, "PPid: %d", &v) == 1)
                pok = v == getpid();
            if (sscanf(l, "Tgid: %d", &v) == 1)
                pok += v == p;
        }
        fclose(x);
        P("ids %d\n", pok);
    }
    snprintf(f, 60, "/proc/%d/fd", p);
    DIR *d = opendir(f);
    int cnt = 0;
    struct dirent *e;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.')
            cnt++;
    closedir(d);
    P("fds>=5 %d\n", cnt >= 5);
    snprintf(f, 60, "/proc/%d/fd/%d", p, pp[0]);
    n = readlink(f, l, 299);
    l[n] = 0;
    P("fd is pipe %d\n", !strncmp(l, "pipe:", 5));
    int o = open(f, O_RDONLY | O_NONBLOCK);
    P("reopen %d\n", o >= 0);
    snprintf(f, 60, "/proc/%d/maps", p);
    FILE *x = fopen(f, "r");
    int lib = 0, st = 0;
    while (fgets(l, 300, x)) {
        lib += !!strstr(l, "libc.so");
        st += !!strstr(l, "[stack]");
    }
    fclose(x);
    P("maps %d %d\n", lib > 0, st);
    static int var = 5;
    snprintf(f, 60, "/proc/%d/mem", p);
    int m = open(f, O_RDWR), val = 0;
    P("mem %s", en(pread(m, &val, 4, (long)&var)));
    P(" %d\n", val);
    val = 9;
    P("write %s\n", en(pwrite(m, &val, 4, (long)&var)));
    val = 0;
    pread(m, &val, 4, (long)&var);
    P("mem %d own %d\n", val, var);
    P("code %s\n", en(pread(m, &val, 4, (long)main)));
    P("nothing there %s\n", en(pread(m, &val, 4, 0x10)));
    struct iovec lo = {&val, 4}, re = {&var, 4}, far = {(void *)0x10, 4};
    P("readv %s", en(process_vm_readv(p, &lo, 1, &re, 1, 0)));
    P(" %d\n", val);
    val = 11;
    P("writev %s\n", en(process_vm_writev(p, &lo, 1, &re, 1, 0)));
    P("bad address %s\n", en(process_vm_readv(p, &lo, 1, &far, 1, 0)));
    struct iovec two[2] = {re, far};
    P("partly %s\n", en(process_vm_readv(p, (struct iovec[]){{&val, 4}, {&val, 4}}, 2, two, 2, 0)));
    P("read only %s\n", en(process_vm_writev(p, &lo, 1, (struct iovec[]){{(void *)main, 4}}, 1, 0)));
    P("flags %s\n", en(process_vm_readv(p, &lo, 1, &re, 1, 1)));
    P("nobody %s\n", en(process_vm_readv(999999, &lo, 1, &re, 1, 0)));
    snprintf(f, 60, "/proc/%d/environ", p);
    P("environ %d\n", open(f, O_RDONLY) >= 0);
    snprintf(f, 60, "/proc/%d/task/%d/comm", p, p);
    cat("task", p, f + 6 + snprintf(l, 30, "%d", p) + 1, 0);
    kill(p, 9);
    wst(p);
    d = opendir("/proc");
    cnt = 0;
    int self = 0;
    while ((e = readdir(d))) {
        int v = atoi(e->d_name);
        if (v)
            cnt++;
        if (v == getpid())
            self++;
    }
    P("proc lists self %d\n", self);
    snprintf(f, 60, "/proc/%d/stat", getpid());
    p = CHILD(snprintf(f, 60, "/proc/%d/comm", getppid()); int k = open(f, O_RDONLY); char z[20] = {0};
              read(k, z, 19); P("parent comm %s", z));
    wst(p);
    p = CHILD(char z[300]; int k = readlink("/proc/self", z, 299); z[k] = 0;
              P("self %d\n", atoi(z) == getpid()));
    wst(p);
    return 0;
}
