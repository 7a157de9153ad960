#include "report.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#define P 4096
static sigjmp_buf back;
static siginfo_t last;
static void handler(int signo, siginfo_t *info, void *context) {
    last = *info;
    siglongjmp(back, signo);
}
static char *base;
static void touch(const char *what, volatile char *at, int writing) {
    int signo = sigsetjmp(back, 1);
    if (signo) {
        printf("%s: signal %d code %d at %ld\n", what, signo, last.si_code, (long)((char *)last.si_addr - base));
        return;
    }
    if (writing) *at = 'w';
    printf("%s: %d\n", what, *at);
}
static void map(const char *what, void *got) {
    if (got == MAP_FAILED) printf("%s: %s\n", what, strerrorname_np(errno));
    else printf("%s: mapped %s\n", what, (unsigned long)got % P ? "oddly" : "at a page");
}
int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    base = mmap(NULL, 16 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    touch("fresh", base, 0);
    touch("written", base + P, 1);
    CALL(mprotect(base + P, P, PROT_READ));
    touch("read only", base + P, 0);
    touch("read only", base + P, 1);
    CALL(mprotect(base + P, P, PROT_NONE));
    touch("none", base + P, 0);
    CALL(mprotect(base + P, P, PROT_READ | PROT_WRITE));
    touch("back", base + P, 0);
    CALL(mprotect(base + 1, P, PROT_READ));
    CALL(mprotect(base, 0, PROT_READ));
    CALL(mprotect(base, 1, PROT_READ));
    touch("a page for a byte", base + P - 1, 1);
    CALL(munmap(base + 4 * P, 2 * P));
    touch("unmapped", base + 4 * P, 0);
    touch("after it", base + 6 * P, 1);
    CALL(munmap(base + 4 * P, 2 * P));
    CALL(munmap(base + 1, P));
    CALL(munmap(base, 0));
    CALL(mprotect(base + 3 * P, 3 * P, PROT_READ));
    touch("before the hole", base + 3 * P, 1);
    CALL(madvise(base + 6 * P, P, MADV_DONTNEED));
    touch("not needed", base + 6 * P, 0);
    CALL(madvise(base + 4 * P, P, MADV_DONTNEED));
    CALL(madvise(base + 6 * P, P, 9999));
    CALL(madvise(base + 6 * P + 1, P, MADV_NORMAL));
    map("over what is there", mmap(base + 7 * P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    map("not over what is there", mmap(base + 7 * P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    map("into the hole", mmap(base + 4 * P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    map("length 0", mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    map("neither", mmap(NULL, P, PROT_READ, MAP_ANONYMOUS, -1, 0));
    map("unaligned", mmap(base + 1, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    map("huge", mmap(NULL, 1ul << 50, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    map("no descriptor", mmap(NULL, P, PROT_READ, MAP_PRIVATE, 77, 0));

    int fd = open("file", O_RDWR | O_CREAT, 0600), reader = open("file", O_RDONLY), writer = open("file", O_WRONLY);
    ftruncate(fd, 2 * P + 100);
    pwrite(fd, "start", 5, 0);
    pwrite(fd, "tail", 4, 2 * P + 96);
    map("offset", mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 100));
    map("write only", mmap(NULL, P, PROT_READ, MAP_PRIVATE, writer, 0));
    map("shared, no right to write", mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0));
    map("private, no right to write", mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0));
    base = mmap(NULL, 5 * P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *copy = mmap(NULL, 5 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    touch("shared", base, 0);
    base[1] = 'T';
    printf("%.5s\n", copy);
    copy[2] = 'A';
    base[2] = 'O';
    printf("%.5s %.5s\n", base, copy);
    char text[6] = {0};
    CALL(pread(reader, text, 5, 0));
    puts(text);
    CALL(pwrite(fd, "NEW", 3, 0));
    printf("%.5s %.5s\n", base, copy);
    touch("the rest of the last page", base + 2 * P + 100, 1);
    touch("past the end", base + 3 * P, 0);
    touch("past the end", base + 4 * P, 1);
    CALL(ftruncate(fd, 4 * P));
    touch("grown", base + 3 * P, 0);
    CALL(ftruncate(fd, P));
    touch("shrunk", base + P, 0);
    touch("still there", base, 0);
    CALL(mprotect(base, P, PROT_READ));
    int only = mprotect(mmap(NULL, P, PROT_READ, MAP_SHARED, reader, 0), P, PROT_READ | PROT_WRITE);
    printf("%d %s\n", only, strerrorname_np(errno));
    CALL(msync(base, P, MS_SYNC));
    CALL(msync(base + 1, P, MS_SYNC));
    CALL(msync(base, P, MS_SYNC | MS_ASYNC));
    CALL(close(fd));
    touch("closed", base, 0);

    base = mmap(NULL, 8 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(base, 'a', 8 * P);
    munmap(base + 4 * P, 4 * P);
    char *grown = mremap(base, 2 * P, 3 * P, 0);
    map("no room to grow", grown);
    grown = mremap(base + 3 * P, P, 2 * P, 0);
    printf("grown in place: %d\n", grown == base + 3 * P);
    touch("new part", base + 4 * P, 0);
    grown = mremap(base, 5 * P, 2 * P, 0);
    printf("shrunk in place: %d\n", grown == base);
    touch("cut off", base + 3 * P, 0);
    char *wall = mmap(base + 2 * P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    grown = mremap(base, 2 * P, 64 * P, MREMAP_MAYMOVE);
    printf("moved: %d %d %d\n", grown != base, grown[P], grown[2 * P]);
    touch("left behind", base, 0);
    char *target = mmap(NULL, 8 * P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    base = mremap(grown, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    printf("moved there: %d %d\n", base == target, base[0]);
    touch("writable as it was", base, 1);
    map("onto itself", mremap(target, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED, target + P));
    map("nothing there", mremap((void *)0x10000000, P, 2 * P, MREMAP_MAYMOVE));
    map("unaligned", mremap(target + 1, P, 2 * P, MREMAP_MAYMOVE));
    map("to nothing", mremap(target, P, 0, MREMAP_MAYMOVE));
    map("odd flags", mremap(target, P, P, 64));
    map("fixed without maymove", mremap(target, P, P, MREMAP_FIXED, target + P));
    map("duplicate", mremap(target, 0, P, MREMAP_MAYMOVE));

    char *heap = sbrk(0);
    CALL(sbrk(3 * P) == heap);
    heap[2 * P] = 7;
    CALL(brk(heap));
    base = heap;
    CALL(sbrk(3 * P) == heap);
    touch("heap is fresh again", heap + 2 * P, 0);
    CALL(mlock(target, P) == 0 || errno == ENOMEM || errno == EPERM);
    unsigned char resident[4];
    CALL(mincore(target, P, resident));
    CALL(mincore(target + 1, P, resident));
    CALL(munlock(target, P));
    return 0;
}
