// The aggregator's records: every codec goes there and back and survives hostile bytes; the age of a last open.
#include "aggregator/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

static uint8_t value[RECORD_VALUE_MAX];

static void keys_go_there_and_back(void **state) {
    (void)state;
    uint8_t key[RECORD_KEY_MAX];
    struct record_key back;
    assert_int_equal(key_decode(key, key_meta(key), &back), 0);
    assert_int_equal(back.kind, RECORD_META);
    assert_int_equal(key_decode(key, key_settings(key, 20779), &back), 0);
    assert_true(back.kind == RECORD_SETTINGS && back.day == 20779);
    assert_int_equal(key_decode(key, key_edge(key, "edge-1.example"), &back), 0);
    assert_int_equal(back.kind, RECORD_EDGE);
    assert_string_equal(back.edge, "edge-1.example");
    assert_int_equal(key_decode(key, key_last_open(key, 7, 0xd1c0605349147485), &back), 0);
    assert_true(back.kind == RECORD_LAST_OPEN && back.tenant == 7 && back.pseudonym == 0xd1c0605349147485);
    assert_int_equal(key_decode(key, key_window(key, 7, 20779, 5), &back), 0);
    assert_true(back.kind == RECORD_WINDOW && back.day == 20779 && back.pseudonym == 5 && back.tenant == 7);
    assert_int_equal(key_decode(key, key_tenant(key, UINT32_MAX), &back), 0);
    assert_true(back.kind == RECORD_TENANT && back.tenant == UINT32_MAX);
    assert_int_equal(key_decode(key, key_release(key, 7, RELEASE_INACTIVITY, 20758), &back), 0);
    assert_true(back.kind == RECORD_RELEASE && back.release_kind == RELEASE_INACTIVITY && back.day == 20758);
    assert_int_equal(key_decode(key, key_announced(key, 7, RELEASE_DELIVERABILITY, 20779), &back), 0);
    assert_true(back.kind == RECORD_ANNOUNCED && back.release_kind == RELEASE_DELIVERABILITY && back.day == 20779);
    assert_int_equal(key_decode(key, key_consent(key), &back), 0);
    assert_int_equal(back.kind, RECORD_CONSENT);
    size_t len = key_day(key, 3);
    assert_int_equal(key_decode(key, len, &back), 0);
    assert_int_equal(key_decode(key, len - 1, &back), ERR_CORRUPT);
    assert_int_equal(key_decode(key, len + 1, &back), ERR_CORRUPT);
    assert_int_equal(key_decode(key, 0, &back), ERR_CORRUPT);
    key[0] = 'x';
    assert_int_equal(key_decode(key, len, &back), ERR_CORRUPT);
}

static void meta_and_settings(void **state) {
    (void)state;
    bool rehearsal;
    uint32_t partitions;
    size_t len = meta_encode(true, 8, value);
    assert_int_equal(meta_decode(value, len, &rehearsal, &partitions), 0);
    assert_true(rehearsal && partitions == 8);
    value[0]++;
    assert_int_equal(meta_decode(value, len, &rehearsal, &partitions), ERR_CORRUPT);

    char name[] = "posteo";
    struct settings settings = {.epsilon = {1, 4}, .threshold = 40, .horizon_days = 1}, back;
    settings.provider_names[14] = name;
    settings.provider_names[255] = name;
    len = settings_encode(&settings, value);
    assert_int_equal(settings_decode(value, len, &back), 0);
    assert_true(back.epsilon.numerator == 1 && back.epsilon.denominator == 4 && back.threshold == 40);
    assert_int_equal(back.horizon_days, 1);
    assert_string_equal(back.provider_names[14], "posteo");
    assert_string_equal(back.provider_names[255], "posteo");
    assert_null(back.provider_names[15]);
    settings_free(&back);
    for (size_t cut = 1; cut < 8; cut++)
        assert_int_equal(settings_decode(value, len - cut, &back), ERR_CORRUPT);
}

