/* Processes: fork, vfork, wait, orphans, groups, exec, and what a child has of its parent's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int global = 1;
static volatile sig_atomic_t heard;
extern char **environ;

static void on_child(int number) { heard++; (void) number; }

static int collect(pid_t child)
{
    int status;
    pid_t got;
    do
        got = waitpid(child, &status, 0);
    while (got < 0 && errno == EINTR);
    return got == child ? status : -1;
}

static void show(const char *what, int status)
{
    if (WIFEXITED(status))
        printf("%s: exit %d\n", what, WEXITSTATUS(status));
    else
        printf("%s: signal %d core %d\n", what, WTERMSIG(status), !!WCOREDUMP(status));
    fflush(stdout);
}

static void memory(void)
{
    char *private = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(private, 1, 1 << 20);
    strcpy(shared, "before");
    pid_t child = fork();
    if (!child) {
        private[5000] = 9;
        global = 2;
        strcpy(shared + 4096, private[4999] == 1 && !strcmp(shared, "before") ? "child" : "wrong");
        pid_t grandchild = fork();
        if (!grandchild)
            _exit(private[5000] == 9 && private[5001] == 1 && global == 2 ? 11 : 12);
        _exit(WEXITSTATUS(collect(grandchild)));
    }
    private[5001] = 7;
    show("memory", collect(child));
    printf("parent %d %d %d %s\n", private[5000], private[5001], global, shared + 4096);
    fflush(stdout);
    for (int round = 0; round < 3; round++) {
        private[round * 4096] = 20 + round;
        child = fork();
        if (!child)
            _exit(private[round * 4096] == 20 + round && private[(round + 1) * 4096] == (round == 0 ? 1 : 1));
        show("again", collect(child));
    }
    munmap(private, 1 << 20);
    munmap(shared, 8192);
}

static void statuses(void)
{
    siginfo_t info;
    signal(64, SIG_IGN);
    int numbers[] = {SIGKILL, SIGTERM, SIGUSR1, SIGSEGV, SIGABRT};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        pid_t child = fork();
        if (!child) {
            raise(numbers[i]);
            _exit(1);
        }
        show("raised", collect(child));
    }
    pid_t child = fork();
    if (!child)
        _exit(0x1234);
    memset(&info, 0, sizeof info);
    int got = waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    printf("waitid %d signo %d code %d status %d pid %d\n", got, info.si_signo, info.si_code, info.si_status,
           info.si_pid == child);
    printf("kill of a zombie %d\n", kill(child, 0));
    show("zombie", collect(child));
    pid_t other = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, 16, 16, 0);
    if (!other)
        _exit(13);
    show("bad addresses for the id", collect(other));
    other = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, 16, 0, 0);
    printf("bad address for the pidfd %d %d\n", other, errno == EFAULT);
    other = syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0);
    printf("handlers without memory %d %d\n", other, errno == EINVAL);
    for (int number = 64; number < 256; number += 95) {
        other = syscall(SYS_clone, number, 0, 0, 0, 0);
        if (!other)
            _exit(number & 7);
        int status = 0;
        got = waitpid(other, &status, __WALL);
        printf("clone with signal %d: %d %x\n", number, got == other, status);
    }
    errno = 0;
    got = kill(child, 0);
    printf("kill of nobody %d %d\n", got, errno == ESRCH);
    got = wait(0);
    printf("no child %d %d\n", got, errno == ECHILD);
    got = waitpid(1 << 22, 0, 0);
    printf("not a child %d %d\n", got, errno == ECHILD);
    child = fork();
    if (!child) {
        pause();
        _exit(1);
    }
    printf("nothing yet %d\n", waitpid(child, 0, WNOHANG));
    memset(&info, 1, sizeof info);
    got = waitid(P_ALL, 0, &info, WEXITED | WNOHANG);
    printf("waitid nothing yet %d %d %d\n", got, info.si_pid, info.si_signo);
    kill(child, SIGTERM);
    show("killed", collect(child));
    got = waitid(P_ALL, 0, &info, 0);
    printf("waitid without options %d %d\n", got, errno == EINVAL);
}

static void child_signal(void)
{
    struct sigaction action = {.sa_handler = on_child};
    sigaction(SIGCHLD, &action, 0);
    heard = 0;
    pid_t child = fork();
    if (!child)
        _exit(0);
    while (!heard)
        sched_yield();
    show("SIGCHLD", collect(child));
    action.sa_handler = SIG_IGN;
    sigaction(SIGCHLD, &action, 0);
    child = fork();
    if (!child)
        _exit(0);
    int got = waitpid(child, 0, 0);
    printf("ignored %d %d\n", got, errno == ECHILD);
    action.sa_handler = on_child;
    action.sa_flags = SA_NOCLDWAIT;
    sigaction(SIGCHLD, &action, 0);
    heard = 0;
    child = fork();
    if (!child)
        _exit(0);
    do
        got = waitpid(child, 0, 0);
    while (got < 0 && errno == EINTR);
    printf("nocldwait %d %d heard %d\n", got, errno == ECHILD, heard);
    signal(SIGCHLD, SIG_DFL);
    fflush(stdout);
}

static void orphans(void)
{
    int ends[2];
    char line[64] = "";
    pipe(ends);
    pid_t child = fork();
    if (!child) {
        pid_t self = getpid();
        if (!fork()) {
            while (getppid() == self)
                sched_yield();
            write(ends[1], "orphan", 6);
            _exit(0);
        }
        _exit(3);
    }
    close(ends[1]);
    show("parent of an orphan", collect(child));
    printf("%d %s\n", (int) read(ends[0], line, sizeof line), line);
    printf("end %d\n", (int) read(ends[0], line, sizeof line));
    close(ends[0]);
    fflush(stdout);
}

static void groups(void)
{
    pid_t first = fork();
    if (!first) {
        pause();
        _exit(1);
    }
    printf("setpgid %d %d\n", setpgid(first, first), getpgid(first) == first);
    pid_t second = fork();
    if (!second) {
        setpgid(0, first);
        pause();
        _exit(1);
    }
    while (getpgid(second) != first)
        sched_yield();
    int got = setpgid(getpid(), 1 << 22);
    printf("no such group %d %d\n", got, errno == EPERM);
    printf("kill of the group %d\n", kill(-first, SIGUSR2));
    show("first", collect(first));
    show("second", collect(second));
    got = kill(-first, SIGUSR2);
    printf("group gone %d %d\n", got, errno == ESRCH);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        pid_t session = setsid();
        _exit(session == getpid() && getpgrp() == session && getsid(0) == session && setsid() == -1 && errno == EPERM ? 5 : 6);
    }
    show("session", collect(child));
}

static void vforked(char *self)
{
    global = 1;
    pid_t child = vfork();
    if (!child) {
        global = 3;
        _exit(4);
    }
    printf("vfork shares %d\n", global);
    show("vfork", collect(child));
    char *arguments[] = {self, "child", 0};
    setenv("PASSED", "on", 1);
    fflush(stdout);
    int spawned = posix_spawn(&child, self, 0, 0, arguments, environ);
    show("spawned", collect(child));
    printf("posix_spawn %d\n", spawned);
    printf("absent %d\n", posix_spawn(&child, "/absent", 0, 0, arguments, environ));
    int got = execv("/etc/passwd", arguments);
    printf("no program %d %d\n", got, errno == EACCES);
    got = execv("/absent/x", arguments);
    printf("no file %d %d\n", got, errno == ENOENT);
    got = execv("/etc", arguments);
    printf("a directory %d %d\n", got, errno == EACCES);
    fflush(stdout);
}

static void executed(char *self)
{
    char number[16];
    int open_end[2];
    pipe(open_end);
    fcntl(open_end[0], F_SETFD, FD_CLOEXEC);
    sprintf(number, "%d %d", open_end[0], open_end[1]);
    pid_t child = fork();
    if (!child) {
        signal(SIGUSR1, SIG_IGN);
        signal(SIGUSR2, on_child);
        execl(self, self, "exec", number, (char *) 0);
        _exit(99);
    }
    show("executed", collect(child));
    int script = open("script", O_CREAT | O_WRONLY | O_TRUNC, 0755);
    dprintf(script, "#!%s script\n", self);
    close(script);
    child = fork();
    if (!child) {
        execl("./script", "script", "more", (char *) 0);
        _exit(99);
    }
    show("script", collect(child));
    int image = open(self, O_RDONLY);
    child = fork();
    if (!child) {
        char *arguments[] = {"name", "child", 0};
        syscall(SYS_execveat, image, "", arguments, environ, AT_EMPTY_PATH);
        _exit(99);
    }
    show("execveat", collect(child));
    unlink("script");
}

static int as_child(int count, char **arguments)
{
    if (!strcmp(arguments[1], "child")) {
        printf("child of %s, PASSED=%s\n", arguments[0][0] == '/' ? "path" : arguments[0], getenv("PASSED"));
        return 21;
    }
    if (!strcmp(arguments[1], "script")) {
        printf("script %d %s %s\n", count, arguments[2], count > 3 ? arguments[3] : "");
        return 22;
    }
    int closed, kept;
    struct sigaction first, second;
    sscanf(arguments[2], "%d %d", &closed, &kept);
    sigaction(SIGUSR1, 0, &first);
    sigaction(SIGUSR2, 0, &second);
    printf("close-on-exec %d %d, ignored %d, handler %d\n", fcntl(closed, F_GETFD), fcntl(kept, F_GETFD),
           first.sa_handler == SIG_IGN, second.sa_handler == SIG_DFL);
    return 23;
}

static void files(void)
{
    char line[32] = "";
    int file = open("shared-offset", O_CREAT | O_RDWR | O_TRUNC, 0600);
    write(file, "0123456789", 10);
    lseek(file, 2, SEEK_SET);
    pid_t child = fork();
    if (!child) {
        read(file, line, 3);
        umask(077);
        chdir("/");
        close(file);
        _exit(0);
    }
    show("files", collect(child));
    read(file, line, 2);
    printf("offset %s, umask %o, cwd the same %d\n", line, umask(022), access("shared-offset", F_OK));
    unlink("shared-offset");
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    char *self = realpath("/proc/self/exe", 0);
    umask(022);
    if (count > 1 && strcmp(arguments[1], "one"))
        return as_child(count, arguments);
    memory();
    statuses();
    child_signal();
    orphans();
    groups();
    vforked(self);
    executed(self);
    files();
    return 0;
}
