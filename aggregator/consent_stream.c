// Two steps in turn on one connection: ask every followed partition where it stands, and read their streams until it is
// time to ask again. What a partition's stream does not show up to where the store stood is a gap.
#include "aggregator/consent_stream.h"

#include "common/clock.h"
#include "common/redis_link.h"
#include "common/redis_reply.h"

#include <inttypes.h>
#include <stdlib.h>
#include <uv.h>

#define CHECK_MS 5000
#define IDLE_MS 1000
#define BLOCK_MS_MAX 250
#define ENTRIES_A_READ 4096u // of all partitions together
#define ENTRIES_A_STREAM_MIN 8u
#define STREAM_KEY_SIZE 40

enum step { STEP_IDLE, STEP_CHECK, STEP_READ };

struct followed {
    bool on;
    bool asked;   // `stamp` was read since it is followed, on this connection
    bool held;    // an entry was refused
    bool behind;  // told, and not passed again
    bool level;   // told since `stamp` was read
    bool reading; // part of the read under way
    bool more;    // that read did not give all there was
    uint64_t at;  // the last epoch handed over; CONSENT_STREAM_NOW until the store was asked
    struct consent_stamp stamp;
};

struct consent_stream {
    struct redis_link *link;
    struct consent_stream_hooks hooks;
    const char *mode;
    uint32_t partitions;
    uint64_t block_ms;
    struct followed *followed;
    uint32_t *asked; // partitions of the check under way, in the order asked
    size_t n_asked, n_answered;
    enum step step;
    bool connected;
    bool freed;
    int64_t asked_ms;
    uv_timer_t idle;
};

static void stream_turn(struct consent_stream *stream);

static void stream_key(char key[STREAM_KEY_SIZE], uint32_t partition, const char *name) {
    int length = snprintf(key, STREAM_KEY_SIZE, "ov:{%" PRIu32 "}:%s", partition, name);
    CHECK(length > 0 && length < STREAM_KEY_SIZE);
}

// An answer is in: false where it needs no look, because the connection ended or ends with it.
static bool stream_answer(struct consent_stream *stream, const redisReply *reply) {
    char why[300];
    if (reply == NULL || stream->freed)
        return false;
    if (reply->type != REDIS_REPLY_ERROR)
        return true;
    snprintf(why, sizeof why, "Redis does not let the changes be followed: %.200s", reply->str);
    redis_link_drop(stream->link, why);
    return false;
}

// ---- where the store stands -----------------------------------------------------------------------------------------
static bool read_stamp(const struct consent_stream *stream, const redisReply *reply, struct consent_stamp *stamp) {
    *stamp = (struct consent_stamp){0};
    if (!reply_is_array(reply, 3))
        return false;
    return reply->element[0]->type == REDIS_REPLY_NIL ||
           (reply_is_text(reply->element[0], stream->mode) &&
            reply_u64(reply->element[1], UINT64_MAX, &stamp->epoch) == 0 &&
            reply_hex(reply->element[2], stamp->hash, sizeof stamp->hash) == 0);
}

static void stamp_take(struct consent_stream *stream, uint32_t partition, const struct consent_stamp *stamp) {
    struct followed *followed = &stream->followed[partition];
    followed->stamp = *stamp;
    followed->asked = true;
    followed->level = false;
    if (followed->at == CONSENT_STREAM_NOW)
        followed->at = stamp->epoch;
    bool was_behind = followed->behind;
    followed->behind = stamp->epoch < followed->at;
    if (followed->behind && !was_behind && stream->hooks.behind != NULL)
        stream->hooks.behind(stream->hooks.arg, partition, stamp);
}

