/* Reservations with a hint far away, of which a part is given back and the rest made accessible, as V8 does. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

static void reserve(unsigned long hint)
{
    char *at = mmap((void *) hint, 520192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int given = munmap(at + 0x40000, 258048);
    int opened = mprotect(at, 0x40000, PROT_READ | PROT_WRITE);
    printf("%d %d %d\n", at != MAP_FAILED, given, opened ? errno : 0);
    if (!opened)
        at[0x3ffff] = 1;
}

int main(void)
{
    for (unsigned long hint = 0x4000000000; hint < 0x7f0000000000; hint += 0x3bd15780000)
        reserve(hint);
    return 0;
}
