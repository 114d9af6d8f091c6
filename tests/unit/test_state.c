// A partition's state: the same records give the same answers whether they were lived or loaded.
#include "aggregator/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

static uint8_t key[RECORD_KEY_MAX], value[RECORD_VALUE_MAX];
static struct batch *batch;
static struct state *lived;

static int begin(void **state) {
    (void)state;
    assert_int_equal(batch_create(&batch, 4), 0);
    return state_create(&lived, 1000);
}

static int finish(void **state) {
    (void)state;
    batch_free(batch);
    state_free(lived);
    return 0;
}

static void put(size_t key_len, size_t value_len) {
    assert_int_equal(state_change(lived, batch, 2, key, key_len, value, value_len), 0);
}

// What a load of the batch's records would build.
static struct state *loaded(void) {
    struct state *state;
    assert_int_equal(state_create(&state, 1000), 0);
    for (size_t i = 0; i < batch_count(batch); i++) {
        struct batch_record record = batch_at(batch, i);
        assert_int_equal(state_apply(state, record.key, record.key_len, record.value, record.value_len), 0);
    }
    return state;
}

static void windows_are_dropped_in_memory_and_on_disk(void **unused) {
    (void)unused;
    const struct window_cell cell = {.stream = 3, .provider = 1};
    for (uint64_t c = 0; c < 100; c++)
        put(key_window(key, 7, 20000 + c % 2, c), window_encode(cell, value));
    assert_int_equal(window_count(tenant_state_window(state_tenant(lived, 7), 20000)), 50);
    assert_int_equal(state_window_drop(lived, batch, 2, 7, 20000), 0);
    assert_int_equal(state_window_drop(lived, batch, 2, 7, 20005), 0);
    assert_int_equal(state_window_drop(lived, batch, 2, 8, 20000), 0);
    struct state *again = loaded();
    assert_null(tenant_state_window(state_tenant(lived, 7), 20000));
    assert_null(tenant_state_window(state_tenant(again, 7), 20000));
    assert_int_equal(window_count(tenant_state_window(state_tenant(again, 7), 20001)), 50);
    state_free(again);
}

static void settings_hold_from_their_day(void **unused) {
    (void)unused;
    struct settings settings = {.epsilon = {1, 4}, .threshold = 40};
    const uint32_t days[] = {20010, 0, 20005};
    for (size_t i = 0; i < ARRAY_LEN(days); i++) {
        settings.threshold = 40 + days[i];
        put(key_settings(key, days[i]), settings_encode(&settings, value));
    }
    assert_int_equal(state_settings_on(lived, 20004)->threshold, 40);
    assert_int_equal(state_settings_on(lived, 20009)->threshold, 20045);
    assert_int_equal(state_settings_newest(lived)->threshold, 20050);
    put(key_settings(key, 20010), 0);
    assert_int_equal(state_settings_newest(lived)->from_day, 20005);
}

