/* Pseudo-terminals: modes, editing, echo, signals, window size, hang-up. */
#define _GNU_SOURCE
#include "report.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
static void show(const char *what, int fd) {
    char text[200];
    usleep(2000);
    struct pollfd p = {fd, POLLIN, 0};
    if (poll(&p, 1, 0) <= 0) {
        printf("%s: nothing\n", what);
        return;
    }
    int n = read(fd, text, sizeof text);
    printf("%s: %d", what, n < 0 ? -errno : n);
    for (int i = 0; i < n; i++) printf(" %02x", (unsigned char)text[i]);
    putchar('\n');
}
static void type(int fd, const char *text) { write(fd, text, strlen(text)); }
static volatile int hung;
static void on_hangup(int signo) { hung = signo; }
int main(void) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    printf("%d %d\n", master >= 0, isatty(master));
    printf("locked: %d\n", open(ptsname(master), O_RDWR | O_NOCTTY) < 0 ? errno : 0);
    CALL(grantpt(master));
    CALL(unlockpt(master));
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    printf("%d %d %d\n", slave >= 0, isatty(slave), !strcmp(ttyname(slave), ptsname(master)));
    struct termios t;
    CALL(tcgetattr(slave, &t));
    printf("%x %x %x %x %x %x\n", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, t.c_cc[VINTR], t.c_cc[VEOF]);
    type(master, "hel");
    show("no line", slave);
    type(master, "l\177lo\r");
    show("line", slave);
    show("echo", master);
    type(master, "wrong\025right\n\004");
    show("line", slave);
    show("end", slave);
    show("echo", master);
    CALL(write(slave, "a\nb", 3));
    show("shown", master);
    t.c_lflag &= ~(ICANON | ECHO);
    t.c_iflag &= ~ICRNL;
    t.c_oflag &= ~OPOST;
    CALL(tcsetattr(slave, TCSANOW, &t));
    type(master, "x\r\004");
    show("raw", slave);
    show("no echo", master);
    CALL(write(slave, "a\nb", 3));
    show("shown", master);
    struct winsize w = {24, 80, 0, 0}, got = {0};
    CALL(ioctl(master, TIOCSWINSZ, &w));
    CALL(ioctl(slave, TIOCGWINSZ, &got));
    printf("%d %d\n", got.ws_row, got.ws_col);
    int waiting = 0;
    type(master, "four");
    usleep(2000);
    CALL(ioctl(slave, FIONREAD, &waiting));
    printf("%d\n", waiting);
    CALL(tcflush(slave, TCIFLUSH));
    show("flushed", slave);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        setsid();
        int own = open(ptsname(master), O_RDWR);
        close(master);
        close(slave);
        struct termios o;
        tcgetattr(own, &o);
        o.c_lflag |= ICANON | ISIG | ECHO;
        tcsetattr(own, TCSANOW, &o);
        write(own, "ready", 5);
        pause();
        _exit(0);
    }
    char ready[8];
    read(master, ready, 5);
    type(master, "\003");
    int status;
    waitpid(child, &status, 0);
    printf("child: signal %d\n", WTERMSIG(status));
    show("echo", master);
    close(slave);
    usleep(2000);
    struct pollfd p = {master, POLLIN, 0};
    poll(&p, 1, 0);
    char byte;
    printf("hung up: %d", !!(p.revents & POLLHUP));
    printf(" %d %d\n", (int)read(master, &byte, 1), errno);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    close(master);
    usleep(2000);
    printf("%d ", (int)read(slave, &byte, 1));
    printf("%d ", (int)write(slave, "x", 1));
    printf("%d\n", errno);
    return 0;
}
