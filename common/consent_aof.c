// Redis' append-only file: it holds every change in clear until Redis writes it anew. Asking for that while there is none
// would make one, so first whether there is.
#include "common/consent_job.h"

#include <string.h>

static void aof_finish(struct consent_job *job, enum consent_aof aof) {
    *job->aof = aof;
    job_finish(job);
}

static void on_asked(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    if (reply->type == REDIS_REPLY_STATUS)
        aof_finish(job, CONSENT_AOF_ASKED);
    else if (reply->type == REDIS_REPLY_ERROR)
        aof_finish(job, strstr(reply->str, "already in progress") != NULL ? CONSENT_AOF_BUSY : CONSENT_AOF_REFUSED);
    else
        job_fail_drop(job, "Redis answers BGREWRITEAOF with something else");
}

static void on_info(void *arg, const redisReply *reply) {
    struct consent_job *job = arg;
    if (!job_answer(job, reply))
        return;
    if (reply->type == REDIS_REPLY_ERROR) {
        aof_finish(job, CONSENT_AOF_REFUSED);
    } else if (reply->type != REDIS_REPLY_STRING || strstr(reply->str, "aof_enabled:") == NULL) {
        job_fail_drop(job, "Redis answers INFO with something else");
    } else if (strstr(reply->str, "aof_enabled:0") != NULL) {
        aof_finish(job, CONSENT_AOF_OFF);
    } else {
        const struct redis_arg args[] = {redis_text("BGREWRITEAOF")};
        job_send(job, args, ARRAY_LEN(args), on_asked);
    }
}

void consent_aof_begin(struct consent_job *job) {
    CHECK(job->kind == JOB_AOF && job->aof != NULL);
    const struct redis_arg args[] = {redis_text("INFO"), redis_text("persistence")};
    job_send(job, args, ARRAY_LEN(args), on_info);
}
