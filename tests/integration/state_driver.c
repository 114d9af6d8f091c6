// Writes an aggregator's state for test_commands.py and test_verify.py: `state_driver CONFIG` reads records from standard
// input, one a line, and commits them to the local journal in one go. Days are YYYY-MM-DD, or - for none:
//   meta                               in every partition
//   edge NAME REGISTERED CLOSED        in every partition
//   day DAY FLAGS                      in every partition
//   ledger PARTITION DAY REQUESTS RECORDED SCANNERS HERE RECEIVED COUNTED REPEATED NOT_ALLOWED
//   tenant ID FIRST_MEASURED MEASURED_SINCE
//   open ID PSEUDONYM DAY AGE
//   stamp PARTITION EPOCH HASH
//   window ID SENT_DAY PSEUDONYM
//   settings FROM_DAY EPSILON THRESHOLD HORIZON    in every partition
//   release ID KIND PERIOD_DAY SPENT FILE          a line is the file's first
//   grow-old                           a day passes for the journal's files: they are replaced by a snapshot
#include "aggregator/journal_local.h"
#include "aggregator/record.h"
#include "common/files.h"
#include "common/token.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static struct config config;
static bool grows_old;
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

static void take_settings(const char *line) {
    char from[16], epsilon[32];
    struct settings settings = {0};
    CHECK(sscanf(line, "settings %15s %31s %" SCNu32 " %" SCNu32, from, epsilon, &settings.threshold,
                 &settings.horizon_days) == 4);
    CHECK(fraction_parse(epsilon, &settings.epsilon) == 0);
    put_everywhere(key_settings(key, day_of(from)), settings_encode(&settings, value));
}

static void take_release(const char *line) {
    char period[16], spent[32], path[256], *text;
    uint32_t tenant;
    unsigned kind;
    size_t len;
    struct release_record record = {.spent = {0, 1}};
    CHECK(sscanf(line, "release %" SCNu32 " %u %15s %31s %255s", &tenant, &kind, period, spent, path) == 5);
    CHECK(strcmp(spent, "0/1") == 0 || fraction_parse(spent, &record.spent) == 0);
    CHECK(file_read(path, RECORD_VALUE_MAX, &text, &len, NULL) == 0);
    record.line = (const uint8_t *)text;
    record.line_len = strcspn(text, "\n");
    put(partition_of(tenant, (uint32_t)config.kafka_partitions), key_release(key, tenant, (uint8_t)kind, day_of(period)),
        release_encode(&record, value));
    free(text);
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
    } else if (sscanf(line, "window %" SCNu32 " %63s %" SCNx64, &number, first, &wide) == 3) {
        struct window_cell cell = {.stream = 1, .class_regime = CLASS_TRANSACTIONAL << 4};
        put(partition_of(number, (uint32_t)config.kafka_partitions), key_window(key, number, day_of(first), wide),
            window_encode(cell, value));
    } else if (strncmp(line, "settings ", 9) == 0) {
        take_settings(line);
    } else if (strcmp(line, "grow-old\n") == 0) {
        grows_old = true;
    } else if (strncmp(line, "release ", 8) == 0) {
        take_release(line);
    } else if (sscanf(line, "stamp %" SCNu32 " %" SCNu64 " %63s", &number, &wide, first) == 3) {
        struct consent_stamp stamp = {.epoch = wide};
        CHECK(strlen(first) == 2 * CONSENT_HASH_SIZE && hex_decode(first, 2 * CONSENT_HASH_SIZE, stamp.hash) == 0);
        put(number, key_consent(key), stamp_encode(&stamp, value));
    } else {
        take_ledger(line);
    }
}

// What the aggregator's journal does between two commits once its files are a day old.
static void grow_old(struct journal *journal) {
    journal_local_snapshot_age(journal, -1);
    journal->ops->idle(journal);
    journal_local_snapshot_age(journal, INT64_MAX);
    for (int i = 0; i < 100; i++) {
        usleep(20000);
        journal->ops->idle(journal);
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
    if (rc == 0 && grows_old)
        grow_old(journal);
    if (rc != 0)
        fprintf(stderr, "state_driver: %s\n", err.text);
    batch_free(batch);
    if (journal != NULL)
        journal->ops->close(journal);
    config_free(&config);
    return rc == 0 ? 0 : 1;
}
