// Asks an edge for pixels of several kinds, in random order on the same connections, and looks whether the time until the
// answer tells the kinds apart: `timing_driver PORT REQUESTS KINDS N CONNECTIONS fresh|kept SEED`. REQUESTS holds records
// of kind 1, length 2, bytes; N requests of each kind are sent, in turn of the kind's. fresh: a connection for each.
//
// The kinds are dealt at random, so if they make no difference every other deal was as likely to give these times. The
// statistic is the largest scaled Kolmogorov-Smirnov distance between one kind and all others, over all kinds; its bound
// is the largest of DEALS other deals, so that the chance of an alarm without a cause is 1 / (DEALS + 1) for all kinds
// together. `shifted` is the statistic after `shift_us` was added to the times of kind 0, which has to be seen: so small a
// part of the quartiles' distance as N requests can show. Prints one line of JSON.
#include "common/bytes.h"
#include "common/check.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KINDS_MAX 16
#define CONNECTIONS_MAX 64
#define ANSWER_MAX 1024
#define DEALS 999

struct request {
    const uint8_t *bytes;
    size_t len;
};
struct pool {
    size_t n, next;
    struct request *requests;
};
struct sample {
    uint32_t ns;
    uint8_t kind;
};
struct link {
    int fd;
    uint8_t kind;
    uint64_t sent_ns;
    size_t len;
    char answer[ANSWER_MAX];
};

static struct pool pools[KINDS_MAX];
static unsigned n_kinds;
static size_t n_each, n_all, n_dealt, n_samples;
static uint8_t *deal;
static struct sample *samples;
static struct link links[CONNECTIONS_MAX];
static bool fresh;
static uint16_t port;
static int epoll;
static uint64_t random_state;
static char first_answer[ANSWER_MAX];
static size_t n_other_answers;

static uint64_t random_next(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void shuffle(uint8_t *kinds, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)((random_next() >> 32) * i >> 32);
        uint8_t kind = kinds[k];
        kinds[k] = kinds[i - 1];
        kinds[i - 1] = kind;
    }
}

static uint64_t now_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// ---- requests and answers -------------------------------------------------------------------------------------------

static void requests_read(const char *path) {
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
    size_t size = (size_t)ftell(file);
    uint8_t *data = malloc(size);
    rewind(file);
    CHECK(data != NULL && fread(data, 1, size, file) == size && fclose(file) == 0);
    for (size_t at = 0; at < size;) {
        struct pool *pool = &pools[data[at]];
        size_t len = load_u16(data + at + 1);
        CHECK(data[at] < n_kinds && at + 3 + len <= size);
        pool->requests = realloc(pool->requests, (pool->n + 1) * sizeof *pool->requests);
        CHECK(pool->requests != NULL);
        pool->requests[pool->n++] = (struct request){data + at + 3, len};
        at += 3 + len;
    }
}

static void link_connect(struct link *link) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int on = 1;
    link->fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(link->fd >= 0 && connect(link->fd, (struct sockaddr *)&to, sizeof to) == 0);
    CHECK(setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = link}};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, link->fd, &event) == 0);
}

static void link_ask(struct link *link) {
    link->kind = deal[n_dealt++];
    link->len = 0;
    struct pool *pool = &pools[link->kind];
    const struct request *request = &pool->requests[pool->next++ % pool->n];
    link->sent_ns = now_ns();
    CHECK(send(link->fd, request->bytes, request->len, MSG_NOSIGNAL) == (ssize_t)request->len);
}

// Everything but the clock's part of an answer: digits are one and the same.
static void answer_compare(const struct link *link) {
    char text[ANSWER_MAX];
    for (size_t i = 0; i <= link->len; i++)
        text[i] = link->answer[i] >= '0' && link->answer[i] <= '9' ? '0' : link->answer[i];
    if (first_answer[0] == '\0')
        memcpy(first_answer, text, sizeof text);
    n_other_answers += memcmp(text, first_answer, link->len + 1) != 0;
}

static bool answer_whole(struct link *link) {
    ssize_t n = recv(link->fd, link->answer + link->len, ANSWER_MAX - 1 - link->len, 0);
    CHECK(n > 0);
    link->len += (size_t)n;
    link->answer[link->len] = '\0';
    const char *end = strstr(link->answer, "\r\n\r\n"), *length = strstr(link->answer, "Content-Length: ");
    if (end == NULL)
        return false;
    CHECK(length != NULL && length < end);
    return link->len >= (size_t)(end + 4 - link->answer) + strtoul(length + 16, NULL, 10);
}

static void link_answered(struct link *link) {
    uint64_t took_ns = now_ns() - link->sent_ns;
    samples[n_samples++] = (struct sample){took_ns < UINT32_MAX ? (uint32_t)took_ns : UINT32_MAX, link->kind};
    if (fresh) {
        CHECK(close(link->fd) == 0);
        if (n_dealt < n_all)
            link_connect(link);
    } else {
        answer_compare(link);
    }
    if (n_dealt < n_all)
        link_ask(link);
}

