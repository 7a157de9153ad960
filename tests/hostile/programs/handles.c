/* Handles of a closed library, and handles that are none. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *closed(void) {
    void *handle = dlopen("./libtls.so", RTLD_NOW);
    dlclose(handle);
    return handle;
}

/* The name in front of the message is what malloc left of it: only the words count. */
static void words(void *result) {
    const char *text = dlerror();
    printf("%d %s\n", result != NULL, text ? strstr(text, "undefined") : "no error");
}

static void of_closed(void) {
    words(dlsym(closed(), "f"));
    words(dlvsym(closed(), "f", "V1"));
    void *handle = closed(), *data = &data;
    Dl_serinfo size, *info;
    int first = dlinfo(handle, RTLD_DI_SERINFOSIZE, &size);
    info = calloc(1, size.dls_size);
    int second = dlinfo(handle, RTLD_DI_SERINFOSIZE, info);
    printf("%d %d %d\n", first, second, dlinfo(handle, RTLD_DI_SERINFO, info));
    printf("%d", dlinfo(closed(), RTLD_DI_TLS_DATA, &data));
    printf(" %p\n", data);
    printf("%d\n", dlclose(closed()));
}

int main(int argc, char **argv) {
    const char *what = argv[1];
    char nothing[4096] = "";
    if (!strcmp(what, "closed")) of_closed();
    if (!strcmp(what, "dlsym-nothing")) dlsym(nothing, "f");
    if (!strcmp(what, "dlsym-unmapped")) dlsym((void *)0x1234, "f");
    if (!strcmp(what, "dlclose-unmapped")) dlclose((void *)0x1234);
    if (!strcmp(what, "dlopen-unmapped")) dlopen((char *)8, RTLD_NOW);
    if (!strcmp(what, "dlclose-no-stack"))
        __asm__ volatile("xor %%esp, %%esp; jmp *%0" ::"r"(dlsym(RTLD_DEFAULT, "dlclose")));
    return 0;
}
