// MXCSR and x87's status word, as libm and careful programs read them: sticky flags, denormals, DAZ and FTZ, rounding.
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <xmmintrin.h>

static void divide(double a, double b) {
    volatile double x = a, y = b;
    _mm_setcsr(0x1F80);
    volatile double z = x / y;
    printf("%a / %a = %a, flags %02x\n", a, b, z, _mm_getcsr() & 0x3F);
}

static void multiply(unsigned mode, float a, float b) {
    volatile float x = a, y = b;
    _mm_setcsr(0x1F80 | mode);
    volatile float z = x * y;
    unsigned flags = _mm_getcsr() & 0x3F;
    _mm_setcsr(0x1F80);
    printf("mode %04x: %a * %a = %a, flags %02x\n", mode, a, b, z, flags);
}

static void x87(long double a, long double b, int operation) {
    unsigned short status;
    long double r;
    __asm__ volatile("fninit");
    if (operation == 0) __asm__ volatile("fldt %2; fldt %3; faddp; fnstsw %1; fstpt %0" : "=m"(r), "=m"(status) : "m"(a), "m"(b));
    if (operation == 1) __asm__ volatile("fldt %2; fldt %3; fdivrp; fnstsw %1; fstpt %0" : "=m"(r), "=m"(status) : "m"(a), "m"(b));
    if (operation == 2) __asm__ volatile("fldt %3; fldt %2; fprem; fnstsw %1; fstpt %0; fstp %%st(0)" : "=m"(r), "=m"(status) : "m"(a), "m"(b));
    printf("x87 %d %La %La = %La, status %04x\n", operation, a, b, r, status & 0x473F);
}

int main(void) {
    double some[] = {0, 1, 3, -1, 1e308, 1e-308, 4.9e-324, INFINITY, 0.1};
    for (unsigned i = 0; i < sizeof some / sizeof *some; i++)
        for (unsigned j = 0; j < sizeof some / sizeof *some; j++) divide(some[i], some[j]);
    unsigned modes[] = {0, 0x40, 0x8000, 0x8040, 0x2000, 0x4000, 0x6000};
    for (unsigned m = 0; m < 7; m++) multiply(modes[m], 1e-40f, 1.5f), multiply(modes[m], 1.1e-38f, 0.3f), multiply(modes[m], 0.1f, 3.3f);
    for (int operation = 0; operation < 3; operation++) x87(1, 3, operation), x87(5e-4940L, 2, operation), x87(7.5L, 2, operation), x87(1e4000L, 3e-900L, operation);
    feclearexcept(FE_ALL_EXCEPT);
    volatile double x = 2, y = sqrt(x) + exp(x) + log(x) + sin(x);
    printf("libm %a flags %x\n", y, fetestexcept(FE_ALL_EXCEPT));
    return 0;
}
