// The last-open table and the windows' tables against plain arrays: growth, erasing while walking, limits.
#include "aggregator/last_open.h"
#include "aggregator/windows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

#define KEYS 5000

static uint32_t seed;
static uint32_t next_random(void) {
    seed = seed * 1664525 + 1013904223;
    return seed >> 8;
}

static void table_equals_an_array(void **state) {
    (void)state;
    static uint16_t days[KEYS];
    struct last_open_table *table;
    struct last_open value;
    memset(days, 0, sizeof days);
    seed = 1;
    assert_int_equal(last_open_table_create(&table, KEYS), 0);
    uint64_t count = 0;
    for (int step = 0; step < 200000; step++) {
        uint32_t key = next_random() % KEYS;
        uint32_t tenant = key % 3;
        if (next_random() % 3 == 0) {
            count -= days[key] != 0;
            days[key] = 0;
            last_open_erase(table, tenant, key);
        } else {
            count += days[key] == 0;
            days[key] = (uint16_t)(1 + next_random() % 60000);
            value = (struct last_open){.day = days[key], .frozen_age = (uint8_t)(key % 8)};
            assert_int_equal(last_open_put(table, tenant, key, value), 0);
        }
        assert_int_equal(last_open_count(table), count);
    }
    for (uint32_t key = 0; key < KEYS; key++) {
        assert_int_equal(last_open_get(table, key % 3, key, &value), days[key] != 0);
        if (days[key] != 0)
            assert_true(value.day == days[key] && value.frozen_age == key % 8);
        assert_false(last_open_get(table, key % 3 + 3, key, &value));
    }
    last_open_table_free(table);
}

static void a_walk_misses_nobody_while_erasing(void **state) {
    (void)state;
    static bool visited[KEYS];
    struct last_open_table *table;
    struct last_open_cursor cursor = {0};
    struct last_open_contact contact;
    memset(visited, 0, sizeof visited);
    assert_int_equal(last_open_table_create(&table, 2 * KEYS), 0);
    for (uint32_t key = 0; key < KEYS; key++)
        assert_int_equal(last_open_put(table, 7, key, (struct last_open){.day = 1}), 0);
    size_t steps = 0;
    while (last_open_next(table, &cursor, &contact)) {
        if (contact.tenant == 7)
            visited[contact.pseudonym] = true;
        if (contact.pseudonym % 2 == 0)
            last_open_erase(table, contact.tenant, contact.pseudonym);
        if (++steps == KEYS / 2) // it grows in between
            for (uint64_t key = KEYS; key < 2 * KEYS; key++)
                assert_int_equal(last_open_put(table, 8, key, (struct last_open){.day = 1}), 0);
        assert_true(steps < 10 * KEYS);
    }
    for (uint32_t key = 0; key < KEYS; key++)
        assert_true(visited[key]);
    last_open_table_free(table);
}

static void the_limit_is_kept(void **state) {
    (void)state;
    struct last_open_table *table;
    assert_int_equal(last_open_table_create(&table, 3), 0);
    for (uint64_t key = 0; key < 3; key++)
        assert_int_equal(last_open_put(table, 1, key, (struct last_open){.day = 1}), 0);
    assert_int_equal(last_open_put(table, 1, 9, (struct last_open){.day = 1}), ERR_LIMIT);
    assert_int_equal(last_open_put(table, 1, 2, (struct last_open){.day = 2}), 0);
    last_open_erase(table, 1, 0);
    assert_int_equal(last_open_put(table, 1, 9, (struct last_open){.day = 1}), 0);
    last_open_table_free(table);
}

static void a_window_equals_an_array(void **state) {
    (void)state;
    static struct window_cell cells[KEYS];
    static bool used[KEYS], visited[KEYS];
    struct window *window;
    struct window_cell cell;
    memset(used, 0, sizeof used);
    memset(visited, 0, sizeof visited);
    seed = 2;
    assert_int_equal(window_create(&window), 0);
    size_t count = 0;
    for (int step = 0; step < 50000; step++) {
        uint32_t key = next_random() % KEYS;
        if (next_random() % 4 == 0) {
            count -= used[key];
            used[key] = false;
            window_erase(window, key);
        } else {
            count += !used[key];
            used[key] = true;
            cells[key] = (struct window_cell){.stream = (uint16_t)next_random(), .provider = (uint8_t)next_random()};
            assert_int_equal(window_put(window, key, cells[key]), 0);
        }
    }
    assert_int_equal(window_count(window), count);
    for (uint32_t key = 0; key < KEYS; key++) {
        assert_int_equal(window_get(window, key, &cell), used[key]);
        if (used[key])
            assert_memory_equal(&cell, &cells[key], sizeof cell);
    }
    uint64_t pseudonym;
    for (size_t cursor = 0; window_next(window, &cursor, &pseudonym, &cell); count--)
        visited[pseudonym] = true;
    assert_int_equal(count, 0);
    assert_memory_equal(visited, used, sizeof used);
    window_free(window);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_equals_an_array),
        cmocka_unit_test(a_walk_misses_nobody_while_erasing),
        cmocka_unit_test(the_limit_is_kept),
        cmocka_unit_test(a_window_equals_an_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
