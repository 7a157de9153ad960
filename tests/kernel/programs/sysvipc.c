/* System V IPC: shared memory, semaphores and message queues, within a process and between two. */
#define _GNU_SOURCE
#include "report.h"
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>
#include <time.h>
#define YES(call) printf("%s: %s\n", #call, (long)(call) == -1 ? strerror(errno) : "yes")
struct message { long kind; char text[64]; };
static void memory(void) {
    int id = shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0600);
    YES(id);
    YES(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600));
    YES(shmget(0x1234567, 100, 0600));
    int named = shmget(0x1234567, 100, IPC_CREAT | IPC_EXCL | 0600);
    YES(named);
    printf("found %d\n", shmget(0x1234567, 50, 0) == named);
    YES(shmget(0x1234567, 200, 0));
    YES(shmget(0x1234567, 100, IPC_CREAT | IPC_EXCL));
    char *a = shmat(id, NULL, 0), *b = shmat(id, NULL, SHM_RDONLY);
    strcpy(a + 4500, "shared");
    puts(b + 4500);
    struct shmid_ds d;
    CALL(shmctl(id, IPC_STAT, &d));
    printf("%ld %ld %o %d %d\n", (long)d.shm_segsz, (long)d.shm_nattch, d.shm_perm.mode, d.shm_cpid == getpid(), d.shm_lpid == getpid());
    YES(shmat(id, a + 1, 0));
    YES(shmat(id, a, 0));
    YES(shmat(9999999, NULL, 0));
    if (!fork()) {
        strcpy(a, "from the child");
        shmctl(id, IPC_STAT, &d);
        _exit(d.shm_nattch);
    }
    int status;
    wait(&status);
    printf("%d %s\n", WEXITSTATUS(status), b);
    CALL(shmctl(id, IPC_RMID, NULL));
    CALL(shmctl(id, IPC_STAT, &d));
    printf("%o %ld\n", d.shm_perm.mode, (long)d.shm_nattch);
    CALL(shmdt(b));
    YES(shmdt(b));
    YES(shmdt(a + 4096));
    puts(a);
    CALL(shmdt(a));
    YES(shmctl(id, IPC_STAT, &d));
    YES(shmat(id, NULL, 0));
    CALL(shmctl(named, IPC_RMID, NULL));
}
static void semaphores(void) {
    union { int val; struct semid_ds *buf; unsigned short *array; } u;
    int id = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600);
    YES(id);
    YES(semget(IPC_PRIVATE, 0, IPC_CREAT | 0600));
    YES(semget(IPC_PRIVATE, 40000, IPC_CREAT | 0600));
    unsigned short values[3] = {1, 2, 3};
    u.array = values;
    CALL(semctl(id, 0, SETALL, u));
    CALL(semctl(id, 1, GETVAL));
    struct sembuf two[2] = {{0, -1, 0}, {2, 4, 0}};
    CALL(semop(id, two, 2));
    memset(values, 0, sizeof values);
    CALL(semctl(id, 0, GETALL, u));
    printf("%d %d %d\n", values[0], values[1], values[2]);
    struct sembuf take = {0, -1, IPC_NOWAIT}, far = {3, 1, 0}, zero = {1, 0, IPC_NOWAIT}, high = {2, 32767, 0};
    YES(semop(id, &take, 1));
    YES(semop(id, &far, 1));
    YES(semop(id, &zero, 1));
    YES(semop(id, &high, 1));
    YES(semop(id, &take, 0));
    struct timespec soon = {0, 1000000};
    take.sem_flg = 0;
    YES(semtimedop(id, &take, 1, &soon));
    u.val = 40000;
    YES(semctl(id, 0, SETVAL, u));
    YES(semctl(id, 5, GETVAL));
    if (!fork()) {
        struct sembuf give = {0, 1, 0}, undone = {1, 5, SEM_UNDO};
        semop(id, &undone, 1);
        usleep(1000);
        semop(id, &give, 1);
        _exit(0);
    }
    CALL(semop(id, &take, 1));
    wait(NULL);
    CALL(semctl(id, 1, GETVAL));
    if (!fork()) {
        int failed = semop(id, &take, 1);
        _exit(failed && errno == EIDRM);
    }
    for (int i = 0; i < 5000 && !semctl(id, 0, GETNCNT); i++) usleep(1000);
    CALL(semctl(id, 0, GETNCNT));
    CALL(semctl(id, 0, IPC_RMID));
    int status;
    wait(&status);
    printf("removed: %d\n", WEXITSTATUS(status));
    YES(semctl(id, 0, GETVAL));
}
static void messages(void) {
    int id = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    struct message m = {3, "three"}, got = {0};
    struct msqid_ds d;
    YES(id);
    CALL(msgsnd(id, &m, 6, 0));
    m.kind = 1;
    strcpy(m.text, "one");
    CALL(msgsnd(id, &m, 4, 0));
    m.kind = 2;
    strcpy(m.text, "two");
    CALL(msgsnd(id, &m, 4, 0));
    m.kind = 0;
    YES(msgsnd(id, &m, 4, 0));
    m.kind = 9;
    YES(msgsnd(id, &m, 9000, 0));
    CALL(msgctl(id, IPC_STAT, &d));
    printf("%ld %ld %d\n", (long)d.msg_qnum, (long)d.__msg_cbytes, d.msg_lspid == getpid());
    YES(msgrcv(id, &got, 64, 7, IPC_NOWAIT));
    YES(msgrcv(id, &got, 2, 0, 0));
    CALL(msgrcv(id, &got, 2, 0, MSG_NOERROR));
    printf("%ld %.2s\n", got.kind, got.text);
    CALL(msgrcv(id, &got, 64, -5, 0));
    printf("%ld %s\n", got.kind, got.text);
    CALL(msgrcv(id, &got, 64, 1, MSG_EXCEPT));
    printf("%ld %s\n", got.kind, got.text);
    YES(msgrcv(id, &got, 64, 0, IPC_NOWAIT));
    if (!fork()) {
        usleep(1000);
        m.kind = 5;
        strcpy(m.text, "late");
        msgsnd(id, &m, 5, 0);
        _exit(0);
    }
    CALL(msgrcv(id, &got, 64, 5, 0));
    puts(got.text);
    wait(NULL);
    int sent = 0;
    memset(&m, 'x', sizeof m);
    m.kind = 1;
    while (!msgsnd(id, &m, 64, IPC_NOWAIT)) sent++;
    printf("%d %s\n", sent, strerror(errno));
    CALL(msgctl(id, IPC_RMID, NULL));
    YES(msgrcv(id, &got, 64, 0, IPC_NOWAIT));
}
int main(void) {
    memory();
    semaphores();
    messages();
    return 0;
}
