/* What names cost that a program gives: to links with long targets, to files, to listings; and names that come and go. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char text[4096], name[256];

static const char *named(long number)
{
    memset(name, 'n', 240);
    sprintf(name + 240, "%ld", number);
    return name;
}

static int file(const char *path)
{
    int descriptor = open(path, O_CREAT | O_RDWR, 0600);
    return descriptor < 0 ? -1 : close(descriptor);
}

static int come_and_go(void)
{
    return file("a") || rename("a", "b") || link("b", "c") || unlink("b") || unlink("c") || symlink(text, "l") || unlink("l")
        || mkdir("d", 0700) || rmdir("d");
}

static int listed(long number)
{
    if (number < 4000) return file(named(number));
    DIR *folder = opendir(".");
    return !folder || !readdir(folder);
}

int main(int argc, char **argv)
{
    int failed = 0;
    long number = 0;
    memset(text, 't', sizeof text - 1);
    if (mkdir("/tmp/names", 0700) || chdir("/tmp/names")) return 1;
    for (; !failed && number < 12000; number++)
        switch (argv[1][0]) {
        case 'l': failed = symlink(text, named(number)); break;
        case 'f': failed = file(named(number)); break;
        case 'd': failed = mkdir(named(number), 0700); break;
        case 'r': failed = listed(number); break;
        case 'c': failed = come_and_go(); break;
        }
    printf("%s\n", failed ? strerrorname_np(errno) : "no end");
    return 0;
}
