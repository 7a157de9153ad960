/* clone, exit, futex and their kin as libc never calls them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include "report.h"

enum { FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM };
static volatile int child_says, tid_word, other_word;
static char stacks[4][16384] __attribute__((aligned(64)));

static int child(void *argument) {
    child_says = (int)(intptr_t)argument;
    return 0;
}
static void join(void) {
    int tid;
    while ((tid = tid_word)) syscall(SYS_futex, &tid_word, FUTEX_WAIT, tid, NULL, NULL, 0);
}
static int robust_child(void *argument) {
    static struct robust_list_head head;
    static struct {
        struct robust_list node;
        uint32_t word;
    } held[2], pending;
    uint32_t **words = argument;
    head.list.next = &held[0].node;
    held[0].node.next = &held[1].node;
    held[1].node.next = &head.list;
    head.futex_offset = (char *)&held[0].word - (char *)&held[0];
    head.list_op_pending = &pending.node;
    held[0].word = syscall(SYS_gettid);
    held[1].word = 77;
    pending.word = syscall(SYS_gettid) | FUTEX_WAITERS;
    words[0] = &held[0].word, words[1] = &held[1].word, words[2] = &pending.word;
    syscall(SYS_set_robust_list, &head, sizeof head);
    return 0;
}

int main(void) {
    CALL(clone(child, stacks[0] + 16384, CLONE_THREAD, (void *)1));
    CALL(clone(child, stacks[0] + 16384, CLONE_THREAD | CLONE_SIGHAND, (void *)1));
    CALL(clone(child, stacks[0] + 16384, CLONE_SIGHAND, (void *)1));
    struct clone_args args = {.flags = FLAGS, .stack = (uintptr_t)stacks[0]};
    CALL(syscall(SYS_clone3, &args, 8));
    CALL(syscall(SYS_clone3, &args, 5000));
    CALL(syscall(SYS_clone3, NULL, sizeof args));
    CALL(syscall(SYS_clone3, &args, sizeof args)); /* a stack without a size */
    args.stack_size = 16384, args.exit_signal = SIGCHLD;
    CALL(syscall(SYS_clone3, &args, sizeof args));
    tid_word = 1;
    ZERO(clone(child, stacks[0] + 16384, FLAGS | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID, (void *)42,
               &other_word, NULL, &tid_word) < 0 ? -1 : 0);
    join();
    CALL(child_says);
    CALL(other_word > getpid());
    CALL(syscall(SYS_tgkill, getpid(), other_word, 0));
    uint32_t *words[3];
    tid_word = 1;
    clone(robust_child, stacks[1] + 16384, FLAGS | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID, words, NULL, NULL, &tid_word);
    join();
    CALL(*words[0] == FUTEX_OWNER_DIED);
    CALL(*words[1]);
    CALL(*words[2] == (FUTEX_OWNER_DIED | FUTEX_WAITERS));
    CALL(syscall(SYS_set_robust_list, words, 23));
    CALL(syscall(SYS_tkill, 0, 0));
    CALL(syscall(SYS_tkill, getpid(), 0));
    CALL(syscall(SYS_tkill, 4000000, 0));
    CALL(syscall(SYS_tgkill, 1, getpid(), 0));
    CALL(syscall(SYS_tgkill, getpid(), getpid(), 65));
    CALL(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) & 0);
    CALL(syscall(SYS_membarrier, 3, 0, 0));
    CALL(syscall(SYS_membarrier, 0, 1, 0));
    CALL(sched_yield());
    CALL(sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){5}));
    CALL(sched_getscheduler(-1));
    CALL(sched_get_priority_max(SCHED_FIFO));
    int first = memfd_create("locked", 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", first);
    int second = open(path, O_RDWR), third = dup(first);
    CALL(flock(first, LOCK_SH));
    CALL(flock(second, LOCK_SH));
    CALL(flock(first, LOCK_EX | LOCK_NB));
    CALL(flock(second, LOCK_EX | LOCK_NB)); /* a failed conversion loses the lock */
    CALL(flock(second, LOCK_EX | LOCK_NB));
    CALL(flock(first, LOCK_SH | LOCK_NB));
    close(second);
    CALL(flock(third, LOCK_EX | LOCK_NB));
    CALL(flock(first, 3));
    CALL(flock(99, LOCK_UN));
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event._sigev_un._tid = 4000000;
    CALL(timer_create(CLOCK_MONOTONIC, &event, &timer));
    event._sigev_un._tid = getpid();
    CALL(timer_create(CLOCK_MONOTONIC, &event, &timer));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct itimerspec every = {{0, 1000000}, {0, 1000000}};
    timer_settime(timer, 0, &every, NULL);
    nanosleep(&(struct timespec){0, 5500000}, NULL);
    siginfo_t info;
    CALL(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_overrun >= 3 && info.si_code == SI_TIMER);
    return 0;
}
