/* DS and ES take the selectors that Linux has for user code, and no others. */
#include <stdio.h>

static void load(unsigned short selector) {
    unsigned short ds, es;
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(selector));
    register unsigned short high __asm__("r9") = selector;
    __asm__ volatile("mov %0, %%ds" ::"r"(high));
    __asm__ volatile("mov %%ds, %0; mov %%es, %1" : "=r"(ds), "=r"(es));
    printf("%#x: %#x %#x\n", selector, ds, es);
    fflush(stdout);
}

int main(void) {
    load(0x2b);
    load(0x33);
    load(0x23);
    load(0);
    load(0x10);
    return 0;
}
