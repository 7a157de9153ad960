// fork and exec where libraries are loaded and unloaded.
#include "program.h"
int main(int c, char **v) { // fork under dlopen, after dlclose, exec under dlopen
    void *h = dlopen("./plugin.so", RTLD_NOW);
    P("open %d %s\n", h != 0, h ? "" : dlerror());
    int (*get)(void) = dlsym(h, "get");
    P("get %d\n", get());
    pid_t p =
        CHILD(P("child get %d\n", get()); P("close %d\n", dlclose(h));
              void *g = dlopen("./plugin.so", RTLD_NOW); P("again %d\n", ((int (*)(void))dlsym(g, "get"))());
              void *k = dlopen("./other.so", RTLD_NOW); P("other %d\n", k != 0));
    P("%s\n", ws(wst(p)));
    P("parent not affected %d %d\n", get(), dlopen("./other.so", RTLD_NOLOAD | RTLD_NOW) != 0);
    p = CHILD(exit(3));
    P("%s\n", ws(wst(p)));
    P("closing\n");
    dlclose(h);
    P("closed\n");
    return 0;
}
