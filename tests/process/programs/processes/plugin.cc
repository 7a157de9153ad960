// A library whose constructors and destructors fork, and execute programs.
#include "program.h"
struct T {
    ~T() {
        P("thread_local gone in %s\n", getpid() == gettid() ? "main" : "thread");
        pid_t p = fork();
        if (!p) {
            P("fork in thread_local destructor\n");
            _exit(1);
        }
        P("%s\n", ws(wst(p)));
    }
    int v = 3;
};
static thread_local T t;
struct G {
    G() {
        pid_t p = fork();
        if (!p) {
            P("fork in constructor of plugin\n");
            _exit(1);
        }
        P("%s\n", ws(wst(p)));
        p = vfork();
        if (!p) {
            execl("/bin/echo", "echo", "exec in constructor", (char *)0);
            _exit(1);
        }
        P("%s\n", ws(wst(p)));
        P("system %s\n", ws(system("exit 2")));
    }
    ~G() {
        pid_t p = fork();
        if (!p) {
            P("fork in destructor of plugin\n");
            _exit(1);
        }
        P("%s\n", ws(wst(p)));
    }
};
static G g;
extern "C" int get() {
    return t.v++;
}
