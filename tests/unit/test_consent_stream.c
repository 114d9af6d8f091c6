#include "aggregator/consent_stream.h"

#include "common/check.h"
#include "tests/consent_fixture.h"

#define TENANT 7u // of partition 0
#define TOLD_MAX 64

struct told {
    uv_loop_t loop;
    struct consent_stream *stream;
    struct consent_entry entries[TOLD_MAX];
    size_t n_entries;
    size_t room; // entries that are taken before one is refused
    uint64_t gap_first, gap_last;
    size_t n_gaps, n_behind, n_lost, n_level;
    uint64_t level;
    struct consent_stamp behind;
};

static bool on_entry(void *arg, uint32_t partition, const struct consent_entry *entry) {
    struct told *told = arg;
    assert_int_equal(partition, 0);
    if (told->room == 0)
        return false;
    told->room--;
    assert_true(told->n_entries < TOLD_MAX);
    told->entries[told->n_entries++] = *entry;
    return true;
}

static void on_gap(void *arg, uint32_t partition, uint64_t first, uint64_t last) {
    struct told *told = arg;
    assert_int_equal(partition, 0);
    told->n_gaps++;
    told->gap_first = first;
    told->gap_last = last;
}

static void on_behind(void *arg, uint32_t partition, const struct consent_stamp *stamp) {
    struct told *told = arg;
    assert_int_equal(partition, 0);
    told->n_behind++;
    told->behind = *stamp;
}

static void on_level(void *arg, uint32_t partition, const struct consent_stamp *stamp) {
    struct told *told = arg;
    assert_int_equal(partition, 0);
    told->n_level++;
    told->level = stamp->epoch;
}

static void on_lost(void *arg, const char *why) {
    struct told *told = arg;
    assert_true(why[0] != '\0');
    told->n_lost++;
}

static void told_begin(struct told *told) {
    struct config config;
    struct err err = {""};
    const struct consent_stream_hooks hooks = {
        .entry = on_entry, .gap = on_gap, .behind = on_behind, .level = on_level, .lost = on_lost, .arg = told};
    *told = (struct told){.room = TOLD_MAX};
    config_for(&config, "", false);
    assert_int_equal(uv_loop_init(&told->loop), 0);
    assert_int_equal(consent_stream_create(&told->stream, &told->loop, &config, &hooks, &err), 0);
    config_free(&config);
}

static void told_end(struct told *told) {
    consent_stream_free(told->stream);
    uv_run(&told->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&told->loop), 0);
}

static void wait_for(struct told *told, const size_t *counter, size_t n) {
    int64_t end_ms = clock_monotonic_ms() + 15000;
    while (*counter < n && clock_monotonic_ms() < end_ms)
        uv_run(&told->loop, UV_RUN_ONCE);
    assert_true(*counter >= n);
}