static void an_edge_with_gaps(void **state) {
    (void)state;
    static struct edge_record edge, back;
    edge = (struct edge_record){.registered_day = 20000, .closed_through = 20010, .incomplete_through = 20003,
                                .incomplete_days = 5, .retired_on = 20011, .registered_epoch = 3,
                                .forgotten_first = 4, .forgotten_next = 9, .renumbered = true};
    edge.n_epochs = EDGE_EPOCHS_MAX;
    for (size_t i = 0; i < EDGE_EPOCHS_MAX; i++) {
        edge.epochs[i] = (struct edge_epoch){.epoch = 77 + i, .first = 1, .next = 1000, .n_gaps = EDGE_GAPS_MAX};
        for (size_t g = 0; g < EDGE_GAPS_MAX; g++)
            edge.epochs[i].gaps[g] = (struct segment_range){.epoch = 77 + i, .first = g * 10 + 2, .last = g * 10 + 5};
    }
    size_t len = edge_encode(&edge, value);
    assert_int_equal(edge_decode(value, len, &back), 0);
    assert_memory_equal(&edge, &back, sizeof edge);
    assert_int_equal(edge_decode(value, len - 1, &back), ERR_CORRUPT);
    edge.epochs[3].gaps[1].first = 3; // overlaps the one before
    len = edge_encode(&edge, value);
    assert_int_equal(edge_decode(value, len, &back), ERR_CORRUPT);
}

static void a_day_with_rules(void **state) {
    (void)state;
    struct day_record day = {.flags = DAY_COMPLETE, .received = 10, .counted = 4, .repeated = 1, .n_rules = 2}, back;
    day.drops[AGG_DROP_LATE] = 5;
    day.edges.requests = 12;
    day.edges.recorded = 10;
    day.edges.drops[EDGE_DROP_SCANNER] = 2;
    day.recorded_here = 10;
    day.n_edges_closed = 3;
    day.rules[1][0] = 9;
    size_t len = day_encode(&day, value);
    assert_int_equal(day_decode(value, len, &back), 0);
    assert_memory_equal(&day, &back, sizeof day);
    day.rules[0][0] = 9; // not ascending
    len = day_encode(&day, value);
    assert_int_equal(day_decode(value, len, &back), ERR_CORRUPT);
}

static void small_values(void **state) {
    (void)state;
    struct last_open last_open = {.day = 20779, .frozen_age = AGE_180};
    size_t len = last_open_encode(last_open, value);
    assert_int_equal(last_open_decode(value, len, &last_open), 0);
    assert_true(last_open.day == 20779 && last_open.frozen_age == AGE_180);
    value[2] = AGE_NONE + 1;
    assert_int_equal(last_open_decode(value, len, &last_open), ERR_CORRUPT);

    struct window_cell cell = {.stream = 700, .provider = 3, .fetch = FETCH_MACHINE, .class_regime = 0x11};
    len = window_encode(cell, value);
    assert_int_equal(window_decode(value, len, &cell), 0);
    assert_true(cell.stream == 700 && cell.provider == 3 && cell.fetch == FETCH_MACHINE && cell.class_regime == 0x11);
    value[3] = FETCH_SCANNER;
    assert_int_equal(window_decode(value, len, &cell), ERR_CORRUPT);

    struct tenant_record tenant = {20000, 20005, 20010, DAY_NONE}, tenant_back;
    len = tenant_encode(&tenant, value);
    assert_int_equal(tenant_decode(value, len, &tenant_back), 0);
    assert_memory_equal(&tenant, &tenant_back, sizeof tenant);

    struct consent_stamp stamp = {.epoch = 99, .hash = {1, 2, 3}}, stamp_back;
    len = stamp_encode(&stamp, value);
    assert_int_equal(stamp_decode(value, len, &stamp_back), 0);
    assert_int_equal(stamp_back.epoch, 99);
    assert_memory_equal(stamp_back.hash, stamp.hash, CONSENT_HASH_SIZE);

    struct release_record release = {.spent = {1, 4}, .line = (const uint8_t *)"{}", .line_len = 2}, release_back = {0};
    len = release_encode(&release, value);
    assert_int_equal(release_decode(value, len, &release_back), 0);
    assert_true(release_back.line_len == 2 && memcmp(release_back.line, "{}", 2) == 0);
    assert_int_equal(release_decode(value, 8, &release_back), ERR_CORRUPT);
}

