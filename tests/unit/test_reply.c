// The answers, byte for byte.
#include "ingest/reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void max_age_runs_to_midnight(void **state) {
    (void)state;
    assert_int_equal(reply_max_age_s(0), 86400);
    assert_int_equal(reply_max_age_s(1), 86400);
    assert_int_equal(reply_max_age_s(1000), 86399);
    assert_int_equal(reply_max_age_s(86399999), 1);
    assert_int_equal(reply_max_age_s(86400000LL * 20000 + 86399001), 1);
    assert_int_equal(reply_max_age_s(86400000LL * 20000 + 86398999), 2);
}

static void every_byte_is_known(void **state) {
    (void)state;
    static struct reply_heads heads;
    reply_heads_init(&heads);
    reply_heads_build(&heads, 784111777001); // the date of RFC 9110's example, and a millisecond
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: 43\r\n"
                       "Cache-Control: private, max-age=54623\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    const uint8_t image[] = {0x47, 0x49, 0x46, 0x38, 0x39, 0x61, 1, 0, 1, 0, 0x80, 0, 0, 0, 0,
                             0, 0xff, 0xff, 0xff, 0x21, 0xf9, 4, 1, 0, 0, 0, 0, 0x2c, 0, 0,
                             0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3b};
    const char *ends[REPLY_STYLES] = {"\r\n", "Connection: keep-alive\r\n\r\n", "Connection: close\r\n\r\n"};
    for (int style = 0; style < REPLY_STYLES; style++) {
        const struct reply *reply = &heads.pixel[style];
        size_t len = strlen(head) + strlen(ends[style]);
        assert_int_equal(reply_head_len(&heads, (enum reply_style)style), len);
        assert_int_equal(reply->len, len + sizeof image);
        assert_memory_equal(reply->bytes, head, strlen(head));
        assert_memory_equal(reply->bytes + strlen(head), ends[style], strlen(ends[style]));
        assert_memory_equal(reply->bytes + len, image, sizeof image);
    }
}

static void heads_follow_the_clock(void **state) {
    (void)state;
    static struct reply_heads heads;
    struct clock clock = clock_rehearsed(0, 100, 1); // a second of the wall clock is 12 µs
    reply_heads_init(&heads);
    reply_heads_update(&heads, &clock);
    int64_t first_s = heads.wall_s;
    do
        reply_heads_update(&heads, &clock);
    while (heads.wall_s == first_s);
    assert_true(heads.wall_s > first_s);
}

static void errors_close(void **state) {
    (void)state;
    static struct reply_heads heads;
    struct clock clock = clock_real();
    reply_heads_init(&heads);
    reply_heads_update(&heads, &clock);
    const int statuses[] = {400, 404, 405, 414, 431, 503};
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        struct reply reply;
        char first[32];
        reply_error(&heads, statuses[i], &reply);
        reply.bytes[reply.len] = '\0';
        snprintf(first, sizeof first, "HTTP/1.1 %d ", statuses[i]);
        assert_ptr_equal(strstr(reply.bytes, first), reply.bytes);
        assert_non_null(strstr(reply.bytes, "\r\nConnection: close\r\n"));
        assert_non_null(strstr(reply.bytes, "\r\nContent-Length: 0\r\n"));
        assert_string_equal(reply.bytes + reply.len - 4, "\r\n\r\n");
        assert_int_equal(strstr(reply.bytes, "\r\nRetry-After: ") != NULL, statuses[i] == 503);
        assert_int_equal(strstr(reply.bytes, "\r\nAllow: GET, HEAD\r\n") != NULL, statuses[i] == 405);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(max_age_runs_to_midnight),
        cmocka_unit_test(every_byte_is_known),
        cmocka_unit_test(heads_follow_the_clock),
        cmocka_unit_test(errors_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
