// A cycle of steps on the connection of every server (redis_shards.h), over the partitions on it: check their meta data;
// where one does not lead on, list the tenants, read their buckets, list the tenants again; then follow the streams, and
// check again from time to time. A scan of one server is one of all: what was told so far is void as a whole.
#include "common/consent_follow.h"

#include "common/consent_job.h"
#include "common/consent_layouts.h"
#include "common/consent_store.h"
#include "common/consent_tell.h"
#include "common/redis_reply.h"

#include <inttypes.h>
#include <uv.h>

#define BUCKETS_IN_FLIGHT 32u
#define COMMANDS_IN_FLIGHT 256u
#define CHECK_MS 5000
#define ENTRIES_A_READ 8192u // of all partitions together
#define ENTRIES_A_STREAM_MIN 8u
#define CLUSTER_BLOCK_MS 20

enum step { STEP_CHECK, STEP_LIST, STEP_SCAN, STEP_LIST_AGAIN, STEP_TAIL };

// What happens on one server's connection.
struct cycle {
    struct consent_follow *follow;
    struct redis_link *link;
    uint32_t *mine; // the partitions on this server, ascending
    size_t n_mine;
    enum step step;
    bool scanned;       // in this generation; else a scan is due
    uint32_t generation; // of its last scan
    int64_t checked_ms;
    size_t sent;     // commands of this step
    size_t answered;
    struct layouts layouts;
    struct layouts again;
    size_t send_layout, send_bucket;   // the next bucket to ask for
    size_t answer_layout, answer_bucket; // the next one to be answered
    size_t reads; // of the streams, awaited
    bool more;    // the streams hold more than the last read gave
    bool stale;   // the last read did not lead on
    bool fresh;   // all was told that the server had a moment ago
};

struct consent_follow {
    struct redis_shards *shards;
    struct consent_follow_hooks hooks;
    const char *mode;
    uint32_t partitions;
    uint64_t block_ms;
    bool freed;
    uint32_t generation;        // counts the resets
    struct consent_stamp *now;  // by partition: as just read
    struct consent_stamp *told; // by partition: up to where changes were told
    struct consent_tell *tell; // NULL: nobody is told
    struct cycle cycles[REDIS_SHARDS_MAX];
};

static void check_begin(struct cycle *cycle);
static void list_begin(struct cycle *cycle, enum step step);
static void tail_begin(struct cycle *cycle);

// False where the link is gone: the step ends with it.
static bool cycle_send(struct cycle *cycle, const struct redis_arg *args, size_t n, redis_reply_fn fn) {
    if (redis_link_send(cycle->link, args, n, fn, cycle) == 0)
        return true;
    redis_link_drop(cycle->link, "a command for Redis does not fit the queue");
    return false;
}

// An answer is in: false where it needs no look, because the connection ended or ends with it.
static bool cycle_answer(struct cycle *cycle, const redisReply *reply) {
    if (reply == NULL || cycle->follow->freed)
        return false;
    if (reply->type == REDIS_REPLY_ERROR) {
        redis_link_drop(cycle->link, "Redis does not let the changes be followed: %.200s", reply->str);
        return false;
    }
    return true;
}

static void cycle_rescan(struct cycle *cycle) {
    cycle->scanned = cycle->fresh = false;
    check_begin(cycle);
}

