// posix_spawn with each attribute and file action, and each way to fail.
#include "program.h"
static pid_t sp(const char *what, posix_spawn_file_actions_t *fa, posix_spawnattr_t *at, char **argv,
                char **env, int path) {
    pid_t p = -1;
    fflush(stdout);
    int r = (path ? posix_spawnp : posix_spawn)(&p, argv[0], fa, at, argv, env ? env : environ);
    int st = r ? 0 : wst(p);
    P("%s: %s %s\n", what, r ? strerrorname_np(r) : "ok", r ? "" : ws(st));
    return p;
}
#define A(...) ((char *[]){__VA_ARGS__, NULL})
int main(int c, char **v) {
    if (c > 1) { // report child
        sigset_t m;
        sigprocmask(0, 0, &m);
        struct sigaction s;
        sigaction(SIGUSR1, 0, &s);
        struct sigaction s2;
        sigaction(SIGUSR2, 0, &s2);
        P("[mask %d%d usr1 %s usr2 %s pgleader %d sidleader %d sched %d nice %d fds", sigismember(&m, SIGHUP),
          sigismember(&m, SIGTERM), s.sa_handler == SIG_IGN ? "ign" : "dfl",
          s2.sa_handler == SIG_IGN ? "ign" : "dfl", getpgrp() == getpid(), getsid(0) == getpid(),
          sched_getscheduler(0), getpriority(PRIO_PROCESS, 0));
        for (int i = 0; i < 20; i++)
            if (fcntl(i, F_GETFD) >= 0)
                P(" %d", i);
        P("] ");
        return 7;
    }
    signal(SIGPIPE, SIG_DFL);
    char *self = "/proc/self/exe";
    char me[200];
    for (int i = 3; i < 30; i++)
        close(i);
    int n = readlink(self, me, 199);
    me[n] = 0;
    posix_spawnattr_t at;
    posix_spawn_file_actions_t fa;
    sigset_t m;
    sp("plain", 0, 0, A(me, "x"), 0, 0);
    signal(SIGUSR1, SIG_IGN);
    sigemptyset(&m);
    sigaddset(&m, SIGHUP);
    sigprocmask(SIG_BLOCK, &m, 0);
    sp("inherit", 0, 0, A(me, "x"), 0, 0);
    posix_spawnattr_init(&at);
    sigemptyset(&m);
    sigaddset(&m, SIGTERM);
    posix_spawnattr_setsigmask(&at, &m);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
    sp("mask", 0, &at, A(me, "x"), 0, 0);
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    posix_spawnattr_setsigdefault(&at, &m);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGDEF);
    sp("sigdef", 0, &at, A(me, "x"), 0, 0);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&at, 0);
    sp("pgroup", 0, &at, A(me, "x"), 0, 0);
    posix_spawnattr_setpgroup(&at, 999999);
    sp("pgroup bad", 0, &at, A(me, "x"), 0, 0);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSID);
    sp("setsid", 0, &at, A(me, "x"), 0, 0);
    struct sched_param spm = {0};
    posix_spawnattr_setschedparam(&at, &spm);
    posix_spawnattr_setschedpolicy(&at, SCHED_BATCH);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSCHEDULER);
    sp("sched", 0, &at, A(me, "x"), 0, 0);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_RESETIDS | POSIX_SPAWN_USEVFORK);
    sp("resetids", 0, &at, A(me, "x"), 0, 0);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 5, "/etc/passwd", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, 5, 9);
    posix_spawn_file_actions_addclose(&fa, 5);
    sp("open dup2 close", &fa, 0, A(me, "x"), 0, 0);
    int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, fd, fd);
    sp("dup2 self clears cloexec", &fa, 0, A(me, "x"), 0, 0);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addclosefrom_np(&fa, 3);
    sp("closefrom", &fa, 0, A(me, "x"), 0, 0);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 4, "/nonexistent", O_RDONLY, 0);
    sp("open bad", &fa, 0, A(me, "x"), 0, 0);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addclose(&fa, 77);
    sp("close bad", &fa, 0, A(me, "x"), 0, 0);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, 77, 1);
    sp("dup2 bad", &fa, 0, A(me, "x"), 0, 0);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addchdir_np(&fa, "/usr");
    sp("chdir", &fa, 0, A("/bin/pwd"), 0, 0);
    int d = open("/etc", O_RDONLY | O_DIRECTORY);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addfchdir_np(&fa, d);
    sp("fchdir", &fa, 0, A("/bin/pwd"), 0, 0);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addtcsetpgrp_np(&fa, 0);
    sp("tcsetpgrp", &fa, 0, A("/bin/true"), 0, 0);
    sp("enoent", 0, 0, A("/nonexistent"), 0, 0);
    sp("eacces", 0, 0, A("/etc/passwd"), 0, 0);
    sp("eisdir", 0, 0, A("/etc"), 0, 0);
    sp("path", 0, 0, A("echo", "from path"), 0, 1);
    sp("path none", 0, 0, A("no_such_prog_y"), 0, 1);
    sp("env", 0, 0, A("/usr/bin/env"), A("A=1", "B=2"), 0);
    int f = open("/tmp/p16-script", O_CREAT | O_TRUNC | O_WRONLY, 0755);
    write(f, "echo no shebang $0 $1\n", 22);
    close(f);
    sp("enoexec", 0, 0, A("/tmp/p16-script", "arg"), 0, 0);
    sp("enoexec p", 0, 0, A("/tmp/p16-script", "arg"), 0, 1);
    unlink("/tmp/p16-script");
    return 0;
}
