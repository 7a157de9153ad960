/* What /proc/net says of a program's own sockets, and rtnetlink of the loopback interface's routes. */
#define _GNU_SOURCE
#include "report.h"
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static int first_port;

static void look(const char *what, const char *table, int fd)
{
    struct stat st;
    char line[512], inode[32], own[8];
    fstat(fd, &st);
    snprintf(inode, sizeof inode, " %lu ", (unsigned long)st.st_ino);
    FILE *file = fopen(table, "r");
    fgets(line, sizeof line, file);
    while (fgets(line, sizeof line, file)) {
        if (!strstr(line, inode))
            continue;
        unsigned local, remote, lport, rport, state, sent, arrived;
        sscanf(line, "%*s %8X:%4X %8X:%4X %2X %8X:%8X", &local, &lport, &remote, &rport, &state, &sent, &arrived);
        printf("%s: %08X:%s %08X:%s state %02X, %u arrived\n", what, local, lport ? "port" : "none", remote, rport ? "port" : "none", state, arrived);
        fclose(file);
        return;
    }
    fclose(file);
    printf("%s: not there\n", what);
}

static void look_unix(const char *what, int fd)
{
    struct stat st;
    char line[512], inode[32];
    fstat(fd, &st);
    snprintf(inode, sizeof inode, " %lu", (unsigned long)st.st_ino);
    FILE *file = fopen("/proc/net/unix", "r");
    while (fgets(line, sizeof line, file)) {
        unsigned count, protocol, flags, kind, state;
        unsigned long number;
        char path[128] = "";
        if (sscanf(line, "%*s %X %X %X %X %X %lu %100s", &count, &protocol, &flags, &kind, &state, &number, path) < 6 || number != st.st_ino)
            continue;
        printf("%s: count %u flags %X kind %u state %u path '%s'\n", what, count, flags, kind, state, path);
    }
    fclose(file);
}

static void routes(int family)
{
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    struct {
        struct nlmsghdr head;
        struct rtmsg body;
    } ask = {{sizeof ask, RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, 1}, {.rtm_family = family}};
    CALL(send(s, &ask, sizeof ask, 0) == sizeof ask);
    static char raw[65536];
    for (int done = 0; !done;) {
        int size = recv(s, raw, sizeof raw, 0);
        for (struct nlmsghdr *h = (void *)raw; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
            if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
                done = 1;
                break;
            }
            struct rtmsg *r = NLMSG_DATA(h);
            int left = RTM_PAYLOAD(h);
            unsigned target = 0;
            for (struct rtattr *a = RTM_RTA(r); RTA_OK(a, left); a = RTA_NEXT(a, left))
                if (a->rta_type == RTA_DST)
                    target = ntohl(*(unsigned *)RTA_DATA(a));
            if (target >> 24 == 127)
                printf("route %08x/%d table %d scope %d type %d protocol %d\n", target, r->rtm_dst_len, r->rtm_table, r->rtm_scope, r->rtm_type, r->rtm_protocol);
        }
    }
    close(s);
}

int main(void)
{
    struct sockaddr_in here = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CALL(bind(listener, (void *)&here, sizeof here));
    CALL(listen(listener, 5));
    getsockname(listener, (void *)&here, &size);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CALL(connect(client, (void *)&here, sizeof here));
    look("listener", "/proc/net/tcp", listener);
    int server = accept(listener, NULL, NULL);
    write(client, "hello", 5);
    usleep(10000);
    look("listener", "/proc/net/tcp", listener);
    look("client", "/proc/net/tcp", client);
    look("server", "/proc/net/tcp", server);
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    look("udp", "/proc/net/udp", udp);
    here.sin_port = 0;
    CALL(bind(udp, (void *)&here, sizeof here));
    look("udp", "/proc/net/udp", udp);
    struct sockaddr_un name = {AF_UNIX, "\0emu-nettables"};
    int named = socket(AF_UNIX, SOCK_STREAM, 0), pair[2];
    look_unix("unix", named);
    CALL(bind(named, (void *)&name, sizeof(sa_family_t) + 14));
    CALL(listen(named, 1));
    look_unix("named", named);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    look_unix("pair", pair[0]);
    routes(AF_INET);
    routes(AF_UNSPEC);
    return 0;
}
