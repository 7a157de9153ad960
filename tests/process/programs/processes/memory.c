// The memory of a child is its own, and what it maps anew is zero.
#include "program.h"
int main(void) {
    char *p = mmap(0, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 'x', 1 << 20);
    pid_t c = CHILD(
        P("%c", p[5000]); madvise(p, 8192, MADV_DONTNEED); P(" %d", p[5000]); munmap(p + 8192, 8192);
        char *q = mmap(p + 8192, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); P(" %d", q[100]);
        P(" %c\n", p[20000]); p[20000] = 'c'; pid_t d = CHILD(P("%c %c\n", p[20000], p[30000])); wst(d));
    wst(c);
    madvise(p, 8192, MADV_DONTNEED);
    P("%d %c %c\n", p[5000], p[9000], p[20000]);
    char *h = malloc(100000);
    memset(h, 7, 100000);
    c = CHILD(free(h); char *z = calloc(1, 300000); int bad = 0;
              for (int i = 0; i < 300000; i++) bad += !!z[i]; P("calloc bad %d\n", bad); int n = 0;
              for (char *t = sbrk(0), *u = sbrk(-4096); n == 0 && u != (void *)-1;) {
                  char *v = sbrk(4096);
                  for (int i = 0; i < 4096; i++)
                      n += !!v[i];
                  P("brk dirty %d\n", n);
                  break;
              });
    wst(c);
    return 0;
}
