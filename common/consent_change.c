// Changes and size hints: one call of the Function library each (common/consent.lua).
#include "common/consent_job.h"

#include <inttypes.h>

#define WORDS_A_CHANGE 6u
#define WORDS_BEFORE 6u

struct change_text {
    char tenant[12];
    char pseudonym[17];
    char since[12];
    char id[24];
};

// An error of the whole call. The library's own errors leave the connection alone; others say that it is of no use now.
static void fail_call(struct consent_job *job, const redisReply *reply) {
    if (reply->type != REDIS_REPLY_ERROR)
        job_fail_drop(job, "Redis answers a change of partition %" PRIu32 " with something else", job->partition);
    else if (strncmp(reply->str, "OVMODE", 6) == 0)
        job_fail(job, ERR_REFUSED, "%.300s", reply->str + strcspn(reply->str, " "));
    else if (strncmp(reply->str, "OV", 2) == 0)
        job_fail(job, ERR_UNREACHABLE, "Redis refuses changes of partition %" PRIu32 ": %.300s", job->partition,
                 reply->str);
    else
        job_fail_drop(job, "Redis refuses changes of partition %" PRIu32 ": %.300s", job->partition, reply->str);
}

static bool read_result(int64_t *result, char *reason, size_t size, const redisReply *reply) {
    reason[0] = '\0';
    if (reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0) {
        *result = reply->integer;
        return true;
    }
    if (reply->type != REDIS_REPLY_STRING)
        return false;
    // "refused: …" or "invalid: …"
    const char *colon = strstr(reply->str, ": ");
    *result = strncmp(reply->str, "refused", 7) == 0 ? ERR_REFUSED : ERR_INVALID;
    snprintf(reason, size, "%s", colon == NULL ? reply->str : colon + 2);
    return true;
}

static void on_applied(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements == job->n;
    for (size_t i = 0; good && i < job->n; i++)
        good = read_result(&job->changes[i].result, job->changes[i].reason, sizeof job->changes[i].reason,
                           reply->element[i]);
    if (good)
        job_finish(job);
    else
        fail_call(job, reply);
}

static void on_called(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    if (read_result(&job->call->result, job->call->reason, sizeof job->call->reason, reply))
        job_finish(job);
    else
        fail_call(job, reply);
}

static void on_sized(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    if (reply->type == REDIS_REPLY_INTEGER)
        job_finish(job);
    else
        fail_call(job, reply);
}

static void send_size_hint(struct consent_job *job, const char *meta) {
    char tenant[12], contacts[24];
    snprintf(tenant, sizeof tenant, "%" PRIu32, job->tenant);
    snprintf(contacts, sizeof contacts, "%" PRIu64, job->contacts);
    const struct redis_arg args[] = {redis_text("FCALL"), redis_text("openveil_size_hint"), redis_text("1"),
                                     redis_text(meta),    redis_text(job_mode(job)),        redis_text(tenant),
                                     redis_text(contacts)};
    job_send(job, args, ARRAY_LEN(args), on_sized);
}

static void send_call(struct consent_job *job, const char *meta) {
    char today[12];
    struct redis_arg args[WORDS_BEFORE + CONSENT_CALL_WORDS_MAX + CONSENT_CALL_MORE_MAX];
    char numbers[CONSENT_CALL_MORE_MAX][24];
    size_t n = 0;
    snprintf(today, sizeof today, "%" PRIu32, job->today);
    const char *const before[] = {"FCALL", job->call->function, "1", meta, job_mode(job), today};
    for (; n < ARRAY_LEN(before); n++)
        args[n] = redis_text(before[n]);
    for (size_t i = 0; i < job->call->n_words; i++)
        args[n++] = redis_text(job->call->words[i]);
    for (size_t i = 0; i < job->call->n_more; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%" PRIu64, job->call->more[i]);
        args[n++] = redis_text(numbers[i]);
    }
    job_send(job, args, n, on_called);
}

static void send_changes(struct consent_job *job, const char *meta) {
    char today[12];
    struct change_text *texts = calloc(job->n, sizeof *texts);
    struct redis_arg *args = calloc(WORDS_BEFORE + WORDS_A_CHANGE * job->n, sizeof *args);
    if (texts == NULL || args == NULL) {
        job_fail(job, ERR_NOMEM, "out of memory for a change");
        goto done;
    }
    size_t n = 0;
    snprintf(today, sizeof today, "%" PRIu32, job->today);
    const char *const before[] = {"FCALL", job->again ? "openveil_enter" : "openveil_apply", "1", meta,
                                  job_mode(job), today};
    for (size_t i = 0; i < ARRAY_LEN(before); i++)
        args[n++] = redis_text(before[i]);
    for (size_t i = 0; i < job->n; i++) {
        const struct consent_change *change = &job->changes[i];
        struct change_text *text = &texts[i];
        CHECK(change->state > CONSENT_UNKNOWN && change->state < CONSENT_STATES);
        snprintf(text->tenant, sizeof text->tenant, "%" PRIu32, change->tenant);
        snprintf(text->pseudonym, sizeof text->pseudonym, "%016" PRIx64, change->pseudonym);
        snprintf(text->since, sizeof text->since, "%" PRIu32, change->since);
        snprintf(text->id, sizeof text->id, change->has_change_id ? "%" PRIu64 : "-", change->change_id);
        args[n++] = redis_text(text->tenant);
        args[n++] = redis_text(text->pseudonym);
        args[n++] = redis_text(consent_state_names[change->state]);
        args[n++] = redis_text(text->since);
        args[n++] = redis_text(change->notice);
        args[n++] = redis_text(text->id);
    }
    CHECK(n == WORDS_BEFORE + WORDS_A_CHANGE * job->n);
    job_send(job, args, n, on_applied);
done:
    free(texts);
    free(args);
}

void consent_change_begin(struct consent_job *job) {
    char meta[CONSENT_KEY_SIZE];
    CHECK(job->kind == JOB_APPLY || job->kind == JOB_SIZE || job->kind == JOB_CALL);
    consent_key(meta, job->partition, "meta");
    if (job->kind == JOB_SIZE)
        send_size_hint(job, meta);
    else if (job->kind == JOB_CALL)
        send_call(job, meta);
    else
        send_changes(job, meta);
}