static void edges_and_days_keep_their_order(void **unused) {
    (void)unused;
    struct edge_record edge = {.registered_day = 20000, .closed_through = 19999};
    const char *const names[] = {"m", "b", "z", "a", "b"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        put(key_edge(key, names[i]), edge_encode(&edge, value));
    assert_int_equal(state_edge_count(lived), 4);
    for (size_t i = 1; i < 4; i++)
        assert_true(strcmp(state_edge_at(lived, i - 1)->edge, state_edge_at(lived, i)->edge) < 0);
    assert_true(state_edge(lived, "z", &edge));
    assert_int_equal(edge.registered_day, 20000);
    assert_false(state_edge(lived, "y", &edge));
    assert_int_equal(edge.registered_day, DAY_NONE);
    put(key_edge(key, "b"), 0);
    assert_int_equal(state_edge_count(lived), 3);

    struct day_record day = {0};
    for (uint32_t i = 0; i < 50; i++) {
        day.received = i * 7 % 50;
        put(key_day(key, 20000 + i * 7 % 50), day_encode(&day, value));
    }
    for (size_t i = 0; i < 50; i++) {
        uint32_t at;
        assert_int_equal(state_day_at(lived, i, &at)->received, i);
        assert_int_equal(at, 20000 + i);
    }
    put(key_day(key, 20003), 0);
    assert_null(state_day(lived, 20003));
    assert_non_null(state_day(lived, 20004));
}

static void a_budget_forgets_months_that_are_over(void **unused) {
    (void)unused;
    struct fraction spent[8];
    uint32_t november, december;
    assert_int_equal(day_parse("2026-11-01", &november), 0);
    december = day_next_month_start(november);
    const struct release_record line = {.spent = {1, 4}, .line = (const uint8_t *)"{}", .line_len = 2};
    for (uint32_t day = december - 2; day < december + 3; day++)
        put(key_release(key, 7, RELEASE_DELIVERABILITY, day), release_encode(&line, value));
    put(key_release(key, 7, RELEASE_INACTIVITY, november), release_encode(&line, value));
    assert_int_equal(tenant_state_spent(state_tenant(lived, 7), november, spent, 8), 3);
    assert_int_equal(tenant_state_spent(state_tenant(lived, 7), december, spent, 8), 3);
    assert_true(tenant_state_released(state_tenant(lived, 7), RELEASE_INACTIVITY, november));
    struct tenant_record record = {.first_measured = 20000, .next_window = december + 3, .next_month = december};
    put(key_tenant(key, 7), tenant_encode(&record, value));
    assert_int_equal(tenant_state_spent(state_tenant(lived, 7), november, spent, 8), 0);
    assert_int_equal(tenant_state_spent(state_tenant(lived, 7), december, spent, 8), 3);
}

static void many_tenants_are_found(void **unused) {
    (void)unused;
    for (uint32_t tenant = 0; tenant < 2000; tenant++) {
        const struct tenant_record record = {.first_measured = tenant + 1, .next_window = 30000, .next_month = 30000};
        put(key_tenant(key, tenant * 65536), tenant_encode(&record, value));
    }
    size_t cursor = 0, n = 0;
    while (state_tenant_next(lived, &cursor) != NULL)
        n++;
    assert_int_equal(n, 2000);
    assert_int_equal(state_tenant_count(lived), 2000);
    assert_int_equal(tenant_state_record(state_tenant(lived, 1999u * 65536))->first_measured, 2000);
    assert_null(state_tenant(lived, 1));
}

static void what_is_no_record_is_refused(void **unused) {
    (void)unused;
    static const char *const records[] = {"x", "", "M\1", "D\1\1\1", "E", "L\1\1\1\1", "W\1\1\1\1\1\1\1\1", "T\1", "C\1"};
    for (size_t i = 0; i < ARRAY_LEN(records); i++)
        assert_int_equal(state_apply(lived, (const uint8_t *)records[i], strlen(records[i]), value, 1), ERR_CORRUPT);
    value[0] = 0xff;
    assert_int_equal(state_apply(lived, key, key_meta(key), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_day(key, 20000), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_edge(key, "a"), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_last_open(key, 1, 1), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_window(key, 1, 20000, 1), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_tenant(key, 1), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_release(key, 1, RELEASE_INACTIVITY, 20000), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_consent(key), value, 1), ERR_CORRUPT);
    assert_int_equal(state_apply(lived, key, key_settings(key, 1), value, 1), ERR_CORRUPT);
    assert_int_equal(state_edge_count(lived) + state_day_count(lived), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, finish)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(windows_are_dropped_in_memory_and_on_disk),
        TEST(settings_hold_from_their_day),
        TEST(edges_and_days_keep_their_order),
        TEST(a_budget_forgets_months_that_are_over),
        TEST(many_tenants_are_found),
        TEST(what_is_no_record_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