static void on_stamp(void *arg, const redisReply *reply) {
    struct consent_stream *stream = arg;
    if (!stream_answer(stream, reply))
        return;
    CHECK(stream->step == STEP_CHECK && stream->n_answered < stream->n_asked);
    uint32_t partition = stream->asked[stream->n_answered++];
    struct consent_stamp stamp;
    if (!read_stamp(stream, reply, &stamp)) {
        redis_link_drop(stream->link, "the meta data of a partition in Redis is damaged or not for this mode");
        return;
    }
    if (stream->followed[partition].on)
        stamp_take(stream, partition, &stamp);
    if (stream->n_answered < stream->n_asked)
        return;
    redis_link_settled(stream->link);
    stream_turn(stream);
}

static void check_begin(struct consent_stream *stream) {
    stream->step = STEP_CHECK;
    stream->asked_ms = clock_monotonic_ms();
    stream->n_asked = stream->n_answered = 0;
    for (uint32_t i = 0; i < stream->partitions; i++)
        if (stream->followed[i].on)
            stream->asked[stream->n_asked++] = i;
    for (size_t i = 0; i < stream->n_asked; i++) {
        char key[STREAM_KEY_SIZE];
        stream_key(key, stream->asked[i], "meta");
        const struct redis_arg args[] = {redis_text("HMGET"), redis_text(key), redis_text("mode"), redis_text("epoch"),
                                         redis_text("hash")};
        if (redis_link_send(stream->link, args, ARRAY_LEN(args), on_stamp, stream) != 0) {
            redis_link_drop(stream->link, "a command for Redis does not fit the queue");
            return;
        }
    }
}

// ---- entries --------------------------------------------------------------------------------------------------------
static void gap_tell(struct consent_stream *stream, uint32_t partition, uint64_t last) {
    struct followed *followed = &stream->followed[partition];
    CHECK(last > followed->at);
    uint64_t first = followed->at + 1;
    followed->at = last;
    if (stream->hooks.gap != NULL)
        stream->hooks.gap(stream->hooks.arg, partition, first, last);
}

// Hands one entry over; false where it was refused, or the caller moved the partition elsewhere meanwhile.
static bool entry_take(struct consent_stream *stream, uint32_t partition, const redisReply *reply) {
    struct followed *followed = &stream->followed[partition];
    struct consent_entry entry;
    bool good = consent_entry_read(reply, &entry) == 0; // the epoch is set where only the rest is bad
    if (entry.epoch <= followed->at)
        return false;
    uint64_t before = entry.epoch - (good ? 1 : 0); // what cannot be read is told as missing
    if (before > followed->at)
        gap_tell(stream, partition, before);
    if (!good)
        return followed->reading;
    if (!followed->reading || followed->at != before)
        return false; // left, or sent elsewhere, by the gap's hook
    if (!stream->hooks.entry(stream->hooks.arg, partition, &entry)) {
        followed->held = followed->reading;
        return false;
    }
    if (!followed->reading)
        return false;
    followed->at = entry.epoch;
    return true;
}

static size_t entries_a_stream(const struct consent_stream *stream) {
    size_t n = ENTRIES_A_READ / stream->partitions;
    return n < ENTRIES_A_STREAM_MIN ? ENTRIES_A_STREAM_MIN : n;
}

// One stream's entries; false where the answer is not one.
static bool entries_take(struct consent_stream *stream, const redisReply *reply) {
    uint32_t partition;
    int used = 0;
    if (!reply_is_array(reply, 2) || reply->element[0]->type != REDIS_REPLY_STRING ||
        sscanf(reply->element[0]->str, "ov:{%" SCNu32 "}:changes%n", &partition, &used) != 1 ||
        (size_t)used != reply->element[0]->len || partition >= stream->partitions ||
        reply->element[1]->type != REDIS_REPLY_ARRAY)
        return false;
    const redisReply *entries = reply->element[1];
    struct followed *followed = &stream->followed[partition];
    followed->more = entries->elements >= entries_a_stream(stream);
    for (size_t i = 0; followed->reading && i < entries->elements; i++)
        if (!entry_take(stream, partition, entries->element[i]))
            break;
    return true;
}

