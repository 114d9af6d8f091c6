// A connection's bytes, one request head after the other. The answer must not depend on how they arrive in pieces, and
// everything that a request points to lies within its own head.
#include "tests/fuzz/fuzz.h"

#include "ingest/http_request.h"

#include <string.h>

static bool text_within(const struct text *text, const char *data, size_t len) {
    return text->at == NULL || (text->at >= data && text->at + text->len <= data + len);
}

static void check_request(const struct http_request *request, const char *data, size_t len) {
    CHECK(request->length >= 16 && request->length <= len && request->length <= REQUEST_HEAD_MAX);
    CHECK(memcmp(data + request->length - 4, "\r\n\r\n", 4) == 0);
    // "http://host" alone has the path "/", which stands nowhere in it.
    CHECK(request->path.len >= 1 && request->path.at[0] == '/');
    CHECK(text_within(&request->path, data, request->length) || request->path.len == 1);
    CHECK(memchr(request->path.at, '?', request->path.len) == NULL);
    CHECK(text_within(&request->user_agent, data, request->length));
    CHECK(text_within(&request->sec_purpose, data, request->length));
    CHECK(text_within(&request->purpose, data, request->length) && text_within(&request->x_moz, data, request->length));
    CHECK(request->n_forwarded_for <= REQUEST_FORWARDED_MAX && request->n_forwarded <= REQUEST_FORWARDED_MAX);
    for (size_t i = 0; i < request->n_forwarded_for; i++)
        CHECK(text_within(&request->forwarded_for[i], data, request->length));
    for (size_t i = 0; i < request->n_forwarded; i++)
        CHECK(text_within(&request->forwarded[i], data, request->length));
}

// The same bytes, arriving `step` at a time.
static enum request_step parse_in_pieces(const char *data, size_t len, size_t step, struct http_request *request,
                                         int *status) {
    struct request_scan scan = {0};
    for (size_t have = step < len ? step : len;; have = have + step < len ? have + step : len) {
        enum request_step result = http_request_parse(&scan, data, have, request, status);
        if (result != REQUEST_MORE || have == len)
            return result;
    }
}

static void check_pieces(const char *data, size_t len, enum request_step whole, const struct http_request *request,
                         int status) {
    // Long inputs in few pieces: byte by byte they would take the fuzzer's time and show nothing more.
    for (size_t step = len / 64 + 1; step < len; step = step * 3 + 1) {
        struct http_request again;
        int again_status = 0;
        CHECK(parse_in_pieces(data, len, step, &again, &again_status) == whole);
        CHECK(whole != REQUEST_REFUSED || again_status == status);
        if (whole != REQUEST_READY)
            continue;
        CHECK(again.length == request->length && again.is_head == request->is_head);
        CHECK(again.http_1_0 == request->http_1_0 && again.keep_alive == request->keep_alive);
        CHECK(again.path.at == request->path.at && again.path.len == request->path.len);
        CHECK(again.user_agent.at == request->user_agent.at && again.n_forwarded == request->n_forwarded);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *at = (const char *)data;
    while (size > 0) {
        struct request_scan scan = {0};
        struct http_request request;
        int status = 0;
        enum request_step step = http_request_parse(&scan, at, size, &request, &status);
        check_pieces(at, size, step, &request, status);
        if (step == REQUEST_MORE) {
            CHECK(status == 0 && size <= REQUEST_HEAD_MAX + 2);
            return 0;
        }
        if (step == REQUEST_REFUSED) {
            CHECK(status == 400 || status == 405 || status == 414 || status == 431);
            return 0;
        }
        check_request(&request, at, size);
        at += request.length;
        size -= request.length;
    }
    return 0;
}