static void measure(size_t n_links) {
    for (size_t i = 0; i < n_links; i++) {
        link_connect(&links[i]);
        link_ask(&links[i]);
    }
    while (n_samples < n_all) {
        struct epoll_event events[CONNECTIONS_MAX];
        int n = epoll_wait(epoll, events, CONNECTIONS_MAX, 30000);
        CHECK(n > 0);
        for (int i = 0; i < n; i++) {
            struct link *link = events[i].data.ptr;
            if (answer_whole(link))
                link_answered(link);
        }
    }
}

// ---- the test -------------------------------------------------------------------------------------------------------

static int by_time(const void *a, const void *b) {
    const struct sample *left = a, *right = b;
    return left->ns < right->ns ? -1 : left->ns > right->ns;
}

// `kinds` in the order of times; only where the time changes is a distance one. Of one kind against all others the
// distance is that against everything, times n / (n - n_each).
static double statistic(const uint8_t *kinds) {
    int64_t seen[KINDS_MAX] = {0}, most = 0;
    for (size_t i = 0; i < n_all; i++) {
        seen[kinds[i]]++;
        if (i + 1 < n_all && samples[i].ns == samples[i + 1].ns)
            continue;
        for (unsigned kind = 0; kind < n_kinds; kind++) {
            int64_t apart = llabs(seen[kind] * (int64_t)n_kinds - (int64_t)(i + 1));
            most = apart > most ? apart : most;
        }
    }
    double n = (double)n_each, others = (double)(n_all - n_each), distance = (double)most / (double)n_all;
    return distance * (double)n_all / others * sqrt(n * others / (n + others));
}

static double statistic_of_samples(uint8_t *kinds) {
    qsort(samples, n_all, sizeof *samples, by_time);
    for (size_t i = 0; i < n_all; i++)
        kinds[i] = samples[i].kind;
    return statistic(kinds);
}

static uint32_t quantile_of(unsigned kind, double part) {
    size_t wanted = (size_t)(part * (double)(n_each - 1)), at = 0;
    for (size_t i = 0; i < n_all; i++)
        if (samples[i].kind == kind && at++ == wanted)
            return samples[i].ns;
    CHECK(false);
    return 0;
}

int main(int argc, char **argv) {
    CHECK(argc == 8);
    port = (uint16_t)strtoul(argv[1], NULL, 10);
    n_kinds = (unsigned)strtoul(argv[3], NULL, 10);
    n_each = strtoul(argv[4], NULL, 10);
    size_t n_links = strtoul(argv[5], NULL, 10);
    fresh = strcmp(argv[6], "fresh") == 0;
    random_state = strtoul(argv[7], NULL, 10);
    n_all = n_kinds * n_each;
    CHECK(n_kinds >= 2 && n_kinds <= KINDS_MAX && n_links >= 1 && n_links <= CONNECTIONS_MAX && n_links <= n_each);
    requests_read(argv[2]);
    deal = malloc(n_all);
    samples = malloc(n_all * sizeof *samples);
    epoll = epoll_create1(0);
    CHECK(deal != NULL && samples != NULL && epoll >= 0);
    for (size_t i = 0; i < n_all; i++)
        deal[i] = (uint8_t)(i % n_kinds);
    shuffle(deal, n_all);
    measure(n_links);
    double observed = statistic_of_samples(deal), bound = 0;
    uint32_t quarter = samples[n_all / 4].ns, middle = samples[n_all / 2].ns, three = samples[n_all / 4 * 3].ns;
    printf("{\"other_answers\":%zu,\"median_us\":%.2f,\"quartiles_us\":%.2f,\"medians_us\":[", n_other_answers,
           middle / 1e3, (three - quarter) / 1e3);
    for (unsigned kind = 0; kind < n_kinds; kind++)
        printf("%s%.2f", kind == 0 ? "" : ",", quantile_of(kind, 0.5) / 1e3);
    for (int i = 0; i < DEALS; i++) {
        shuffle(deal, n_all);
        double other = statistic(deal);
        bound = other > bound ? other : bound;
    }
    uint32_t shift_ns = (uint32_t)(12.0 * (three - quarter) / sqrt((double)n_each)); // about 6 in the statistic
    for (size_t i = 0; i < n_all; i++)
        if (samples[i].kind == 0)
            samples[i].ns += shift_ns;
    printf("],\"observed\":%.3f,\"bound\":%.3f,\"shift_us\":%.2f,\"shifted\":%.3f}\n", observed, bound, shift_ns / 1e3,
           statistic_of_samples(deal));
    return 0;
}
