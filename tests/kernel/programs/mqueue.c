/* POSIX message queues: names, limits, priorities, waits, notification, and two processes. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#define YES(call) printf("%s: %s\n", #call, (long)(call) == -1 ? strerror(errno) : "yes")
static char name[64];
static volatile int told;
static void on_message(int signo, siginfo_t *info, void *context) { told = info->si_value.sival_int + (info->si_code == SI_MESGQ); }
int main(void) {
    snprintf(name, sizeof name, "/a-queue-of-%d", (int)getpid());
    struct mq_attr a = {.mq_maxmsg = 3, .mq_msgsize = 16}, now;
    YES(mq_open(name, O_RDWR));
    YES(mq_open("/a/b", O_RDWR | O_CREAT, 0600, NULL));
    a.mq_maxmsg = 0;
    YES(mq_open(name, O_RDWR | O_CREAT, 0600, &a));
    a.mq_maxmsg = 3;
    mqd_t q = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &a);
    YES(q);
    YES(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &a));
    mqd_t reader = mq_open(name, O_RDONLY);
    char text[16];
    unsigned priority;
    YES(mq_receive(q, text, 16, &priority));
    YES(mq_receive(q, text, 15, &priority));
    YES(mq_send(reader, "x", 1, 0));
    YES(mq_send(q, "first", 6, 1));
    YES(mq_send(q, "urgent", 7, 9));
    YES(mq_send(q, "second", 7, 1));
    YES(mq_send(q, "full", 5, 1));
    YES(mq_send(q, "a message that is too long", 26, 1));
    YES(mq_send(q, "x", 1, 40000));
    mq_getattr(q, &now);
    printf("%ld %ld %ld %ld\n", now.mq_flags & O_NONBLOCK, now.mq_maxmsg, now.mq_msgsize, now.mq_curmsgs);
    struct pollfd p = {q, POLLIN | POLLOUT, 0};
    poll(&p, 1, 0);
    printf("%x\n", p.revents);
    for (int i = 0; i < 3; i++) {
        CALL(mq_receive(reader, text, 16, &priority));
        printf("%s %u\n", text, priority);
    }
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec = (soon.tv_nsec + 2000000) % 1000000000;
    YES(mq_timedreceive(reader, text, 16, &priority, &soon));
    struct sigaction act = {.sa_sigaction = on_message, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &act, NULL);
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 40};
    YES(mq_notify(q, &e));
    YES(mq_notify(q, &e));
    YES(mq_send(q, "tell", 5, 0));
    printf("told %d\n", told);
    YES(mq_receive(q, text, 16, NULL));
    if (!fork()) {
        usleep(1000);
        mq_send(q, "from a child", 13, 3);
        _exit(0);
    }
    CALL(mq_receive(reader, text, 16, &priority));
    printf("%s %u\n", text, priority);
    wait(NULL);
    now.mq_flags = 0;
    CALL(mq_setattr(q, &now, &a));
    printf("%ld\n", a.mq_flags & O_NONBLOCK);
    CALL(mq_unlink(name));
    YES(mq_unlink(name));
    CALL(mq_close(q));
    YES(mq_send(q, "x", 1, 0));
    return 0;
}
