// The ledger's arithmetic: ranges, counts, days that end.
#include "ingest/ledger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "common/token.h"

#define PARTITIONS 4

static struct ledger *ledger, *other;
static struct tally tally;

static int set_up(void **state) {
    (void)state;
    ledger = calloc(1, sizeof *ledger);
    other = calloc(1, sizeof *other);
    tally = (struct tally){.events = 3, .outcomes = 5, .drops = {1, 1}, .recorded_by_partition = {1, 0, 2}};
    return ledger == NULL || other == NULL;
}

static int tear_down(void **state) {
    (void)state;
    free(ledger);
    free(other);
    return 0;
}

static void segments_join_their_epochs_range(void **state) {
    (void)state;
    ledger_begin(ledger, 100);
    const uint64_t epochs[] = {7, 7, 7, 9, 9, 7};
    for (size_t i = 0; i < ARRAY_LEN(epochs); i++)
        assert_int_equal(ledger_add(ledger, PARTITIONS, epochs[i], 10 + i, &tally), 0);
    assert_int_equal(ledger->n_ranges, 3);
    assert_true(ledger->ranges[0].epoch == 7 && ledger->ranges[0].first == 10 && ledger->ranges[0].last == 12);
    assert_true(ledger->ranges[1].epoch == 9 && ledger->ranges[1].first == 13 && ledger->ranges[1].last == 14);
    assert_true(ledger->ranges[2].epoch == 7 && ledger->ranges[2].first == 15 && ledger->ranges[2].last == 15);
    assert_int_equal(ledger->counts.requests, 30);
    assert_int_equal(ledger->counts.recorded, 18);
    assert_int_equal(ledger->counts.drops[1], 6);
    assert_int_equal(ledger->recorded_by_partition[2], 12);
    ledger_copy(other, ledger);
    assert_memory_equal(other, ledger, offsetof(struct ledger, ranges) + 3 * sizeof ledger->ranges[0]);
}

static void epochs_of_a_day_are_limited(void **state) {
    (void)state;
    assert_int_equal(ledger_ranges_max(1), CLOSE_RANGES_MAX);
    size_t max = ledger_ranges_max(LEDGER_PARTITIONS_MAX);
    assert_in_range(max, 1000, CLOSE_RANGES_MAX - 1);
    ledger_begin(ledger, 100);
    memset(&tally, 0, sizeof tally);
    for (size_t i = 0; i < max; i++)
        assert_int_equal(ledger_add(ledger, LEDGER_PARTITIONS_MAX, i, i, &tally), 0);
    assert_int_equal(ledger_add(ledger, LEDGER_PARTITIONS_MAX, max - 1, max, &tally), 0);
    assert_int_equal(ledger_add(ledger, LEDGER_PARTITIONS_MAX, max, max + 1, &tally), ERR_LIMIT);
}

static void lost_segments_stay_listed(void **state) {
    (void)state;
    ledger_begin(ledger, 100);
    ledger_lose(ledger, 5);
    assert_int_equal(ledger->n_ranges, 1);
    assert_true(ledger->ranges[0].epoch == 0 && ledger->ranges[0].first == 5 && ledger->ranges[0].last == 5);
    assert_int_equal(ledger_add(ledger, PARTITIONS, 7, 6, &tally), 0);
    ledger_lose(ledger, 8);
    assert_int_equal(ledger->ranges[1].last, 8);
    ledger_lose(ledger, 4);
    assert_int_equal(ledger->ranges[1].last, 8);
    assert_int_equal(ledger->counts.requests, 5);
}

// Closes day after day until `today` and checks that the markers name every day once.
static unsigned close_all(uint32_t today) {
    unsigned n = 0, expected = ledger_closes(ledger, today);
    while (ledger->day < today) {
        uint32_t from = ledger->day;
        struct ledger_closing closing = ledger_next_close(ledger, today);
        assert_int_equal(closing.from_day, from);
        assert_in_range(closing.day, from, today - 1);
        ledger_close(ledger, closing);
        assert_int_equal(ledger->day, closing.day + 1);
        assert_int_equal(ledger->n_ranges, 0);
        assert_int_equal(ledger->counts.requests, 0);
        n++;
    }
    assert_int_equal(n, expected);
    return n;
}

static void days_close_in_order(void **state) {
    (void)state;
    ledger_begin(ledger, 100);
    assert_int_equal(close_all(100), 0);
    assert_int_equal(close_all(101), 1); // idle for a day
    assert_int_equal(close_all(108), 1); // idle for a week: one marker
    assert_int_equal(ledger_add(ledger, PARTITIONS, 7, 1, &tally), 0);
    assert_int_equal(ledger_next_close(ledger, 109).day, 108);
    assert_int_equal(close_all(109), 1);
    assert_int_equal(ledger_add(ledger, PARTITIONS, 7, 2, &tally), 0);
    assert_int_equal(ledger_next_close(ledger, 120).day, 109);
    assert_int_equal(close_all(120), 2); // the day with segments, then the days that the edge was away
    assert_int_equal(ledger->day, 120);
}

static void partitions_are_remembered(void **state) {
    (void)state;
    struct partition_cache *cache = calloc(1, sizeof *cache);
    assert_non_null(cache);
    cache->partitions = 8;
    for (unsigned round = 0; round < 2; round++) {
        for (uint32_t tenant = 0; tenant < 3 * PARTITION_SLOTS; tenant += 5)
            assert_int_equal(partition_cached(cache, tenant), partition_of(tenant, 8));
    }
    assert_int_equal(partition_cached(cache, 7), 0);
    assert_int_equal(partition_cached(cache, UINT32_MAX), 3);
    free(cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(segments_join_their_epochs_range, set_up, tear_down),
        cmocka_unit_test_setup_teardown(epochs_of_a_day_are_limited, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lost_segments_stay_listed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(days_close_in_order, set_up, tear_down),
        cmocka_unit_test(partitions_are_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
