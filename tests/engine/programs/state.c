// The vector state: in a signal's frame, changed there by a handler, in handlers that use vectors themselves, and across threads that are switched.
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static int wide;

static void show(const char *name, const unsigned char *bytes, int count) {
    printf("%s:", name);
    for (int i = 0; i < count; i += 8) printf(" %016lx", *(const uint64_t *)(bytes + i));
    puts("");
}

__attribute__((target("avx2"))) static void spoil(void) {
    __asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0; vmovdqa %%ymm0, %%ymm3; vmovdqa %%ymm0, %%ymm15" : : : "memory");
}

static void handler(int signo, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    unsigned char *fp = (unsigned char *)uc->uc_mcontext.fpregs;
    uint32_t magic, extended, size;
    uint64_t states, present;
    memcpy(&magic, fp + 464, 4), memcpy(&extended, fp + 468, 4), memcpy(&states, fp + 472, 8), memcpy(&size, fp + 480, 4);
    memcpy(&present, fp + 512, 8);
    uint32_t end;
    memcpy(&end, fp + size, 4);
    printf("flags %lx magic %x size %d extended-size %d avx %d end %x aligned %d\n", uc->uc_flags, magic, size >= 832, (int)(extended - size), (int)(states >> 2 & 1), end,
           (int)((uintptr_t)fp & 63));
    printf("present has x87, sse, avx: %d\n", (present & 7) == 7);
    show("xmm3 in the frame", fp + 160 + 3 * 16, 16);
    show("upper ymm3 in the frame", fp + 576 + 3 * 16, 16);
    fp[160 + 3 * 16] = 0xEE;
    fp[576 + 3 * 16] = 0xDD;
    spoil();
}

__attribute__((target("avx2"))) static void signalled(void) {
    unsigned char in[32], out[32], other[32];
    for (int i = 0; i < 32; i++) in[i] = (unsigned char)(i * 7 + 1);
    __asm__ volatile(
        "vmovdqu %2, %%ymm3; vmovdqu %2, %%ymm15; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $62, %%eax; mov $10, %%esi; syscall; vmovdqu %%ymm3, %0; vmovdqu %%ymm15, %1"
        : "=m"(out), "=m"(other) : "m"(in) : "rax", "rcx", "rdi", "rsi", "r11", "memory", "xmm3", "xmm15");
    show("ymm3 afterwards", out, 32);
    show("ymm15 afterwards", other, 32);
}

__attribute__((target("avx512f"))) static void signalled_wide(void) {
    unsigned char in[64], out[64];
    unsigned long mask = 0x5A5A, after = 0;
    for (int i = 0; i < 64; i++) in[i] = (unsigned char)(i * 5 + 3);
    __asm__ volatile(
        "vmovdqu64 %2, %%zmm21; kmovw %k3, %%k5; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $62, %%eax; mov $12, %%esi; syscall; vmovdqu64 %%zmm21, %0; kmovw %%k5, %k1"
        : "=m"(out), "=r"(after) : "m"(in), "r"(mask) : "rax", "rcx", "rdi", "rsi", "r11", "memory");
    show("zmm21 afterwards", out, 64);
    printf("k5 afterwards %lx\n", after & 0xFFFF);
}

static void wide_handler(int signo) {
    __asm__ volatile("vpternlogd $255, %%zmm21, %%zmm21, %%zmm21; kxnorw %%k5, %%k5, %%k5" : : : "memory");
}

__attribute__((target("avx2"))) static void *thread(void *argument) {
    long number = (long)argument, wrong = 0;
    __m256i value = _mm256_set1_epi32((int)number * 0x01010101);
    for (int i = 0; i < 200; i++) {
        __m256i kept = value;
        __asm__ volatile("" : "+x"(kept));
        __asm__ volatile("mov $24, %%eax; syscall" : "+x"(kept) : : "rax", "rcx", "r11", "memory");
        int same = _mm256_movemask_epi8(_mm256_cmpeq_epi32(kept, value));
        wrong += same != -1;
    }
    return (void *)wrong;
}

int main(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) { puts("no AVX2"); return 0; }
    wide = __builtin_cpu_supports("avx512f") != 0;
    printf("minimal stack is enough for the frame: %d\n", getauxval(AT_MINSIGSTKSZ) >= 832 + 608);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, 0);
    signalled();
    if (wide) {
        signal(SIGUSR2, wide_handler);
        signalled_wide();
    }
    pthread_t threads[4];
    for (long i = 0; i < 4; i++) pthread_create(&threads[i], 0, thread, (void *)(i + 1));
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        printf("thread %d: %ld wrong\n", i, (long)wrong);
    }
    return 0;
}
