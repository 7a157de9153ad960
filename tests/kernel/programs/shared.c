/* A file that is mapped shared, and used through descriptors all the while: there is one place for its bytes. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
static void at(int fd, long offset) {
    char text[9] = {0};
    ssize_t n = pread(fd, text, 8, offset);
    printf("[%zd] %s", n, n > 0 ? text : "");
    for (int i = 0; i < 8; i++) printf(" %02x", (unsigned char)text[i]);
    putchar('\n');
}
int main(void) {
    int fd = open("db", O_RDWR | O_CREAT | O_TRUNC, 0600), other = open("db", O_RDWR), seen = open("db", O_RDONLY);
    CALL(ftruncate(fd, 3 * 4096 + 100));
    char *map = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *again = mmap(0, 4096, PROT_READ, MAP_SHARED, seen, 4096);
    char *private = mmap(0, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, other, 0);
    strcpy(map + 4096, "stored");
    at(other, 4096);
    printf("%s %s\n", again, private + 4096);
    private[4096] = 'P';
    CALL(pwrite(other, "written", 7, 4096));
    printf("%s %s %s\n", map + 4096, again, private + 4096);
    CALL(lseek(seen, 4096, SEEK_SET));
    char text[8] = {0};
    CALL(read(seen, text, 7));
    puts(text);
    map[3 * 4096 + 150] = 'x';
    at(fd, 3 * 4096 + 96);
    CALL(ftruncate(other, 3 * 4096 + 200));
    at(fd, 3 * 4096 + 146);
    CALL(ftruncate(other, 5000));
    printf("%02x %s\n", map[5000], map + 4096);
    CALL(ftruncate(other, 20000));
    printf("%02x %02x\n", map[5000], map[3 * 4096]);
    strcpy(map + 2 * 4096, "after");
    at(seen, 2 * 4096);
    CALL(msync(map, 4 * 4096, MS_SYNC));
    CALL(msync(map, 4096, MS_ASYNC));
    CALL(fsync(fd));
    CALL(fdatasync(other));
    struct stat st;
    fstat(seen, &st);
    printf("size %ld\n", (long)st.st_size);
    CALL(munmap(map, 4 * 4096));
    at(seen, 2 * 4096);
    map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, other, 8192);
    close(fd);
    close(other);
    unlink("db");
    strcpy(map, "nameless");
    at(seen, 8192);
    printf("%s\n", again);
    int big = open("big", O_RDWR | O_CREAT, 0600);
    CALL(ftruncate(big, 1L << 36) ? -1 : 0);
    char *far = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, big, 1L << 35);
    strcpy(far, "far");
    at(big, 1L << 35);
    printf("data %lx hole %lx end %lx\n", (long)lseek(big, 0, SEEK_DATA), (long)lseek(big, 1L << 35, SEEK_HOLE), (long)lseek(big, 0, SEEK_END));
    CALL(fallocate(big, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1L << 35, 4096));
    printf("%02x\n", far[0]);
    unlink("big");
    return 0;
}
