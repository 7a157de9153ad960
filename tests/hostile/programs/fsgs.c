/* FS and GS: a selector of user code makes the base 0, others fault. Static, since a thread pointer of 0 is nobody's. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>

enum { SET_GS = 0x1001, SET_FS, GET_FS, GET_GS };

static long prctl(long code, unsigned long argument) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_arch_prctl), "D"(code), "S"(argument) : "rcx", "r11", "memory");
    return result;
}

__attribute__((optimize("no-stack-protector"))) static unsigned long load(unsigned short selector, int gs) {
    static unsigned long old, base;
    prctl(GET_FS, (unsigned long)&old);
    prctl(SET_GS, 0x1234567000);
    if (gs) __asm__ volatile("mov %0, %%gs" ::"r"(selector));
    else __asm__ volatile("mov %0, %%fs" ::"r"(selector));
    prctl(gs ? GET_GS : GET_FS, (unsigned long)&base);
    prctl(SET_FS, old);
    return base;
}

static sigjmp_buf back;

static void fault(int signo, siginfo_t *info, void *context) { siglongjmp(back, info->si_code); }

int main(void) {
    static const unsigned short selectors[] = {0, 1, 3, 0x20, 0x23, 0x2b, 0x33, 0x28, 0x10, 0x7b, 0x53, 4, 0x2f, 0xfffb};
    sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_NODEFER}, NULL);
    for (int gs = 0; gs < 2; gs++)
        for (unsigned i = 0; i < sizeof selectors / sizeof *selectors; i++) {
            int code = sigsetjmp(back, 1);
            if (code) printf("%s %#x: fault %#x\n", gs ? "gs" : "fs", selectors[i], code);
            else printf("%s %#x: base %#lx\n", gs ? "gs" : "fs", selectors[i], load(selectors[i], gs));
            fflush(stdout);
        }
    return 0;
}
