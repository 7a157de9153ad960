#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair { int first; double second; };
static __thread int per_thread = 7;
volatile long total;

static int work(int n) {
    long sum = 0;
    for (int i = 0; i < n; i++) {
        sum += i;
        if (i % 4 == 0)
            total += sum;
    }
    return (int)sum;
}

static double halve(struct pair *p) {
    p->second = p->first / 2.0;
    return p->second;
}

int main(int argc, char **argv) {
    struct pair p = {argc + 4, 0};
    char text[16];
    strcpy(text, "debugger");
    per_thread += argc;
    int result = work(10);
    double half = halve(&p);
    printf("%s %d %.2f %d %s\n", text, result, half, per_thread, argc > 1 ? argv[1] : "");
    return 3;
}
