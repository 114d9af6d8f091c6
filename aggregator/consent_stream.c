// Two steps in turn on the connection of every server: ask every followed partition on it where it stands, and read their
// streams until it is time to ask again. What a partition's stream does not show up to where the store stood is a gap.
#include "aggregator/consent_stream.h"

#include "common/clock.h"
#include "common/redis_reply.h"
#include "common/redis_shards.h"

#include <inttypes.h>
#include <stdlib.h>
#include <uv.h>

#define CHECK_MS 5000
#define IDLE_MS 1000
#define BLOCK_MS_MAX 250
#define CLUSTER_BLOCK_MS 20
#define ENTRIES_A_READ 4096u // of all partitions together
#define ENTRIES_A_STREAM_MIN 8u

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

// What happens on one server's connection.
struct reader {
    struct consent_stream *stream;
    struct redis_link *link;
    unsigned shard;
    uint32_t *asked; // partitions of the check under way, in the order asked
    size_t n_asked, n_answered;
    size_t n_reads; // of the streams, awaited
    enum step step;
    bool connected;
    int64_t asked_ms;
};

struct consent_stream {
    struct redis_shards *shards;
    struct consent_stream_hooks hooks;
    const char *mode;
    uint32_t partitions;
    uint64_t block_ms;
    struct followed *followed;
    struct reader readers[REDIS_SHARDS_MAX];
    bool freed;
    uv_timer_t idle;
};

static void reader_turn(struct reader *reader);

// Followed, and on this reader's server.
static bool reader_has(const struct reader *reader, uint32_t partition) {
    return reader->stream->followed[partition].on &&
           redis_shards_of(reader->stream->shards, partition) == reader->shard;
}

// An answer is in: false where it needs no look, because the connection ended or ends with it.
static bool reader_answer(struct reader *reader, const redisReply *reply) {
    if (reply == NULL || reader->stream->freed)
        return false;
    if (reply->type != REDIS_REPLY_ERROR)
        return true;
    redis_link_drop(reader->link, "Redis does not let the changes be followed: %.200s", reply->str);
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
    struct reader *reader = arg;
    if (!reader_answer(reader, reply))
        return;
    CHECK(reader->step == STEP_CHECK && reader->n_answered < reader->n_asked);
    uint32_t partition = reader->asked[reader->n_answered++];
    struct consent_stamp stamp;
    if (!read_stamp(reader->stream, reply, &stamp)) {
        redis_link_drop(reader->link, "the meta data of a partition in Redis is damaged or not for this mode");
        return;
    }
    if (reader->stream->followed[partition].on)
        stamp_take(reader->stream, partition, &stamp);
    if (reader->n_answered < reader->n_asked)
        return;
    redis_link_settled(reader->link);
    reader_turn(reader);
}

