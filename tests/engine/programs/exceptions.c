// What each exception of the CPU becomes: signal, si_code, si_addr, trap number, error code, and where the handler finds RIP.
#define _GNU_SOURCE
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf back;
static uintptr_t from;
static char *page;

static void handler(int signo, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t at = (uintptr_t)info->si_addr;
    const char *what = at == 0 ? "0" : at == (uintptr_t)r[REG_RIP] ? "rip" : at >= (uintptr_t)page && at < (uintptr_t)page + 4 * 4096 ? "page" : "other";
    printf("signal %d code %d addr %s+%lx trap %lld err %llx %s\n", signo, info->si_code, what,
           *what == 'p' ? (long)(at - (uintptr_t)page) : *what == 'o' ? (long)at : 0, r[REG_TRAPNO], r[REG_ERR], from && r[REG_RIP] == (greg_t)from ? "at the target" : "in the program");
    r[REG_EFL] &= ~0x40100LL;
    siglongjmp(back, 1);
}

#define TRY(name, ...) do { printf("%s: ", name); fflush(stdout); \
    if (!sigsetjmp(back, 1)) { from = 0; __VA_ARGS__; puts("nothing"); } } while (0)
#define ASM(text, ...) __asm__ volatile("1: " text : : __VA_ARGS__ : "rax", "rcx", "rdx", "r8", "memory", "cc")

static void x87(unsigned short control, int kind) {
    double zero = 0, one = 1, tiny = 2.2250738585072014e-308, huge = 1e308, three = 3;
    volatile double out;
    __asm__ volatile("fninit; fldcw %0" : : "m"(control));
    if (kind == 0) __asm__ volatile("fldl %0; fdivl %1; 1: fwait" : : "m"(one), "m"(zero));
    if (kind == 1) __asm__ volatile("fldl %0; fdivl %0; 1: fwait" : : "m"(zero));
    if (kind == 2) __asm__ volatile("fldl %1; fmull %1; fstpl %0; 1: fwait" : "=m"(out) : "m"(huge));
    if (kind == 3) __asm__ volatile("fldl %1; fmull %1; fstpl %0; 1: fwait" : "=m"(out) : "m"(tiny));
    if (kind == 4) __asm__ volatile("fldl %0; fdivl %1; 1: fwait" : : "m"(one), "m"(three));
}

static void sse(unsigned mxcsr, double a, double b, int multiply) {
    __asm__ volatile("ldmxcsr %0; movsd %1, %%xmm0; movsd %2, %%xmm1" : : "m"(mxcsr), "m"(a), "m"(b) : "xmm0", "xmm1");
    if (multiply) __asm__ volatile("1: mulsd %%xmm1, %%xmm0" : : : "xmm0");
    else __asm__ volatile("1: divsd %%xmm1, %%xmm0" : : : "xmm0");
}

int main(void) {
    static char other_stack[1 << 16];
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    sigaltstack(&stack, 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    for (unsigned i = 0; i < 5; i++) sigaction(signals[i], &action, 0);
    page = mmap((void *)0x10000000, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    page[0] = page[4096] = 1;
    mprotect(page + 4096, 4096, PROT_READ);
    mprotect(page + 2 * 4096, 4096, PROT_NONE);
    munmap(page + 3 * 4096, 4096);
    TRY("divide by zero", ASM("xor %%ecx, %%ecx; xor %%edx, %%edx; div %%ecx", "m"(page)));
    TRY("int3", ASM("int3", "m"(page)));
    TRY("int $3 in two bytes", ASM(".byte 0xcd, 3", "m"(page)));
    TRY("icebp", ASM(".byte 0xf1", "m"(page)));
    TRY("trap flag", ASM("pushfq; orq $0x100, (%%rsp); popfq; nop; nop", "m"(page)));
    TRY("ud2", ASM("ud2", "m"(page)));
    TRY("undefined", ASM(".byte 0x0f, 0xff, 0xc0", "m"(page)));
    TRY("hlt", ASM("hlt", "m"(page)));
    TRY("in", ASM("in %%dx, %%al", "m"(page)));
    TRY("cli", ASM("cli", "m"(page)));
    TRY("int 0x42", ASM("int $0x42", "m"(page)));
    TRY("int 0x81", ASM("int $0x81", "m"(page)));
    TRY("mov cr0", ASM("mov %%cr0, %%rax", "m"(page)));
    TRY("read of nowhere", ASM("mov %0, %%rax; mov (%%rax), %%cl", "r"(page + 3 * 4096 + 5L)));
    TRY("write to nowhere", ASM("mov %0, %%rax; mov %%cl, (%%rax)", "r"(page + 3 * 4096 + 5L)));
    TRY("write to read-only", ASM("mov %0, %%rax; mov %%cl, (%%rax)", "r"(page + 4096 + 7L)));
    TRY("read of PROT_NONE", ASM("mov %0, %%rax; mov (%%rax), %%cl", "r"(page + 2 * 4096 + 9L)));
    TRY("straddling write", ASM("mov %0, %%rax; mov %%rcx, (%%rax)", "r"(page + 4096 - 3L)));
    TRY("jump to data", from = (uintptr_t)page; ((void (*)(void))page)());
    TRY("jump to nowhere", from = (uintptr_t)page + 3 * 4096; ((void (*)(void))(page + 3 * 4096))());
    TRY("wild read", ASM("mov $0x123456789abcdef0, %%rax; mov (%%rax), %%cl", "m"(page)));
    TRY("wild write", ASM("mov $0x8000000000000000, %%rax; mov %%cl, (%%rax)", "m"(page)));
    TRY("wild stack", ASM("mov %%rsp, %%r8; mov $0x1234567800000000, %%rsp; push %%rax; mov %%r8, %%rsp", "m"(page)));
    TRY("misaligned movaps", ASM("mov %0, %%rax; movaps 1(%%rax), %%xmm0", "r"(page)));
    TRY("x87 zero divide", x87(0x37b, 0));
    TRY("x87 invalid", x87(0x37e, 1));
    TRY("x87 overflow", x87(0x377, 2));
    TRY("x87 underflow", x87(0x36f, 3));
    TRY("x87 inexact", x87(0x35f, 4));
    __asm__ volatile("fninit");
    TRY("sse zero divide", sse(0x1d80, 1, 0, 0));
    TRY("sse invalid", sse(0x1f00, 0, 0, 0));
    TRY("sse overflow", sse(0x1b80, 1e308, 1e308, 1));
    TRY("sse underflow", sse(0x1780, 1e-308, 1e-308, 1));
    TRY("sse inexact", sse(0x0f80, 1, 3, 0));
    TRY("sse denormal", sse(0x1e80, 4.9e-324, 1, 1));
    return 0;
}
