// A look-up: meta, layout and proof of continuity; the buckets; then the same checks again. All on one connection.
#include "common/consent_job.h"
#include "common/hmac.h"
#include "common/log.h"
#include "common/redis_reply.h"

#include <inttypes.h>

#define FIELDS_A_COMMAND 64u
#define TENANTS_A_COMMAND 512u
#define COMMANDS_IN_FLIGHT 256u
#define ROUNDS_MAX 3u
#define META_FIELDS 6u

static void send_checks(struct consent_job *job);
static void send_buckets(struct consent_job *job);

static int item_compare(const void *left, const void *right) {
    const struct consent_item *a = left, *b = right;
    if (a->tenant != b->tenant)
        return a->tenant < b->tenant ? -1 : 1;
    return a->pseudonym == b->pseudonym ? 0 : a->pseudonym < b->pseudonym ? -1 : 1;
}

int consent_lookup_prepare(struct consent_job *job) {
    if (job->kind == JOB_SCAN) {
        job->layouts = calloc(1, sizeof *job->layouts);
        if (job->layouts == NULL)
            return ERR_NOMEM;
        job->layouts[job->n_layouts++].tenant = job->tenant;
        return 0;
    }
    if (job->n == 0)
        return 0;
    job->items = calloc(job->n, sizeof *job->items);
    if (job->items == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < job->n; i++)
        job->items[i] = (struct consent_item){job->queries[i].pseudonym, job->queries[i].tenant, (uint32_t)i};
    qsort(job->items, job->n, sizeof *job->items, item_compare);
    size_t n_tenants = 1;
    for (size_t i = 1; i < job->n; i++)
        n_tenants += job->items[i].tenant != job->items[i - 1].tenant;
    job->layouts = calloc(n_tenants, sizeof *job->layouts);
    if (job->layouts == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < job->n; i++) {
        if (i == 0 || job->items[i].tenant != job->items[i - 1].tenant)
            job->layouts[job->n_layouts++].tenant = job->items[i].tenant;
    }
    CHECK(job->n_layouts == n_tenants);
    return 0;
}

// ---- reading what Redis says ----------------------------------------------------------------------------------------
// mode, epoch, hash, version, joined, joining of ov:{p}:meta. None of the first four: an empty store, epoch 0.
static bool read_meta(struct consent_job *job, const redisReply *reply) {
    if (!reply_is_array(reply, META_FIELDS)) {
        job_fail_drop(job, "Redis answers the meta data of partition %" PRIu32 " with something else", job->partition);
        return false;
    }
    job->stamp = (struct consent_stamp){0};
    size_t missing = 0;
    for (size_t i = 0; i < 4; i++) // without the last two
        missing += reply->element[i]->type == REDIS_REPLY_NIL;
    if (missing == 4)
        return true;
    const redisReply *mode = reply->element[0];
    if ((reply_is_text(mode, "production") || reply_is_text(mode, "rehearsal")) && !reply_is_text(mode, job_mode(job))) {
        job_fail(job, ERR_UNREACHABLE, "Redis belongs to %s and this process runs in %s: use another Redis", mode->str,
                 job_mode(job));
        return false;
    }
    if (!reply_is_text(reply->element[3], CONSENT_SCHEMA) && missing == 0) {
        job_fail(job, ERR_UNREACHABLE, "partition %" PRIu32 " of Redis was written by another version of openveil",
                 job->partition);
        return false;
    }
    if (!reply_is_text(mode, job_mode(job)) || reply_u64(reply->element[1], UINT64_MAX, &job->stamp.epoch) != 0 ||
        reply_hex(reply->element[2], job->stamp.hash, CONSENT_HASH_SIZE) != 0) {
        job_fail(job, ERR_UNREACHABLE, "the meta data of partition %" PRIu32 " in Redis is damaged", job->partition);
        return false;
    }
    if (reply->element[5]->type != REDIS_REPLY_NIL) {
        job_fail(job, ERR_UNREACHABLE, "partition %" PRIu32 " of Redis is being repaired (openveil consent restore)",
                 job->partition);
        return false;
    }
    const redisReply *joined = reply->element[4];
    job->joined = joined->type == REDIS_REPLY_STRING && consent_joined(joined->str, job->from.epoch);
    return true;
}

static void fail_continuity(struct consent_job *job) {
    job_fail(job, ERR_UNREACHABLE,
             "partition %" PRIu32 " of Redis was emptied, restored to an older state or lost writes (epoch %" PRIu64
             ", known %" PRIu64 "): openveil consent restore repairs it; nothing is counted until then",
             job->partition, job->stamp.epoch, job->from.epoch);
}

