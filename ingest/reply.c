#include "ingest/reply.h"

#include "common/check.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const uint8_t pixel_image[PIXEL_BYTES] = {
    'G',  'I',  'F',  '8',  '9',  'a',  0x01, 0x00, 0x01, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00,
    0x00, 0xff, 0xff, 0xff, 0x21, 0xf9, 0x04, 0x01, 0x00, 0x00, 0x00, 0x00, 0x2c, 0x00, 0x00,
    0x00, 0x00, 0x01, 0x00, 0x01, 0x00, 0x00, 0x02, 0x02, 0x44, 0x01, 0x00, 0x3b,
};

unsigned reply_max_age_s(int64_t wall_ms) {
    const int64_t day_ms = (int64_t)DAY_SECONDS * 1000;
    CHECK(wall_ms >= 0);
    return (unsigned)((day_ms - wall_ms % day_ms + 999) / 1000);
}

// RFC 9110 5.6.7, whatever the locale.
static void date_format(int64_t wall_s, char date[32]) {
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t seconds = (time_t)wall_s;
    struct tm tm;
    CHECK(gmtime_r(&seconds, &tm) != NULL);
    snprintf(date, 32, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon],
             (tm.tm_year + 1900) % 10000, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

void reply_heads_init(struct reply_heads *heads) {
    memset(heads, 0, sizeof *heads);
    heads->wall_s = -1;
}

void reply_heads_build(struct reply_heads *heads, int64_t now_ms) {
    static const char *const connection[REPLY_STYLES] = {"", "Connection: keep-alive\r\n", "Connection: close\r\n"};
    heads->wall_s = now_ms / 1000;
    date_format(heads->wall_s, heads->date);
    for (int style = 0; style < REPLY_STYLES; style++) {
        struct reply *reply = &heads->pixel[style];
        int len = snprintf(reply->bytes, sizeof reply->bytes,
                           "HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: %d\r\n"
                           "Cache-Control: private, max-age=%u\r\nDate: %s\r\n%s\r\n",
                           PIXEL_BYTES, reply_max_age_s(now_ms), heads->date, connection[style]);
        CHECK(len > 0 && (size_t)len + PIXEL_BYTES <= sizeof reply->bytes);
        memcpy(reply->bytes + len, pixel_image, PIXEL_BYTES);
        reply->len = (size_t)len + PIXEL_BYTES;
    }
}

void reply_heads_update(struct reply_heads *heads, const struct clock *clock) {
    int64_t now_ms = clock_now_ms(clock);
    if (now_ms / 1000 != heads->wall_s)
        reply_heads_build(heads, now_ms);
}

void reply_error(const struct reply_heads *heads, int status, struct reply *reply) {
    static const struct {
        int status;
        const char *reason, *fields;
    } errors[] = {
        {400, "Bad Request", ""},
        {404, "Not Found", ""},
        {405, "Method Not Allowed", "Allow: GET, HEAD\r\n"},
        {414, "URI Too Long", ""},
        {431, "Request Header Fields Too Large", ""},
        {503, "Service Unavailable", "Retry-After: 5\r\n"},
    };
    size_t i = 0;
    while (i < ARRAY_LEN(errors) && errors[i].status != status)
        i++;
    CHECK(i < ARRAY_LEN(errors) && heads->wall_s >= 0);
    int len = snprintf(reply->bytes, sizeof reply->bytes,
                       "HTTP/1.1 %d %s\r\nContent-Length: 0\r\n%sDate: %s\r\nConnection: close\r\n\r\n", status,
                       errors[i].reason, errors[i].fields, heads->date);
    CHECK(len > 0 && (size_t)len < sizeof reply->bytes);
    reply->len = (size_t)len;
}
