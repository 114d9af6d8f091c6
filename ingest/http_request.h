// One HTTP/1.0 or 1.1 request head, held to RFC 9112 without the tolerance that makes request smuggling possible. The
// head is first found and checked by rules of our own, then parsed by llhttp, and both must agree on it. There is no
// body: a Transfer-Encoding, or a Content-Length above 0 on GET and HEAD, is refused.
// Pure: no allocation, no clock, no socket; any thread. The request's texts point into the caller's bytes.
#ifndef OPENVEIL_HTTP_REQUEST_H
#define OPENVEIL_HTTP_REQUEST_H

#include "ingest/fetch_class.h"

#define REQUEST_LINE_MAX 8192    // bytes, without CR LF; longer is 414
#define REQUEST_FIELDS_BYTES 16384 // bytes of all field lines with their CR LF; more is 431
#define REQUEST_FIELDS_MAX 100   // field lines; more is 431
// The longest head: one empty line that a client may send first, the request line, the fields, the empty line.
#define REQUEST_HEAD_MAX (2 + REQUEST_LINE_MAX + 2 + REQUEST_FIELDS_BYTES + 2)
#define REQUEST_FORWARDED_MAX 8  // X-Forwarded-For or Forwarded lines that are kept, the last ones

enum request_step { REQUEST_MORE, REQUEST_READY, REQUEST_REFUSED };

// How far the head has been looked at, so that a head that comes byte by byte is not read over and over. All zero at a
// head's first byte; the caller keeps it while the answer is REQUEST_MORE.
struct request_scan {
    uint32_t scanned;     // bytes known to hold no further line feed
    uint32_t line_start;  // of the line that is not complete yet
    uint32_t head_start;  // after the empty line that may come first
    uint32_t fields_start; // 0 while the request line is not complete
    uint16_t n_lines;
};

struct http_request {
    size_t length;   // bytes of the whole head
    bool is_head;    // HEAD; otherwise GET
    bool http_1_0;
    bool keep_alive; // what version and Connection fields ask for
    struct text path; // the target's path, from its first slash to before the query; never empty
    struct text user_agent;
    struct text sec_purpose;
    struct text purpose;
    struct text x_moz;
    struct text forwarded_for[REQUEST_FORWARDED_MAX]; // X-Forwarded-For lines in their order
    size_t n_forwarded_for;
    struct text forwarded[REQUEST_FORWARDED_MAX];     // Forwarded (RFC 7239) lines in their order
    size_t n_forwarded;
};

// Looks at `len` bytes that begin with a head. REQUEST_MORE: the head is incomplete and within its limits.
// REQUEST_READY: `request` holds a GET or HEAD. REQUEST_REFUSED: `status` is 400, 405, 414 or 431, and nothing after
// these bytes can be trusted.
enum request_step http_request_parse(struct request_scan *scan, const char *data, size_t len,
                                     struct http_request *request, int *status);

// Case-insensitive comparison with a lower-case name.
bool text_is(const struct text *text, const char *name);

#endif
