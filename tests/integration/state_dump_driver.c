// Prints what an aggregator has committed about contacts, for the soaks: `state_dump_driver CONFIG`. Reads alone, also
// while an aggregator runs. In the order of the commits, the newest line of a key counts; a day of - is an erased one:
//   open TENANT PSEUDONYM DAY
//   window TENANT SENT_DAY PSEUDONYM STREAM PROVIDER FETCH     or: window TENANT SENT_DAY PSEUDONYM -
//   release TENANT KIND DAY LINE
// `state_dump_driver CONFIG snapshot` instead has the local journal written into a snapshot, with no aggregator running.
#include "aggregator/journal_local.h"
#include "aggregator/record.h"
#include "common/clock.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static struct config config;

static int print_release(const struct record_key *parts, const uint8_t *value, size_t value_len) {
    struct release_record release;
    char day[DAY_TEXT_SIZE];
    CHECK(release_decode(value, value_len, &release) == 0);
    day_format(parts->day, day);
    printf("release %" PRIu32 " %u %s %.*s\n", parts->tenant, parts->release_kind, day, (int)release.line_len,
           (const char *)release.line);
    return 0;
}

static int print_record(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    struct record_key parts;
    struct last_open last_open;
    struct window_cell cell;
    char day[DAY_TEXT_SIZE] = "-";
    (void)arg;
    CHECK(key_decode(key, key_len, &parts) == 0);
    if (parts.kind == RECORD_LAST_OPEN) {
        if (value_len > 0) {
            CHECK(last_open_decode(value, value_len, &last_open) == 0);
            day_format(last_open.day, day);
        }
        printf("open %" PRIu32 " %016" PRIx64 " %s\n", parts.tenant, parts.pseudonym, day);
    } else if (parts.kind == RECORD_WINDOW) {
        day_format(parts.day, day);
        printf("window %" PRIu32 " %s %016" PRIx64, parts.tenant, day, parts.pseudonym);
        if (value_len > 0) {
            CHECK(window_decode(value, value_len, &cell) == 0);
            printf(" %u %u %u\n", cell.stream, cell.provider, cell.fetch);
        } else {
            printf(" -\n");
        }
    } else if (parts.kind == RECORD_RELEASE && value_len > 0) {
        return print_release(&parts, value, value_len);
    }
    return 0;
}

static int dump(struct err *err) {
    struct journal *journal = NULL;
    int64_t position;
    int rc = journal_open_readonly(&journal, &config, err);
    for (uint32_t i = 0; rc == 0 && i < config.kafka_partitions; i++)
        rc = journal->ops->load(journal, i, print_record, NULL, NULL, &position, err);
    if (journal != NULL)
        journal->ops->close(journal);
    return rc;
}

static int snapshot(struct err *err) {
    struct journal *journal = NULL;
    int rc = journal_local_open(&journal, &config, err);
    if (rc != 0)
        return rc;
    journal_local_snapshot_bytes(journal, 4096, 4096);
    for (int i = 0; i < 50; i++) { // begins in the first call; a later one takes what the thread wrote
        journal->ops->idle(journal);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    journal->ops->close(journal);
    return 0;
}

int main(int argc, char **argv) {
    struct err err = {""};
    CHECK(argc == 2 || (argc == 3 && strcmp(argv[2], "snapshot") == 0));
    int rc = config_load(&config, argv[1], true, &err);
    if (rc == 0)
        rc = argc == 2 ? dump(&err) : snapshot(&err);
    if (rc != 0)
        fprintf(stderr, "state_dump_driver: %s\n", err.text);
    config_free(&config);
    return rc == 0 ? 0 : 1;
}
