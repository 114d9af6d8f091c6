// The start-up scan on directories in every state of disrepair: it always starts, seals what is intact under the
// identity that it had, and says how much was damaged.
#include "ingest/spool_recover.h"

#include "tests/unit/spool_fixture.h"

#define EPOCH 0x1111u
#define FIRST ((uint64_t)20000 << 32)

static struct ledger *scratch;
static uint8_t *header;

static int set_up(void **state) {
    scratch = calloc(1, sizeof *scratch);
    header = malloc(SEGMENT_HEADER_BYTES_MAX);
    return scratch == NULL || header == NULL ? -1 : fixture_set_up(state);
}

static int tear_down(void **state) {
    free(scratch);
    free(header);
    return fixture_tear_down(state);
}

static void write_file(const char *name, const void *data, size_t len) {
    char path[PATH_SIZE];
    assert_int_equal(path_join(path, fixture_dir, name, NULL), 0);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, data, len, 0), 0);
    close(fd);
}

// A raw segment as a killed process leaves it: `groups` groups of ten events each, the ledger in scratch before it.
#define RAW_SIZE (64u << 10)
static void raw_write(uint64_t segment, uint32_t day, unsigned groups, unsigned damaged_group) {
    static uint8_t raw[RAW_SIZE];
    struct segment_head head = {.kind = MESSAGE_BLOCK, .rehearsal = true, .edge = "edge-1", .epoch = EPOCH,
                                .segment = segment, .epoch_first = FIRST, .partitions = PARTITIONS, .day = day};
    char name[SEGMENT_NAME_SIZE];
    memcpy(head.rules_hash, fixture_rules, RULES_HASH_SIZE);
    memset(raw, 0, sizeof raw);
    int64_t at = raw_header_encode(&head, scratch, raw);
    assert_true(at > 0);
    for (unsigned g = 0; g < groups; g++) {
        struct group group = {.sequence = g, .n_events = 10, .drops = {10}};
        for (unsigned i = 0; i < 10; i++) {
            struct event event = fixture_event(segment << 16 | g << 8 | i);
            group_event_store(raw + at + GROUP_HEADER_BYTES + i * GROUP_EVENT_BYTES, &event);
        }
        size_t len = group_encode(head.epoch, segment, &group, raw + at);
        if (g == damaged_group)
            raw[at + 100] ^= 1;
        at += (int64_t)len;
    }
    raw_name(segment, name);
    write_file(name, raw, sizeof raw);
}

// The ledger after `segments` raw segments of one group each, from `first` on.
static void ledger_after(uint32_t day, uint64_t first, uint64_t segments) {
    struct partition_cache *cache = calloc(1, sizeof *cache);
    assert_non_null(cache);
    cache->partitions = PARTITIONS;
    ledger_begin(scratch, day);
    for (uint64_t s = first; s < first + segments; s++) {
        struct tally tally = {.events = 10, .outcomes = 20, .drops = {10}};
        for (unsigned i = 0; i < 10; i++)
            tally.recorded_by_partition[partition_cached(cache, fixture_event(s << 16 | i).tenant)]++;
        assert_int_equal(ledger_add(scratch, PARTITIONS, EPOCH, s, &tally), 0);
    }
    free(cache);
}

#define NONE 1000u

static struct config config_on_day(uint32_t day) {
    struct config config = fixture_fast_days();
    config.clock.start_day = day;
    config.clock.day_seconds = DAY_SECONDS;
    return config;
}

static uint64_t open_and_close(const struct config *config) {
    struct spool_port *port;
    struct spool *spool = open_started(config, &port);
    uint64_t damaged = spool_damaged(spool);
    stop_and_free(spool);
    return damaged;
}

static void several_raw_segments_are_sealed_in_order(void **state) {
    (void)state;
    struct config config = config_on_day(20000);
    for (uint64_t i = 0; i < 5; i++) {
        ledger_after(20000, FIRST, i);
        raw_write(FIRST + i, 20000, 1, NONE);
    }
    assert_int_equal(open_and_close(&config), 0);
    struct seen seen = see_all();
    assert_true(seen.n_blocks == 5 && seen.n_closes == 0 && seen.n_registers == 0);
    assert_true(seen.first == FIRST && seen.events == 50);
    assert_true(seen.ledger->n_ranges == 1 && seen.ledger->ranges[0].epoch == EPOCH);
    assert_int_equal(seen.ledger->counts.requests, 100);
    seen_free(&seen);
    assert_int_equal(count_files("open-"), 0);
}

