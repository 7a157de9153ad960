/* Prints what a call gave: its result, or the name of its error. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static inline void report(const char *what, long result) {
    if (result < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, result);
    fflush(stdout);
}
#define CALL(expression) (errno = 0, report(#expression, (long)(expression)))
#define ZERO(expression) (errno = 0, report(#expression, (expression) < 0 ? -1 : 0))
