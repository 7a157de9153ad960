/* Maps more files than the host gives descriptors for, each closed after it is mapped; then as many as it may open. Then it dies. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int count = atoi(argv[1]), mapped = 0, opened = 0;
    for (int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "many/%d", i);
        int fd = open(name, O_RDONLY);
        if (fd < 0) break;
        mapped += mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED;
        close(fd);
    }
    while (open("many/0", O_RDONLY) >= 0) opened++;
    printf("%d mapped, then errno %d\n", mapped, errno);
    fflush(stdout);
    *(volatile int *)1 = 0;
    return 0;
}
