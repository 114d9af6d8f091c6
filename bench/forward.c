// The way from a commit group to Kafka, at ten times what one core answers: a spool and a forwarder as openveil-ingest has
// them, fed with made-up events in groups as a loaded edge makes them. Prints the events and the CPU seconds of all
// threads but the feeding one and the commit thread (that is: packer, forwarder, client library) from the first event to
// the last acknowledgement.  usage: forward CONFIG EVENTS TENANTS
#include "common/check.h"
#include "ingest/forwarder.h"

#include <dirent.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GROUP_EVENTS = 100, STREAMS = 4, PROVIDERS = 6, SENT_DAYS = 3, WARM_UP = 200000 };
#define GROUP_PERIOD_NS 100000 // a million events a second: the packer keeps up, as it must

struct feed {
    struct spool *spool;
    struct spool_port *port;
    struct forwarder *forwarder;
    sem_t durable;
    uint64_t random;
    uint32_t tenants;
    uint32_t today;
};

static void on_durable(void *arg) {
    struct feed *feed = arg;
    CHECK(sem_post(&feed->durable) == 0);
}

static void on_failed(void *arg) {
    struct feed *feed = arg;
    struct err err;
    CHECK(forwarder_failed(feed->forwarder, &err));
    fprintf(stderr, "forward: %s\n", err.text);
    exit(1);
}

static void on_sealed(void *arg, uint64_t segment) {
    struct feed *feed = arg;
    (void)segment;
    forwarder_wake(feed->forwarder);
}

// splitmix64: as even as the keyed hashes that pseudonyms are.
static uint64_t random_next(struct feed *feed) {
    uint64_t z = feed->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void feed_group(struct feed *feed) {
    uint64_t ticket = 0;
    for (int i = 0; i < GROUP_EVENTS; i++) {
        uint64_t random = random_next(feed);
        struct event event = {.pseudonym = random_next(feed), .tenant = 1 + (uint32_t)(random >> 32) % feed->tenants,
                              .sent_day = feed->today - (uint32_t)(random & 255) % SENT_DAYS,
                              .stream = (uint16_t)(1 + (random >> 8 & 255) % STREAMS),
                              .provider = (uint8_t)((random >> 16 & 255) % PROVIDERS),
                              .class_regime = CLASS_TRANSACTIONAL << 4, .fetch = (random >> 24 & 3) == 0};
        ticket = spool_add_event(feed->port, &event);
        CHECK(ticket != 0);
    }
    spool_submit(feed->port);
    while (spool_durable(feed->port) < ticket)
        CHECK(sem_wait(&feed->durable) == 0);
}

static double forwarding_cpu_seconds(void) {
    DIR *tasks = opendir("/proc/self/task");
    double seconds = 0;
    CHECK(tasks != NULL);
    for (const struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        char path[300], name[32] = "";
        unsigned long long ns = 0;
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "r");
        CHECK(file != NULL && fgets(name, sizeof name, file) != NULL && fclose(file) == 0);
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", entry->d_name);
        file = fopen(path, "r");
        CHECK(file != NULL && fscanf(file, "%llu", &ns) == 1 && fclose(file) == 0);
        if (strcmp(name, "commit\n") != 0)
            seconds += (double)ns / 1e9;
    }
    closedir(tasks);
    return seconds;
}

// Feeds them, and waits until the broker has all, the open segment included.
static void feed_events(struct feed *feed, uint64_t n, const struct config *config) {
    const struct timespec segment_age = {.tv_sec = (time_t)(config->spool_segment_ms / 1000 + 1)};
    const struct timespec pause = {.tv_nsec = 10000000};
    struct timespec next;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &next) == 0);
    for (uint64_t i = 0; i < n; i += GROUP_EVENTS) {
        feed_group(feed);
        next.tv_nsec += GROUP_PERIOD_NS;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == 0);
    }
    CHECK(nanosleep(&segment_age, NULL) == 0);
    while (forwarder_backlog(feed->forwarder) > 0)
        CHECK(nanosleep(&pause, NULL) == 0);
}

int main(int argc, char **argv) {
    static struct config config;
    static struct feed feed;
    static const uint8_t rules_hash[RULES_HASH_SIZE];
    struct err err = {0};
    if (argc != 4) {
        fprintf(stderr, "usage: forward CONFIG EVENTS TENANTS\n");
        return 64;
    }
    uint64_t n = strtoull(argv[2], NULL, 10);
    feed.tenants = (uint32_t)strtoul(argv[3], NULL, 10);
    CHECK(n > 0 && feed.tenants > 0 && sem_init(&feed.durable, 0, 0) == 0);
    int rc = config_load(&config, argv[1], false, &err);
    if (rc == 0)
        rc = spool_open(&feed.spool, &config, rules_hash, &err);
    if (rc == 0)
        rc = spool_port_add(feed.spool, on_durable, &feed, &feed.port);
    if (rc == 0)
        rc = forwarder_start(&feed.forwarder, &config, feed.spool, on_failed, &feed, &err);
    if (rc == 0) {
        spool_on_sealed(feed.spool, on_sealed, &feed);
        rc = spool_start(feed.spool, &err);
    }
    if (rc != 0) {
        fprintf(stderr, "forward: %s\n", err.text);
        return 1;
    }
    feed.today = clock_today(&config.clock);
    feed_events(&feed, WARM_UP, &config);
    double before = forwarding_cpu_seconds();
    feed_events(&feed, n, &config);
    printf("events=%llu cpu_s=%.6f\n", (unsigned long long)n, forwarding_cpu_seconds() - before);
    rc = spool_stop(feed.spool, &err);
    forwarder_stop(feed.forwarder, 1000);
    spool_free(feed.spool);
    config_free(&config);
    return rc == 0 ? 0 : 1;
}
