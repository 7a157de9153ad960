#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
int main(void) {
    void *handle = dlopen("./plugin.so", RTLD_NOW);
    int (*ask)(int) = (int (*)(int))dlsym(handle, "ask");
    printf("%d\n", ask(1));
    dlclose(handle);
    void *other = dlmopen(LM_ID_NEWLM, "./plugin.so", RTLD_NOW);
    ask = (int (*)(int))dlsym(other, "ask");
    printf("%d\n", ask(2));
    return 0;
}
