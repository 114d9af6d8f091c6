// Writes an aggregator's state for test_commands.py: `state_driver CONFIG` reads records from standard input, one a
// line, and commits them to the local journal in one go. Days are YYYY-MM-DD, or - for none:
//   meta                               in every partition
//   edge NAME REGISTERED CLOSED        in every partition
//   day DAY FLAGS                      in every partition
//   ledger PARTITION DAY REQUESTS RECORDED SCANNERS HERE RECEIVED COUNTED REPEATED NOT_ALLOWED
//   tenant ID FIRST_MEASURED MEASURED_SINCE
//   open ID PSEUDONYM DAY AGE
//   stamp PARTITION EPOCH HASH
#include "aggregator/journal.h"
#include "aggregator/record.h"
#include "common/token.h"

#include <inttypes.h>
#include <string.h>

static struct config config;
static struct batch *batch;
static uint8_t key[RECORD_KEY_MAX], value[RECORD_VALUE_MAX];

static uint32_t day_of(const char *text) {
    uint32_t day = DAY_NONE;
    CHECK(strcmp(text, "-") == 0 || day_parse(text, &day) == 0);
    return day;
}

static void put(uint32_t partition, size_t key_len, size_t len) {
    CHECK(batch_put(batch, partition, key, key_len, value, len) == 0);
}

static void put_everywhere(size_t key_len, size_t len) {
    for (uint32_t p = 0; p < config.kafka_partitions; p++)
        put(p, key_len, len);
}

static void take_ledger(const char *line) {
    uint32_t partition;
    char day[16];
    struct day_record record = {.n_edges_closed = 1};
    CHECK(sscanf(line, "ledger %" SCNu32 " %15s %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
                       " %" SCNu64 " %" SCNu64,
                 &partition, day, &record.edges.requests, &record.edges.recorded,
                 &record.edges.drops[EDGE_DROP_SCANNER], &record.recorded_here, &record.received, &record.counted,
                 &record.repeated, &record.drops[AGG_DROP_NOT_ALLOWED]) == 10);
    put(partition, key_day(key, day_of(day)), day_encode(&record, value));
}

static void take_line(const char *line) {
    char first[64], second[64];
    uint32_t number, age;
    uint64_t wide;
    if (strcmp(line, "meta\n") == 0) {
        put_everywhere(key_meta(key), meta_encode(config.rehearsal, (uint32_t)config.kafka_partitions, value));
    } else if (sscanf(line, "edge %63s %63s", first, second) == 2) {
        struct edge_record edge = {.registered_day = day_of(second)};
        CHECK(sscanf(line, "edge %*s %*s %63s", second) == 1);
        edge.closed_through = day_of(second);
        put_everywhere(key_edge(key, first), edge_encode(&edge, value));
    } else if (sscanf(line, "day %63s %" SCNu32, first, &number) == 2) {
        struct day_record record = {.flags = (uint8_t)number};
        put_everywhere(key_day(key, day_of(first)), day_encode(&record, value));
    } else if (sscanf(line, "tenant %" SCNu32 " %63s %63s", &number, first, second) == 3) {
        struct tenant_record record = {.first_measured = day_of(first), .measured_since = day_of(second)};
        put(partition_of(number, (uint32_t)config.kafka_partitions), key_tenant(key, number),
            tenant_encode(&record, value));
    } else if (sscanf(line, "open %" SCNu32 " %" SCNx64 " %63s %" SCNu32, &number, &wide, first, &age) == 4) {
        struct last_open last_open = {.day = (uint16_t)day_of(first), .frozen_age = (uint8_t)age};
        put(partition_of(number, (uint32_t)config.kafka_partitions), key_last_open(key, number, wide),
            last_open_encode(last_open, value));
    } else if (sscanf(line, "stamp %" SCNu32 " %" SCNu64 " %63s", &number, &wide, first) == 3) {
        struct consent_stamp stamp = {.epoch = wide};
        CHECK(strlen(first) == 2 * CONSENT_HASH_SIZE && hex_decode(first, 2 * CONSENT_HASH_SIZE, stamp.hash) == 0);
        put(number, key_consent(key), stamp_encode(&stamp, value));
    } else {
        take_ledger(line);
    }
}

int main(int argc, char **argv) {
    struct err err = {""};
    struct journal *journal = NULL;
    char line[512];
    CHECK(argc == 2);
    int rc = config_load(&config, argv[1], true, &err);
    if (rc == 0)
        rc = journal_local_open(&journal, &config, &err);
    if (rc == 0)
        rc = batch_create(&batch, (uint32_t)config.kafka_partitions);
    while (rc == 0 && fgets(line, sizeof line, stdin) != NULL)
        take_line(line);
    if (rc == 0)
        rc = journal->ops->commit(journal, batch, &err);
    if (rc != 0)
        fprintf(stderr, "state_driver: %s\n", err.text);
    batch_free(batch);
    if (journal != NULL)
        journal->ops->close(journal);
    config_free(&config);
    return rc == 0 ? 0 : 1;
}