// Whether the store leads on from what is known: the same epoch with the same hash, or a later one whose stream still
// says that hash at the known epoch, or whose entry there was erased and left a link, or on a branch that was lost and
// joined. An epoch alone proves nothing: after lost writes, newer ones pass it again.
static bool read_continuity(struct consent_job *job, const redisReply *reply) {
    const struct consent_stamp *from = &job->from, *now = &job->stamp;
    uint8_t hash[CONSENT_HASH_SIZE];
    if (reply->type != REDIS_REPLY_ARRAY) {
        job_fail_drop(job, "Redis answers the changes of partition %" PRIu32 " with something else", job->partition);
        return false;
    }
    bool leads_on = job->joined;
    if (leads_on) {
        return true;
    } else if (now->epoch == from->epoch) {
        leads_on = memcmp(now->hash, from->hash, sizeof now->hash) == 0;
    } else if (now->epoch > from->epoch && reply->elements == 0 && now->epoch - from->epoch >= CONSENT_STREAM_KEEPS) {
        log_warn("partition %" PRIu32 " of Redis is %" PRIu64 " changes ahead: too many to prove that none were lost",
                 job->partition, now->epoch - from->epoch);
        leads_on = true;
    } else if (now->epoch > from->epoch) {
        // What the change of that epoch left, in the stream.
        const redisReply *entry = reply_only_entry(reply);
        const redisReply *found = entry == NULL ? NULL : reply_field(entry, "h");
        leads_on = found != NULL && reply_hex(found, hash, sizeof hash) == 0 &&
                   memcmp(hash, from->hash, sizeof hash) == 0;
        job->doubt = !leads_on && reply->elements == 0;
    }
    if (!leads_on && !job->doubt)
        fail_continuity(job);
    return leads_on || job->doubt;
}

static bool read_layouts(struct consent_job *job, size_t chunk, const redisReply *reply) {
    size_t first = chunk * TENANTS_A_COMMAND;
    size_t n = job->n_layouts - first < TENANTS_A_COMMAND ? job->n_layouts - first : TENANTS_A_COMMAND;
    CHECK(first < job->n_layouts);
    if (!reply_is_array(reply, n)) {
        job_fail_drop(job, "Redis answers the layout of partition %" PRIu32 " with something else", job->partition);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = 0;
        bool exists = reply->element[i]->type != REDIS_REPLY_NIL;
        if (exists && reply_u64(reply->element[i], CONSENT_BITS_MAX, &bits) != 0) {
            job_fail(job, ERR_UNREACHABLE, "the layout of partition %" PRIu32 " in Redis is damaged", job->partition);
            return false;
        }
        struct consent_layout *layout = &job->layouts[first + i];
        int now = exists ? (int)bits : -1;
        job->layout_moved |= job->step == STEP_CLOSING && now != layout->bits;
        layout->bits = now;
    }
    return true;
}

static int notice_compare(const void *left, const void *right) {
    const struct consent_notice *a = left, *b = right;
    return strcmp(a->version, b->version);
}

static bool read_notices(struct consent_job *job, const redisReply *reply) {
    free(job->notices);
    job->notices = NULL;
    job->n_notices = 0;
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements % 2 == 0 && reply->elements <= 2 * NOTICES_MAX;
    if (good && reply->elements > 0 && (job->notices = calloc(reply->elements / 2, sizeof *job->notices)) == NULL) {
        job_fail(job, ERR_NOMEM, "out of memory for the notices");
        return false;
    }
    for (size_t i = 0; good && i < reply->elements; i += 2) {
        const redisReply *version = reply->element[i], *value = reply->element[i + 1];
        good = version->type == REDIS_REPLY_STRING && value->type == REDIS_REPLY_STRING &&
               consent_notice_parse(version->str, version->len, value->str, value->len,
                                    &job->notices[job->n_notices++]) == 0;
    }
    if (!good) {
        job_fail_drop(job, "the notices of partition %" PRIu32 " in Redis cannot be read", job->partition);
        return false;
    }
    if (job->n_notices > 1)
        qsort(job->notices, job->n_notices, sizeof *job->notices, notice_compare);
    if (job->each_notice != NULL)
        job->each_notice(job->arg, job->notices, job->n_notices);
    return true;
}

// ---- steps ----------------------------------------------------------------------------------------------------------
static void round_begin(struct consent_job *job) {
    job->step = STEP_OPENING;
    job->layout_moved = false;
    job->sent = job->answered = (struct consent_cursor){0};
    for (size_t i = 0; i < job->n && job->kind == JOB_LOOKUP; i++)
        job->queries[i].record = (struct consent_record){0};
    send_checks(job);
}