// Whatever the bytes, decoding ends with an answer (the sanitizers watch).
static void hostile_bytes(void **state) {
    (void)state;
    static uint8_t bytes[600];
    static struct edge_record edge;
    uint32_t seed = 1;
    size_t refused = 0;
    for (int round = 0; round < 20000; round++) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            seed = seed * 1664525 + 1013904223;
            bytes[i] = (seed >> 24) % 3 == 0 ? (uint8_t)(seed >> 16) : 0;
        }
        size_t len = (seed >> 8) % sizeof bytes;
        struct record_key key;
        struct settings settings;
        struct day_record day;
        struct release_record release;
        refused += key_decode(bytes, len, &key) != 0;
        if (settings_decode(bytes, len, &settings) == 0)
            settings_free(&settings);
        refused += edge_decode(bytes, len, &edge) != 0;
        refused += day_decode(bytes, len, &day) != 0;
        refused += release_decode(bytes, len, &release) != 0;
    }
    assert_true(refused > 20000);
}

static uint32_t day_of(const char *text) {
    uint32_t day;
    assert_int_equal(day_parse(text, &day), 0);
    return day;
}

static void ages_have_classes(void **state) {
    (void)state;
    const struct {
        uint32_t days;
        enum frozen_age age;
    } rows[] = {{0, AGE_0_30},     {30, AGE_0_30},   {31, AGE_31_89},    {89, AGE_31_89},    {90, AGE_90},   {91, AGE_91_179},
                {179, AGE_91_179}, {180, AGE_180},   {181, AGE_181_364}, {364, AGE_181_364}, {365, AGE_365}, {366, AGE_NONE}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(age_of_days(rows[i].days), rows[i].age);
}

static void a_newer_open_freezes_the_older_one(void **state) {
    (void)state;
    struct last_open last_open;
    assert_true(last_open_raise(&last_open, false, day_of("2026-03-10")));
    assert_int_equal(last_open.frozen_age, AGE_NONE);
    assert_false(last_open_raise(&last_open, true, day_of("2026-03-10")));
    assert_false(last_open_raise(&last_open, true, day_of("2026-03-01")));
    assert_true(last_open_raise(&last_open, true, day_of("2026-03-12")));
    assert_int_equal(last_open.frozen_age, AGE_NONE);
    assert_true(last_open_raise(&last_open, true, day_of("2026-06-02")));
    // As of 31 May the last open was 80 days old, as of 2 June it is today's.
    assert_int_equal(last_open_age_on(last_open, day_of("2026-05-31")), AGE_31_89);
    assert_int_equal(last_open_age_on(last_open, day_of("2026-06-30")), AGE_0_30);
    assert_int_equal(last_open_age_on(last_open, day_of("2026-08-31")), AGE_90);
    // Late events of an earlier month.
    assert_false(last_open_raise(&last_open, true, day_of("2026-03-20")));
    assert_true(last_open_raise(&last_open, true, day_of("2026-05-31")));
    assert_int_equal(last_open_age_on(last_open, day_of("2026-05-31")), AGE_0_30);
    assert_int_equal(last_open.day, day_of("2026-06-02"));
}

// Against the definition, over random opens in any order.
static void raise_equals_its_definition(void **state) {
    (void)state;
    uint32_t seed = 7;
    for (int round = 0; round < 3000; round++) {
        uint32_t days[8];
        struct last_open last_open = {0};
        for (size_t n = 0; n < ARRAY_LEN(days); n++) {
            seed = seed * 1664525 + 1013904223;
            days[n] = 20000 + (seed >> 8) % 700;
            last_open_raise(&last_open, n > 0, days[n]);
            uint32_t newest = 0, before = 0;
            for (size_t i = 0; i <= n; i++)
                newest = days[i] > newest ? days[i] : newest;
            uint32_t month = day_month_start(newest);
            for (size_t i = 0; i <= n; i++)
                before = days[i] < month && days[i] > before ? days[i] : before;
            assert_int_equal(last_open.day, newest);
            assert_int_equal(last_open.frozen_age, before == 0 ? AGE_NONE : age_of_days(month - 1 - before));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_go_there_and_back),
        cmocka_unit_test(meta_and_settings),
        cmocka_unit_test(an_edge_with_gaps),
        cmocka_unit_test(a_day_with_rules),
        cmocka_unit_test(small_values),
        cmocka_unit_test(hostile_bytes),
        cmocka_unit_test(ages_have_classes),
        cmocka_unit_test(a_newer_open_freezes_the_older_one),
        cmocka_unit_test(raise_equals_its_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