// Killed after midnight before the close markers were written: their numbers are free between the raw segments.
static void missing_close_markers_are_written(void **state) {
    (void)state;
    struct config config = config_on_day(20004);
    ledger_after(20000, FIRST, 0);
    raw_write(FIRST, 20000, 1, NONE);
    ledger_after(20003, 0, 0);
    raw_write(FIRST + 3, 20003, 1, NONE); // FIRST + 1 closes 20000, FIRST + 2 closes the days until 20002
    assert_int_equal(open_and_close(&config), 0);
    struct seen seen = see_all();
    assert_true(seen.n_blocks == 2 && seen.n_closes == 3);
    assert_int_equal(seen.closed_through, 20003);
    assert_int_equal(seen.closed_requests, 40);
    assert_int_equal(seen.last, FIRST + 4);
    seen_free(&seen);
}

static void a_resend_has_the_same_bytes(void **state) {
    (void)state;
    struct config config = config_on_day(20000);
    char name[SEGMENT_NAME_SIZE], path[PATH_SIZE], *once, *again;
    size_t once_len, again_len;
    sealed_name(FIRST, name);
    assert_int_equal(path_join(path, fixture_dir, name, NULL), 0);
    ledger_after(20000, FIRST, 0);
    raw_write(FIRST, 20000, 3, NONE);
    open_and_close(&config);
    assert_int_equal(file_read(path, SEALED_BYTES_MAX, &once, &once_len, NULL), 0);
    dir_empty(fixture_dir);
    raw_write(FIRST, 20000, 3, NONE);
    open_and_close(&config);
    assert_int_equal(file_read(path, SEALED_BYTES_MAX, &again, &again_len, NULL), 0);
    assert_int_equal(once_len, again_len);
    assert_memory_equal(once, again, once_len);
    free(again);
    // Both there: the sealed one holds, the raw one goes.
    raw_write(FIRST, 20000, 1, NONE);
    open_and_close(&config);
    assert_int_equal(file_read(path, SEALED_BYTES_MAX, &again, &again_len, NULL), 0);
    assert_int_equal(once_len, again_len);
    assert_memory_equal(once, again, once_len);
    assert_int_equal(count_files("open-"), 0);
    free(once);
    free(again);
}

static void damaged_groups_cost_only_themselves(void **state) {
    (void)state;
    struct config config = config_on_day(20000);
    ledger_after(20000, FIRST, 0);
    raw_write(FIRST, 20000, 3, 1);
    assert_int_equal(open_and_close(&config), 1);
    struct seen seen = see_all();
    assert_int_equal(seen.events, 20);
    assert_int_equal(seen.ledger->counts.requests, 40);
    seen_free(&seen);
    char name[SEGMENT_NAME_SIZE], corner[PATH_SIZE], path[PATH_SIZE];
    raw_name(FIRST, name);
    assert_int_equal(path_join(corner, fixture_dir, "corrupt", NULL), 0);
    assert_int_equal(path_join(path, corner, name, NULL), 0);
    assert_int_equal(access(path, R_OK), 0);
}

static void overwrite(const char *name, size_t at) {
    char path[PATH_SIZE];
    assert_int_equal(path_join(path, fixture_dir, name, NULL), 0);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, "damage", 6, (off_t)at), 0);
    close(fd);
}

static void a_damaged_header_is_put_aside_and_its_number_kept_free(void **state) {
    (void)state;
    struct config config = config_on_day(20000);
    char name[SEGMENT_NAME_SIZE];
    for (uint64_t i = 0; i < 3; i++) {
        ledger_after(20000, FIRST, i);
        raw_write(FIRST + i, 20000, 1, NONE);
    }
    raw_name(FIRST + 1, name);
    overwrite(name, 50);
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    assert_int_equal(spool_damaged(spool), 1);
    uint64_t segment = 0;
    const uint64_t want[] = {FIRST, FIRST + 2};
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_int_equal(spool_sealed_next(spool, segment, &segment), 0);
        assert_int_equal(segment, want[i]);
    }
    assert_int_equal(spool_sealed_next(spool, segment, &segment), ERR_NOT_FOUND);
    // The header after the damaged one still knew its counts; the lost segment stays listed.
    assert_int_equal(spool->seal.packer->ledger->counts.requests, 60);
    assert_int_equal(spool->seal.packer->ledger->n_ranges, 1);
    stop_and_free(spool);
}

