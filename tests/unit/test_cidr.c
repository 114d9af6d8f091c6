// Ranges of addresses.
#include "common/cidr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "common/err.h"

#include <string.h>

static bool in(const char *range, const char *address) {
    struct cidr cidr;
    uint8_t ip[16];
    assert_int_equal(cidr_parse(range, strlen(range), &cidr), 0);
    assert_int_equal(ip_parse(address, ip), 0);
    return cidr_contains(&cidr, ip);
}

static void ranges_contain(void **state) {
    (void)state;
    assert_true(in("104.47.0.0/17", "104.47.127.255"));
    assert_false(in("104.47.0.0/17", "104.47.128.0"));
    assert_true(in("104.47.0.0/17", "::ffff:104.47.0.1"));
    assert_true(in("192.0.2.1", "192.0.2.1"));
    assert_false(in("192.0.2.1", "192.0.2.0"));
    assert_true(in("0.0.0.0/0", "1.2.3.4"));
    assert_false(in("0.0.0.0/0", "2001:db8::1"));
    assert_true(in("::/0", "1.2.3.4"));
    assert_true(in("2001:db8::/33", "2001:db8:7fff::1"));
    assert_false(in("2001:db8::/33", "2001:db8:8000::1"));
}

static void lists(void **state) {
    (void)state;
    struct cidr cidrs[3];
    uint8_t ip[16];
    assert_int_equal(cidr_parse_list("", cidrs, 3), 0);
    assert_int_equal(cidr_parse_list("10.0.0.0/8 , ::1", cidrs, 3), 2);
    assert_int_equal(ip_parse("::1", ip), 0);
    assert_true(cidr_any_contains(cidrs, 2, ip));
    assert_false(cidr_any_contains(cidrs, 1, ip));
    assert_int_equal(cidr_parse_list("::1,::2,::3,::4", cidrs, 3), ERR_LIMIT);
    const char *bad[] = {",", "::1,", "::/0 ::1", "1.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "10.0.0.0/+8", "::/129",
                         "x", "10.0.0.0/0008", "1.2.3"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(cidr_parse_list(bad[i], cidrs, 3), ERR_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_contain),
        cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
