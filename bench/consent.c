// What bench_consent.py measures consent with, through the programs' own modules; prints name=value pairs.
//
//   consent fill CONFIG TENANT CONTACTS      objected contacts, written bucket by bucket past the Function library
//   consent lookups CONFIG TENANT CONTACTS SECONDS   checks of imported contacts contact-0 … at random
//   consent confirm CONFIG CHANGES           the time from a change's call to its confirmed receipt, with an aggregator at work
//   consent edge CONFIG CHANGES              an edge's drop list: its memory, and the time from a withdrawal to the list
#include "bench/histogram.h"

#include "common/consent_store.h"
#include "common/contact_key.h"
#include "common/token.h"
#include "ingest/drop_list.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#define QUERIES 16384u
#define IN_FLIGHT 4u
#define SINCE 20000u

static uint64_t now_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t mix(uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

static void check_rc(int rc, const struct err *err) {
    if (rc == 0)
        return;
    fprintf(stderr, "consent: %s\n", err->text);
    exit(1);
}

static redisContext *redis_connect(const struct config *config) {
    char host[256];
    uint16_t port;
    CHECK(address_parse(config->redis_address, host, &port) == 0);
    redisContext *redis = redisConnect(host, port);
    CHECK(redis != NULL && redis->err == 0);
    return redis;
}

// ---- fill -----------------------------------------------------------------------------------------------------------
static void replies_read(redisContext *redis, size_t n) {
    void *reply;
    for (; n > 0; n--) {
        CHECK(redisGetReply(redis, &reply) == REDIS_OK && ((redisReply *)reply)->type != REDIS_REPLY_ERROR);
        freeReplyObject(reply);
    }
}

static void fill(const struct config *config, uint32_t tenant, uint64_t contacts) {
    const struct consent_record record = {.state = CONSENT_OBJECTED, .since = SINCE, .notice = "-"};
    uint32_t partition = partition_of(tenant, (uint32_t)config->kafka_partitions);
    struct consent_store *store;
    struct err err;
    uint8_t value[CONSENT_RECORD_MAX], field[8];
    char key[CONSENT_KEY_SIZE];
    unsigned bits = 0;
    check_rc(consent_store_open(&store, config, &err), &err);
    check_rc(consent_store_size_hint(store, tenant, contacts, &err), &err);
    consent_store_close(store);
    while (bits < CONSENT_BITS_MAX && contacts > (uint64_t)64 << bits)
        bits++;
    redisContext *redis = redis_connect(config);
    size_t len = consent_record_encode(&record, value), open = 0;
    for (uint64_t i = 0; i < contacts; i++) {
        uint64_t pseudonym = mix(i);
        size_t key_len = consent_bucket_key(key, partition, tenant, bits, pseudonym);
        size_t field_len = consent_bucket_field(field, bits, pseudonym);
        CHECK(redisAppendCommand(redis, "HSET %b %b %b", key, key_len, field, field_len, value, len) == REDIS_OK);
        if (++open == 1000) {
            replies_read(redis, open);
            open = 0;
        }
    }
    replies_read(redis, open);
    redisFree(redis);
    printf("contacts=%" PRIu64 "\n", contacts);
}

// ---- lookups --------------------------------------------------------------------------------------------------------
struct batch {
    struct lookups *lookups;
    struct consent_query queries[QUERIES];
};

struct lookups {
    struct consent_client *client;
    uv_loop_t loop;
    uint32_t partition;
    uint64_t end_ns;
    uint64_t checked;
    uint64_t allowed;
    size_t open;
};

static void on_done(void *arg, int status, const struct consent_stamp *stamp) {
    struct batch *batch = arg;
    struct lookups *lookups = batch->lookups;
    CHECK(status == 0 && stamp != NULL);
    lookups->checked += QUERIES;
    for (size_t i = 0; i < QUERIES; i++)
        lookups->allowed += batch->queries[i].record.state == CONSENT_INFORMED;
    if (now_ns() < lookups->end_ns)
        CHECK(consent_client_lookup(lookups->client, lookups->partition, batch->queries, QUERIES, NULL, on_done,
                                    batch) == 0);
    else
        lookups->open--;
}

static void lookups_run(const struct config *config, uint32_t tenant, uint64_t contacts, double seconds) {
    static struct lookups lookups;
    struct batch *batches = calloc(IN_FLIGHT, sizeof *batches);
    struct hmac_key key;
    struct err err;
    uint64_t seed = 1;
    CHECK(batches != NULL && uv_loop_init(&lookups.loop) == 0);
    check_rc(contact_key_load(&key, config, tenant, &err), &err);
    check_rc(consent_client_create(&lookups.client, &lookups.loop, config, &err), &err);
    lookups.partition = partition_of(tenant, (uint32_t)config->kafka_partitions);
    for (size_t i = 0; i < IN_FLIGHT * QUERIES; i++) {
        char id[32];
        int len = snprintf(id, sizeof id, "contact-%" PRIu64, mix(seed++) % contacts);
        batches[i / QUERIES].queries[i % QUERIES] =
            (struct consent_query){.tenant = tenant, .pseudonym = pseudonym_of(&key, tenant, id, (size_t)len)};
    }
    while (!consent_client_connected(lookups.client))
        uv_run(&lookups.loop, UV_RUN_ONCE);
    uint64_t begin_ns = now_ns();
    lookups.end_ns = begin_ns + (uint64_t)(seconds * 1e9);
    lookups.open = IN_FLIGHT;
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        batches[i].lookups = &lookups;
        CHECK(consent_client_lookup(lookups.client, lookups.partition, batches[i].queries, QUERIES, NULL, on_done,
                                    &batches[i]) == 0);
    }
    while (lookups.open > 0)
        uv_run(&lookups.loop, UV_RUN_ONCE);
    CHECK(lookups.allowed == lookups.checked);
    printf("rate=%.0f\n", (double)lookups.checked * 1e9 / (double)(now_ns() - begin_ns));
    consent_client_free(lookups.client);
    uv_run(&lookups.loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&lookups.loop) == 0);
    free(batches);
}