// ---- check ----------------------------------------------------------------------------------------------------------
static bool read_meta(struct cycle *cycle, uint32_t partition, const redisReply *reply) {
    struct consent_stamp *now = &cycle->follow->now[partition];
    *now = (struct consent_stamp){0};
    if (!reply_is_array(reply, 4))
        return false;
    if (reply->element[0]->type == REDIS_REPLY_NIL)
        return true;
    return reply_is_text(reply->element[0], cycle->follow->mode) && reply_is_text(reply->element[3], CONSENT_SCHEMA) &&
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

// Whether what was told of this server holds: another one may have begun a new scan of all.
static bool cycle_holds(const struct cycle *cycle) {
    return cycle->scanned && cycle->generation == cycle->follow->generation;
}

static void check_done(struct cycle *cycle) {
    struct consent_follow *follow = cycle->follow;
    cycle->checked_ms = clock_monotonic_ms();
    redis_link_settled(cycle->link);
    if (cycle_holds(cycle)) {
        tail_begin(cycle);
        return;
    }
    if (cycle->generation == follow->generation) {
        follow->generation++;
        follow->hooks.reset(follow->hooks.arg);
    }
    cycle->generation = follow->generation;
    for (size_t i = 0; i < cycle->n_mine; i++)
        follow->told[cycle->mine[i]] = follow->now[cycle->mine[i]];
    list_begin(cycle, STEP_LIST);
}

static bool check_send(struct cycle *cycle);

static void on_check(void *arg, const redisReply *reply) {
    struct cycle *cycle = arg;
    if (!cycle_answer(cycle, reply))
        return;
    CHECK(cycle->step == STEP_CHECK);
    uint32_t partition = cycle->mine[cycle->answered / 2];
    if (cycle->answered++ % 2 == 0) {
        if (!read_meta(cycle, partition, reply)) {
            redis_link_drop(cycle->link, "the meta data of partition %" PRIu32 " in Redis is damaged or not for this mode",
                            partition);
            return;
        }
    } else if (cycle_holds(cycle) &&
               !leads_on(&cycle->follow->told[partition], &cycle->follow->now[partition], reply)) {
        cycle->scanned = false;
    }
    if (check_send(cycle) && cycle->answered == 2 * cycle->n_mine)
        check_done(cycle);
}

// Keeps commands in flight: a partition's meta data, and the stream's entry at which it was left.
static bool check_send(struct cycle *cycle) {
    while (cycle->sent < 2 * cycle->n_mine && cycle->sent - cycle->answered < COMMANDS_IN_FLIGHT) {
        char key[CONSENT_KEY_SIZE], changes[CONSENT_KEY_SIZE], id[32];
        uint32_t partition = cycle->mine[cycle->sent / 2];
        consent_key(key, partition, "meta");
        consent_key(changes, partition, "changes");
        snprintf(id, sizeof id, "%" PRIu64 "-0", cycle->follow->told[partition].epoch);
        const struct redis_arg meta[] = {redis_text("HMGET"), redis_text(key),    redis_text("mode"),
                                         redis_text("epoch"), redis_text("hash"), redis_text("version")};
        const struct redis_arg entry[] = {redis_text("XRANGE"), redis_text(changes), redis_text(id), redis_text(id)};
        cycle->sent += 2;
        if (!cycle_send(cycle, meta, ARRAY_LEN(meta), on_check) ||
            !cycle_send(cycle, entry, ARRAY_LEN(entry), on_check))
            return false;
    }
    return true;
}

static void check_begin(struct cycle *cycle) {
    cycle->step = STEP_CHECK;
    cycle->sent = cycle->answered = 0;
    (void)check_send(cycle);
}

// ---- scan -----------------------------------------------------------------------------------------------------------
static void scan_send(struct cycle *cycle);

static void list_done(struct cycle *cycle) {
    layouts_sort(cycle->step == STEP_LIST ? &cycle->layouts : &cycle->again);
    if (cycle->step == STEP_LIST) {
        cycle->step = STEP_SCAN;
        cycle->send_layout = cycle->send_bucket = cycle->answer_layout = cycle->answer_bucket = 0;
        cycle->sent = cycle->answered = 0;
        scan_send(cycle);
    } else if (layouts_kept(&cycle->layouts, &cycle->again)) {
        cycle->scanned = true;
        tail_begin(cycle);
    } else {
        cycle_rescan(cycle);
    }
}

static bool list_read(struct cycle *cycle, uint32_t partition, const redisReply *reply) {
    struct layouts *layouts = cycle->step == STEP_LIST ? &cycle->layouts : &cycle->again;
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

static void list_send(struct cycle *cycle);

static void on_list(void *arg, const redisReply *reply) {
    struct cycle *cycle = arg;
    if (!cycle_answer(cycle, reply))
        return;
    CHECK(cycle->step == STEP_LIST || cycle->step == STEP_LIST_AGAIN);
    uint32_t partition = cycle->mine[cycle->answered++];
    if (!list_read(cycle, partition, reply))
        redis_link_drop(cycle->link, "the layout of partition %" PRIu32 " in Redis cannot be read", partition);
    else if (cycle->answered == cycle->n_mine)
        list_done(cycle);
    else
        list_send(cycle);
}

static void list_send(struct cycle *cycle) {
    char key[CONSENT_KEY_SIZE];
    if (cycle->sent == cycle->n_mine || cycle->sent > cycle->answered)
        return;
    consent_key(key, cycle->mine[cycle->sent++], "bits");
    const struct redis_arg args[] = {redis_text("HGETALL"), redis_text(key)};
    (void)cycle_send(cycle, args, ARRAY_LEN(args), on_list);
}

static void list_begin(struct cycle *cycle, enum step step) {
    cycle->step = step;
    (step == STEP_LIST ? &cycle->layouts : &cycle->again)->n = 0;
    cycle->sent = cycle->answered = 0;
    list_send(cycle);
}

static bool bucket_read(struct cycle *cycle, const redisReply *reply) {
    CHECK(cycle->answer_layout < cycle->layouts.n);
    const struct layout *layout = &cycle->layouts.at[cycle->answer_layout];
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements % 2 == 0;
    for (size_t i = 0; good && i < reply->elements; i += 2) {
        const redisReply *field = reply->element[i], *value = reply->element[i + 1];
        struct consent_record record;
        uint64_t pseudonym;
        good = field->type == REDIS_REPLY_STRING && value->type == REDIS_REPLY_STRING &&
               consent_field_pseudonym((const uint8_t *)field->str, field->len, layout->bits, cycle->answer_bucket,
                                       &pseudonym);
        if (good) {
            consent_record_decode((const uint8_t *)value->str, value->len, &record);
            cycle->follow->hooks.state(cycle->follow->hooks.arg, layout->tenant, pseudonym, record.state);
        }
    }
    if (++cycle->answer_bucket == (size_t)1 << layout->bits) {
        cycle->answer_bucket = 0;
        cycle->answer_layout++;
    }
    return good;
}

static void on_bucket(void *arg, const redisReply *reply) {
    struct cycle *cycle = arg;
    if (!cycle_answer(cycle, reply))
        return;
    CHECK(cycle->step == STEP_SCAN);
    cycle->answered++;
    if (bucket_read(cycle, reply))
        scan_send(cycle);
    else
        redis_link_drop(cycle->link, "a bucket in Redis holds what openveil did not write");
}

static void scan_send(struct cycle *cycle) {
    while (cycle->send_layout < cycle->layouts.n && cycle->sent - cycle->answered < BUCKETS_IN_FLIGHT) {
        const struct layout *layout = &cycle->layouts.at[cycle->send_layout];
        uint64_t first = layout->bits == 0 ? 0 : (uint64_t)cycle->send_bucket << (64 - layout->bits);
        char key[CONSENT_KEY_SIZE];
        const struct redis_arg args[] = {
            redis_text("HGETALL"),
            {key, consent_bucket_key(key, layout->partition, layout->tenant, layout->bits, first)}};
        if (++cycle->send_bucket == (size_t)1 << layout->bits) {
            cycle->send_bucket = 0;
            cycle->send_layout++;
        }
        cycle->sent++;
        if (!cycle_send(cycle, args, ARRAY_LEN(args), on_bucket))
            return;
    }
    if (cycle->answer_layout == cycle->layouts.n)
        list_begin(cycle, STEP_LIST_AGAIN);
}

// ---- the streams ----------------------------------------------------------------------------------------------------
// One change; false where it does not follow the last one, erased a tenant or ended a repair, and a scan is due.
static bool entry_read(struct cycle *cycle, struct consent_stamp *told, const redisReply *reply) {
    struct consent_entry entry;
    if (consent_entry_read(reply, &entry) != 0 || entry.epoch != told->epoch + 1 || entry.kind == ENTRY_ERASED ||
        entry.kind == ENTRY_JOINED)
        return false;
    if (entry.kind == ENTRY_STATE)
        cycle->follow->hooks.state(cycle->follow->hooks.arg, entry.tenant, entry.pseudonym, entry.state);
    *told = (struct consent_stamp){.epoch = entry.epoch};
    memcpy(told->hash, entry.hash, sizeof told->hash);
    return true;
}

static size_t entries_a_stream(const struct cycle *cycle) {
    size_t n = ENTRIES_A_READ / cycle->n_mine;
    return n < ENTRIES_A_STREAM_MIN ? ENTRIES_A_STREAM_MIN : n;
}

// The entries of one stream; false where a scan is due.
static bool stream_read(struct cycle *cycle, const redisReply *stream) {
    uint32_t partition;
    const redisReply *entries = consent_entries_of(stream, cycle->follow->partitions, &partition);
    bool good = entries != NULL;
    for (size_t i = 0; good && i < entries->elements; i++)
        good = entry_read(cycle, &cycle->follow->told[partition], entries->element[i]);
    cycle->more |= good && entries->elements >= entries_a_stream(cycle);
    return good;
}

// Once every partition's server has told all that it had, so have we.
static void follow_fresh(struct consent_follow *follow) {
    for (uint32_t partition = 0; partition < follow->partitions; partition++) {
        unsigned shard = redis_shards_of(follow->shards, partition);
        if (shard == REDIS_NO_SHARD || !follow->cycles[shard].fresh || !cycle_holds(&follow->cycles[shard]))
            return;
    }
    for (unsigned i = 0; i < REDIS_SHARDS_MAX; i++)
        follow->cycles[i].fresh = false;
    follow->hooks.fresh(follow->hooks.arg);
}

static void follow_tell(const struct cycle *cycle) {
    const struct consent_follow *follow = cycle->follow;
    if (follow->tell == NULL || !follow->hooks.applied(follow->hooks.arg))
        return;
    for (size_t i = 0; i < cycle->n_mine; i++)
        consent_tell(follow->tell, cycle->link, cycle->mine[i], follow->told[cycle->mine[i]].epoch);
}

static void on_tail(void *arg, const redisReply *reply) {
    struct cycle *cycle = arg;
    if (!cycle_answer(cycle, reply))
        return;
    CHECK(cycle->step == STEP_TAIL && cycle->reads > 0);
    bool good = reply->type == REDIS_REPLY_NIL || reply->type == REDIS_REPLY_ARRAY;
    for (size_t i = 0; good && i < reply->elements && reply->type == REDIS_REPLY_ARRAY; i++)
        good = stream_read(cycle, reply->element[i]);
    cycle->stale |= !good;
    if (--cycle->reads > 0)
        return;
    if (cycle->stale || !cycle_holds(cycle)) {
        cycle_rescan(cycle);
        return;
    }
    if (!cycle->more) {
        cycle->fresh = true;
        follow_fresh(cycle->follow);
    }
    follow_tell(cycle);
    if (!cycle->more && clock_monotonic_ms() - cycle->checked_ms >= CHECK_MS)
        check_begin(cycle);
    else
        tail_begin(cycle);
}

// Asks for what follows in these partitions' streams; where nothing does, the answer waits for `block_ms`.
static bool read_send(struct cycle *cycle, const uint32_t *partitions, size_t n_partitions, uint64_t block_ms) {
    size_t n = 0;
    struct text {
        char key[CONSENT_KEY_SIZE];
        char id[32];
    } *texts = calloc(n_partitions, sizeof *texts);
    struct redis_arg *args = calloc(6 + 2 * n_partitions, sizeof *args);
    char count[24], block[24];
    bool sent = false;
    if (texts == NULL || args == NULL) {
        redis_link_drop(cycle->link, "out of memory to follow the changes");
        goto done;
    }
    snprintf(count, sizeof count, "%zu", entries_a_stream(cycle));
    snprintf(block, sizeof block, "%" PRIu64, block_ms);
    const char *const words[] = {"XREAD", "COUNT", count, "BLOCK", block, "STREAMS"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (block_ms > 0 || (i != 3 && i != 4))
            args[n++] = redis_text(words[i]);
    }
    for (size_t i = 0; i < n_partitions; i++, n++) {
        consent_key(texts[i].key, partitions[i], "changes");
        snprintf(texts[i].id, sizeof texts[i].id, "%" PRIu64 "-0", cycle->follow->told[partitions[i]].epoch);
        args[n] = redis_text(texts[i].key);
        args[n + n_partitions] = redis_text(texts[i].id);
    }
    cycle->reads++;
    sent = cycle_send(cycle, args, n + n_partitions, on_tail);
done:
    free(texts);
    free(args);
    return sent;
}

// One command for all streams; in a cluster one for each, of which the last waits.
static void tail_begin(struct cycle *cycle) {
    cycle->step = STEP_TAIL;
    cycle->reads = 0;
    cycle->more = cycle->stale = false;
    size_t n = cycle->n_mine, at = 0;
    if (!redis_shards_split_keys(cycle->follow->shards)) {
        (void)read_send(cycle, cycle->mine, n, cycle->follow->block_ms);
        return;
    }
    while (at + 1 < n && read_send(cycle, cycle->mine + at, 1, 0))
        at++;
    if (at + 1 == n)
        (void)read_send(cycle, cycle->mine + at, 1, CLUSTER_BLOCK_MS);
}

// ---- set-up ---------------------------------------------------------------------------------------------------------
static void on_up(void *arg, unsigned shard) {
    struct consent_follow *follow = arg;
    struct cycle *cycle = &follow->cycles[shard];
    size_t n = 0;
    bool same = true;
    if (cycle->mine == NULL && (cycle->mine = calloc(follow->partitions, sizeof *cycle->mine)) == NULL) {
        redis_link_drop(redis_shards_link(follow->shards, shard), "out of memory to follow the changes");
        return;
    }
    for (uint32_t partition = 0; partition < follow->partitions; partition++) {
        if (redis_shards_of(follow->shards, partition) != shard)
            continue;
        same = same && n < cycle->n_mine && cycle->mine[n] == partition;
        cycle->mine[n++] = partition;
    }
    cycle->scanned = cycle->scanned && same && n == cycle->n_mine;
    cycle->n_mine = n;
    cycle->follow = follow;
    cycle->link = redis_shards_link(follow->shards, shard);
    if (n > 0)
        check_begin(cycle);
}

static void on_down(void *arg, unsigned shard, const char *why) {
    struct consent_follow *follow = arg;
    if (shard != REDIS_NO_SHARD)
        follow->cycles[shard].fresh = false;
    follow->hooks.lost(follow->hooks.arg, why);
}

static void follow_release(struct consent_follow *follow) {
    consent_tell_free(follow->tell);
    free(follow->now);
    free(follow->told);
    for (unsigned i = 0; i < REDIS_SHARDS_MAX; i++) {
        free(follow->cycles[i].mine);
        free(follow->cycles[i].layouts.at);
        free(follow->cycles[i].again.at);
    }
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
    const struct redis_shards_hooks shards_hooks = {.up = on_up, .down = on_down, .arg = follow};
    bool nomem = follow->now == NULL || follow->told == NULL ||
                 (hooks->applied != NULL && consent_tell_create(&follow->tell, config, hooks->who) != 0);
    int rc = nomem
                 ? err_set(err, ERR_NOMEM, "out of memory to follow the changes of consent")
                 : redis_shards_create(&follow->shards, loop, config, false, &shards_hooks, err);
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
    redis_shards_free(follow->shards);
    follow_release(follow);
}
