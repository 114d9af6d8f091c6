// The bytes of every answer. One pixel answer for every `/p/` request (FORMATS 3); its head holds the date and the
// seconds left of the UTC day, so it is built anew when the wall second has changed.
// Owned by one worker; no allocation, that thread only.
#ifndef OPENVEIL_REPLY_H
#define OPENVEIL_REPLY_H

#include "common/clock.h"

#include <stddef.h>

#define PIXEL_BYTES 43
#define REPLY_BYTES_MAX 320

// What becomes of the connection, and how the client must be told.
enum reply_style {
    REPLY_KEEP,     // HTTP/1.1, stays open: nothing to say
    REPLY_KEEP_1_0, // HTTP/1.0 that asked for keep-alive: it must be confirmed
    REPLY_CLOSE,
    REPLY_STYLES
};

struct reply {
    size_t len;
    char bytes[REPLY_BYTES_MAX];
};

struct reply_heads {
    int64_t wall_s; // second that the heads are of; -1 before the first
    char date[32];
    struct reply pixel[REPLY_STYLES]; // head and image
};

void reply_heads_init(struct reply_heads *heads);
void reply_heads_build(struct reply_heads *heads, int64_t wall_ms);
// The same, only where the second changed: once before each flush, not for each answer.
void reply_heads_update(struct reply_heads *heads, const struct clock *clock);
// The answer to HEAD is the pixel answer without its image.
static inline size_t reply_head_len(const struct reply_heads *heads, enum reply_style style) {
    return heads->pixel[style].len - PIXEL_BYTES;
}
// Any other answer: 400, 404, 405, 414, 431 or 503; without a body, and the connection closes.
void reply_error(const struct reply_heads *heads, int status, struct reply *reply);

// Whole seconds, rounded up, to the end of the UTC day; 1..86400.
unsigned reply_max_age_s(int64_t wall_ms);

#endif