// ---- edge -----------------------------------------------------------------------------------------------------------
static size_t resident_bytes(void) {
    unsigned long long size, pages;
    FILE *file = fopen("/proc/self/statm", "re");
    CHECK(file != NULL && fscanf(file, "%llu %llu", &size, &pages) == 2);
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

// Each withdrawal is of a contact that nobody knows yet; the clock runs from when the Function's call has returned.
static void edge(const struct config *config, uint64_t changes) {
    static struct histogram histogram;
    struct drop_list *list;
    struct err err;
    size_t before = resident_bytes();
    uint64_t begin_ns = now_ns();
    check_rc(drop_list_start(&list, config, 1, &err), &err);
    struct drop_view view = drop_list_view(list, 0);
    while (!drop_list_facts(list).in_use)
        usleep(1000);
    double scan_s = (double)(now_ns() - begin_ns) / 1e9;
    struct drop_list_facts facts = drop_list_facts(list);
    size_t resident = resident_bytes() - before;
    redisContext *redis = redis_connect(config);
    const uint32_t tenant = 4000000;
    uint32_t partition = partition_of(tenant, (uint32_t)config->kafka_partitions);
    for (uint64_t i = 0; i < changes; i++) {
        uint64_t pseudonym = mix(i);
        redisReply *reply = redisCommand(redis, "FCALL openveil_set 1 ov:{%u}:meta production %u %u %016llx withdrawn %u -",
                                         partition, SINCE, tenant, (unsigned long long)pseudonym, SINCE);
        uint64_t returned_ns = now_ns();
        CHECK(reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->element[0]->type == REDIS_REPLY_INTEGER);
        freeReplyObject(reply);
        while (!drop_view_holds(&view, tenant, pseudonym))
            CHECK(now_ns() - returned_ns < 10000000000u);
        histogram_add(&histogram, now_ns() - returned_ns);
    }
    redisFree(redis);
    printf("contacts=%zu table_bytes=%zu resident_bytes=%zu scan_s=%.2f p50_ms=%.3f p999_ms=%.3f\n", facts.contacts,
           facts.bytes, resident, scan_s, (double)histogram_quantile(&histogram, 0.5) / 1e6,
           (double)histogram_quantile(&histogram, 0.999) / 1e6);
    drop_list_stop(list);
}

// ---- confirm --------------------------------------------------------------------------------------------------------
// The id of the last telling, "0" where there is none.
static void applied_end(redisContext *redis, const char *key, char *id, size_t size) {
    redisReply *reply = redisCommand(redis, "XREVRANGE %s + - COUNT 1", key);
    CHECK(reply != NULL && reply->type == REDIS_REPLY_ARRAY);
    snprintf(id, size, "%s", reply->elements == 0 ? "0" : reply->element[0]->element[0]->str);
    freeReplyObject(reply);
}

// Reads on from `id` until the log has told an epoch of at least `receipt`.
static void confirmed_wait(redisContext *redis, const char *key, char *id, size_t size, long long receipt) {
    for (bool confirmed = false; !confirmed;) {
        redisReply *reply = redisCommand(redis, "XREAD BLOCK 10000 STREAMS %s %s", key, id);
        CHECK(reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 1);
        const redisReply *entries = reply->element[0]->element[1];
        for (size_t i = 0; i < entries->elements; i++) {
            const redisReply *fields = entries->element[i]->element[1];
            snprintf(id, size, "%s", entries->element[i]->element[0]->str);
            CHECK(fields->elements == 4);
            confirmed |= strcmp(fields->element[1]->str, "log") == 0 && atoll(fields->element[3]->str) >= receipt;
        }
        freeReplyObject(reply);
    }
}

// The clock runs from before the call; between two changes is a pause of up to 10 ms, so that none finds the log awake.
static void confirm(const struct config *config, uint64_t changes) {
    static struct histogram histogram;
    redisContext *redis = redis_connect(config);
    const uint32_t tenant = 4000000;
    uint32_t partition = partition_of(tenant, (uint32_t)config->kafka_partitions);
    char key[CONSENT_KEY_SIZE], id[40];
    consent_key(key, partition, "applied");
    for (uint64_t i = 0; i < changes; i++) {
        uint64_t pseudonym = mix(i ^ changes << 32); // one that no other run used
        usleep((useconds_t)(mix(i) % 10000));
        applied_end(redis, key, id, sizeof id);
        uint64_t begin_ns = now_ns();
        redisReply *reply = redisCommand(redis, "FCALL openveil_set 1 ov:{%u}:meta production %u %u %016llx withdrawn %u -",
                                         partition, SINCE, tenant, (unsigned long long)pseudonym, SINCE);
        CHECK(reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->element[0]->type == REDIS_REPLY_INTEGER);
        long long receipt = reply->element[0]->integer;
        freeReplyObject(reply);
        confirmed_wait(redis, key, id, sizeof id, receipt);
        histogram_add(&histogram, now_ns() - begin_ns);
    }
    redisFree(redis);
    printf("p50_ms=%.3f p99_ms=%.3f\n", (double)histogram_quantile(&histogram, 0.5) / 1e6,
           (double)histogram_quantile(&histogram, 0.99) / 1e6);
}

int main(int argc, char **argv) {
    struct config config = {0};
    struct err err;
    if (argc < 4) {
        fprintf(stderr, "usage: consent fill|lookups CONFIG TENANT CONTACTS [SECONDS], consent confirm|edge CONFIG CHANGES\n");
        return 64;
    }
    check_rc(config_load(&config, argv[2], false, &err), &err);
    uint64_t first = strtoull(argv[3], NULL, 10), second = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
    if (strcmp(argv[1], "fill") == 0 && argc == 5)
        fill(&config, (uint32_t)first, second);
    else if (strcmp(argv[1], "lookups") == 0 && argc == 6)
        lookups_run(&config, (uint32_t)first, second, strtod(argv[5], NULL));
    else if (strcmp(argv[1], "confirm") == 0)
        confirm(&config, first);
    else if (strcmp(argv[1], "edge") == 0)
        edge(&config, first);
    config_free(&config);
    return 0;
}
