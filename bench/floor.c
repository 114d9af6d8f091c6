// The floor of what any server can reach here: a bare epoll loop that answers every read that ends a request head with the
// same bytes as the edge, and does nothing else: no parser, no token, no storage. usage: floor PORT
#include "common/check.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer_head[] = "HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: 43\r\n"
                                  "Cache-Control: private, max-age=43200\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\n\r\n";
static const unsigned char gif[43] = {0x47, 0x49, 0x46, 0x38, 0x39, 0x61, 1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff,
                                      0x21, 0xf9, 4, 1, 0, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3b};

static void serve(int epoll, int listener, const char *answer, size_t answer_len) {
    static char buffer[65536];
    struct epoll_event events[256];
    int n = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < n; i++) {
        int fd = events[i].data.fd;
        if (fd == listener) {
            int one = 1, client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (client < 0)
                continue;
            setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            struct epoll_event event = {.events = EPOLLIN, .data.fd = client};
            CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event) == 0);
            continue;
        }
        ssize_t got = read(fd, buffer, sizeof buffer);
        bool whole = got >= 4 && memcmp(buffer + got - 4, "\r\n\r\n", 4) == 0;
        if (got <= 0 || !whole || write(fd, answer, answer_len) != (ssize_t)answer_len)
            close(fd);
    }
}

int main(int argc, char **argv) {
    char answer[sizeof answer_head - 1 + sizeof gif];
    memcpy(answer, answer_head, sizeof answer_head - 1);
    memcpy(answer + sizeof answer_head - 1, gif, sizeof gif);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    CHECK(argc == 2 && listener >= 0 && epoll >= 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 4096) == 0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) == 0);
    for (;;)
        serve(epoll, listener, answer, sizeof answer);
}
