/* Job control, process descriptors, locks and shared memory between processes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t heard, code;

static void on_child(int number, siginfo_t *info, void *context) { heard++; code = info->si_code; }

static int collect(pid_t child, int options)
{
    int status;
    pid_t got;
    do
        got = waitpid(child, &status, options);
    while (got < 0 && errno == EINTR);
    return got == child ? status : -1;
}

static void show(const char *what, int status)
{
    if (WIFSTOPPED(status))
        printf("%s: stopped by %d\n", what, WSTOPSIG(status));
    else if (WIFCONTINUED(status))
        printf("%s: continued\n", what);
    else if (WIFEXITED(status))
        printf("%s: exit %d\n", what, WEXITSTATUS(status));
    else
        printf("%s: signal %d\n", what, WTERMSIG(status));
    fflush(stdout);
}

static void stops(void)
{
    struct sigaction action = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGCHLD, &action, 0);
    pid_t child = fork();
    if (!child) {
        setpgid(0, 0); /* in a group that is orphaned the terminal's signals stop nobody */
        raise(SIGSTOP);
        pause();
        _exit(1);
    }
    show("SIGSTOP", collect(child, WUNTRACED));
    printf("heard %d code %d\n", heard, code);
    printf("told once %d\n", waitpid(child, 0, WUNTRACED | WNOHANG));
    kill(child, SIGCONT);
    show("SIGCONT", collect(child, WCONTINUED));
    kill(child, SIGTSTP);
    show("SIGTSTP", collect(child, WUNTRACED));
    kill(child, SIGTERM);
    printf("SIGTERM waits %d\n", waitpid(child, 0, WNOHANG));
    kill(child, SIGCONT);
    show("then", collect(child, 0));
    child = fork();
    if (!child) {
        setpgid(0, 0);
        raise(SIGTTIN);
        _exit(1);
    }
    show("SIGTTIN", collect(child, WUNTRACED));
    kill(child, SIGKILL);
    show("SIGKILL", collect(child, 0));
    child = fork();
    if (!child) {
        setsid();
        raise(SIGTSTP);
        _exit(5);
    }
    show("orphaned group", collect(child, WUNTRACED));
    action.sa_flags |= SA_NOCLDSTOP;
    sigaction(SIGCHLD, &action, 0);
    heard = 0;
    child = fork();
    if (!child) {
        raise(SIGSTOP);
        _exit(7);
    }
    siginfo_t info;
    int got;
    do
        got = waitid(P_PID, child, &info, WSTOPPED | WNOWAIT);
    while (got < 0 && errno == EINTR);
    printf("waitid %d code %d status %d heard %d\n", got, info.si_code, info.si_status, heard);
    kill(child, SIGCONT);
    show("at its end", collect(child, 0));
    signal(SIGCHLD, SIG_DFL);
}

static void descriptors(void)
{
    pid_t child = fork();
    if (!child) {
        pause();
        _exit(1);
    }
    int fd = syscall(SYS_pidfd_open, child, 0);
    struct pollfd waited = {fd, POLLIN, 0};
    printf("open %d cloexec %d\n", fd >= 0, fcntl(fd, F_GETFD));
    printf("lives %d\n", poll(&waited, 1, 0));
    int got = syscall(SYS_pidfd_send_signal, fd, SIGUSR1, 0, 0);
    printf("send %d\n", got);
    printf("ended %d %d\n", poll(&waited, 1, -1), waited.revents);
    siginfo_t info;
    got = waitid(3 /* P_PIDFD */, fd, &info, WEXITED);
    printf("waitid %d code %d status %d\n", got, info.si_code, info.si_status);
    got = syscall(SYS_pidfd_send_signal, fd, 0, 0, 0);
    printf("gone %d %d\n", got, errno == ESRCH);
    close(fd);
    got = syscall(SYS_pidfd_open, 1 << 22, 0);
    printf("nobody %d %d\n", got, errno == ESRCH);
    fflush(stdout);
}

static void families(void)
{
    int ends[2];
    char line[32] = "";
    pipe(ends);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    int reaper = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &reaper);
    printf("subreaper %d\n", reaper);
    fflush(stdout);
    pid_t self = getpid(), child = fork();
    if (!child) {
        if (!fork()) {
            while (getppid() != self)
                sched_yield();
            write(ends[1], "adopted", 7);
            _exit(8);
        }
        _exit(2);
    }
    show("child", collect(child, 0));
    read(ends[0], line, sizeof line);
    int status;
    printf("%s, %d", line, wait(&status) > 0);
    show("", status);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    child = fork();
    if (!child) {
        pid_t grandchild = fork();
        if (!grandchild) {
            prctl(PR_SET_PDEATHSIG, SIGUSR2);
            write(ends[1], "x", 1);
            for (;;)
                pause();
        }
        read(ends[0], line, 1);
        _exit(0);
    }
    close(ends[1]);
    show("parent of one that dies with it", collect(child, 0));
    printf("end of the pipe %d\n", (int) read(ends[0], line, sizeof line));
    close(ends[0]);
    fflush(stdout);
}

struct shared {
    pthread_mutex_t plain, robust;
    pthread_cond_t changed;
    int turn, count;
};

