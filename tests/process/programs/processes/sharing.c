// What processes share: locks in shared memory, files, POSIX and System V objects; advice about fork.
#include "program.h"
struct S {
    pthread_mutex_t m, rm;
    pthread_cond_t c;
    pthread_barrier_t b;
    pthread_rwlock_t rw;
    sem_t s;
    pthread_spinlock_t sp;
    int n, turn;
    char buf[100];
};
static void *mapped(int fd, size_t n) {
    return mmap(0, n, PROT_READ | PROT_WRITE, fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
}
static void *thr(void *x) {
    return 0;
}
int main(void) {
    struct S *s = mapped(-1, sizeof *s);
    pthread_mutexattr_t ma;
    pthread_mutexattr_init(&ma);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&s->m, &ma);
    pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->rm, &ma);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&s->c, &ca);
    pthread_barrierattr_t ba;
    pthread_barrierattr_init(&ba);
    pthread_barrierattr_setpshared(&ba, 1);
    pthread_barrier_init(&s->b, &ba, 4);
    pthread_rwlockattr_t ra;
    pthread_rwlockattr_init(&ra);
    pthread_rwlockattr_setpshared(&ra, 1);
    pthread_rwlock_init(&s->rw, &ra);
    sem_init(&s->s, 1, 0);
    pthread_spin_init(&s->sp, 1);
    pid_t p[4];
    for (int i = 0; i < 4; i++)
        p[i] = CHILD(for (int k = 0; k < 100; k++) {
            pthread_mutex_lock(&s->m);
            s->n++;
            if (k % 10 == 0)
                sched_yield();
            pthread_mutex_unlock(&s->m);
        });
    for (int i = 0; i < 4; i++)
        wst(p[i]);
    P("mutex %d\n", s->n);
    for (int i = 0; i < 3; i++)
        p[i] = CHILD(for (int k = 0; k < 5; k++) {
            pthread_mutex_lock(&s->m);
            while (s->turn % 3 != i)
                pthread_cond_wait(&s->c, &s->m);
            s->buf[s->turn++] = 'a' + i;
            pthread_cond_broadcast(&s->c);
            pthread_mutex_unlock(&s->m);
        });
    for (int i = 0; i < 3; i++)
        wst(p[i]);
    P("cond %s\n", s->buf);
    s->n = 0;
    for (int i = 0; i < 4; i++)
        p[i] = CHILD(if (pthread_barrier_wait(&s->b) == PTHREAD_BARRIER_SERIAL_THREAD)
                         __sync_fetch_and_add(&s->n, 1));
    for (int i = 0; i < 4; i++)
        wst(p[i]);
    P("barrier serial %d\n", s->n);
    s->n = 0;
    for (int i = 0; i < 4; i++)
        p[i] = CHILD(for (int k = 0; k < 20; k++) {
            if (i % 2) {
                pthread_rwlock_wrlock(&s->rw);
                s->n++;
            } else
                pthread_rwlock_rdlock(&s->rw);
            pthread_rwlock_unlock(&s->rw);
        });
    for (int i = 0; i < 4; i++)
        wst(p[i]);
    P("rwlock %d\n", s->n);
    p[0] = CHILD(for (int k = 0; k < 3; k++) sem_wait(&s->s));
    for (int k = 0; k < 3; k++)
        sem_post(&s->s);
    P("sem %s\n", ws(wst(p[0])));
    s->n = 0;
    for (int i = 0; i < 3; i++)
        p[i] = CHILD(for (int k = 0; k < 50; k++) {
            pthread_spin_lock(&s->sp);
            s->n++;
            pthread_spin_unlock(&s->sp);
        });
    for (int i = 0; i < 3; i++)
        wst(p[i]);
    P("spin %d\n", s->n);
    p[0] = CHILD(pthread_mutex_lock(&s->rm));
    wst(p[0]);
    int r = pthread_mutex_lock(&s->rm);
    P("robust %s\n", strerrorname_np(r));
    pthread_mutex_consistent(&s->rm);
    P("unlock %d\n", pthread_mutex_unlock(&s->rm));
    p[0] = CHILD(pthread_mutex_lock(&s->rm); kill(getpid(), 9));
    wst(p[0]);
    P("robust killed %s\n", strerrorname_np(pthread_mutex_lock(&s->rm)));
    P("unlock %d\n", pthread_mutex_unlock(&s->rm));
    P("notrec %s\n", strerrorname_np(pthread_mutex_lock(&s->rm)));
    pthread_mutex_init(&s->rm, &ma);
    p[0] = CHILD(pthread_mutex_lock(&s->rm); execl("/bin/true", "true", (char *)0));
    wst(p[0]);
    P("robust exec %s\n", strerrorname_np(pthread_mutex_lock(&s->rm)));
    pthread_mutex_init(&s->rm, &ma);
    int pp[2];
    pipe(pp);
    char b;
    p[0] = CHILD(pthread_mutex_lock(&s->rm); write(pp[1], "x", 1); usleep(3000); _exit(0));
    read(pp[0], &b, 1);
    P("waiter %s\n", strerrorname_np(pthread_mutex_lock(&s->rm)));
    wst(p[0]);
    // file, private vs shared
    char n[] = "/tmp/p16mXXXXXX";
    int f = mkstemp(n);
    ftruncate(f, 4096);
    char *sh = mapped(f, 4096);
    char *pr = mmap(0, 4096, 3, MAP_PRIVATE, f, 0);
    p[0] = CHILD(strcpy(sh, "shared"); strcpy(pr + 100, "private"));
    wst(p[0]);
    char rd[10] = {0};
    pread(f, rd, 6, 0);
    P("%s|%s|%s\n", sh, rd, pr + 100);
    pwrite(f, "WRITTEN", 7, 0);
    P("map sees %s\n", sh);
    unlink(n);
    int mf = memfd_create("m", 0);
    ftruncate(mf, 8192);
    char *mm = mapped(mf, 8192);
    p[0] = CHILD(char *x = mapped(mf, 8192); strcpy(x + 4096, "by child"));
    wst(p[0]);
    P("memfd %s\n", mm + 4096);
    int sf = shm_open("/p16shm", O_CREAT | O_RDWR | O_EXCL, 0600);
    ftruncate(sf, 100);
    char *sm = mapped(sf, 100);
    p[0] = CHILD(int x = shm_open("/p16shm", O_RDWR, 0); char *y = mapped(x, 100); strcpy(y, "posix shm"));
    wst(p[0]);
    P("%s %s\n", sm, en(shm_unlink("/p16shm")));
    sem_t *ns = sem_open("/p16sem", O_CREAT | O_EXCL, 0600, 0);
    p[0] = CHILD(sem_t *x = sem_open("/p16sem", 0); usleep(500); sem_post(x));
    P("named sem %s\n", en(sem_wait(ns)));
    wst(p[0]);
    sem_unlink("/p16sem");
    // sysv
    int id = shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0600);
    char *at = shmat(id, 0, 0);
    p[0] = CHILD(strcpy(at, "sysv"); char *x = shmat(id, 0, SHM_RDONLY); P("ro %s\n", x));
    wst(p[0]);
    struct shmid_ds ds;
    shmctl(id, IPC_STAT, &ds);
    P("%s nattch %ld\n", at, (long)ds.shm_nattch);
    shmctl(id, IPC_RMID, 0);
    P("still %s\n", at);
    shmdt(at);
    P("gone %s\n", en((long)shmat(id, 0, 0) == -1 ? -1 : 0));
    int sem = semget(IPC_PRIVATE, 2, 0600 | IPC_CREAT);
    p[0] = CHILD(struct sembuf o = {0, -1, 0}; P("semop %s\n", en(semop(sem, &o, 1))));
    usleep(500);
    struct sembuf o = {0, 1, 0};
    semop(sem, &o, 1);
    wst(p[0]);
    p[0] = CHILD(struct sembuf u = {1, 5, SEM_UNDO}; semop(sem, &u, 1);
                 P("in child %d\n", semctl(sem, 1, GETVAL)));
    wst(p[0]);
    P("undone %d\n", semctl(sem, 1, GETVAL));
    p[0] = CHILD(struct sembuf w = {0, -9, 0}; P("rmid %s\n", en(semop(sem, &w, 1))));
    while (semctl(sem, 0, GETNCNT) != 1)
        usleep(100);
    semctl(sem, 0, IPC_RMID);
    wst(p[0]);
    int q = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
    struct {
        long t;
        char x[20];
    } m = {2, "two"};
    p[0] = CHILD(msgsnd(q, &m, 4, 0); m.t = 1; strcpy(m.x, "one"); msgsnd(q, &m, 4, 0));
    wst(p[0]);
    msgrcv(q, &m, 20, 1, 0);
    P("msg %s\n", m.x);
    msgrcv(q, &m, 20, 0, 0);
    P("msg %s\n", m.x);
    P("nomsg %s\n", en(msgrcv(q, &m, 20, 0, IPC_NOWAIT)));
    msgctl(q, IPC_RMID, 0);
    struct mq_attr mqa = {.mq_maxmsg = 4, .mq_msgsize = 20};
    mqd_t d = mq_open("/p16mq", O_CREAT | O_RDWR | O_EXCL, 0600, &mqa);
    p[0] = CHILD(mq_send(d, "low", 4, 1); mq_send(d, "high", 5, 9));
    wst(p[0]);
    char mb[20];
    unsigned pri;
    mq_receive(d, mb, 20, &pri);
    P("mq %s %u\n", mb, pri);
    p[0] = CHILD(usleep(500); mq_send(d, "late", 5, 0));
    mq_receive(d, mb, 20, &pri);
    P("mq %s\n", mb);
    mq_receive(d, mb, 20, &pri);
    P("mq %s\n", mb);
    wst(p[0]);
    mq_unlink("/p16mq");
    // MADV_DONTFORK, WIPEONFORK
    char *w = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(w, "wipe");
    P("madv %s\n", en(madvise(w, 4096, 18)));
    strcpy(w + 4096, "gone");
    P("dontfork %s\n", en(madvise(w + 4096, 4096, MADV_DONTFORK)));
    p[0] = CHILD(P("in child '%s'\n", w); *(volatile char *)(w + 4096));
    P("%s\n", ws(wst(p[0])));
    P("parent %s %s\n", w, w + 4096);
    return 0;
}
