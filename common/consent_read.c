// Reading what a partition has reached and its streams: one command each, which proves nothing about continuity.
#include "common/consent_job.h"
#include "common/hmac.h"
#include "common/redis_reply.h"

#include <inttypes.h>

#define APPLIED_MAX 100000u // more than the library keeps

static bool read_stamp(struct consent_job *job, const redisReply *reply) {
    job->stamp = (struct consent_stamp){0};
    if (!reply_is_array(reply, 3))
        return false;
    const redisReply *joining = reply->element[2];
    if (joining->type == REDIS_REPLY_STRING) {
        job->repair->begun = true;
        char hash[2 * CONSENT_HASH_SIZE + 1];
        if (sscanf(joining->str, "%15" SCNu64 "-%15" SCNu64 " %40s", &job->repair->shared, &job->repair->last, hash) != 3 ||
            strlen(hash) + 1 != sizeof hash || hex_decode(hash, sizeof hash - 1, job->repair->log_hash) != 0)
            return false;
    }
    if (reply->element[0]->type == REDIS_REPLY_NIL && reply->element[1]->type == REDIS_REPLY_NIL)
        return true;
    return reply_u64(reply->element[0], UINT64_MAX, &job->stamp.epoch) == 0 &&
           reply_hex(reply->element[1], job->stamp.hash, CONSENT_HASH_SIZE) == 0;
}

static bool read_entries(struct consent_job *job, const redisReply *reply) {
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements <= job->max;
    for (size_t i = 0; good && i < reply->elements; i++) {
        struct consent_entry entry;
        good = consent_entry_read(reply->element[i], &entry) == 0;
        if (good)
            job->each_entry(job->arg, &entry);
    }
    return good;
}

static bool read_applied(struct consent_job *job, const redisReply *reply) {
    bool good = reply->type == REDIS_REPLY_ARRAY;
    for (size_t i = 0; good && i < reply->elements; i++) {
        const redisReply *entry = reply->element[i];
        int64_t unix_ms = 0;
        uint64_t epoch = 0;
        good = reply_is_array(entry, 2) && entry->element[0]->type == REDIS_REPLY_STRING &&
               sscanf(entry->element[0]->str, "%" SCNd64 "-", &unix_ms) == 1;
        const redisReply *who = good ? reply_field(entry->element[1], "w") : NULL;
        const redisReply *e = good ? reply_field(entry->element[1], "e") : NULL;
        good = who != NULL && e != NULL && who->type == REDIS_REPLY_STRING && who->len <= CONSENT_WHO_MAX &&
               reply_u64(e, UINT64_MAX, &epoch) == 0;
        if (good)
            job->each_applied(job->arg, who->str, epoch, unix_ms);
    }
    return good;
}

static bool read_tenants(struct consent_job *job, const redisReply *reply) {
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements % 2 == 0;
    for (size_t i = 0; good && i < reply->elements; i += 2) {
        uint64_t tenant;
        good = reply_u64(reply->element[i], UINT32_MAX, &tenant) == 0;
        if (good)
            job->each_tenant(job->arg, (uint32_t)tenant);
    }
    return good;
}

static void on_read(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    bool good = job->read == READ_STAMP     ? read_stamp(job, reply)
                : job->read == READ_ENTRIES ? read_entries(job, reply)
                : job->read == READ_TENANTS ? read_tenants(job, reply)
                                            : read_applied(job, reply);
    if (good)
        job_finish(job);
    else
        job_fail_drop(job, "Redis answers what partition %" PRIu32 " has reached with something else%s%.200s",
                      job->partition, reply->type == REDIS_REPLY_ERROR ? ": " : "",
                      reply->type == REDIS_REPLY_ERROR ? reply->str : "");
}

void consent_read_begin(struct consent_job *job) {
    static const char *const keys[] = {[READ_STAMP] = "meta", [READ_ENTRIES] = "changes", [READ_APPLIED] = "applied",
                                       [READ_TENANTS] = "bits"};
    char key[CONSENT_KEY_SIZE], from[32], count[24];
    CHECK(job->kind == JOB_READ && job->read < ARRAY_LEN(keys));
    consent_key(key, job->partition, keys[job->read]);
    if (job->read == READ_STAMP) {
        const struct redis_arg args[] = {redis_text("HMGET"), redis_text(key), redis_text("epoch"), redis_text("hash"),
                                         redis_text("joining")};
        job_send(job, args, ARRAY_LEN(args), on_read);
        return;
    }
    if (job->read == READ_TENANTS) {
        const struct redis_arg args[] = {redis_text("HGETALL"), redis_text(key)};
        job_send(job, args, ARRAY_LEN(args), on_read);
        return;
    }
    snprintf(from, sizeof from, "%" PRIu64 "-0", job->read == READ_ENTRIES ? job->after + 1 : 0);
    snprintf(count, sizeof count, "%zu", job->read == READ_ENTRIES ? job->max : (size_t)APPLIED_MAX);
    const struct redis_arg args[] = {redis_text("XRANGE"), redis_text(key), redis_text(from), redis_text("+"),
                                     redis_text("COUNT"), redis_text(count)};
    job_send(job, args, ARRAY_LEN(args), on_read);
}
