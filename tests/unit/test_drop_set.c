// The set of contacts that an edge drops: what it holds, what it costs, and that readers never miss what stays in it.
#include "ingest/drop_set.h"

#include "common/check.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

static struct drop_set *set;
static struct drop_reader *reader;

static int set_up(void **state) {
    struct err err;
    (void)state;
    if (drop_set_create(&set, 3, &err) != 0)
        return -1;
    reader = drop_set_reader(set, 0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    drop_set_free(set);
    return 0;
}

static void a_contact_is_in_it_until_removed(void **state) {
    (void)state;
    assert_false(drop_set_contains(reader, 7, 1));
    drop_set_remove(set, 7, 1);
    assert_int_equal(drop_set_add(set, 7, 1), 0);
    assert_int_equal(drop_set_add(set, 7, 1), 0);
    assert_int_equal(drop_set_count(set), 1);
    assert_true(drop_set_contains(reader, 7, 1));
    assert_false(drop_set_contains(reader, 8, 1));
    assert_false(drop_set_contains(reader, 7, 2));
    assert_int_equal(drop_set_add(set, 8, 1), 0);
    drop_set_remove(set, 7, 1);
    assert_false(drop_set_contains(reader, 7, 1));
    assert_true(drop_set_contains(reader, 8, 1));
    drop_set_clear(set);
    assert_false(drop_set_contains(reader, 8, 1));
    assert_int_equal(drop_set_count(set), 0);
    assert_int_equal(drop_set_bytes(set), 0);
}

static uint64_t contact(uint64_t i) {
    return i * 0x9e3779b97f4a7c15u ^ i << 7;
}

static void many_contacts_in_few_bytes(void **state) {
    (void)state;
    const uint64_t n = 400000;
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(drop_set_add(set, (uint32_t)(i % 3), contact(i)), 0);
    assert_int_equal(drop_set_count(set), n);
    for (uint64_t i = 0; i < n; i++) {
        assert_true(drop_set_contains(reader, (uint32_t)(i % 3), contact(i)));
        assert_false(drop_set_contains(reader, (uint32_t)(i % 3 + 1), contact(i)));
    }
    assert_in_range(drop_set_bytes(set), 8 * n, 9 * n);
    for (uint64_t i = 0; i < n; i++) {
        if (i % 5 != 0)
            drop_set_remove(set, (uint32_t)(i % 3), contact(i));
    }
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(drop_set_contains(reader, (uint32_t)(i % 3), contact(i)), i % 5 == 0);
    assert_in_range(drop_set_bytes(set), 8 * n / 5, 18 * n / 5);
    drop_set_clear(set);
}

// ---- readers beside the writer --------------------------------------------------------------------------------------
#define STAYING 2000u

static _Atomic bool stop;

static void *look(void *arg) {
    struct drop_reader *mine = arg;
    uint64_t missed = 0;
    while (!atomic_load(&stop)) {
        for (uint64_t i = 0; i < STAYING; i++)
            missed += !drop_set_contains(mine, 1, contact(i));
    }
    return (void *)(uintptr_t)missed;
}

static void readers_miss_nothing_that_stays(void **state) {
    (void)state;
    pthread_t threads[2];
    void *missed;
    for (uint64_t i = 0; i < STAYING; i++)
        assert_int_equal(drop_set_add(set, 1, contact(i)), 0);
    atomic_store(&stop, false);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        CHECK(pthread_create(&threads[i], NULL, look, drop_set_reader(set, 1 + i)) == 0);
    for (int round = 0; round < 4; round++) {
        for (uint64_t i = STAYING; i < 60000; i++)
            assert_int_equal(drop_set_add(set, 1, contact(i)), 0);
        for (uint64_t i = STAYING; i < 60000; i++)
            drop_set_remove(set, 1, contact(i));
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        CHECK(pthread_join(threads[i], &missed) == 0);
        assert_null(missed);
    }
    assert_int_equal(drop_set_count(set), STAYING);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_contact_is_in_it_until_removed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_contacts_in_few_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(readers_miss_nothing_that_stays, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
