/* libc's list of stacks, bent into a circle that does not come back to its head; it is looked through for static TLS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

int main(void) {
    uint64_t *head = NULL;
    char *global = dlsym(RTLD_DEFAULT, "_rtld_global");
    /* The main thread is on _dl_stack_user: a list with one node, whose both pointers are the head. */
    for (uint64_t *at = (uint64_t *)global; !head; at++) {
        uint64_t *next = (uint64_t *)at[0];
        int elsewhere = at[0] < (uint64_t)global || at[0] > (uint64_t)global + 8192;
        if (at[0] && at[0] == at[1] && elsewhere && next[0] == (uint64_t)at && next[1] == (uint64_t)at)
            head = at;
    }
    uint64_t *first = (uint64_t *)head[0];
    first[0] = (uint64_t)first;
    return dlopen("./libie.so", RTLD_NOW) == NULL;
}
