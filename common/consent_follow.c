// A cycle of steps on one connection: check every partition's meta data; where one does not lead on, list the tenants,
// read their buckets, list the tenants again; then follow the streams, and check again from time to time.
#include "common/consent_follow.h"

#include "common/consent_job.h"
#include "common/consent_store.h"
#include "common/redis_reply.h"

#include <inttypes.h>
#include <uv.h>

#define BUCKETS_IN_FLIGHT 32u
#define COMMANDS_IN_FLIGHT 256u
#define CHECK_MS 5000
#define ENTRIES_A_READ 8192u // of all partitions together
#define ENTRIES_A_STREAM_MIN 8u
#define WHY_SIZE 400

enum step { STEP_CHECK, STEP_LIST, STEP_SCAN, STEP_LIST_AGAIN, STEP_TAIL };

struct layout {
    uint32_t partition;
    uint32_t tenant;
    unsigned bits;
};

struct layouts {
    struct layout *at;
    size_t n;
    size_t room;
};

struct consent_follow {
    struct redis_link *link;
    struct consent_follow_hooks hooks;
    const char *mode;
    uint32_t partitions;
    uint64_t block_ms;
    enum step step;
    bool freed;
    bool scanned;              // `told` says what was told; else a scan is due
    struct consent_stamp *now; // by partition: as just read
    struct consent_stamp *told; // by partition: up to where changes were told
    int64_t checked_ms;
    size_t sent;     // commands of this step
    size_t answered;
    struct layouts layouts;
    struct layouts again;
    size_t send_layout, send_bucket;   // the next bucket to ask for
    size_t answer_layout, answer_bucket; // the next one to be answered
    bool more; // the streams hold more than the last read gave
};

static void check_begin(struct consent_follow *follow);
static void list_begin(struct consent_follow *follow, enum step step);
static void tail_begin(struct consent_follow *follow);