static void check_begin(struct reader *reader) {
    reader->step = STEP_CHECK;
    reader->asked_ms = clock_monotonic_ms();
    reader->n_asked = reader->n_answered = 0;
    for (uint32_t i = 0; i < reader->stream->partitions; i++)
        if (reader_has(reader, i))
            reader->asked[reader->n_asked++] = i;
    for (size_t i = 0; i < reader->n_asked; i++) {
        char key[CONSENT_KEY_SIZE];
        consent_key(key, reader->asked[i], "meta");
        const struct redis_arg args[] = {redis_text("HMGET"), redis_text(key), redis_text("mode"), redis_text("epoch"),
                                         redis_text("hash")};
        if (redis_link_send(reader->link, args, ARRAY_LEN(args), on_stamp, reader) != 0) {
            redis_link_drop(reader->link, "a command for Redis does not fit the queue");
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
    const redisReply *entries = consent_entries_of(reply, stream->partitions, &partition);
    if (entries == NULL)
        return false;
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

// Whether a read of this reader is about the partition.
static bool reader_reads(const struct reader *reader, uint32_t partition) {
    return reader->stream->followed[partition].reading && reader_has(reader, partition);
}

static void on_entries(void *arg, const redisReply *reply) {
    struct reader *reader = arg;
    if (!reader_answer(reader, reply))
        return;
    CHECK(reader->step == STEP_READ && reader->n_reads > 0);
    bool good = reply->type == REDIS_REPLY_NIL || reply->type == REDIS_REPLY_ARRAY;
    for (size_t i = 0; good && reply->type == REDIS_REPLY_ARRAY && i < reply->elements; i++)
        good = entries_take(reader->stream, reply->element[i]);
    if (!good) {
        redis_link_drop(reader->link, "what Redis says about the changes cannot be read");
        return;
    }
    if (--reader->n_reads > 0)
        return;
    for (uint32_t i = 0; i < reader->stream->partitions; i++) {
        if (reader_reads(reader, i))
            read_settle(reader->stream, i);
    }
    reader_turn(reader);
}

// Reads the streams of those of the partitions first..last-1 that it is about; waits for `block_ms` where there is
// nothing new, 0: not at all.
static void read_send(struct reader *reader, uint32_t first, uint32_t last, size_t n_streams, uint64_t block_ms) {
    struct text {
        char key[CONSENT_KEY_SIZE];
        char id[32];
    } *texts = calloc(n_streams, sizeof *texts);
    struct redis_arg *args = calloc(6 + 2 * n_streams, sizeof *args);
    char count[24], block_text[24];
    size_t n = 0, at = 0;
    if (texts == NULL || args == NULL) {
        redis_link_drop(reader->link, "out of memory to follow the changes");
        goto done;
    }
    snprintf(count, sizeof count, "%zu", entries_a_stream(reader->stream));
    snprintf(block_text, sizeof block_text, "%" PRIu64, block_ms);
    const char *const words[] = {"XREAD", "COUNT", count, "BLOCK", block_text};
    for (; n < (block_ms > 0 ? ARRAY_LEN(words) : 3); n++)
        args[n] = redis_text(words[n]);
    args[n++] = redis_text("STREAMS");
    for (uint32_t i = first; i < last; i++) {
        if (!reader_reads(reader, i))
            continue;
        consent_key(texts[at].key, i, "changes");
        snprintf(texts[at].id, sizeof texts[at].id, "%" PRIu64 "-0", reader->stream->followed[i].at);
        args[n + at] = redis_text(texts[at].key);
        args[n + n_streams + at] = redis_text(texts[at].id);
        at++;
    }
    CHECK(at == n_streams);
    reader->n_reads++;
    if (redis_link_send(reader->link, args, n + 2 * n_streams, on_entries, reader) != 0)
        redis_link_drop(reader->link, "a command for Redis does not fit the queue");
done:
    free(texts);
    free(args);
}

// One command for all streams; in a cluster one for each, of which the last may wait.
static void read_begin(struct reader *reader, size_t n_reading, bool block) {
    struct consent_stream *stream = reader->stream;
    reader->step = STEP_READ;
    reader->n_reads = 0;
    if (!redis_shards_split_keys(stream->shards)) {
        read_send(reader, 0, stream->partitions, n_reading, block ? stream->block_ms : 0);
        return;
    }
    for (uint32_t i = 0; i < stream->partitions && reader->connected; i++) {
        if (reader_reads(reader, i))
            read_send(reader, i, i + 1, 1, --n_reading == 0 && block ? CLUSTER_BLOCK_MS : 0);
    }
}

// ---- turns ----------------------------------------------------------------------------------------------------------
static void on_idle(uv_timer_t *timer) {
    struct consent_stream *stream = timer->data;
    for (unsigned i = 0; i < REDIS_SHARDS_MAX; i++) {
        if (stream->readers[i].connected && stream->readers[i].step == STEP_IDLE)
            reader_turn(&stream->readers[i]);
    }
}

// Nothing is under way: what is to be done next?
static void reader_turn(struct reader *reader) {
    struct consent_stream *stream = reader->stream;
    size_t n_followed = 0, n_reading = 0;
    bool check = clock_monotonic_ms() - reader->asked_ms >= CHECK_MS, block = true;
    for (uint32_t i = 0; i < stream->partitions; i++) {
        struct followed *followed = &stream->followed[i];
        if (!reader_has(reader, i))
            continue;
        n_followed++;
        check |= !followed->asked;
        followed->reading = followed->asked && !followed->held && !followed->behind;
        followed->more = false;
        n_reading += followed->reading;
        block &= !followed->reading || followed->level;
    }
    if (check && n_followed > 0) {
        check_begin(reader);
    } else if (n_reading > 0) {
        read_begin(reader, n_reading, block);
    } else {
        reader->step = STEP_IDLE;
        if (!uv_is_active((uv_handle_t *)&stream->idle))
            CHECK(uv_timer_start(&stream->idle, on_idle, IDLE_MS, 0) == 0);
    }
}

static void on_up(void *arg, unsigned shard) {
    struct consent_stream *stream = arg;
    struct reader *reader = &stream->readers[shard];
    reader->link = redis_shards_link(stream->shards, shard);
    if (reader->asked == NULL && (reader->asked = calloc(stream->partitions, sizeof *reader->asked)) == NULL) {
        redis_link_drop(reader->link, "out of memory to follow the changes");
        return;
    }
    reader->stream = stream;
    reader->shard = shard;
    reader->connected = true;
    for (uint32_t i = 0; i < stream->partitions; i++) {
        if (redis_shards_of(stream->shards, i) == shard)
            stream->followed[i].asked = stream->followed[i].reading = false;
    }
    reader_turn(reader);
}

static void on_down(void *arg, unsigned shard, const char *why) {
    struct consent_stream *stream = arg;
    if (shard != REDIS_NO_SHARD) {
        stream->readers[shard].connected = false;
        stream->readers[shard].step = STEP_IDLE;
        for (uint32_t i = 0; i < stream->partitions; i++) {
            if (redis_shards_of(stream->shards, i) == shard)
                stream->followed[i].reading = false;
        }
    }
    if (stream->hooks.lost != NULL)
        stream->hooks.lost(stream->hooks.arg, why);
}

// Some partition has something to do: whoever is idle looks whether it is his.
static void stream_wake(struct consent_stream *stream) {
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
    for (unsigned i = 0; i < REDIS_SHARDS_MAX; i++)
        free(stream->readers[i].asked);
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
    const struct redis_shards_hooks shards_hooks = {.up = on_up, .down = on_down, .arg = stream};
    int rc = stream->followed == NULL
                 ? err_set(err, ERR_NOMEM, "out of memory to follow the changes of consent")
                 : redis_shards_create(&stream->shards, loop, config, false, &shards_hooks, err);
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
    redis_shards_free(stream->shards);
    uv_close((uv_handle_t *)&stream->idle, on_closed);
}
