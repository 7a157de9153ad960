#include "report.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
static sigjmp_buf back;
static void on_fault(int s, siginfo_t *i, void *u) { (void)u; printf("signal %d code %d\n", s, i->si_code); siglongjmp(back, 1); }
#define TRY(statement) do { if (!sigsetjmp(back, 1)) { statement; puts(#statement " fine"); } else puts(#statement " faulted"); } while (0)
#define MAP(...) ({ errno = 0; void *p_ = mmap(__VA_ARGS__); printf("mmap: %s\n", p_ == MAP_FAILED ? strerrorname_np(errno) : "ok"); (volatile char *)p_; })
int main(void) {
    struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &a, NULL); sigaction(SIGBUS, &a, NULL);
    volatile char *p = MAP(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = 1; p[4096] = 2; p[8192] = 3;
    CALL(mprotect((void *)(p + 4096), 4096, PROT_READ));
    TRY(p[4096] = 5); TRY((void)p[4096]);
    CALL(mprotect((void *)(p + 4096), 4096, PROT_NONE));
    TRY((void)p[4096]);
    CALL(mprotect((void *)(p + 1), 4096, PROT_READ));
    CALL(munmap((void *)(p + 4096), 4096));
    TRY((void)p[4096]);
    CALL(mprotect((void *)p, 3 * 4096, PROT_READ));
    CALL(munmap((void *)(p + 1), 4096));
    CALL(munmap((void *)p, 0));
    CALL(madvise((void *)p, 4096, MADV_DONTNEED)); CALL(p[0]);
    CALL(madvise((void *)p, 8192, MADV_DONTNEED));
    CALL(madvise((void *)p, 4096, 12345));
    MAP(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MAP(NULL, 4096, PROT_READ, MAP_ANONYMOUS, -1, 0);
    MAP(NULL, 4096, PROT_READ, MAP_PRIVATE, 99, 0);
    MAP(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 5);
    MAP((void *)p, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    MAP((void *)(p + 1), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    MAP(NULL, (size_t)1 << 62, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CALL(write(fd, "0123456789", 10));
    volatile char *m = MAP(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    printf("%.10s %d\n", (char *)m, m[10]);
    m[0] = 'X'; m[10] = 'Y';
    CALL(msync((void *)m, 4096, MS_SYNC));
    char text[16] = {0};
    CALL(pread(fd, text, 15, 0)); puts(text);
    TRY((void)m[4096]);
    CALL(munmap((void *)m, 8192));
    volatile char *q = MAP(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    q[1] = 'P'; CALL(pread(fd, text, 15, 0)); puts(text);
    int ro = open("file", O_RDONLY);
    MAP(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0);
    MAP(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0);
    int wo = open("file", O_WRONLY);
    MAP(NULL, 4096, PROT_READ, MAP_PRIVATE, wo, 0);
    MAP(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 100);
    volatile char *g = MAP(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g[7] = 9;
    volatile char *h = mremap((void *)g, 4096, 40960, MREMAP_MAYMOVE);
    CALL(h[7]); CALL(h[40000]);
    CALL(mremap((void *)h, 40960, 4096, 0) == (void *)h);
    TRY((void)h[4096]);
    CALL(mremap((void *)h, 4096, 0, 0) == MAP_FAILED);
    CALL((intptr_t)mremap((void *)1, 4096, 4096, 0));
    char *b = sbrk(0);
    CALL(sbrk(10000) == b); b[9999] = 1; CALL(sbrk(-10000) == b + 10000); CALL(sbrk(0) == b);
    unsigned char v[2];
    CALL(mincore((void *)h, 4096, v)); CALL(mincore((void *)(h + 1), 4096, v));
    CALL(mlock((void *)h, 4096)); CALL(munlock((void *)h, 4096));
    volatile char *low = MAP(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CALL((uintptr_t)low < 0x80000000);
    int mem = memfd_create("name", MFD_ALLOW_SEALING);
    CALL(ftruncate(mem, 4096)); CALL(fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK)); CALL(fcntl(mem, F_GET_SEALS));
    CALL(ftruncate(mem, 0)); CALL(ftruncate(mem, 8192));
    volatile char *s1 = MAP(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0), *s2 = MAP(NULL, 4096, PROT_READ, MAP_SHARED, mem, 0);
    s1[3] = 'q'; CALL(s2[3]); CALL(pread(mem, text, 4, 0)); CALL(text[3]);
    return 0;
}
