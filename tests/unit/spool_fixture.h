// What the spool's tests share: a configuration, a port that remembers what was acknowledged, and a reading of all
// sealed segments that checks what an aggregator relies on.
#ifndef OPENVEIL_SPOOL_FIXTURE_H
#define OPENVEIL_SPOOL_FIXTURE_H

#include "ingest/spool_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARTITIONS 4
#define EVENTS_SEEN_MAX (1u << 20)
#define DAYS_SEEN_MAX 64

static const uint8_t fixture_rules[RULES_HASH_SIZE] = {42};
static char fixture_dir[PATH_SIZE];
static char fixture_edge[] = "edge-1";
static char fixture_disk[] = "disk";

static inline struct config fixture_config(void) {
    struct config config = {.clock = clock_real(), .spool_dir = fixture_dir, .ingest_edge_id = fixture_edge,
                            .spool_bytes_max = 64u << 20, .spool_segment_bytes = 1u << 20, .spool_segment_ms = 100,
                            .spool_group_us = 600, .spool_durability = fixture_disk, .kafka_partitions = PARTITIONS};
    return config;
}

// Days of one second that begin at 20000 now.
static inline struct config fixture_fast_days(void) {
    struct config config = fixture_config();
    config.rehearsal = true;
    config.clock = clock_rehearsed(clock_now_ms(&config.clock) / 1000, 20000, 1);
    return config;
}

static inline void dir_empty(const char *path) {
    DIR *stream = opendir(path);
    struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        char inner[PATH_SIZE];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        assert_int_equal(path_join(inner, path, entry->d_name, NULL), 0);
        if (entry->d_type == DT_DIR)
            dir_empty(inner);
        assert_int_equal(remove(inner), 0);
    }
    if (stream != NULL)
        closedir(stream);
}

static inline int fixture_set_up(void **state) {
    (void)state;
    const char *temporary = getenv("TMPDIR");
    snprintf(fixture_dir, sizeof fixture_dir, "%s/openveil-spool-XXXXXX", temporary == NULL ? "/tmp" : temporary);
    return mkdtemp(fixture_dir) == NULL ? -1 : 0;
}

static inline int fixture_tear_down(void **state) {
    (void)state;
    dir_empty(fixture_dir);
    return rmdir(fixture_dir);
}

static inline void no_wake(void *arg) {
    (void)arg;
}

