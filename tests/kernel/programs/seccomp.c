/* Filters of system calls: what they may say, what becomes of the call, who has them. */
#define _GNU_SOURCE
#include "report.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LOAD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define SAY(value) BPF_STMT(BPF_RET | BPF_K, value)

static long install(struct sock_filter *code, unsigned count, unsigned flags)
{
    struct sock_fprog program = {count, code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
#define INSTALL(...)                                             \
    ({                                                           \
        struct sock_filter code[] = {__VA_ARGS__};               \
        install(code, sizeof code / sizeof *code, 0);            \
    })

static long filter(int number, unsigned action)
{
    return INSTALL(LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), SAY(action), SAY(SECCOMP_RET_ALLOW));
}

static void trapped(int signal, siginfo_t *info, void *context)
{
    printf("signal %d code %d errno %d call %d arch %x\n", signal, info->si_code, info->si_errno, info->si_syscall, info->si_arch);
    unsigned char *at = info->si_call_addr;
    printf("behind a system call: %d\n", at[-2] == 0x0f && at[-1] == 0x05);
    fflush(stdout);
}

static void child(const char *what, void (*act)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        act();
        fflush(stdout);
        _exit(3);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("%s: exited %d with %d, killed %d by %d\n", what, WIFEXITED(status), WEXITSTATUS(status), WIFSIGNALED(status), WTERMSIG(status));
}

static void killed(void)
{
    CALL(filter(SYS_getppid, SECCOMP_RET_KILL_PROCESS));
    CALL(getppid());
}
static void unknown(void)
{
    CALL(filter(SYS_getppid, 0x12340000));
    CALL(getppid());
}
static void *asks(void *unused)
{
    getppid();
    return "back";
}
static void one_thread(void)
{
    CALL(filter(SYS_getppid, SECCOMP_RET_KILL_THREAD));
    pthread_t id;
    pthread_create(&id, NULL, asks, NULL);
    usleep(100000);
    puts("still here");
}
static void strict(void)
{
    CALL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    write(1, "strict\n", 7);
    syscall(SYS_getpid);
    write(1, "never\n", 6);
}
static void strict_exit(void)
{
    CALL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    syscall(SYS_exit, 7);
}
static void trap(void)
{
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    CALL(filter(SYS_getppid, SECCOMP_RET_TRAP | 77));
    CALL(syscall(SYS_getppid) == SYS_getppid);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    sigprocmask(SIG_BLOCK, &set, NULL);
    syscall(SYS_getppid);
}
static void arithmetic(void)
{
    CALL(INSTALL(LOAD(args[0]), BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 7), BPF_STMT(BPF_ALU | BPF_MUL | BPF_X, 0),
                 BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_LD | BPF_MEM, 3), BPF_STMT(BPF_ALU | BPF_NEG, 0), BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
                 BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 2), BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, 1), BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 1),
                 BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 1), BPF_STMT(BPF_MISC | BPF_TAX, 0), LOAD(nr),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_alarm, 1, 0), SAY(SECCOMP_RET_ALLOW), BPF_STMT(BPF_MISC | BPF_TXA, 0),
                 BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO), BPF_STMT(BPF_RET | BPF_A, 0)));
    for (int n = 1; n < 5; n++) {
        errno = 0;
        long got = syscall(SYS_alarm, n);
        printf("%d: %ld errno %d\n", n, got, errno);
    }
    CALL(INSTALL(LOAD(nr), BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 63, 0, 1), SAY(SECCOMP_RET_ALLOW), SAY(SECCOMP_RET_ERRNO | 9)));
}
static void *mode(void *unused)
{
    printf("a thread has mode %d\n", prctl(PR_GET_SECCOMP));
    return NULL;
}
static void inherited(void)
{
    CALL(filter(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV));
    CALL(filter(SYS_getppid, SECCOMP_RET_ERRNO | EMFILE));
    CALL(getppid());
    CALL(filter(SYS_getppid, SECCOMP_RET_ALLOW));
    CALL(getppid());
    CALL(prctl(PR_GET_SECCOMP));
    CALL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    pthread_t id;
    pthread_create(&id, NULL, mode, NULL);
    pthread_join(id, NULL);
    CALL(filter(SYS_getpgrp, SECCOMP_RET_TRACE | 1));
    CALL(syscall(SYS_getpgrp));
    CALL(filter(SYS_getuid, SECCOMP_RET_ERRNO | 0xffff));
    printf("%ld\n", syscall(SYS_getuid));
    CALL(filter(1000, SECCOMP_RET_ERRNO | ETXTBSY));
    CALL(syscall(1000));
    CALL(filter(SYS_gettid, SECCOMP_RET_LOG));
    CALL(syscall(SYS_gettid) > 0);
    fflush(stdout);
    execl("/bin/sh", "sh", "-c", "grep -i ^seccomp: /proc/self/status", NULL);
}
static void refused(void)
{
    CALL(prctl(PR_GET_NO_NEW_PRIVS));
    CALL(install(NULL, 1, 0));
    CALL(install((void *)8, 0, 0));
    CALL(install((void *)8, 4097, 0));
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, 8));
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 1 << 20, 0));
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 8));
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, 0));
    CALL(syscall(SYS_seccomp, 99, 0, 0));
    unsigned action = SECCOMP_RET_TRAP;
    CALL(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    action = 0x12340000;
    CALL(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    CALL(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, 8));
    CALL(prctl(PR_SET_SECCOMP, 5));
    CALL(INSTALL(LOAD(nr)));
    CALL(INSTALL(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_LD | BPF_MEM, 1), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_ST, 16), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1), BPF_STMT(BPF_ST, 1), BPF_STMT(BPF_LD | BPF_MEM, 1), SAY(SECCOMP_RET_ALLOW)));
    CALL(INSTALL(BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), SAY(SECCOMP_RET_ALLOW)));
}
static void together(void)
{
    struct sock_filter code[] = {SAY(SECCOMP_RET_ALLOW)};
    CALL(install(code, 1, SECCOMP_FILTER_FLAG_TSYNC));
    CALL(install(code, 1, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG));
    CALL(install(code, 1, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_NEW_LISTENER));
    CALL(prctl(PR_GET_SECCOMP));
}

int main(void)
{
    CALL(prctl(PR_GET_SECCOMP));
    CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    child("killed", killed);
    child("unknown action", unknown);
    child("one thread", one_thread);
    child("strict", strict);
    child("strict exit", strict_exit);
    child("trap", trap);
    child("arithmetic", arithmetic);
    child("inherited", inherited);
    child("refused", refused);
    child("together", together);
    CALL(prctl(PR_GET_SECCOMP));
    return 0;
}