// What Redis said cannot be followed. The connection is begun again, after a growing pause.
static void follow_drop(struct consent_follow *follow, const char *format, ...) PRINTF_LIKE(2, 3);
static void follow_drop(struct consent_follow *follow, const char *format, ...) {
    char why[WHY_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    redis_link_drop(follow->link, why);
}

// False where the link is gone: the step ends with it.
static bool follow_send(struct consent_follow *follow, const struct redis_arg *args, size_t n, redis_reply_fn fn) {
    if (redis_link_send(follow->link, args, n, fn, follow) == 0)
        return true;
    follow_drop(follow, "a command for Redis does not fit the queue");
    return false;
}

// An answer is in: false where it needs no look, because the connection ended or ends with it.
static bool follow_answer(struct consent_follow *follow, const redisReply *reply) {
    if (reply == NULL || follow->freed)
        return false;
    if (reply->type == REDIS_REPLY_ERROR) {
        follow_drop(follow, "Redis does not let the changes be followed: %.200s", reply->str);
        return false;
    }
    return true;
}

static void follow_rescan(struct consent_follow *follow) {
    follow->scanned = false;
    check_begin(follow);
}

// ---- check ----------------------------------------------------------------------------------------------------------
static bool read_meta(struct consent_follow *follow, uint32_t partition, const redisReply *reply) {
    struct consent_stamp *now = &follow->now[partition];
    *now = (struct consent_stamp){0};
    if (!reply_is_array(reply, 4))
        return false;
    if (reply->element[0]->type == REDIS_REPLY_NIL)
        return true;
    return reply_is_text(reply->element[0], follow->mode) && reply_is_text(reply->element[3], CONSENT_SCHEMA) &&
           reply_u64(reply->element[1], UINT64_MAX, &now->epoch) == 0 &&
           reply_hex(reply->element[2], now->hash, sizeof now->hash) == 0;
}

// Whether the store leads on from what was told; `reply` is the stream's entry of that epoch.
static bool leads_on(const struct consent_stamp *told, const struct consent_stamp *now, const redisReply *reply) {
    uint8_t hash[CONSENT_HASH_SIZE];
    if (now->epoch == told->epoch)
        return memcmp(now->hash, told->hash, sizeof now->hash) == 0;
    if (now->epoch < told->epoch)
        return false;
    const redisReply *entry = reply_only_entry(reply);
    const redisReply *found = entry == NULL ? NULL : reply_field(entry, "h");
    // From an empty store everything leads on; changes that the stream lost are noticed as a gap.
    return told->epoch == 0 ||
           (found != NULL && reply_hex(found, hash, sizeof hash) == 0 && memcmp(hash, told->hash, sizeof hash) == 0);
}

static void check_done(struct consent_follow *follow) {
    follow->checked_ms = clock_monotonic_ms();
    redis_link_settled(follow->link);
    if (follow->scanned) {
        tail_begin(follow);
        return;
    }
    follow->hooks.reset(follow->hooks.arg);
    memcpy(follow->told, follow->now, follow->partitions * sizeof *follow->told);
    list_begin(follow, STEP_LIST);
}

static bool check_send(struct consent_follow *follow);

static void on_check(void *arg, const redisReply *reply) {
    struct consent_follow *follow = arg;
    if (!follow_answer(follow, reply))
        return;
    CHECK(follow->step == STEP_CHECK);
    uint32_t partition = (uint32_t)(follow->answered / 2);
    if (follow->answered++ % 2 == 0) {
        if (!read_meta(follow, partition, reply)) {
            follow_drop(follow, "the meta data of partition %" PRIu32 " in Redis is damaged or not for this mode",
                        partition);
            return;
        }
    } else if (follow->scanned && !leads_on(&follow->told[partition], &follow->now[partition], reply)) {
        follow->scanned = false;
    }
    if (check_send(follow) && follow->answered == 2 * (size_t)follow->partitions)
        check_done(follow);
}

// Keeps commands in flight: a partition's meta data, and the stream's entry at which it was left.
static bool check_send(struct consent_follow *follow) {
    while (follow->sent < 2 * (size_t)follow->partitions && follow->sent - follow->answered < COMMANDS_IN_FLIGHT) {
        char key[CONSENT_KEY_SIZE], changes[CONSENT_KEY_SIZE], id[32];
        uint32_t partition = (uint32_t)(follow->sent / 2);
        snprintf(key, sizeof key, "ov:{%" PRIu32 "}:meta", partition);
        snprintf(changes, sizeof changes, "ov:{%" PRIu32 "}:changes", partition);
        snprintf(id, sizeof id, "%" PRIu64 "-0", follow->told[partition].epoch);
        const struct redis_arg meta[] = {redis_text("HMGET"), redis_text(key),    redis_text("mode"),
                                         redis_text("epoch"), redis_text("hash"), redis_text("version")};
        const struct redis_arg entry[] = {redis_text("XRANGE"), redis_text(changes), redis_text(id), redis_text(id)};
        follow->sent += 2;
        if (!follow_send(follow, meta, ARRAY_LEN(meta), on_check) ||
            !follow_send(follow, entry, ARRAY_LEN(entry), on_check))
            return false;
    }
    return true;
}

static void check_begin(struct consent_follow *follow) {
    follow->step = STEP_CHECK;
    follow->sent = follow->answered = 0;
    (void)check_send(follow);
}

// ---- scan -----------------------------------------------------------------------------------------------------------
static int layouts_add(struct layouts *layouts, const struct layout *layout) {
    if (layouts->n == layouts->room) {
        size_t room = layouts->room == 0 ? 64 : 2 * layouts->room;
        struct layout *more = realloc(layouts->at, room * sizeof *more);
        if (more == NULL)
            return ERR_NOMEM;
        layouts->at = more;
        layouts->room = room;
    }
    layouts->at[layouts->n++] = *layout;
    return 0;
}

static int layout_compare(const void *left, const void *right) {
    const struct layout *a = left, *b = right;
    if (a->partition != b->partition)
        return a->partition < b->partition ? -1 : 1;
    return a->tenant == b->tenant ? 0 : a->tenant < b->tenant ? -1 : 1;
}

// Whether every tenant is still cut as it was read. A new one is told by the stream.
static bool layouts_kept(const struct consent_follow *follow) {
    size_t at = 0;
    for (size_t i = 0; i < follow->layouts.n; i++) {
        const struct layout *was = &follow->layouts.at[i];
        while (at < follow->again.n && layout_compare(&follow->again.at[at], was) < 0)
            at++;
        if (at == follow->again.n || layout_compare(&follow->again.at[at], was) != 0 ||
            follow->again.at[at].bits != was->bits)
            return false;
    }
    return true;
}

static void scan_send(struct consent_follow *follow);

static void list_done(struct consent_follow *follow) {
    struct layouts *layouts = follow->step == STEP_LIST ? &follow->layouts : &follow->again;
    if (layouts->n > 0)
        qsort(layouts->at, layouts->n, sizeof *layouts->at, layout_compare);
    if (follow->step == STEP_LIST) {
        follow->step = STEP_SCAN;
        follow->send_layout = follow->send_bucket = follow->answer_layout = follow->answer_bucket = 0;
        follow->sent = follow->answered = 0;
        scan_send(follow);
    } else if (layouts_kept(follow)) {
        follow->scanned = true;
        tail_begin(follow);
    } else {
        follow_rescan(follow);
    }
}

static bool list_read(struct consent_follow *follow, uint32_t partition, const redisReply *reply) {
    struct layouts *layouts = follow->step == STEP_LIST ? &follow->layouts : &follow->again;
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements % 2 == 0;
    for (size_t i = 0; good && i < reply->elements; i += 2) {
        uint64_t tenant, bits;
        good = reply_u64(reply->element[i], UINT32_MAX, &tenant) == 0 &&
               reply_u64(reply->element[i + 1], CONSENT_BITS_MAX, &bits) == 0;
        if (good) {
            const struct layout layout = {partition, (uint32_t)tenant, (unsigned)bits};
            good = layouts_add(layouts, &layout) == 0;
        }
    }
    return good;
}

static void list_send(struct consent_follow *follow);

static void on_list(void *arg, const redisReply *reply) {
    struct consent_follow *follow = arg;
    if (!follow_answer(follow, reply))
        return;
    CHECK(follow->step == STEP_LIST || follow->step == STEP_LIST_AGAIN);
    uint32_t partition = (uint32_t)follow->answered++;
    if (!list_read(follow, partition, reply))
        follow_drop(follow, "the layout of partition %" PRIu32 " in Redis cannot be read", partition);
    else if (follow->answered == follow->partitions)
        list_done(follow);
    else
        list_send(follow);
}

static void list_send(struct consent_follow *follow) {
    char key[CONSENT_KEY_SIZE];
    if (follow->sent == follow->partitions || follow->sent > follow->answered)
        return;
    snprintf(key, sizeof key, "ov:{%zu}:bits", follow->sent++);
    const struct redis_arg args[] = {redis_text("HGETALL"), redis_text(key)};
    (void)follow_send(follow, args, ARRAY_LEN(args), on_list);
}

static void list_begin(struct consent_follow *follow, enum step step) {
    follow->step = step;
    (step == STEP_LIST ? &follow->layouts : &follow->again)->n = 0;
    follow->sent = follow->answered = 0;
    list_send(follow);
}

static bool bucket_read(struct consent_follow *follow, const redisReply *reply) {
    CHECK(follow->answer_layout < follow->layouts.n);
    const struct layout *layout = &follow->layouts.at[follow->answer_layout];
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements % 2 == 0;
    for (size_t i = 0; good && i < reply->elements; i += 2) {
        const redisReply *field = reply->element[i], *value = reply->element[i + 1];
        struct consent_record record;
        uint64_t pseudonym;
        good = field->type == REDIS_REPLY_STRING && value->type == REDIS_REPLY_STRING &&
               consent_field_pseudonym((const uint8_t *)field->str, field->len, layout->bits, follow->answer_bucket,
                                       &pseudonym);
        if (good) {
            consent_record_decode((const uint8_t *)value->str, value->len, &record);
            follow->hooks.state(follow->hooks.arg, layout->tenant, pseudonym, record.state);
        }
    }
    if (++follow->answer_bucket == (size_t)1 << layout->bits) {
        follow->answer_bucket = 0;
        follow->answer_layout++;
    }
    return good;
}

static void on_bucket(void *arg, const redisReply *reply) {
    struct consent_follow *follow = arg;
    if (!follow_answer(follow, reply))
        return;
    CHECK(follow->step == STEP_SCAN);
    follow->answered++;
    if (bucket_read(follow, reply))
        scan_send(follow);
    else
        follow_drop(follow, "a bucket in Redis holds what openveil did not write");
}

static void scan_send(struct consent_follow *follow) {
    while (follow->send_layout < follow->layouts.n && follow->sent - follow->answered < BUCKETS_IN_FLIGHT) {
        const struct layout *layout = &follow->layouts.at[follow->send_layout];
        uint64_t first = layout->bits == 0 ? 0 : (uint64_t)follow->send_bucket << (64 - layout->bits);
        char key[CONSENT_KEY_SIZE];
        const struct redis_arg args[] = {
            redis_text("HGETALL"),
            {key, consent_bucket_key(key, layout->partition, layout->tenant, layout->bits, first)}};
        if (++follow->send_bucket == (size_t)1 << layout->bits) {
            follow->send_bucket = 0;
            follow->send_layout++;
        }
        follow->sent++;
        if (!follow_send(follow, args, ARRAY_LEN(args), on_bucket))
            return;
    }
    if (follow->answer_layout == follow->layouts.n)
        list_begin(follow, STEP_LIST_AGAIN);
}

// ---- the streams ----------------------------------------------------------------------------------------------------
// One change; false where it does not follow the last one or erased a tenant, and a scan is due.
static bool entry_read(struct consent_follow *follow, struct consent_stamp *told, const redisReply *entry) {
    char id[32];
    uint64_t tenant;
    uint8_t bytes[8], hash[CONSENT_HASH_SIZE];
    snprintf(id, sizeof id, "%" PRIu64 "-0", told->epoch + 1);
    if (!reply_is_array(entry, 2) || !reply_is_text(entry->element[0], id))
        return false;
    const redisReply *fields = entry->element[1];
    const redisReply *t = reply_field(fields, "t"), *p = reply_field(fields, "p"), *s = reply_field(fields, "s"),
                     *h = reply_field(fields, "h");
    if (t == NULL || p == NULL || s == NULL || h == NULL || s->type != REDIS_REPLY_STRING)
        return false;
    int state = consent_state_parse(s->str);
    // A change that is about no contact and leaves all of them as they are.
    bool other = reply_is_text(s, "rebucketed") || reply_is_text(s, "notice");
    if ((state < 0 && !other) || reply_u64(t, UINT32_MAX, &tenant) != 0 || reply_hex(p, bytes, sizeof bytes) != 0 ||
        reply_hex(h, hash, sizeof hash) != 0)
        return false;
    uint64_t pseudonym = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        pseudonym = pseudonym << 8 | bytes[i];
    if (!other)
        follow->hooks.state(follow->hooks.arg, (uint32_t)tenant, pseudonym, (uint8_t)state);
    told->epoch++;
    memcpy(told->hash, hash, sizeof hash);
    return true;
}

static size_t entries_a_stream(const struct consent_follow *follow) {
    size_t n = ENTRIES_A_READ / follow->partitions;
    return n < ENTRIES_A_STREAM_MIN ? ENTRIES_A_STREAM_MIN : n;
}

// The entries of one stream; false where a scan is due.
static bool stream_read(struct consent_follow *follow, const redisReply *stream) {
    uint32_t partition;
    int used = 0;
    if (!reply_is_array(stream, 2) || stream->element[0]->type != REDIS_REPLY_STRING ||
        sscanf(stream->element[0]->str, "ov:{%" SCNu32 "}:changes%n", &partition, &used) != 1 ||
        (size_t)used != stream->element[0]->len || partition >= follow->partitions)
        return false;
    const redisReply *entries = stream->element[1];
    bool good = entries->type == REDIS_REPLY_ARRAY;
    for (size_t i = 0; good && i < entries->elements; i++)
        good = entry_read(follow, &follow->told[partition], entries->element[i]);
    follow->more |= good && entries->elements >= entries_a_stream(follow);
    return good;
}

static void tail_send(struct consent_follow *follow);

static void on_tail(void *arg, const redisReply *reply) {
    struct consent_follow *follow = arg;
    if (!follow_answer(follow, reply))
        return;
    CHECK(follow->step == STEP_TAIL);
    bool good = reply->type == REDIS_REPLY_NIL || reply->type == REDIS_REPLY_ARRAY;
    follow->more = false;
    for (size_t i = 0; good && i < reply->elements && reply->type == REDIS_REPLY_ARRAY; i++)
        good = stream_read(follow, reply->element[i]);
    if (!good) {
        follow_rescan(follow);
        return;
    }
    if (!follow->more)
        follow->hooks.fresh(follow->hooks.arg);
    if (!follow->more && clock_monotonic_ms() - follow->checked_ms >= CHECK_MS)
        check_begin(follow);
    else
        tail_send(follow);
}

static void tail_send(struct consent_follow *follow) {
    size_t n_words = 6 + 2 * (size_t)follow->partitions, n = 0;
    struct text {
        char key[CONSENT_KEY_SIZE];
        char id[32];
    } *texts = calloc(follow->partitions, sizeof *texts);
    struct redis_arg *args = calloc(n_words, sizeof *args);
    char count[24], block[24];
    if (texts == NULL || args == NULL) {
        follow_drop(follow, "out of memory to follow the changes");
        goto done;
    }
    snprintf(count, sizeof count, "%zu", entries_a_stream(follow));
    snprintf(block, sizeof block, "%" PRIu64, follow->block_ms);
    const char *const words[] = {"XREAD", "COUNT", count, "BLOCK", block, "STREAMS"};
    for (; n < ARRAY_LEN(words); n++)
        args[n] = redis_text(words[n]);
    for (uint32_t i = 0; i < follow->partitions; i++, n++) {
        snprintf(texts[i].key, sizeof texts[i].key, "ov:{%" PRIu32 "}:changes", i);
        snprintf(texts[i].id, sizeof texts[i].id, "%" PRIu64 "-0", follow->told[i].epoch);
        args[n] = redis_text(texts[i].key);
        args[n + follow->partitions] = redis_text(texts[i].id);
    }
    (void)follow_send(follow, args, n_words, on_tail);
done:
    free(texts);
    free(args);
}

static void tail_begin(struct consent_follow *follow) {
    follow->step = STEP_TAIL;
    tail_send(follow);
}

// ---- set-up ---------------------------------------------------------------------------------------------------------
static void on_up(void *arg) {
    check_begin(arg);
}

static void on_down(void *arg, const char *why) {
    struct consent_follow *follow = arg;
    if (!follow->freed)
        follow->hooks.lost(follow->hooks.arg, why);
}

static void follow_release(struct consent_follow *follow) {
    free(follow->now);
    free(follow->told);
    free(follow->layouts.at);
    free(follow->again.at);
    free(follow);
}

int consent_follow_start(struct consent_follow **out, struct uv_loop_s *loop, const struct config *config,
                         const struct consent_follow_hooks *hooks, struct err *err) {
    CHECK(hooks->reset != NULL && hooks->state != NULL && hooks->fresh != NULL && hooks->lost != NULL);
    struct consent_follow *follow = calloc(1, sizeof *follow);
    if (follow == NULL)
        return err_set(err, ERR_NOMEM, "out of memory to follow the changes of consent");
    follow->hooks = *hooks;
    follow->mode = config->rehearsal ? "rehearsal" : "production";
    follow->partitions = (uint32_t)config->kafka_partitions;
    // Redis answers well before the connection counts as dead.
    follow->block_ms = config->redis_timeout_ms / 4 + 1;
    if (follow->block_ms > CONSENT_FOLLOW_PROOF_MS)
        follow->block_ms = CONSENT_FOLLOW_PROOF_MS;
    follow->now = calloc(follow->partitions, sizeof *follow->now);
    follow->told = calloc(follow->partitions, sizeof *follow->told);
    const struct redis_link_hooks link_hooks = {.up = on_up, .down = on_down, .arg = follow};
    int rc = follow->now == NULL || follow->told == NULL
                 ? err_set(err, ERR_NOMEM, "out of memory to follow the changes of consent")
                 : redis_link_create(&follow->link, loop, config, &link_hooks, err);
    if (rc != 0) {
        follow_release(follow);
        return rc;
    }
    *out = follow;
    return 0;
}

void consent_follow_free(struct consent_follow *follow) {
    if (follow == NULL)
        return;
    follow->freed = true;
    redis_link_free(follow->link);
    follow_release(follow);
}