static inline struct spool *open_started(const struct config *config, struct spool_port **port) {
    struct spool *spool = NULL;
    struct err err = {0};
    if (spool_open(&spool, config, fixture_rules, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(spool_port_add(spool, no_wake, NULL, port), 0);
    assert_int_equal(spool_start(spool, &err), 0);
    return spool;
}

static inline void stop_and_free(struct spool *spool) {
    struct err err = {0};
    if (spool_stop(spool, &err) != 0)
        fail_msg("%s", err.text);
    spool_free(spool);
}

static inline struct event fixture_event(uint64_t i) {
    return (struct event){.pseudonym = i, .tenant = (uint32_t)(i % 7) + 1, .sent_day = 19999, .stream = 1,
                          .provider = 1, .class_regime = CLASS_TRANSACTIONAL << 4, .fetch = FETCH_PERSON};
}

static inline void sleep_ms(unsigned ms) {
    usleep(ms * 1000);
}

// Waits at most ten seconds.
static inline bool wait_durable(struct spool_port *port, uint64_t ticket) {
    for (int i = 0; i < 10000 && spool_durable(port) < ticket; i++) {
        spool_submit(port);
        sleep_ms(1);
    }
    return spool_durable(port) >= ticket;
}

// Adds events first..first+n-1 and as many bad tokens, and waits until they are durable.
static inline void add_durably(struct spool_port *port, uint64_t first, uint64_t n) {
    uint64_t ticket = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct event event = fixture_event(first + i);
        assert_true(spool_add_event(port, &event) > 0);
        ticket = spool_add_drop(port, EDGE_DROP_BAD_TOKEN);
        assert_true(ticket > 0);
    }
    spool_submit(port);
    assert_true(wait_durable(port, ticket));
}

// All sealed segments of the directory, as an aggregator would read them.
struct seen {
    uint64_t n_blocks, n_registers, n_closes;
    uint64_t events;
    uint64_t *pseudonyms; // ascending
    uint64_t first, last; // segment numbers
    uint32_t closed_through; // DAY_NONE: none
    uint64_t closed_requests, closed_recorded, closed_drops;
    struct ledger *ledger; // after the newest
    uint64_t open_recorded[PARTITIONS]; // of the day not yet closed
    size_t open_segments;
};

static inline int order_u64(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

static inline void see_close(struct seen *seen, const struct message_head *head, const struct close_body *close) {
    uint64_t drops = 0, listed = 0;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        drops += close->counts.drops[i];
    for (size_t i = 0; i < close->n_ranges; i++)
        listed += close->ranges[i].last - close->ranges[i].first + 1;
    assert_int_equal(close->counts.requests, close->counts.recorded + drops);
    assert_int_equal(close->recorded_here, seen->open_recorded[head->partition]);
    assert_int_equal(listed, seen->open_segments);
    assert_true(seen->closed_through == DAY_NONE || close->from_day == seen->closed_through + 1);
    if (head->partition + 1u < head->partitions)
        return;
    seen->closed_through = head->day;
    seen->closed_requests += close->counts.requests;
    seen->closed_recorded += close->counts.recorded;
    seen->closed_drops += drops;
    memset(seen->open_recorded, 0, sizeof seen->open_recorded);
    seen->open_segments = 0;
}

static inline void see_message(struct seen *seen, struct message_codec *codec, const struct sealed *sealed,
                               uint16_t partition, const uint8_t *data) {
    struct message_head head;
    const uint8_t *body;
    size_t body_len, n_events;
    uint8_t rules[RULES_HASH_SIZE];
    assert_int_equal(message_decode_head(data, sealed->message_len[partition], &head, &body, &body_len), 0);
    assert_true(head.kind == sealed->head.kind && head.segment == sealed->head.segment && head.partition == partition);
    assert_true(head.epoch == sealed->head.epoch && head.day == sealed->head.day && head.partitions == PARTITIONS);
    assert_string_equal(head.edge, fixture_edge);
    if (head.kind == MESSAGE_CLOSE) {
        struct close_body close;
        assert_int_equal(message_decode_close(codec, body, body_len, &close), 0);
        see_close(seen, &head, &close);
    } else if (head.kind == MESSAGE_BLOCK) {
        const struct event *events;
        assert_int_equal(message_decode_block(codec, &head, body, body_len, rules, &events, &n_events), 0);
        assert_memory_equal(rules, fixture_rules, sizeof rules);
        assert_true(seen->events + n_events <= EVENTS_SEEN_MAX);
        for (size_t i = 0; i < n_events; i++)
            seen->pseudonyms[seen->events++] = events[i].pseudonym;
        seen->open_recorded[partition] += n_events;
    }
}

static inline void see_segment(struct seen *seen, struct message_codec *codec, uint64_t segment) {
    char name[SEGMENT_NAME_SIZE], path[PATH_SIZE], *data;
    size_t len;
    struct err err;
    struct sealed *sealed = malloc(sizeof *sealed);
    assert_non_null(sealed);
    sealed_name(segment, name);
    assert_int_equal(path_join(path, fixture_dir, name, NULL), 0);
    assert_int_equal(file_read(path, SEALED_BYTES_MAX, &data, &len, &err), 0);
    assert_int_equal(sealed_decode((uint8_t *)data, len, sealed, seen->ledger), 0);
    assert_int_equal(sealed->head.segment, segment);
    assert_in_range(sealed->head.epoch_first, 0, segment);
    assert_true(seen->closed_through == DAY_NONE || sealed->head.day > seen->closed_through);
    seen->n_blocks += sealed->head.kind == MESSAGE_BLOCK;
    seen->n_registers += sealed->head.kind == MESSAGE_REGISTER;
    seen->n_closes += sealed->head.kind == MESSAGE_CLOSE;
    const uint8_t *at = sealed->messages;
    for (uint16_t i = 0; i < PARTITIONS; i++) {
        see_message(seen, codec, sealed, i, at);
        at += sealed->message_len[i];
    }
    seen->open_segments += sealed->head.kind != MESSAGE_CLOSE;
    assert_int_equal(seen->ledger->day, sealed->head.kind == MESSAGE_CLOSE ? sealed->head.day + 1 : sealed->head.day);
    free(data);
    free(sealed);
}

// Numbers must follow one another without a gap, from the registration on.
static inline struct seen see_all(void) {
    struct spool_listing listing;
    struct message_codec *codec = NULL;
    struct seen seen = {.pseudonyms = malloc(EVENTS_SEEN_MAX * sizeof(uint64_t)),
                        .ledger = calloc(1, sizeof(struct ledger))};
    assert_true(seen.pseudonyms != NULL && seen.ledger != NULL);
    assert_int_equal(message_codec_create(&codec), 0);
    assert_int_equal(spool_list(fixture_dir, &listing, NULL), 0);
    assert_true(listing.sealed.n > 0);
    seen.first = listing.sealed.at[0];
    seen.last = listing.sealed.at[listing.sealed.n - 1];
    assert_int_equal(seen.last - seen.first + 1, listing.sealed.n);
    for (size_t i = 0; i < listing.sealed.n; i++)
        see_segment(&seen, codec, listing.sealed.at[i]);
    assert_int_equal(seen.ledger->counts.recorded,
                     seen.open_recorded[0] + seen.open_recorded[1] + seen.open_recorded[2] + seen.open_recorded[3]);
    qsort(seen.pseudonyms, seen.events, sizeof(uint64_t), order_u64);
    for (size_t i = 1; i < seen.events; i++)
        assert_true(seen.pseudonyms[i] != seen.pseudonyms[i - 1]);
    spool_listing_free(&listing);
    message_codec_free(codec);
    return seen;
}

static inline void seen_free(struct seen *seen) {
    free(seen->pseudonyms);
    free(seen->ledger);
}

static inline size_t count_files(const char *prefix) {
    DIR *stream = opendir(fixture_dir);
    struct dirent *entry;
    size_t n = 0;
    assert_non_null(stream);
    while ((entry = readdir(stream)) != NULL)
        n += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(stream);
    return n;
}

#endif