// What was read is all there was: a part that was not shown is a gap, and the partition is level with its stamp.
static void read_settle(struct consent_stream *stream, uint32_t partition) {
    struct followed *followed = &stream->followed[partition];
    bool whole = followed->reading && !followed->held && !followed->more;
    if (whole && followed->at < followed->stamp.epoch)
        gap_tell(stream, partition, followed->stamp.epoch);
    if (whole && followed->reading && !followed->level && followed->at >= followed->stamp.epoch) {
        followed->level = true;
        if (stream->hooks.level != NULL)
            stream->hooks.level(stream->hooks.arg, partition, &followed->stamp);
    }
    followed->reading = false;
}

static void on_entries(void *arg, const redisReply *reply) {
    struct consent_stream *stream = arg;
    if (!stream_answer(stream, reply))
        return;
    CHECK(stream->step == STEP_READ);
    bool good = reply->type == REDIS_REPLY_NIL || reply->type == REDIS_REPLY_ARRAY;
    for (uint32_t i = 0; i < stream->partitions; i++)
        stream->followed[i].more = false;
    for (size_t i = 0; good && reply->type == REDIS_REPLY_ARRAY && i < reply->elements; i++)
        good = entries_take(stream, reply->element[i]);
    if (!good) {
        redis_link_drop(stream->link, "what Redis says about the changes cannot be read");
        return;
    }
    for (uint32_t i = 0; i < stream->partitions; i++)
        read_settle(stream, i);
    stream_turn(stream);
}

static void read_send(struct consent_stream *stream, size_t n_streams, bool block) {
    struct text {
        char key[STREAM_KEY_SIZE];
        char id[32];
    } *texts = calloc(n_streams, sizeof *texts);
    struct redis_arg *args = calloc(6 + 2 * n_streams, sizeof *args);
    char count[24], block_text[24];
    size_t n = 0, at = 0;
    if (texts == NULL || args == NULL) {
        redis_link_drop(stream->link, "out of memory to follow the changes");
        goto done;
    }
    snprintf(count, sizeof count, "%zu", entries_a_stream(stream));
    snprintf(block_text, sizeof block_text, "%" PRIu64, stream->block_ms);
    const char *const words[] = {"XREAD", "COUNT", count, "BLOCK", block_text};
    for (; n < (block ? ARRAY_LEN(words) : 3); n++)
        args[n] = redis_text(words[n]);
    args[n++] = redis_text("STREAMS");
    for (uint32_t i = 0; i < stream->partitions; i++) {
        if (!stream->followed[i].reading)
            continue;
        stream_key(texts[at].key, i, "changes");
        snprintf(texts[at].id, sizeof texts[at].id, "%" PRIu64 "-0", stream->followed[i].at);
        args[n + at] = redis_text(texts[at].key);
        args[n + n_streams + at] = redis_text(texts[at].id);
        at++;
    }
    CHECK(at == n_streams);
    if (redis_link_send(stream->link, args, n + 2 * n_streams, on_entries, stream) != 0)
        redis_link_drop(stream->link, "a command for Redis does not fit the queue");
done:
    free(texts);
    free(args);
}

// ---- turns ----------------------------------------------------------------------------------------------------------
static void on_idle(uv_timer_t *timer) {
    struct consent_stream *stream = timer->data;
    if (stream->connected && stream->step == STEP_IDLE)
        stream_turn(stream);
}