static void checks_done(struct consent_job *job) {
    if (job->step == STEP_OPENING) {
        // The closing read must lead on from the opening one: an emptied store in between is not an answer.
        job->from = job->stamp;
        job->step = STEP_BUCKETS;
        send_buckets(job);
    } else if (!job->layout_moved) {
        job_finish(job);
    } else if (++job->rounds < ROUNDS_MAX && (job->kind == JOB_LOOKUP || job->answered.at == 0)) {
        round_begin(job);
    } else {
        job_fail(job, ERR_UNREACHABLE, "the layout of partition %" PRIu32 " changes under a look-up", job->partition);
    }
}

static void on_link(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    if (reply->type == REDIS_REPLY_STRING)
        checks_done(job);
    else if (reply->type == REDIS_REPLY_NIL)
        fail_continuity(job);
    else
        job_fail_drop(job, "Redis answers the links of partition %" PRIu32 " with something else", job->partition);
}

// The known epoch's entry is not in the stream: it may have been erased, and left a link.
static void send_link(struct consent_job *job) {
    char links[CONSENT_KEY_SIZE], field[32 + 2 * CONSENT_HASH_SIZE], hash[2 * CONSENT_HASH_SIZE + 1];
    job->doubt = false;
    hex_encode(job->from.hash, CONSENT_HASH_SIZE, hash);
    consent_key(links, job->partition, "links");
    snprintf(field, sizeof field, "%" PRIu64 ":%s", job->from.epoch, hash);
    const struct redis_arg args[] = {redis_text("HGET"), redis_text(links), redis_text(field)};
    job_send(job, args, ARRAY_LEN(args), on_link);
}

static size_t layout_chunks(const struct consent_job *job) {
    return (job->n_layouts + TENANTS_A_COMMAND - 1) / TENANTS_A_COMMAND;
}

static void on_check(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    size_t index = job->n_answers++;
    size_t first_layout = job->from.epoch > 0 ? 2 : 1;
    bool good;
    if (index == 0)
        good = read_meta(job, reply);
    else if (index < first_layout)
        good = read_continuity(job, reply);
    else if (index < first_layout + layout_chunks(job))
        good = read_layouts(job, index - first_layout, reply);
    else
        good = read_notices(job, reply);
    if (good && job->outstanding == 0 && job->doubt)
        send_link(job);
    else if (good && job->outstanding == 0)
        checks_done(job);
}

static void send_checks(struct consent_job *job) {
    char meta[CONSENT_KEY_SIZE], bits[CONSENT_KEY_SIZE], changes[CONSENT_KEY_SIZE], id[32];
    consent_key(meta, job->partition, "meta");
    consent_key(bits, job->partition, "bits");
    consent_key(changes, job->partition, "changes");
    snprintf(id, sizeof id, "%" PRIu64 "-0", job->from.epoch);
    job->n_answers = 0;
    const struct redis_arg read_meta_args[] = {redis_text("HMGET"),   redis_text(meta),   redis_text("mode"),
                                               redis_text("epoch"),   redis_text("hash"), redis_text("version"),
                                               redis_text("joined"),  redis_text("joining")};
    job_send(job, read_meta_args, ARRAY_LEN(read_meta_args), on_check);
    if (job->from.epoch > 0) {
        const struct redis_arg args[] = {redis_text("XRANGE"), redis_text(changes), redis_text(id), redis_text(id)};
        job_send(job, args, ARRAY_LEN(args), on_check);
    }
    for (size_t first = 0; first < job->n_layouts; first += TENANTS_A_COMMAND) {
        char names[TENANTS_A_COMMAND][12];
        struct redis_arg args[2 + TENANTS_A_COMMAND] = {redis_text("HMGET"), redis_text(bits)};
        size_t n = 0;
        for (; n < TENANTS_A_COMMAND && first + n < job->n_layouts; n++) {
            snprintf(names[n], sizeof names[n], "%" PRIu32, job->layouts[first + n].tenant);
            args[2 + n] = redis_text(names[n]);
        }
        job_send(job, args, 2 + n, on_check);
    }
    if (job->step == STEP_OPENING && (job->n_layouts > 0 || job->each_notice != NULL)) {
        char notices[CONSENT_KEY_SIZE];
        consent_key(notices, job->partition, "notices");
        const struct redis_arg args[] = {redis_text("HGETALL"), redis_text(notices)};
        job_send(job, args, ARRAY_LEN(args), on_check);
    }
}

// ---- the buckets of a look-up ---------------------------------------------------------------------------------------
// The next items that lie in one bucket: their number, 0 at the end. Tenants without a contact are passed over.
static size_t next_group(const struct consent_job *job, struct consent_cursor *cursor) {
    while (cursor->at < job->n) {
        const struct consent_item *first = &job->items[cursor->at];
        while (job->layouts[cursor->layout].tenant != first->tenant)
            cursor->layout++;
        CHECK(cursor->layout < job->n_layouts);
        int bits = job->layouts[cursor->layout].bits;
        size_t n = 1;
        if (bits < 0) {
            cursor->at++;
            continue;
        }
        while (n < FIELDS_A_COMMAND && cursor->at + n < job->n && first[n].tenant == first->tenant &&
               (bits == 0 || (first[n].pseudonym ^ first->pseudonym) >> (64 - bits) == 0))
            n++;
        return n;
    }
    return 0;
}

