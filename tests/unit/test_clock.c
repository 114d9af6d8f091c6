// Days, months and the rehearsed clock.
#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void days_parse_and_print(void **state) {
    (void)state;
    uint32_t day;
    char text[DAY_TEXT_SIZE];
    assert_int_equal(day_parse("1970-01-01", &day), 0);
    assert_int_equal(day, 0);
    assert_int_equal(day_parse("2026-11-22", &day), 0);
    assert_int_equal(day, 20779);
    day_format(day, text);
    assert_string_equal(text, "2026-11-22");
    const char *bad[] = {"2026-02-29", "2026-13-01", "2026-1-01", "2026-01-01 ", "", "x026-01-01", "1969-12-31", "2026-00-10"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(day_parse(bad[i], &day), -1);
    for (day = 0; day < 200000; day += 7) {
        uint32_t back;
        day_format(day, text);
        assert_int_equal(day_parse(text, &back), 0);
        assert_int_equal(back, day);
    }
}

static void months_begin_and_end(void **state) {
    (void)state;
    uint32_t day, first, next;
    assert_int_equal(day_parse("2028-02-29", &day), 0);
    assert_int_equal(day_parse("2028-02-01", &first), 0);
    assert_int_equal(day_parse("2028-03-01", &next), 0);
    assert_int_equal(day_month_start(day), first);
    assert_int_equal(day_next_month_start(day), next);
    assert_int_equal(day_of_month(day), 29);
    char month[MONTH_TEXT_SIZE];
    month_format(day, month);
    assert_string_equal(month, "2028-02");
}

static void rfc3339_with_offset(void **state) {
    (void)state;
    uint32_t minutes;
    char text[32];
    assert_int_equal(minutes_parse_rfc3339("2026-06-21T00:00:00Z", &minutes), 0);
    minutes_format(minutes, text, sizeof text);
    assert_string_equal(text, "2026-06-21T00:00:00Z");
    uint32_t shifted;
    assert_int_equal(minutes_parse_rfc3339("2026-06-21T02:00:59.123+02:00", &shifted), 0);
    assert_int_equal(shifted, minutes);
    assert_int_equal(minutes_parse_rfc3339("2026-06-21T02:00", &shifted), -1);
    assert_int_equal(minutes_parse_rfc3339("1970-01-01T00:00:00+01:00", &shifted), -1);
    minutes_format(UINT32_MAX, text, sizeof text);
    assert_string_equal(text, "10136-02-16T04:15:00Z");
}

static void rehearsed_time_is_a_line(void **state) {
    (void)state;
    struct clock real = clock_real();
    int64_t now_s = clock_now_ms(&real) / 1000;
    struct clock fast = clock_rehearsed(now_s - 25, 20000, 10);
    assert_int_equal(clock_today(&fast), 20002);
    struct clock before = clock_rehearsed(now_s + 25, 20000, 10);
    assert_int_equal(clock_today(&before), 19997);
    int64_t left = clock_real_ms_until(&before, day_start_ms(20000));
    assert_true(left > 23000 && left <= 25001);
    assert_int_equal(clock_real_ms_until(&before, 0), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(days_parse_and_print),
        cmocka_unit_test(months_begin_and_end),
        cmocka_unit_test(rfc3339_with_offset),
        cmocka_unit_test(rehearsed_time_is_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