// Nothing is under way: what is to be done next?
static void stream_turn(struct consent_stream *stream) {
    size_t n_followed = 0, n_reading = 0;
    bool check = clock_monotonic_ms() - stream->asked_ms >= CHECK_MS, block = true;
    for (uint32_t i = 0; i < stream->partitions; i++) {
        struct followed *followed = &stream->followed[i];
        n_followed += followed->on;
        check |= followed->on && !followed->asked;
        followed->reading = followed->on && followed->asked && !followed->held && !followed->behind;
        n_reading += followed->reading;
        block &= !followed->reading || followed->level;
    }
    if (check && n_followed > 0) {
        check_begin(stream);
    } else if (n_reading > 0) {
        stream->step = STEP_READ;
        read_send(stream, n_reading, block);
    } else {
        stream->step = STEP_IDLE;
        CHECK(uv_timer_start(&stream->idle, on_idle, IDLE_MS, 0) == 0);
    }
}

static void on_up(void *arg) {
    struct consent_stream *stream = arg;
    stream->connected = true;
    for (uint32_t i = 0; i < stream->partitions; i++)
        stream->followed[i].asked = false;
    stream_turn(stream);
}

static void on_down(void *arg, const char *why) {
    struct consent_stream *stream = arg;
    stream->connected = false;
    stream->step = STEP_IDLE;
    for (uint32_t i = 0; i < stream->partitions; i++)
        stream->followed[i].reading = false;
    if (!stream->freed && stream->hooks.lost != NULL)
        stream->hooks.lost(stream->hooks.arg, why);
}

static void stream_wake(struct consent_stream *stream) {
    if (stream->connected && stream->step == STEP_IDLE)
        CHECK(uv_timer_start(&stream->idle, on_idle, 0, 0) == 0);
}

void consent_stream_follow(struct consent_stream *stream, uint32_t partition, uint64_t from) {
    CHECK(partition < stream->partitions);
    stream->followed[partition] = (struct followed){.on = true, .at = from};
    stream_wake(stream);
}

void consent_stream_leave(struct consent_stream *stream, uint32_t partition) {
    CHECK(partition < stream->partitions);
    stream->followed[partition] = (struct followed){0};
}

void consent_stream_resume(struct consent_stream *stream, uint32_t partition) {
    CHECK(partition < stream->partitions);
    stream->followed[partition].held = false;
    stream_wake(stream);
}

// ---- set-up ---------------------------------------------------------------------------------------------------------
static void stream_release(struct consent_stream *stream) {
    free(stream->followed);
    free(stream->asked);
    free(stream);
}

static void on_closed(uv_handle_t *handle) {
    stream_release(handle->data);
}

int consent_stream_create(struct consent_stream **out, struct uv_loop_s *loop, const struct config *config,
                          const struct consent_stream_hooks *hooks, struct err *err) {
    CHECK(hooks->entry != NULL);
    struct consent_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL)
        return err_set(err, ERR_NOMEM, "out of memory to follow the changes of consent");
    stream->hooks = *hooks;
    stream->mode = config->rehearsal ? "rehearsal" : "production";
    stream->partitions = (uint32_t)config->kafka_partitions;
    // Redis answers well before the connection counts as dead.
    stream->block_ms = config->redis_timeout_ms / 4 + 1;
    if (stream->block_ms > BLOCK_MS_MAX)
        stream->block_ms = BLOCK_MS_MAX;
    stream->followed = calloc(stream->partitions, sizeof *stream->followed);
    stream->asked = calloc(stream->partitions, sizeof *stream->asked);
    const struct redis_link_hooks link_hooks = {.up = on_up, .down = on_down, .arg = stream};
    int rc = stream->followed == NULL || stream->asked == NULL
                 ? err_set(err, ERR_NOMEM, "out of memory to follow the changes of consent")
                 : redis_link_create(&stream->link, loop, config, &link_hooks, err);
    if (rc != 0) {
        stream_release(stream);
        return rc;
    }
    CHECK(uv_timer_init(loop, &stream->idle) == 0);
    stream->idle.data = stream;
    *out = stream;
    return 0;
}

void consent_stream_free(struct consent_stream *stream) {
    if (stream == NULL)
        return;
    stream->freed = true;
    redis_link_free(stream->link);
    uv_close((uv_handle_t *)&stream->idle, on_closed);
}
