#include "ingest/http_request.h"

#include "common/check.h"

#include <llhttp.h>
#include <string.h>
#include <strings.h>

// RFC 9110 5.6.2 tchar.
static const bool is_tchar[256] = {
    ['!'] = true, ['#'] = true, ['$'] = true, ['%'] = true, ['&'] = true, ['\''] = true, ['*'] = true, ['+'] = true,
    ['-'] = true, ['.'] = true, ['^'] = true, ['_'] = true, ['`'] = true, ['|'] = true, ['~'] = true,
    ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true,
};

// What RFC 3986 allows in a host and port, but for sub-delims, which no name in use has.
static const bool is_host_char[256] = {
    ['-'] = true, ['.'] = true, ['_'] = true, ['~'] = true, ['%'] = true, ['['] = true, [']'] = true, [':'] = true,
    ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true,
};

struct fields_seen {
    unsigned n_host;
    unsigned n_content_length;
    bool has_content;
    bool has_transfer_encoding;
};

bool text_is(const struct text *text, const char *name) {
    size_t len = strlen(name);
    return text->len == len && strncasecmp(text->at, name, len) == 0;
}

static bool all_in(const bool table[256], const char *at, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (!table[(uint8_t)at[i]])
            return false;
    return true;
}

// A field value may hold anything but control characters other than tab (RFC 9110 5.5). Eight bytes at a time; a tab
// looks like a control character there, so what is found is looked at once more.
static bool value_is_clean(const char *at, size_t len) {
    const uint64_t ones = 0x0101010101010101u;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t v, del;
        memcpy(&v, at + i, 8);
        del = v ^ (ones * 0x7f);
        uint64_t suspect = (((v - ones * 0x20) & ~v) | ((del - ones) & ~del)) & (ones * 0x80);
        if (suspect != 0)
            break;
    }
    for (; i < len; i++) {
        uint8_t c = (uint8_t)at[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static struct text trim(const char *at, size_t len) {
    while (len > 0 && (*at == ' ' || *at == '\t')) {
        at++;
        len--;
    }
    while (len > 0 && (at[len - 1] == ' ' || at[len - 1] == '\t'))
        len--;
    return (struct text){.at = at, .len = len};
}

// The path of an origin-form or absolute-form target; false where it is neither (RFC 9112 3.2).
static bool path_of(const char *target, size_t len, struct text *path) {
    static const char root[] = "/";
    const char *end = target + len;
    const char *at = target;
    if (*at != '/') {
        struct text scheme = {.at = at, .len = 0};
        const char *colon = memchr(at, ':', len);
        if (colon == NULL)
            return false;
        scheme.len = (size_t)(colon - at);
        if ((!text_is(&scheme, "http") && !text_is(&scheme, "https")) || end - colon < 3 ||
            memcmp(colon, "://", 3) != 0)
            return false;
        const char *host = colon + 3;
        for (at = host; at < end && *at != '/' && *at != '?'; at++)
            if (!is_host_char[(uint8_t)*at])
                return false;
        if (at == host || *host == ':')
            return false;
    }
    const char *query = memchr(at, '?', (size_t)(end - at));
    *path = (struct text){.at = at, .len = (size_t)((query == NULL ? end : query) - at)};
    if (path->len == 0)
        *path = (struct text){.at = root, .len = 1};
    return true;
}

// METHOD SP target SP HTTP/1.x, single spaces; 0 or a status.
static int check_request_line(const char *line, size_t len, struct http_request *request, bool *other_method) {
    const char *end = line + len;
    const char *space = memchr(line, ' ', len);
    if (space == NULL || space == line || !all_in(is_tchar, line, (size_t)(space - line)))
        return 400;
    const char *target = space + 1;
    const char *target_end = memchr(target, ' ', (size_t)(end - target));
    if (target_end == NULL || target_end == target || end - target_end != 9 || memcmp(target_end, " HTTP/1.", 8) != 0)
        return 400;
    if (end[-1] != '0' && end[-1] != '1')
        return 400;
    for (const char *at = target; at < target_end; at++) {
        uint8_t c = (uint8_t)*at;
        if (c <= 0x20 || c >= 0x7f || c == '#')
            return 400;
    }
    request->http_1_0 = end[-1] == '0';
    struct text method = {.at = line, .len = (size_t)(space - line)};
    request->is_head = method.len == 4 && memcmp(line, "HEAD", 4) == 0;
    *other_method = !request->is_head && !(method.len == 3 && memcmp(line, "GET", 3) == 0);
    if (*other_method)
        return 0;
    return path_of(target, (size_t)(target_end - target), &request->path) ? 0 : 400;
}

static bool host_is_valid(const struct text *host) {
    if (!all_in(is_host_char, host->at, host->len))
        return false;
    const char *bracket = memrchr(host->at, ']', host->len);
    const char *after = bracket == NULL ? host->at : bracket;
    const char *colon = memchr(after, ':', (size_t)(host->at + host->len - after));
    if (colon == NULL)
        return true;
    for (const char *at = colon + 1; at < host->at + host->len; at++)
        if (*at < '0' || *at > '9')
            return false;
    return true;
}

static bool content_length_take(struct fields_seen *seen, const struct text *value) {
    if (++seen->n_content_length > 1 || value->len == 0)
        return false;
    for (size_t i = 0; i < value->len; i++) {
        if (value->at[i] < '0' || value->at[i] > '9')
            return false;
        if (value->at[i] != '0')
            seen->has_content = true;
    }
    return true;
}

static void keep_first(struct text *kept, const struct text *value) {
    if (kept->at == NULL)
        *kept = *value;
}

static void keep_last(struct text kept[REQUEST_FORWARDED_MAX], size_t *n, const struct text *value) {
    if (*n == REQUEST_FORWARDED_MAX) {
        memmove(kept, kept + 1, (REQUEST_FORWARDED_MAX - 1) * sizeof kept[0]);
        (*n)--;
    }
    kept[(*n)++] = *value;
}

static bool field_take(struct http_request *request, struct fields_seen *seen, const struct text *name,
                       const struct text *value) {
    switch (name->len) {
    case 4:
        if (text_is(name, "host"))
            return ++seen->n_host == 1 && host_is_valid(value);
        break;
    case 5:
        if (text_is(name, "x-moz"))
            keep_first(&request->x_moz, value);
        break;
    case 7:
        if (text_is(name, "purpose"))
            keep_first(&request->purpose, value);
        break;
    case 9:
        if (text_is(name, "forwarded"))
            keep_last(request->forwarded, &request->n_forwarded, value);
        break;
    case 10:
        if (text_is(name, "user-agent"))
            keep_first(&request->user_agent, value);
        break;
    case 11:
        if (text_is(name, "sec-purpose"))
            keep_first(&request->sec_purpose, value);
        break;
    case 14:
        if (text_is(name, "content-length"))
            return content_length_take(seen, value);
        break;
    case 15:
        if (text_is(name, "x-forwarded-for"))
            keep_last(request->forwarded_for, &request->n_forwarded_for, value);
        break;
    case 17:
        if (text_is(name, "transfer-encoding"))
            seen->has_transfer_encoding = true;
        break;
    default:
        break;
    }
    return true;
}

// name ":" OWS value OWS, nothing before the name or the colon; this also refuses folded lines.
static bool field_line_take(struct http_request *request, struct fields_seen *seen, const char *line, size_t len) {
    const char *colon = memchr(line, ':', len);
    if (colon == NULL || colon == line || !all_in(is_tchar, line, (size_t)(colon - line)))
        return false;
    struct text name = {.at = line, .len = (size_t)(colon - line)};
    struct text value = trim(colon + 1, len - name.len - 1);
    return value_is_clean(value.at, value.len) && field_take(request, seen, &name, &value);
}

static int head_complete(llhttp_t *parser) {
    bool *keep_alive = parser->data;
    *keep_alive = llhttp_should_keep_alive(parser) != 0 &&
                  (parser->flags & F_CONNECTION_CLOSE) == 0;
    return HPE_PAUSED;
}

// llhttp must see the same request in the same bytes: complete exactly at their end, with the same method and version.
static bool llhttp_agrees(const char *head, size_t len, struct http_request *request) {
    static const llhttp_settings_t settings = {.on_message_complete = head_complete};
    llhttp_t parser;
    bool keep_alive = false;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.data = &keep_alive;
    llhttp_errno_t result = llhttp_execute(&parser, head, len);
    // A request to upgrade is ignored (RFC 9110 7.8), so that pause means the same.
    if (result != HPE_PAUSED && result != HPE_PAUSED_UPGRADE)
        return false;
    if (parser.error_pos != head + len || parser.http_major != 1 || parser.http_minor != (request->http_1_0 ? 0 : 1) ||
        parser.method != (request->is_head ? HTTP_HEAD : HTTP_GET))
        return false;
    request->keep_alive = keep_alive;
    return true;
}

// The whole head is there, every line of it ended by CR LF: what does it say? 0 or a status.
static int check_head(const struct request_scan *scan, const char *data, size_t len, struct http_request *request) {
    struct fields_seen seen = {0};
    bool other_method = false;
    CHECK(scan->fields_start >= scan->head_start + 2 && scan->line_start >= scan->fields_start);
    *request = (struct http_request){.length = len};
    int status = check_request_line(data + scan->head_start, scan->fields_start - scan->head_start - 2, request,
                                    &other_method);
    if (status != 0)
        return status;
    for (const char *line = data + scan->fields_start; line < data + scan->line_start;) {
        const char *next = (const char *)memchr(line, '\n', (size_t)(data + len - line)) + 1;
        if (!field_line_take(request, &seen, line, (size_t)(next - line) - 2))
            return 400;
        line = next;
    }
    if (seen.has_transfer_encoding || (seen.n_host == 0 && !request->http_1_0))
        return 400;
    if (other_method)
        return 405;
    if (seen.has_content || !llhttp_agrees(data + scan->head_start, len - scan->head_start, request))
        return 400;
    return 0;
}

// Limits that hold while a line is incomplete too.
static int check_limits(const struct request_scan *scan, size_t end) {
    if (scan->fields_start == 0)
        return end - scan->line_start > REQUEST_LINE_MAX + 2 ? 414 : 0;
    return end - scan->fields_start > REQUEST_FIELDS_BYTES + 2 ? 431 : 0;
}

enum request_step http_request_parse(struct request_scan *scan, const char *data, size_t len,
                                     struct http_request *request, int *status) {
    CHECK(scan->scanned <= len && scan->line_start <= scan->scanned);
    for (;;) {
        const char *lf = memchr(data + scan->scanned, '\n', len - scan->scanned);
        if (lf == NULL) {
            scan->scanned = (uint32_t)len;
            *status = check_limits(scan, len);
            return *status == 0 ? REQUEST_MORE : REQUEST_REFUSED;
        }
        size_t end = (size_t)(lf + 1 - data);
        size_t line_len = end - scan->line_start;
        *status = line_len < 2 || lf[-1] != '\r' ? 400 : check_limits(scan, end);
        if (*status != 0)
            return REQUEST_REFUSED;
        scan->scanned = (uint32_t)end;
        if (scan->fields_start == 0) {
            if (line_len == 2 && scan->head_start > 0) {
                *status = 400;
                return REQUEST_REFUSED;
            }
            // One empty line before the request line is what RFC 9112 2.2 asks to be ignored.
            if (line_len == 2)
                scan->head_start = (uint32_t)end;
            else
                scan->fields_start = (uint32_t)end;
        } else if (line_len == 2) {
            break;
        } else if (++scan->n_lines > REQUEST_FIELDS_MAX) {
            *status = 431;
            return REQUEST_REFUSED;
        }
        scan->line_start = (uint32_t)end;
    }
    size_t length = scan->scanned;
    *status = check_head(scan, data, length, request);
    return *status == 0 ? REQUEST_READY : REQUEST_REFUSED;
}