static void memory(void)
{
    struct shared *all = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t kind;
    pthread_condattr_t condition;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&all->plain, &kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&all->robust, &kind);
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&all->changed, &condition);
    pid_t child = fork();
    for (int round = 0; round < 20; round++) {
        pthread_mutex_lock(&all->plain);
        while (all->turn != !child)
            pthread_cond_wait(&all->changed, &all->plain);
        all->turn = !!child;
        all->count++;
        pthread_cond_broadcast(&all->changed);
        pthread_mutex_unlock(&all->plain);
    }
    if (!child)
        _exit(0);
    show("turns", collect(child, 0));
    printf("count %d\n", all->count);
    child = fork();
    if (!child) {
        pthread_mutex_lock(&all->robust);
        _exit(0);
    }
    show("owner", collect(child, 0));
    int got = pthread_mutex_lock(&all->robust);
    printf("owner died %d\n", got == EOWNERDEAD);
    int file = open("mapped", O_CREAT | O_RDWR | O_TRUNC, 0600);
    ftruncate(file, 4096);
    child = fork();
    if (!child) {
        int again = open("mapped", O_RDWR);
        char *text = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
        strcpy(text, "from the child");
        _exit(0);
    }
    char *text = mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0), read_back[32] = "";
    show("mapper", collect(child, 0));
    pread(file, read_back, 14, 0);
    printf("%s, %s\n", text, read_back);
    unlink("mapped");
    int memory = memfd_create("name", 0);
    ftruncate(memory, 4096);
    int *number = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    child = fork();
    if (!child) {
        number[1] = 41;
        write(memory, "\1\0\0", 4);
        _exit(0);
    }
    show("memfd", collect(child, 0));
    printf("%d %d\n", number[0], number[1]);
    fflush(stdout);
}

static int lock(int fd, int command, int type, long start, long length)
{
    struct flock how = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int got = fcntl(fd, command, &how);
    if (command == F_GETLK || command == F_OFD_GETLK)
        printf("  type %d start %ld length %ld owner %d\n", how.l_type, (long) how.l_start, (long) how.l_len,
               how.l_type == F_UNLCK ? 0 : how.l_pid == getppid() ? 1 : how.l_pid);
    else
        printf("  %d %d\n", got, got < 0 ? errno : 0);
    fflush(stdout);
    return got;
}

static void locks(void)
{
    int file = open("locked", O_CREAT | O_RDWR | O_TRUNC, 0600), ends[2];
    char line[8];
    pipe(ends);
    printf("locks\n");
    lock(file, F_SETLK, F_WRLCK, 10, 20);
    lock(file, F_SETLK, F_RDLCK, 15, 5);
    lock(file, F_GETLK, F_WRLCK, 0, 0);
    pid_t child = fork();
    if (!child) {
        lock(file, F_GETLK, F_WRLCK, 0, 0);
        lock(file, F_GETLK, F_RDLCK, 15, 5);
        lock(file, F_GETLK, F_WRLCK, 15, 5);
        lock(file, F_SETLK, F_RDLCK, 16, 2);
        lock(file, F_SETLK, F_WRLCK, 16, 2);
        lock(file, F_SETLK, F_WRLCK, 40, 0);
        write(ends[1], "x", 1);
        lock(file, F_SETLKW, F_WRLCK, 10, 5);
        _exit(0);
    }
    read(ends[0], line, 1);
    usleep(10000);
    close(dup(file)); /* a close of any descriptor gives the process's locks up */
    show("locker", collect(child, 0));
    int other = open("locked", O_RDWR);
    lock(file, F_OFD_SETLK, F_WRLCK, 0, 10);
    lock(other, F_OFD_SETLK, F_WRLCK, 5, 10);
    lock(other, F_OFD_GETLK, F_WRLCK, 5, 10);
    lock(other, F_SETLK, F_WRLCK, 5, 10);
    close(file);
    lock(other, F_OFD_SETLK, F_WRLCK, 5, 10);
    close(other);
    unlink("locked");
}

static void passing(void)
{
    int pair[2], ends[2];
    char byte, line[16] = "", control[CMSG_SPACE(sizeof(int))] = "";
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pid_t child = fork();
    if (!child) {
        pipe(ends);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &ends[0], sizeof(int));
        byte = 'f';
        sendmsg(pair[1], &message, 0);
        write(ends[1], "passed", 6);
        _exit(0);
    }
    recvmsg(pair[0], &message, 0);
    int got;
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
    show("sender", collect(child, 0));
    printf("%c %d %s\n", byte, (int) read(got, line, sizeof line), line);
    printf("end %d\n", (int) read(got, line, sizeof line));
    mkfifo("fifo", 0600);
    child = fork();
    if (!child) {
        int end = open("fifo", O_WRONLY);
        write(end, "through", 7);
        _exit(0);
    }
    int end = open("fifo", O_RDONLY);
    memset(line, 0, sizeof line);
    printf("fifo %d %s\n", (int) read(end, line, sizeof line), line);
    show("writer", collect(child, 0));
    unlink("fifo");
    struct rlimit limit;
    child = fork();
    if (!child) {
        pause();
        _exit(0);
    }
    struct rlimit wanted = {33, 44};
    printf("prlimit %d", prlimit(child, RLIMIT_NOFILE, &wanted, 0));
    prlimit(child, RLIMIT_NOFILE, 0, &limit);
    printf(" %ld %ld\n", (long) limit.rlim_cur, (long) limit.rlim_max);
    kill(child, SIGKILL);
    show("limited", collect(child, 0));
}

int main(void)
{
    stops();
    descriptors();
    families();
    memory();
    locks();
    passing();
    return 0;
}
