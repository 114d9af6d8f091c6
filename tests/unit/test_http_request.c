// The request parser: what RFC 9112 allows, what it does not, and heads that come in pieces.
#include "ingest/http_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define END "Host: a\r\n\r\n"

// Parses all at once and then byte by byte; both must say the same. Returns the status, 0 for a request, -1 for more.
static int parse(const char *text, struct http_request *request) {
    size_t len = strlen(text);
    int status = 0, status_whole;
    struct request_scan scan = {0};
    enum request_step whole = http_request_parse(&scan, text, len, request, &status_whole);
    size_t whole_len = request->length;
    enum request_step step = REQUEST_MORE;
    scan = (struct request_scan){0};
    for (size_t n = 0; n <= len && step == REQUEST_MORE; n++)
        step = http_request_parse(&scan, text, n, request, &status);
    assert_int_equal(step, whole);
    assert_int_equal(status, status_whole);
    if (step == REQUEST_READY)
        assert_int_equal(request->length, whole_len);
    return step == REQUEST_MORE ? -1 : status;
}

static void text_equal(const struct text *text, const char *expected) {
    assert_int_equal(text->len, strlen(expected));
    assert_memory_equal(text->at, expected, text->len);
}

static void a_request_is_taken_apart(void **state) {
    (void)state;
    struct http_request r;
    const char *text = "GET /p/abc.gif?x=1&y=?2 HTTP/1.1\r\nHost: pixel.example:8080\r\nUser-Agent: \t Some Agent (x) \t\r\n"
                       "Sec-Purpose: prefetch;prerender\r\npurpose: preview\r\nX-Moz:prefetch\r\n"
                       "X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8, 9.9.9.9\r\nForwarded: for=1.1.1.1\r\n"
                       "User-Agent: second\r\nAccept:\r\n\r\nGET /next";
    assert_int_equal(parse(text, &r), 0);
    assert_int_equal(r.length, strlen(text) - strlen("GET /next"));
    text_equal(&r.path, "/p/abc.gif");
    text_equal(&r.user_agent, "Some Agent (x)");
    text_equal(&r.sec_purpose, "prefetch;prerender");
    text_equal(&r.purpose, "preview");
    text_equal(&r.x_moz, "prefetch");
    assert_int_equal(r.n_forwarded_for, 2);
    text_equal(&r.forwarded_for[1], "5.6.7.8, 9.9.9.9");
    assert_int_equal(r.n_forwarded, 1);
    assert_true(r.keep_alive && !r.is_head && !r.http_1_0);
    assert_int_equal(parse("HEAD /p/ HTTP/1.1\r\n" END, &r), 0);
    assert_true(r.is_head);
    assert_null(r.user_agent.at);
    text_equal(&r.path, "/p/");
}

static void targets(void **state) {
    (void)state;
    struct http_request r;
    const struct {
        const char *target, *path; // NULL: 400
    } cases[] = {
        {"/", "/"}, {"/p/%41|\"<>", "/p/%41|\"<>"}, {"http://a/p/x.gif", "/p/x.gif"}, {"HTTP://a:80/p/x?q", "/p/x"},
        {"https://[::1]:443/p/x", "/p/x"}, {"http://a", "/"}, {"http://a?/p/x", "/"}, {"*", NULL}, {"a:80", NULL},
        {"p/x", NULL}, {"http:///p/x", NULL}, {"http:/p/x", NULL}, {"ftp://a/p/x", NULL}, {"http://u@a/p/x", NULL},
        {"http://:80/p/x", NULL}, {"/p/x#y", NULL}, {"/p/\xc3\xa9", NULL}, {"/p/\x7f", NULL}, {"/p/\x01", NULL},
        {"/p/a\tb", NULL}, {"/p/a\x0b", NULL}, {"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\n" END, cases[i].target);
        int status = parse(text, &r);
        if (status != (cases[i].path == NULL ? 400 : 0))
            fail_msg("target %s: %d", cases[i].target, status);
        if (cases[i].path != NULL)
            text_equal(&r.path, cases[i].path);
    }
}

