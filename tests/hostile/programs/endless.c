/* Linking never ends: an IFUNC's resolver does not return. */
static int one(int x) { return x; }
static int (*resolve(void))(int) {
    for (;;);
    return one;
}
int f(int) __attribute__((ifunc("resolve")));
int main(void) { return f(0); }