static bool read_group(struct consent_job *job, const redisReply *reply) {
    size_t n = next_group(job, &job->answered);
    CHECK(n > 0);
    if (!reply_is_array(reply, n)) {
        job_fail_drop(job, "Redis answers a bucket of partition %" PRIu32 " with something else", job->partition);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const redisReply *value = reply->element[i];
        struct consent_query *query = &job->queries[job->items[job->answered.at + i].query];
        if (value->type == REDIS_REPLY_STRING) {
            consent_record_decode((const uint8_t *)value->str, value->len, &query->record);
            consent_notices_apply(job->notices, job->n_notices, &query->record);
        } else if (value->type != REDIS_REPLY_NIL) {
            job_fail_drop(job, "Redis answers a contact of partition %" PRIu32 " with something else", job->partition);
            return false;
        }
    }
    job->answered.at += n;
    return true;
}

static bool send_group(struct consent_job *job, redis_reply_fn fn) {
    size_t n = next_group(job, &job->sent);
    if (n == 0)
        return false;
    const struct consent_item *items = &job->items[job->sent.at];
    unsigned bits = (unsigned)job->layouts[job->sent.layout].bits;
    char key[CONSENT_KEY_SIZE];
    uint8_t fields[FIELDS_A_COMMAND][8];
    struct redis_arg args[2 + FIELDS_A_COMMAND] = {redis_text("HMGET")};
    args[1].data = key;
    args[1].len = consent_bucket_key(key, job->partition, items[0].tenant, bits, items[0].pseudonym);
    for (size_t i = 0; i < n; i++)
        args[2 + i] = (struct redis_arg){fields[i], consent_bucket_field(fields[i], bits, items[i].pseudonym)};
    job->sent.at += n;
    job_send(job, args, 2 + n, fn);
    return true;
}

// ---- the buckets of a scan ------------------------------------------------------------------------------------------
static size_t bucket_count(const struct consent_job *job) {
    CHECK(job->n_layouts == 1);
    return job->layouts[0].bits < 0 ? 0 : (size_t)1 << job->layouts[0].bits;
}

static bool read_bucket(struct consent_job *job, const redisReply *reply) {
    unsigned bits = (unsigned)job->layouts[0].bits;
    size_t bucket = job->answered.at++;
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements % 2 == 0;
    for (size_t i = 0; good && i < reply->elements; i += 2) {
        struct consent_record record;
        const redisReply *value = reply->element[i + 1];
        uint64_t pseudonym = 0;
        const redisReply *field = reply->element[i];
        good = field->type == REDIS_REPLY_STRING && value->type == REDIS_REPLY_STRING &&
               consent_field_pseudonym((const uint8_t *)field->str, field->len, bits, bucket, &pseudonym);
        if (good) {
            consent_record_decode((const uint8_t *)value->str, value->len, &record);
            consent_notices_apply(job->notices, job->n_notices, &record);
            job->each(job->arg, pseudonym, &record);
        }
    }
    if (!good)
        job_fail_drop(job, "a bucket of partition %" PRIu32 " in Redis holds what openveil did not write",
                      job->partition);
    return good;
}

static bool send_bucket(struct consent_job *job, redis_reply_fn fn) {
    if (job->sent.at == bucket_count(job))
        return false;
    unsigned bits = (unsigned)job->layouts[0].bits;
    uint64_t first = bits == 0 ? 0 : (uint64_t)job->sent.at << (64 - bits);
    char key[CONSENT_KEY_SIZE];
    struct redis_arg args[2] = {redis_text("HGETALL")};
    args[1] = (struct redis_arg){key, consent_bucket_key(key, job->partition, job->layouts[0].tenant, bits, first)};
    job->sent.at++;
    job_send(job, args, ARRAY_LEN(args), fn);
    return true;
}

static void on_bucket(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    if (job->kind == JOB_SCAN ? read_bucket(job, reply) : read_group(job, reply))
        send_buckets(job);
}

static void send_buckets(struct consent_job *job) {
    bool more = true;
    while (more && job->status == 0 && job->outstanding < COMMANDS_IN_FLIGHT)
        more = job->kind == JOB_SCAN ? send_bucket(job, on_bucket) : send_group(job, on_bucket);
    if (job->outstanding == 0 && job->status == 0) {
        job->step = STEP_CLOSING;
        send_checks(job);
    }
}

void consent_lookup_begin(struct consent_job *job) {
    CHECK(job->kind == JOB_LOOKUP || job->kind == JOB_SCAN);
    round_begin(job);
}
