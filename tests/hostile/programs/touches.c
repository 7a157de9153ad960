/* Maps as many GiB as it is told without a thought, touches as many MiB as it is told, and keeps a file of as many. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char block[1 << 20];

int main(int argc, char **argv) {
    size_t gib = atol(argv[1]), touched = atol(argv[2]), kept = atol(argv[3]);
    char *map = mmap(0, gib << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    printf("map: %s\n", map == MAP_FAILED ? strerror(errno) : "ok");
    int file = open("kept", O_CREAT | O_RDWR | O_TRUNC, 0600);
    for (size_t i = 0; i < kept; i++)
        if (write(file, block, sizeof block) < 0) {
            printf("write: %s\n", strerror(errno));
            break;
        }
    fflush(stdout);
    for (size_t i = 0; i < touched << 20; i += 4096) map[i] = 1;
    puts("touched");
    munmap(map, touched << 20);
    void *more = mmap(0, touched << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("again: %s\n", more == MAP_FAILED ? strerror(errno) : "ok");
    void *much = mmap(0, gib << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("much: %s\n", much == MAP_FAILED ? strerror(errno) : "ok");
    unlink("kept");
    return 0;
}
