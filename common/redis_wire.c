#include "common/redis_wire.h"

#include "common/bytes.h"

#include <stdlib.h>
#include <string.h>

#define REPLY_TEXT_MAX 65536u
#define REPLY_ELEMENTS_MAX (4 << 20)

// hiredis builds the objects; these refuse what no command of ours can be answered with. privdata is hiredis' own
// table.
static void *limited_string(const redisReadTask *task, char *text, size_t len) {
    const redisReplyObjectFunctions *base = task->privdata;
    return len > REPLY_TEXT_MAX ? NULL : base->createString(task, text, len);
}

static void *limited_array(const redisReadTask *task, int elements) {
    const redisReplyObjectFunctions *base = task->privdata;
    return elements > REPLY_ELEMENTS_MAX ? NULL : base->createArray(task, elements);
}

static void *plain_integer(const redisReadTask *task, long long value) {
    const redisReplyObjectFunctions *base = task->privdata;
    return base->createInteger(task, value);
}

static void *plain_nil(const redisReadTask *task) {
    const redisReplyObjectFunctions *base = task->privdata;
    return base->createNil(task);
}

redisReader *redis_reader_create(void) {
    static redisReplyObjectFunctions limited = {limited_string, limited_array, plain_integer, plain_nil,
                                                freeReplyObject};
    redisReader *reader = redisReaderCreate();
    if (reader == NULL)
        return NULL;
    reader->privdata = reader->fn;
    reader->fn = &limited;
    return reader;
}

static int output_reserve(struct redis_output *out, size_t len) {
    if (len > REDIS_OUTPUT_MAX - out->used)
        return ERR_LIMIT;
    if (out->used + len <= out->room)
        return 0;
    size_t room = out->room == 0 ? 65536 : out->room;
    while (room < out->used + len)
        room *= 2;
    char *bytes = realloc(out->bytes, room);
    if (bytes == NULL)
        return ERR_NOMEM;
    out->bytes = bytes;
    out->room = room;
    return 0;
}

static void output_head(struct redis_output *out, char kind, size_t number) {
    CHECK(out->room - out->used >= DECIMAL_MAX + 3);
    out->bytes[out->used++] = kind;
    out->used += write_decimal(out->bytes + out->used, number);
    memcpy(out->bytes + out->used, "\r\n", 2);
    out->used += 2;
}

// A command in the protocol's form: an array of strings with their lengths.
int redis_output_command(struct redis_output *out, const struct redis_arg *args, size_t n_args) {
    size_t len = 32;
    for (size_t i = 0; i < n_args; i++)
        len += args[i].len + 32;
    int rc = output_reserve(out, len);
    if (rc != 0)
        return rc;
    output_head(out, '*', n_args);
    for (size_t i = 0; i < n_args; i++) {
        output_head(out, '$', args[i].len);
        memcpy(out->bytes + out->used, args[i].data, args[i].len);
        out->used += args[i].len;
        memcpy(out->bytes + out->used, "\r\n", 2);
        out->used += 2;
    }
    CHECK(out->used <= out->room);
    return 0;
}

struct redis_answer redis_pending_pop(struct redis_pending *pending) {
    CHECK(pending->n > 0);
    struct redis_answer first = pending->ring[pending->head];
    pending->head = (pending->head + 1) & (pending->room - 1);
    pending->n--;
    return first;
}

int redis_pending_push(struct redis_pending *pending, redis_reply_fn fn, void *arg) {
    if (pending->n == pending->room) {
        size_t room = pending->room == 0 ? 64 : pending->room * 2;
        if (room > REDIS_PENDING_MAX)
            return ERR_LIMIT;
        struct redis_answer *ring = calloc(room, sizeof *ring);
        if (ring == NULL)
            return ERR_NOMEM;
        for (size_t i = 0; i < pending->n; i++)
            ring[i] = pending->ring[(pending->head + i) & (pending->room - 1)];
        free(pending->ring);
        *pending = (struct redis_pending){.ring = ring, .room = room, .n = pending->n};
    }
    pending->ring[(pending->head + pending->n++) & (pending->room - 1)] = (struct redis_answer){fn, arg};
    return 0;
}
