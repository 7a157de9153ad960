// Code that changes under the CPU, and pages whose rights change all the time: every store, fetch and fault is seen at once.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int faults;

static void handler(int signo, siginfo_t *info, void *context) {
    faults++;
    siglongjmp(back, 1);
}

static int call(void *code) { return ((int (*)(void))code)(); }

static void put(unsigned char *code, int value) {
    unsigned char text[] = {0xB8, value, 0, 0, 0, 0xC3};
    memcpy(code, text, sizeof text);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    unsigned char *both = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long sum = 0;
    for (int i = 0; i < 100; i++) put(both, i), sum += call(both);
    printf("written and run: %ld\n", sum);
    unsigned char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sum = 0;
    for (int i = 0; i < 40; i++) {
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
        put(page, i);
        if (!sigsetjmp(back, 1)) call(page), puts("ran without the right to");
        mprotect(page, 4096, PROT_READ | PROT_EXEC);
        sum += call(page);
        if (!sigsetjmp(back, 1)) page[1] = 99, puts("written without the right to");
    }
    printf("W^X: %ld, %d faults\n", sum, faults);
    faults = 0;
    for (int i = 0; i < 40; i++) {
        mprotect(page, 4096, PROT_NONE);
        if (!sigsetjmp(back, 1)) printf("read %d\n", page[0]);
        mprotect(page, 4096, PROT_READ);
        sum += page[0];
        if (!sigsetjmp(back, 1)) page[0] = 1, puts("written");
    }
    printf("rights: %ld, %d faults\n", sum, faults);
    int fd = memfd_create("code", 0);
    ftruncate(fd, 8192);
    unsigned char *writer = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *runner = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    sum = 0;
    for (int i = 0; i < 100; i++) put(writer, i), sum += call(runner);
    printf("through an alias: %ld\n", sum);
    faults = 0;
    for (int i = 0; i < 20; i++) {
        unsigned char *gone = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        gone[5000] = 1;
        unsigned char *moved = mremap(gone, 16384, 65536, MREMAP_MAYMOVE);
        sum += moved[5000];
        munmap(moved, 8192);
        if (!sigsetjmp(back, 1)) moved[5000] = 2, puts("written where nothing is");
        moved[9000] = 3;
        munmap(moved, 65536);
    }
    printf("mappings: %ld, %d faults\n", sum, faults);
    unsigned char *file = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    faults = 0;
    if (!sigsetjmp(back, 1)) file[9000] = 1, puts("written past the end");
    printf("past the end: %d faults\n", faults);
    unsigned char *many = mmap(0, 1 << 28, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long at = 0; at < 1 << 28; at += 1 << 20) many[at] = 1;
    for (long at = 0; at < 1 << 28; at += 1 << 20) sum += many[at];
    printf("far apart: %ld\n", sum);
    return 0;
}
