// Whose address is believed: trusted networks, forwarding chains, PROXY protocol headers.
#include "ingest/peer_address.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static struct cidr_set trusted_set(const char *text) {
    struct cidr_set set;
    struct err err;
    assert_int_equal(cidr_set_parse(&set, text, &err), 0);
    return set;
}

static bool has(const struct cidr_set *set, const char *text) {
    uint8_t address[ADDRESS_SIZE];
    assert_true(address_from_text(text, strlen(text), address));
    return cidr_set_has(set, address);
}

static void networks(void **state) {
    (void)state;
    struct cidr_set set = trusted_set("10.0.0.0/8, 192.168.1.128/25,2001:db8::/33, ::1,203.0.113.9");
    assert_int_equal(set.n, 5);
    assert_true(has(&set, "10.255.0.1") && has(&set, "192.168.1.200") && has(&set, "2001:db8:7fff::1"));
    assert_true(has(&set, "::1") && has(&set, "203.0.113.9") && has(&set, "::ffff:10.0.0.1"));
    assert_false(has(&set, "11.0.0.1") || has(&set, "192.168.1.127") || has(&set, "2001:db8:8000::1"));
    assert_false(has(&set, "::2") || has(&set, "203.0.113.8") || has(&set, "::10.0.0.1"));
    struct cidr_set none = trusted_set("");
    assert_false(has(&none, "127.0.0.1"));
    struct cidr_set all = trusted_set("::/0");
    assert_true(has(&all, "1.2.3.4") && has(&all, "2001::1"));
    const char *bad[] = {"10.0.0.0/33", "10.0.0/8", "::/129", "x", "10.0.0.0/", "10.0.0.0/8x", "1.1.1.1/-1", "::1/0008"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err;
        assert_int_equal(cidr_set_parse(&set, bad[i], &err), ERR_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

static void texts(void **state) {
    (void)state;
    uint8_t a[ADDRESS_SIZE], b[ADDRESS_SIZE];
    assert_true(address_from_text("1.2.3.4", 7, a) && address_from_text("1.2.3.4:80", 10, b));
    assert_memory_equal(a, b, ADDRESS_SIZE);
    assert_true(address_from_text("2001:db8::1", 11, a) && address_from_text("[2001:db8::1]:80", 16, b));
    assert_memory_equal(a, b, ADDRESS_SIZE);
    assert_true(address_from_text("[2001:db8::1]", 13, b));
    const char *bad[] = {"", "unknown", "_x", "1.2.3", "1.2.3.4.5", "[::1", "[::1]x", "[]", ":80", "1.2.3.4 ",
                         "0000:0000:0000:0000:0000:ffff:255.255.255.255:12345678901234567890"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(address_from_text(bad[i], strlen(bad[i]), a));
}

static void believed(const char *peer, const char *forwarded_for, const char *forwarded, const char *expected) {
    struct cidr_set trusted = trusted_set("10.0.0.0/8");
    struct http_request request = {0};
    uint8_t from[ADDRESS_SIZE], address[ADDRESS_SIZE], wanted[ADDRESS_SIZE];
    assert_true(address_from_text(peer, strlen(peer), from));
    if (forwarded_for != NULL)
        request.forwarded_for[request.n_forwarded_for++] = (struct text){forwarded_for, strlen(forwarded_for)};
    if (forwarded != NULL)
        request.forwarded[request.n_forwarded++] = (struct text){forwarded, strlen(forwarded)};
    address_of_client(&trusted, from, &request, address);
    assert_true(address_from_text(expected, strlen(expected), wanted));
    assert_memory_equal(address, wanted, ADDRESS_SIZE);
}

static void chains(void **state) {
    (void)state;
    believed("1.1.1.1", "2.2.2.2", NULL, "1.1.1.1");
    believed("10.0.0.1", NULL, NULL, "10.0.0.1");
    believed("10.0.0.1", "6.6.6.6, 2.2.2.2", NULL, "2.2.2.2");
    believed("10.0.0.1", "6.6.6.6,2.2.2.2 , 10.0.0.2:99", NULL, "2.2.2.2");
    believed("10.0.0.1", "10.0.0.3, 10.0.0.2", NULL, "10.0.0.3");
    believed("10.0.0.1", "6.6.6.6, bad, 10.0.0.2", NULL, "10.0.0.2");
    believed("10.0.0.1", ",, ,", NULL, "10.0.0.1");
    believed("10.0.0.1", "[2001:db8::5]:1", "for=3.3.3.3", "2001:db8::5");
    believed("10.0.0.1", NULL, "for=6.6.6.6;proto=http, proto=https; For=\"[2001:db8::7]:80\" ;by=x", "2001:db8::7");
    believed("10.0.0.1", NULL, "for=2.2.2.2, for=10.0.0.9;host=\"a,b;for=7.7.7.7\"", "2.2.2.2");
    believed("10.0.0.1", NULL, "for=2.2.2.2, by=10.0.0.9", "10.0.0.1");
    believed("10.0.0.1", NULL, "for=_secret", "10.0.0.1");
    believed("10.0.0.1", NULL, "for=\"", "10.0.0.1");
    char many[1024] = "6.6.6.6";
    for (int i = 0; i < 60; i++)
        strcat(many, ", 10.0.0.7");
    believed("10.0.0.1", many, NULL, "10.0.0.7");
}

static int64_t proxy(const char *bytes, size_t len, const char *expected) {
    uint8_t address[ADDRESS_SIZE] = {0}, wanted[ADDRESS_SIZE] = {0};
    for (size_t n = 0; n < len; n++) {
        int64_t part = proxy_header_parse((const uint8_t *)bytes, n, address);
        if (part != 0)
            return part;
    }
    int64_t used = proxy_header_parse((const uint8_t *)bytes, len, address);
    if (expected != NULL)
        assert_true(address_from_text(expected, strlen(expected), wanted));
    assert_memory_equal(address, wanted, ADDRESS_SIZE);
    return used;
}

static void proxy_headers(void **state) {
    (void)state;
#define V2 "\r\n\r\n\0\r\nQUIT\n"
#define TEXT(text) text, (int64_t)sizeof(text) - 1
    const struct {
        const char *bytes;
        int64_t len;
        const char *address;
        int64_t result; // 0: the whole length
    } cases[] = {
        {TEXT("PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n"), "192.0.2.1", 0},
        {TEXT("PROXY TCP6 2001:db8::1 ::1 56324 443\r\n"), "2001:db8::1", 0},
        {TEXT("PROXY UNKNOWN\r\n"), NULL, 0},
        {TEXT("PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\n"), NULL, ERR_INVALID},
        {TEXT("PROXY UDP4 192.0.2.1 10.0.0.1 56324 443\r\n"), NULL, ERR_INVALID},
        {TEXT("PROXY TCP4 x 10.0.0.1 56324 443\r\n"), NULL, ERR_INVALID},
        {TEXT("GET / HTTP/1.1\r\n"), NULL, ERR_INVALID},
        {TEXT(V2 "\x21\x11\0\x0c\xc0\0\2\1\x0a\0\0\1\x01\x02\x03\x04"), "192.0.2.1", 0},
        {TEXT(V2 "\x21\x11\0\x0f\xc0\0\2\1\x0a\0\0\1\x01\x02\x03\x04\x04\0\0"), "192.0.2.1", 0},
        {TEXT(V2 "\x20\0\0\0"), NULL, 0},
        {TEXT(V2 "\x21\x31\0\1x"), NULL, 0},
        {TEXT(V2 "\x21\x11\0\x04\xc0\0\2\1"), NULL, ERR_INVALID},
        {TEXT(V2 "\x31\x11\0\x0c\xc0\0\2\1\x0a\0\0\1\x01\x02\x03\x04"), NULL, ERR_INVALID},
        {TEXT(V2 "\x21\x11\xff\xff"), NULL, ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t wanted = cases[i].result == 0 ? cases[i].len : cases[i].result;
        assert_int_equal(proxy(cases[i].bytes, (size_t)cases[i].len, cases[i].address), wanted);
    }
    char long_line[200];
    memset(long_line, 'x', sizeof long_line);
    memcpy(long_line, "PROXY ", 6);
    assert_int_equal(proxy(long_line, sizeof long_line, NULL), ERR_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks),
        cmocka_unit_test(texts),
        cmocka_unit_test(chains),
        cmocka_unit_test(proxy_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