static void a_damaged_newest_falls_back(void **state) {
    (void)state;
    struct config config = config_on_day(20000);
    char name[SEGMENT_NAME_SIZE];
    for (uint64_t i = 0; i < 3; i++) {
        ledger_after(20000, FIRST, i);
        raw_write(FIRST + i, 20000, 1, NONE);
    }
    open_and_close(&config);
    sealed_name(FIRST + 2, name);
    overwrite(name, 300);
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    assert_int_equal(spool_damaged(spool), 1);
    assert_int_equal(spool->commit.next_number, FIRST + 3); // never again FIRST + 2
    assert_int_equal(spool->seal.packer->ledger->ranges[0].last, FIRST + 2);
    assert_int_equal(spool->seal.packer->ledger->counts.requests, 40);
    stop_and_free(spool);
}

static void junk_is_left_alone(void **state) {
    (void)state;
    struct config config = config_on_day(20000);
    char path[PATH_SIZE];
    static uint8_t zeros[RAW_SIZE];
    write_file("readme.txt", "hello", 5);
    write_file("sealed-0000000000000001.seg.tmp", "half", 4);
    write_file("free-7.log", zeros, sizeof zeros);
    write_file("open-0000000000000005.log", zeros, sizeof zeros); // was being prepared
    write_file("open-0000000000000006.log", "", 0);
    write_file("open-ffffffffffffffff.log", "OVG1", 4);
    assert_int_equal(path_join(path, fixture_dir, "sealed-0000000000000009.seg", NULL), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(open_and_close(&config), 0);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(count_files("readme.txt"), 1);
    assert_int_equal(count_files("free-") + count_files("sealed-0000000000000001"), 0);
    assert_int_equal(count_files("open-"), 1); // its number is none of ours
    struct seen seen = see_all();
    assert_true(seen.n_registers == 1 && seen.first == FIRST);
    seen_free(&seen);
}

static void damage_files(unsigned *seed) {
    DIR *stream = opendir(fixture_dir);
    struct dirent *entry;
    assert_non_null(stream);
    while ((entry = readdir(stream)) != NULL) {
        char path[PATH_SIZE];
        struct stat st;
        assert_int_equal(path_join(path, fixture_dir, entry->d_name, NULL), 0);
        if (strchr(entry->d_name, '-') == NULL || strcmp(entry->d_name, "openveil-mode") == 0 ||
            rand_r(seed) % 3 == 0 || stat(path, &st) != 0 || st.st_size < 6)
            continue;
        if (rand_r(seed) % 4 == 0)
            assert_int_equal(truncate(path, rand_r(seed) % st.st_size), 0);
        else
            overwrite(entry->d_name, (size_t)rand_r(seed) % ((size_t)st.st_size - 5));
    }
    closedir(stream);
}

// Whatever random damage does, the spool starts, its numbers grow, and new outcomes are kept.
static void it_starts_on_any_bytes(void **state) {
    (void)state;
    struct config config = config_on_day(20001);
    unsigned seed = 3;
    uint64_t newest = 0;
    for (unsigned round = 0; round < 40; round++) {
        uint64_t first = newest == 0 ? FIRST : newest + 1;
        for (uint64_t i = 0; i < 3; i++) {
            ledger_after(20001, first, i);
            raw_write(first + i, 20001, 3, NONE);
        }
        damage_files(&seed);
        struct spool_port *port;
        struct spool *spool = open_started(&config, &port);
        add_durably(port, (uint64_t)round << 40, 10);
        stop_and_free(spool);
        struct spool_listing listing;
        assert_int_equal(spool_list(fixture_dir, &listing, NULL), 0);
        assert_true(listing.raw.n == 0 && listing.sealed.n > 0);
        assert_true(listing.sealed.at[listing.sealed.n - 1] > newest);
        newest = listing.sealed.at[listing.sealed.n - 1];
        spool_listing_free(&listing);
    }
}

int main(void) {
#define SPOOL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        SPOOL_TEST(several_raw_segments_are_sealed_in_order),
        SPOOL_TEST(missing_close_markers_are_written),
        SPOOL_TEST(a_resend_has_the_same_bytes),
        SPOOL_TEST(damaged_groups_cost_only_themselves),
        SPOOL_TEST(a_damaged_header_is_put_aside_and_its_number_kept_free),
        SPOOL_TEST(a_damaged_newest_falls_back),
        SPOOL_TEST(junk_is_left_alone),
        SPOOL_TEST(it_starts_on_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
