// An HTTP load client for pixel servers: keep-alive connections on one epoll loop, closed loop (every connection always has
// a request under way) or open loop (requests arrive at a constant or Poisson rate, whether or not the server keeps up).
// In an open loop latency runs from the *intended* start, also while a request waits for a free connection, so a stall is
// not hidden by the requests that it prevents (coordinated omission). Prints one line of name=value pairs.
//
//   loadgen --address HOST:PORT --tokens FILE --connections N --seconds S [--warmup S] [--rate R] [--poisson]
//          [--reconnect]
#include "bench/histogram.h"

#include "common/check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WAITING_MAX (1u << 20)
#define REQUEST_MAX 512

struct link {
    int fd;
    uint64_t intended_ns; // of the request under way
    size_t got;           // bytes of its answer
    size_t expected;      // 0 until the head is in
    char head[1024];
};

struct load {
    struct sockaddr_in address;
    int epoll;
    struct link *links;
    unsigned *idle;
    unsigned n_links, n_idle;
    char (*requests)[REQUEST_MAX];
    size_t n_requests, next_request;
    uint64_t *waiting; // ring of intended starts
    size_t waiting_head, waiting_tail;
    double rate;
    bool poisson;
    bool reconnect; // a new connection for every request
    uint64_t next_ns, measure_ns, end_ns;
    uint64_t random;
    struct histogram histogram;
    uint64_t done, errors;
};

static uint64_t now_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// xorshift64*: good enough for arrival times.
static double uniform(struct load *load) {
    load->random ^= load->random >> 12;
    load->random ^= load->random << 25;
    load->random ^= load->random >> 27;
    return (double)((load->random * 2685821657736338717u) >> 11) / 9007199254740992.0;
}

static void link_open(struct load *load, unsigned index) {
    struct link *link = &load->links[index];
    int one = 1;
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(link->fd >= 0);
    if (connect(link->fd, (struct sockaddr *)&load->address, sizeof load->address) != 0) {
        perror("loadgen: connect");
        exit(1);
    }
    CHECK(setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    CHECK(fcntl(link->fd, F_SETFL, O_NONBLOCK) == 0);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    CHECK(epoll_ctl(load->epoll, EPOLL_CTL_ADD, link->fd, &event) == 0);
    link->got = link->expected = 0;
    load->idle[load->n_idle++] = index;
}

static void link_send(struct load *load, unsigned index, uint64_t intended_ns) {
    struct link *link = &load->links[index];
    const char *request = load->requests[load->next_request++ % load->n_requests];
    size_t len = strlen(request);
    link->intended_ns = intended_ns;
    link->got = link->expected = 0;
    if (send(link->fd, request, len, MSG_NOSIGNAL) != (ssize_t)len)
        load->errors++;
}

static void link_broken(struct load *load, unsigned index) {
    load->errors++;
    close(load->links[index].fd);
    link_open(load, index);
}

// The length of the whole answer once its head is in, else 0.
static size_t answer_length(const char *head, size_t len) {
    const char *end = memmem(head, len, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    const char *field = memmem(head, (size_t)(end - head), "Content-Length: ", 16);
    size_t body = field == NULL ? 0 : (size_t)strtoul(field + 16, NULL, 10);
    return (size_t)(end - head) + 4 + body;
}

static void link_read(struct load *load, unsigned index) {
    struct link *link = &load->links[index];
    ssize_t n = recv(link->fd, link->head + link->got, sizeof link->head - link->got, 0);
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        link_broken(load, index);
        return;
    }
    link->got += (size_t)n;
    if (link->expected == 0)
        link->expected = answer_length(link->head, link->got);
    if (link->expected == 0 || link->got < link->expected)
        return;
    uint64_t now = now_ns();
    bool good = link->got == link->expected && memcmp(link->head + 9, "200", 3) == 0;
    if (link->intended_ns >= load->measure_ns) {
        histogram_add(&load->histogram, now - link->intended_ns);
        if (good)
            load->done++;
        else
            load->errors++;
    }
    if (load->reconnect) {
        close(link->fd);
        link_open(load, index);
    } else {
        load->idle[load->n_idle++] = index;
    }
}

static void arrivals(struct load *load, uint64_t now) {
    if (load->rate <= 0) {
        while (load->n_idle > 0)
            link_send(load, load->idle[--load->n_idle], now);
        return;
    }
    while (load->next_ns <= now && load->waiting_head - load->waiting_tail < WAITING_MAX) {
        load->waiting[load->waiting_head++ % WAITING_MAX] = load->next_ns;
        double gap = 1e9 / load->rate * (load->poisson ? -log(1.0 - uniform(load)) : 1.0);
        load->next_ns += (uint64_t)gap;
    }
    while (load->n_idle > 0 && load->waiting_tail < load->waiting_head)
        link_send(load, load->idle[--load->n_idle], load->waiting[load->waiting_tail++ % WAITING_MAX]);
}

static void run(struct load *load, double warmup_s, double seconds) {
    struct epoll_event events[256];
    uint64_t start = now_ns();
    load->next_ns = start;
    load->measure_ns = start + (uint64_t)(warmup_s * 1e9);
    load->end_ns = load->measure_ns + (uint64_t)(seconds * 1e9);
    for (;;) {
        uint64_t now = now_ns();
        if (now >= load->end_ns)
            return;
        arrivals(load, now);
        // An open loop spins: this client has a core of its own, and a sleep would be late for the next arrival.
        int n = epoll_wait(load->epoll, events, 256, load->rate > 0 ? 0 : 100);
        for (int i = 0; i < n; i++)
            link_read(load, events[i].data.u32);
    }
}

static void read_tokens(struct load *load, const char *path, const char *host) {
    char line[256];
    size_t room = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (load->n_requests == room) {
            room = room == 0 ? 1024 : room * 2;
            load->requests = realloc(load->requests, room * sizeof *load->requests);
            CHECK(load->requests != NULL);
        }
        int n = snprintf(load->requests[load->n_requests++], REQUEST_MAX,
                         "GET /p/%s.gif HTTP/1.1\r\nHost: %s\r\n"
                         "User-Agent: Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com "
                         "GoogleImageProxy)\r\nAccept: image/avif,image/webp,*/*\r\nAccept-Encoding: gzip, deflate\r\n%s\r\n",
                         line, host, load->reconnect ? "Connection: close\r\n" : "");
        CHECK(n > 0 && n < REQUEST_MAX);
    }
    fclose(file);
    CHECK(load->n_requests > 0);
}

