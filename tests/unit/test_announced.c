// Lines on their way to the releases topic: each once, in order, with the erasure of its record, as far as a batch has room.
#include "aggregator/announced.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

#include "aggregator/record.h"

#define DAY 20779u

static struct announced announced;
static struct batch *batch;

static int begin(void **state) {
    (void)state;
    return batch_create(&batch, 2);
}

static int finish(void **state) {
    (void)state;
    announced_clear(&announced);
    assert_null(announced.first);
    assert_null(announced.last);
    batch_free(batch);
    return 0;
}

static void announce(uint32_t day, const char *line) {
    uint8_t key[RECORD_KEY_MAX];
    size_t len = key_announced(key, 7, RELEASE_DELIVERABILITY, day);
    assert_int_equal(announced_apply(&announced, key, len, (const uint8_t *)line, strlen(line)), 0);
}

static void erase(uint32_t day) {
    announce(day, "");
}

// The entries of the batch are those of this line.
static void check_sent(size_t at, uint32_t day, const char *text_key, const char *line) {
    uint8_t key[RECORD_KEY_MAX];
    size_t len = key_announced(key, 7, RELEASE_DELIVERABILITY, day);
    struct batch_record sent = batch_at(batch, at), erased = batch_at(batch, at + 1);
    assert_true(sent.release && sent.partition == 1 && !erased.release && erased.partition == 1);
    assert_true(sent.key_len == strlen(text_key) && memcmp(sent.key, text_key, sent.key_len) == 0);
    assert_true(sent.value_len == strlen(line) && memcmp(sent.value, line, sent.value_len) == 0);
    assert_true(erased.value_len == 0 && erased.key_len == len && memcmp(erased.key, key, len) == 0);
}

static void lines_leave_in_order_and_once(void **state) {
    (void)state;
    announce(DAY, "one");
    announce(DAY + 1, "two");
    announce(DAY + 2, "three");
    erase(DAY + 1);
    erase(DAY + 5);
    assert_int_equal(announced_send(&announced, batch, 1), 0);
    assert_int_equal(batch_count(batch), 4);
    check_sent(0, DAY, "7/deliverability/2026-11-22", "one");
    check_sent(2, DAY + 2, "7/deliverability/2026-11-24", "three");
    assert_int_equal(announced_send(&announced, batch, 1), 0);
    assert_int_equal(batch_count(batch), 4);
    announce(DAY + 3, "four"); // after the list was empty
    batch_clear(batch);
    assert_int_equal(announced_send(&announced, batch, 1), 0);
    check_sent(0, DAY + 3, "7/deliverability/2026-11-25", "four");
}

static void the_newest_record_of_a_key_counts(void **state) {
    (void)state;
    announce(DAY, "one");
    announce(DAY + 1, "two");
    erase(DAY + 1); // the last one
    announce(DAY, "one");
    assert_int_equal(announced_send(&announced, batch, 1), 0);
    assert_int_equal(batch_count(batch), 2);
    check_sent(0, DAY, "7/deliverability/2026-11-22", "one");
}

static void what_has_no_room_goes_later(void **state) {
    (void)state;
    static char line[RECORD_VALUE_MAX];
    memset(line, 'x', sizeof line - 1);
    size_t n = 3 * (BATCH_BYTES_MAX / sizeof line) / 4, sent = 0;
    for (size_t i = 0; i < n; i++)
        announce(DAY + (uint32_t)i, line);
    for (unsigned round = 0; round < 2; round++) {
        batch_clear(batch);
        assert_int_equal(announced_send(&announced, batch, 1), 0);
        assert_true(batch_bytes(batch) <= BATCH_BYTES_MAX / 2 + RECORD_VALUE_MAX + 2 * RECORD_KEY_MAX);
        sent += batch_count(batch) / 2;
        assert_true(round == 1 || sent < n);
    }
    assert_int_equal(sent, n);
    assert_null(announced.first);
}

static void another_kind_of_record_is_refused(void **state) {
    (void)state;
    uint8_t key[RECORD_KEY_MAX];
    size_t len = key_release(key, 7, RELEASE_DELIVERABILITY, DAY);
    assert_int_equal(announced_apply(&announced, key, len, (const uint8_t *)"x", 1), ERR_CORRUPT);
    len = key_announced(key, 7, RELEASE_DELIVERABILITY, DAY);
    assert_int_equal(announced_apply(&announced, key, len - 1, (const uint8_t *)"x", 1), ERR_CORRUPT);
    assert_null(announced.first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_leave_in_order_and_once, begin, finish),
        cmocka_unit_test_setup_teardown(the_newest_record_of_a_key_counts, begin, finish),
        cmocka_unit_test_setup_teardown(what_has_no_room_goes_later, begin, finish),
        cmocka_unit_test_setup_teardown(another_kind_of_record_is_refused, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