static void what_must_be_refused(void **state) {
    (void)state;
    struct http_request r;
    const struct {
        int status;
        const char *text;
    } cases[] = {
        {400, "GET  /p/x HTTP/1.1\r\n" END}, {400, "GET /p/x  HTTP/1.1\r\n" END}, {400, "GET /p/x HTTP/1.1 \r\n" END},
        {400, " GET /p/x HTTP/1.1\r\n" END}, {400, "GET\t/p/x HTTP/1.1\r\n" END}, {400, "GET /p/x\r\n" END},
        {400, "GET /p/x HTTP/1.2\r\n" END}, {400, "GET /p/x HTTP/2.0\r\n" END}, {400, "GET /p/x HTTP/0.9\r\n" END},
        {400, "GET /p/x http/1.1\r\n" END}, {400, "GET /p/x HTTP/1.10\r\n" END}, {400, "GET /p/x HTTP/01.1\r\n" END},
        {400, "PRI * HTTP/2.0\r\n\r\n"}, {400, "G(T /p/x HTTP/1.1\r\n" END}, {400, "\r\n\r\nGET /p/x HTTP/1.1\r\n" END},
        {400, "GET /p/x HTTP/1.1\nHost: a\n\n"}, {400, "\nGET /p/x HTTP/1.1\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nHost: a\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nHost: a\r\n\n"},
        {400, "GET /p/x HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nHost: a\r\r\n\r\n"},
        {400, "GET /p/x\rHTTP/1.1\r\n" END}, {400, "GET /p/x HTTP/1.1\r\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"},
        {400, "GET /p/x HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nHost: a b\r\n\r\n"},
        {400, "GET /p/x HTTP/1.1\r\nHost: a/b\r\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nHost: a:b\r\n\r\n"},
        {400, "GET /p/x HTTP/1.1\r\nHost: a@b\r\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nHost : a\r\n\r\n"},
        {400, "GET /p/x HTTP/1.1\r\n Host: a\r\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"},
        {400, "GET /p/x HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n"}, {400, "GET /p/x HTTP/1.1\r\nX\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\n: v\r\n" END}, {400, "GET /p/x HTTP/1.1\r\nX y: v\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nX: a\x01z\r\n" END}, {400, "GET /p/x HTTP/1.1\r\nX: abcdefghijkl\x7fz\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nX: abcdefg\tijklmnop\x0bqrst\r\n" END}, {400, "GET /p/x HTTP/1.1\r\nX\xc3: v\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nTransfer-Encoding: identity\r\n" END},
        {400, "GET /p/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" END},
        {400, "POST /p/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nContent-Length: 1\r\n" END}, {400, "GET /p/x HTTP/1.1\r\nContent-Length: +0\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nContent-Length: -1\r\n" END}, {400, "GET /p/x HTTP/1.1\r\nContent-Length:\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nContent-Length: 0x0\r\n" END}, {400, "GET /p/x HTTP/1.1\r\nContent-Length: 0, 0\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n" END},
        {400, "GET /p/x HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n" END},
        {400, "HEAD /p/x HTTP/1.1\r\nContent-Length: 3\r\n" END}, {400, "POST /p/x HTTP/1.1\r\nContent-Length: 3x\r\n" END},
        {405, "POST /p/x HTTP/1.1\r\n" END}, {405, "POST /p/x HTTP/1.1\r\nContent-Length: 3\r\n" END},
        {405, "get /p/x HTTP/1.1\r\n" END}, {405, "OPTIONS * HTTP/1.1\r\n" END}, {405, "CONNECT a:80 HTTP/1.1\r\n" END},
        {405, "GETT /p/x HTTP/1.1\r\n" END}, {405, "TRACE / HTTP/1.0\r\n\r\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status = parse(cases[i].text, &r);
        if (status != cases[i].status)
            fail_msg("case %zu: %d instead of %d: %s", i, status, cases[i].status, cases[i].text);
    }
}

static void what_must_be_accepted(void **state) {
    (void)state;
    struct http_request r;
    const char *cases[] = {
        "GET /p/x HTTP/1.1\r\n" END, "\r\nGET /p/x HTTP/1.1\r\n" END, "GET /p/x HTTP/1.0\r\n\r\n",
        "GET /p/x HTTP/1.1\r\nHost:\r\n\r\n", "GET /p/x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET /p/x HTTP/1.1\r\nContent-Length: 0\r\n" END, "GET /p/x HTTP/1.1\r\nContent-Length: 000\r\n" END,
        "GET /p/x HTTP/1.1\r\nX: a\tb\xc3\xa9 \xff\r\n" END, "GET /p/x HTTP/1.1\r\nX_y: a\r\n" END,
        "GET /p/x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n" END,
        "GET /p/x HTTP/1.1\r\nExpect: 100-continue\r\n" END, "GET /p/x HTTP/1.1\r\nX:\r\nY:  \r\n" END,
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status = parse(cases[i], &r);
        if (status != 0)
            fail_msg("%d: %s", status, cases[i]);
        assert_int_equal(r.length, strlen(cases[i]));
    }
}

static void keep_alive_is_read(void **state) {
    (void)state;
    struct http_request r;
    const struct {
        bool keep;
        const char *text;
    } cases[] = {
        {true, "GET / HTTP/1.1\r\n" END}, {false, "GET / HTTP/1.1\r\nConnection: close\r\n" END},
        {false, "GET / HTTP/1.1\r\nConnection: foo, Close\r\n" END}, {false, "GET / HTTP/1.0\r\n" END},
        {true, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n" END}, {true, "GET / HTTP/1.1\r\nConnection: keep-alive\r\n" END},
        {false, "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n" END},
        {false, "GET / HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close\r\n" END},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(cases[i].text, &r), 0);
        if (r.keep_alive != cases[i].keep)
            fail_msg("%s", cases[i].text);
    }
}

static void limits(void **state) {
    (void)state;
    struct http_request r;
    static char text[REQUEST_HEAD_MAX + 4096];
    for (int over = 0; over <= 1; over++) {
        size_t line = REQUEST_LINE_MAX + (size_t)over;
        memset(text, 'a', sizeof text);
        memcpy(text, "GET /p/", 7);
        strcpy(text + line - 9, " HTTP/1.1\r\n" END);
        assert_int_equal(parse(text, &r), over ? 414 : 0);
        strcpy(text, "GET /p/x HTTP/1.1\r\nX: ");
        size_t fields = strlen("GET /p/x HTTP/1.1\r\n") + REQUEST_FIELDS_BYTES + (size_t)over;
        memset(text + strlen(text), 'b', sizeof text - strlen(text));
        strcpy(text + fields - strlen("\r\nHost: a\r\n"), "\r\n" END);
        assert_int_equal(parse(text, &r), over ? 431 : 0);
        strcpy(text, "GET /p/x HTTP/1.1\r\nHost: a\r\n");
        for (int i = 1; i < REQUEST_FIELDS_MAX + over; i++)
            strcat(text, "X: y\r\n");
        strcat(text, "\r\n");
        assert_int_equal(parse(text, &r), over ? 431 : 0);
    }
    memset(text, 'a', sizeof text);
    text[REQUEST_LINE_MAX + 2] = '\0';
    assert_int_equal(parse(text, &r), -1);
    text[REQUEST_LINE_MAX + 2] = 'a';
    text[REQUEST_LINE_MAX + 3] = '\0';
    assert_int_equal(parse(text, &r), 414);
    assert_true(r.n_forwarded_for <= REQUEST_FORWARDED_MAX);
}

static void the_last_forwarded_lines_are_kept(void **state) {
    (void)state;
    struct http_request r;
    char text[2048] = "GET /p/x HTTP/1.1\r\nHost: a\r\n";
    for (int i = 0; i < 12; i++)
        snprintf(text + strlen(text), 64, "X-Forwarded-For: %d.0.0.1\r\nForwarded: for=%d.0.0.2\r\n", i, i);
    strcat(text, "\r\n");
    assert_int_equal(parse(text, &r), 0);
    assert_int_equal(r.n_forwarded_for, REQUEST_FORWARDED_MAX);
    assert_int_equal(r.n_forwarded, REQUEST_FORWARDED_MAX);
    text_equal(&r.forwarded_for[0], "4.0.0.1");
    text_equal(&r.forwarded_for[REQUEST_FORWARDED_MAX - 1], "11.0.0.1");
    text_equal(&r.forwarded[REQUEST_FORWARDED_MAX - 1], "for=11.0.0.2");
}

static void random_bytes_are_safe(void **state) {
    (void)state;
    const char *seed = "GET /p/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    uint64_t random = 88172645463325252u;
    char text[128];
    size_t len = strlen(seed);
    unsigned ready = 0;
    for (int i = 0; i < 200000; i++) {
        memcpy(text, seed, len);
        for (int flips = 0; flips < 2; flips++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            text[random % len] = (char)(random >> 40);
        }
        struct http_request r;
        int status;
        struct request_scan scan = {0};
        if (http_request_parse(&scan, text, len, &r, &status) == REQUEST_READY) {
            ready++;
            assert_true(r.length <= len && r.path.len > 0);
        }
    }
    assert_true(ready > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_taken_apart), cmocka_unit_test(targets),
        cmocka_unit_test(what_must_be_refused),     cmocka_unit_test(what_must_be_accepted),
        cmocka_unit_test(keep_alive_is_read),       cmocka_unit_test(limits),
        cmocka_unit_test(the_last_forwarded_lines_are_kept), cmocka_unit_test(random_bytes_are_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
