/* Terabytes are reserved, and bytes of them used; addresses far away from everything else can be mapped. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#define TIB (1UL << 40)
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
static const int quiet = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
static void use(const char *what, unsigned long at, unsigned long size, int prot) {
    char *map = mmap((void *)at, size, prot, quiet | MAP_FIXED_NOREPLACE, -1, 0);
    printf("%s: %s", what, map == (void *)at ? "there" : "not there");
    if (map == (void *)at && prot & PROT_WRITE) {
        map[0] = 1;
        map[size - 1] = 2;
        map[size / 2] = 3;
        printf(" %d %d %d %d", map[0], map[size - 1], map[size / 2], map[size / 3]);
        madvise(map, size, MADV_DONTNEED);
        printf(" %d %d", map[0], map[size / 2]);
    }
    putchar('\n');
    if (map == (void *)at && munmap(map, size)) printf("munmap: %d\n", errno);
}
int main(void) {
    use("a shadow", 0x7fff8000, 14 * TIB, PROT_READ | PROT_WRITE);
    use("a heap", 0x600000000000, 4 * TIB + 8192, PROT_READ | PROT_WRITE);
    use("no access", 0x200000000000, 16 * TIB, PROT_NONE);
    use("another shadow", 0x10000000000, 31 * TIB, PROT_READ | PROT_WRITE);
    use("around programs", 0x510000000000, 3 * TIB, PROT_READ | PROT_WRITE);
    char *big = mmap(0, 8 * TIB, PROT_NONE, quiet, -1, 0);
    CALL(big == MAP_FAILED ? -1 : 0);
    CALL(mprotect(big + 3 * TIB, 8192, PROT_READ | PROT_WRITE));
    big[3 * TIB + 5000] = 7;
    printf("%d\n", big[3 * TIB + 5000]);
    CALL(mprotect(big, 8 * TIB, PROT_READ));
    printf("%d %d\n", big[3 * TIB + 5000], big[7 * TIB]);
    CALL(mprotect(big + TIB, TIB, PROT_READ | PROT_WRITE));
    CALL(read(open("/dev/zero", 0), big + TIB + 4000, 10000));
    CALL(munmap(big + 2 * TIB, TIB));
    CALL(mincore(big + 2 * TIB, 4096, (void *)big));
    char *moved = mremap(big + 3 * TIB, 16384, 32768, MREMAP_MAYMOVE);
    printf("%d\n", moved[5000]);
    CALL(munmap(big, 8 * TIB));
    return 0;
}