static void run_for(struct told *told, int64_t ms) {
    int64_t end_ms = clock_monotonic_ms() + ms;
    while (clock_monotonic_ms() < end_ms) {
        uv_run(&told->loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
}

// Contacts first..last leave, in that order: as many epochs.
static void leave(uint64_t first, uint64_t last) {
    struct consent_store *store = store_open();
    for (uint64_t i = first; i <= last; i++)
        assert_true(apply_one(store, change_of(TENANT, i, CONSENT_WITHDRAWN, 20000, "-")) > 0);
    consent_store_close(store);
}

static void entries_come_in_order_with_what_they_say(void **state) {
    (void)state;
    struct told told;
    struct consent_store *store = store_open();
    assert_int_equal(apply_one(store, change_of(TENANT, 0xd1c0605349147485, CONSENT_GRANTED, 20000, "v 1")), 1);
    told_begin(&told);
    consent_stream_follow(told.stream, 0, 0);
    wait_for(&told, &told.n_entries, 1);
    const struct consent_entry *entry = &told.entries[0];
    assert_int_equal(entry->epoch, 1);
    assert_int_equal(entry->tenant, TENANT);
    assert_true(entry->pseudonym == 0xd1c0605349147485);
    assert_int_equal(entry->state, CONSENT_GRANTED);
    assert_int_equal(entry->kind, ENTRY_STATE);
    assert_int_equal(entry->since, 20000);
    assert_string_equal(entry->notice, "v 1");
    // One that comes while the stream is being waited on.
    assert_int_equal(apply_one(store, change_of(TENANT, 5, CONSENT_OBJECTED, 20001, "-")), 2);
    wait_for(&told, &told.n_entries, 2);
    assert_int_equal(told.entries[1].state, CONSENT_OBJECTED);
    assert_int_equal(consent_store_erase_tenant(store, TENANT, NULL), 3);
    wait_for(&told, &told.n_entries, 3);
    assert_int_equal(told.entries[2].kind, ENTRY_ERASED);
    assert_memory_not_equal(told.entries[2].hash, told.entries[1].hash, CONSENT_HASH_SIZE);
    assert_int_equal(told.n_gaps, 0);
    consent_store_close(store);
    told_end(&told);
}

static void begins_where_the_caller_says(void **state) {
    (void)state;
    struct told told;
    leave(1, 4);
    told_begin(&told);
    consent_stream_follow(told.stream, 0, 3);
    wait_for(&told, &told.n_level, 1);
    assert_int_equal(told.n_entries, 1);
    assert_int_equal(told.entries[0].epoch, 4);
    assert_int_equal(told.level, 4);
    consent_stream_follow(told.stream, 0, CONSENT_STREAM_NOW);
    wait_for(&told, &told.n_level, 2);
    assert_int_equal(told.n_entries, 1);
    leave(5, 5);
    wait_for(&told, &told.n_entries, 2);
    assert_int_equal(told.entries[1].epoch, 5);
    consent_stream_leave(told.stream, 0);
    leave(6, 6);
    run_for(&told, 600);
    assert_int_equal(told.n_entries, 2);
    told_end(&told);
}

static void what_the_stream_does_not_show_is_a_gap(void **state) {
    (void)state;
    struct told told;
    leave(1, 6);
    redis_do("XDEL ov:{0}:changes 1-0 2-0 4-0 6-0");
    told_begin(&told);
    consent_stream_follow(told.stream, 0, 0);
    wait_for(&told, &told.n_level, 1);
    assert_int_equal(told.n_entries, 2);
    assert_int_equal(told.entries[0].epoch, 3);
    assert_int_equal(told.entries[1].epoch, 5);
    assert_int_equal(told.n_gaps, 3);
    assert_int_equal(told.gap_first, 6);
    assert_int_equal(told.gap_last, 6);
    // An entry that is not openveil's counts as missing, too.
    redis_do("XADD ov:{0}:changes 7-0 t 7 p nonsense s withdrawn d 1 n - h 00");
    redis_do("HSET ov:{0}:meta epoch 7");
    wait_for(&told, &told.n_gaps, 4);
    assert_int_equal(told.gap_first, 7);
    leave(8, 8);
    wait_for(&told, &told.n_entries, 3);
    assert_int_equal(told.entries[2].epoch, 8);
    told_end(&told);
}

static void a_refused_entry_comes_again(void **state) {
    (void)state;
    struct told told;
    leave(1, 4);
    told_begin(&told);
    told.room = 2;
    consent_stream_follow(told.stream, 0, 0);
    wait_for(&told, &told.n_entries, 2);
    run_for(&told, 300);
    assert_int_equal(told.n_entries, 2);
    assert_int_equal(told.n_level, 0);
    told.room = TOLD_MAX;
    consent_stream_resume(told.stream, 0);
    wait_for(&told, &told.n_level, 1);
    assert_int_equal(told.n_entries, 4);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(told.entries[i].epoch, i + 1);
    told_end(&told);
}

static void a_store_that_stands_lower_is_told(void **state) {
    (void)state;
    struct told told;
    leave(1, 5);
    told_begin(&told);
    consent_stream_follow(told.stream, 0, 0);
    wait_for(&told, &told.n_entries, 5);
    redis_do("FLUSHALL");
    leave(11, 12);
    wait_for(&told, &told.n_behind, 1);
    assert_int_equal(told.behind.epoch, 2);
    assert_int_equal(told.n_entries, 5);
    consent_stream_follow(told.stream, 0, 0);
    wait_for(&told, &told.n_entries, 7);
    assert_int_equal(told.entries[6].pseudonym, 12);
    assert_int_equal(told.n_behind, 1);
    told_end(&told);
}

static void goes_on_after_redis_was_away(void **state) {
    (void)state;
    struct told told;
    leave(1, 2);
    told_begin(&told);
    consent_stream_follow(told.stream, 0, 0);
    wait_for(&told, &told.n_entries, 2);
    redis_do("SAVE");
    redis_server_kill(&server);
    wait_for(&told, &told.n_lost, 1);
    redis_server_start(&server);
    leave(3, 3);
    wait_for(&told, &told.n_entries, 3);
    assert_int_equal(told.entries[2].epoch, 3);
    assert_int_equal(told.n_gaps, 0);
    assert_int_equal(told.n_behind, 0);
    told_end(&told);
}

static void a_copy_in_the_streams_place_is_no_gap(void **state) {
    (void)state;
    struct told told;
    struct err err = {""};
    struct consent_store *store = store_open();
    leave(1, 3);
    told_begin(&told);
    consent_stream_follow(told.stream, 0, 0);
    wait_for(&told, &told.n_level, 1);
    for (uint64_t i = 4; i < 12; i++) {
        run_for(&told, 30); // it waits in XREAD
        assert_int_equal(consent_store_rewrite(store, 0, i - 1, &err), 0);
        if (i % 2 == 0)
            run_for(&told, 10);
        assert_int_equal(apply_one(store, change_of(TENANT, i, CONSENT_WITHDRAWN, 20000, "-")), i);
        wait_for(&told, &told.n_entries, i);
        assert_int_equal(told.entries[i - 1].epoch, i);
    }
    assert_int_equal(told.n_gaps + told.n_lost + told.n_behind, 0);
    consent_store_close(store);
    told_end(&told);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(entries_come_in_order_with_what_they_say, fresh),
        cmocka_unit_test_setup(begins_where_the_caller_says, fresh),
        cmocka_unit_test_setup(what_the_stream_does_not_show_is_a_gap, fresh),
        cmocka_unit_test_setup(a_refused_entry_comes_again, fresh),
        cmocka_unit_test_setup(a_store_that_stands_lower_is_told, fresh),
        cmocka_unit_test_setup(goes_on_after_redis_was_away, fresh),
        cmocka_unit_test_setup(a_copy_in_the_streams_place_is_no_gap, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