static void print_result(const struct load *load, double seconds) {
    const struct histogram *h = &load->histogram;
    printf("requests=%llu errors=%llu rate=%.0f p50_ms=%.4f p90_ms=%.4f p99_ms=%.4f p999_ms=%.4f max_ms=%.4f\n",
           (unsigned long long)load->done, (unsigned long long)load->errors, (double)load->done / seconds,
           (double)histogram_quantile(h, 0.5) / 1e6, (double)histogram_quantile(h, 0.9) / 1e6,
           (double)histogram_quantile(h, 0.99) / 1e6, (double)histogram_quantile(h, 0.999) / 1e6,
           (double)h->largest_ns / 1e6);
}

int main(int argc, char **argv) {
    static struct load load;
    static const struct option options[] = {
        {"address", 1, NULL, 'a'}, {"tokens", 1, NULL, 't'}, {"connections", 1, NULL, 'c'}, {"seconds", 1, NULL, 's'},
        {"warmup", 1, NULL, 'w'},  {"rate", 1, NULL, 'r'},   {"poisson", 0, NULL, 'p'},     {"reconnect", 0, NULL, 'n'},
        {NULL, 0, NULL, 0}};
    const char *address = NULL, *tokens = NULL;
    double seconds = 5, warmup_s = 1;
    load.n_links = 1;
    load.random = 88172645463325252u;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'a') address = optarg;
        else if (c == 't') tokens = optarg;
        else if (c == 'c') load.n_links = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 's') seconds = strtod(optarg, NULL);
        else if (c == 'w') warmup_s = strtod(optarg, NULL);
        else if (c == 'r') load.rate = strtod(optarg, NULL);
        else if (c == 'p') load.poisson = true;
        else if (c == 'n') load.reconnect = true;
        else return 64;
    }
    const char *colon = address == NULL ? NULL : strrchr(address, ':');
    if (colon == NULL || tokens == NULL || load.n_links == 0) {
        fprintf(stderr, "usage: loadgen --address HOST:PORT --tokens FILE --connections N --seconds S [--rate R]\n");
        return 64;
    }
    char host[64];
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    load.address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    CHECK(inet_pton(AF_INET, host, &load.address.sin_addr) == 1);
    read_tokens(&load, tokens, address);
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    load.links = calloc(load.n_links, sizeof *load.links);
    load.idle = calloc(load.n_links, sizeof *load.idle);
    load.waiting = calloc(WAITING_MAX, sizeof *load.waiting);
    CHECK(load.epoll >= 0 && load.links != NULL && load.idle != NULL && load.waiting != NULL);
    for (unsigned i = 0; i < load.n_links; i++)
        link_open(&load, i);
    run(&load, warmup_s, seconds);
    print_result(&load, seconds);
    return 0;
}
