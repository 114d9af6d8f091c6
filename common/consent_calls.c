// The calls of the consent client: each makes a job of what it is asked.
#include "common/consent_job.h"

#include <inttypes.h>

#define ANY_DAY 1u // for a Function that does not look at it

int consent_client_lookup(struct consent_client *client, uint32_t partition, struct consent_query *queries, size_t n,
                          const struct consent_stamp *known, consent_done_fn done, void *arg) {
    if (n > CONSENT_LOOKUP_MAX)
        return ERR_LIMIT;
    struct consent_job job = {
        .kind = JOB_LOOKUP, .partition = partition, .queries = queries, .n = n, .done = done, .arg = arg};
    if (known != NULL)
        job.from = *known;
    return job_add(client, &job);
}

int consent_client_scan(struct consent_client *client, uint32_t partition, uint32_t tenant,
                        const struct consent_stamp *known, consent_each_fn each, consent_done_fn done, void *arg) {
    CHECK(each != NULL);
    struct consent_job job = {
        .kind = JOB_SCAN, .partition = partition, .tenant = tenant, .each = each, .done = done, .arg = arg};
    if (known != NULL)
        job.from = *known;
    return job_add(client, &job);
}

int consent_client_notices(struct consent_client *client, uint32_t partition, consent_notices_fn each,
                           consent_done_fn done, void *arg) {
    CHECK(each != NULL);
    struct consent_job job = {
        .kind = JOB_LOOKUP, .partition = partition, .each_notice = each, .done = done, .arg = arg};
    return job_add(client, &job);
}

static int client_apply(struct consent_client *client, uint32_t partition, struct consent_change *changes, size_t n,
                        uint32_t today, bool again, consent_done_fn done, void *arg) {
    if (n == 0 || n > CONSENT_CHANGES_MAX)
        return ERR_LIMIT;
    struct consent_job job = {.kind = JOB_APPLY, .partition = partition, .changes = changes, .n = n, .again = again,
                              .today = today, .done = done, .arg = arg};
    return job_add(client, &job);
}

int consent_client_apply(struct consent_client *client, uint32_t partition, struct consent_change *changes, size_t n,
                         uint32_t today, consent_done_fn done, void *arg) {
    return client_apply(client, partition, changes, n, today, false, done, arg);
}

int consent_client_enter(struct consent_client *client, uint32_t partition, struct consent_change *changes, size_t n,
                         uint32_t today, consent_done_fn done, void *arg) {
    return client_apply(client, partition, changes, n, today, true, done, arg);
}

int consent_client_size_hint(struct consent_client *client, uint32_t partition, uint32_t tenant, uint64_t contacts,
                             consent_done_fn done, void *arg) {
    struct consent_job job = {
        .kind = JOB_SIZE, .partition = partition, .tenant = tenant, .contacts = contacts, .done = done, .arg = arg};
    return job_add(client, &job);
}

int consent_client_call(struct consent_client *client, uint32_t partition, struct consent_call *call, uint32_t today,
                        consent_done_fn done, void *arg) {
    CHECK(call->n_words <= CONSENT_CALL_WORDS_MAX && call->n_more <= CONSENT_CALL_MORE_MAX);
    call->result = ERR_UNREACHABLE;
    call->reason[0] = '\0';
    struct consent_job job = {
        .kind = JOB_CALL, .partition = partition, .call = call, .today = today, .done = done, .arg = arg};
    return job_add(client, &job);
}

int consent_client_applied(struct consent_client *client, uint32_t partition, const char *who, uint64_t epoch,
                           consent_done_fn done, void *arg) {
    CHECK(strlen(who) <= CONSENT_WHO_MAX);
    struct consent_applied_call *own = calloc(1, sizeof *own);
    if (own == NULL)
        return ERR_NOMEM;
    snprintf(own->who, sizeof own->who, "%s", who);
    snprintf(own->epoch, sizeof own->epoch, "%" PRIu64, epoch);
    own->call = (struct consent_call){.function = "openveil_applied", .words = {own->who, own->epoch}, .n_words = 2};
    struct consent_job job = {.kind = JOB_CALL, .partition = partition, .call = &own->call, .own = own,
                              .today = ANY_DAY, .done = done, .arg = arg};
    int rc = job_add(client, &job);
    if (rc != 0)
        free(own);
    return rc;
}

int consent_client_stamp(struct consent_client *client, uint32_t partition, struct consent_repair *repair,
                         consent_done_fn done, void *arg) {
    *repair = (struct consent_repair){0};
    struct consent_job job = {
        .kind = JOB_READ, .read = READ_STAMP, .partition = partition, .repair = repair, .done = done, .arg = arg};
    return job_add(client, &job);
}

int consent_client_entries(struct consent_client *client, uint32_t partition, uint64_t epoch, size_t max,
                           consent_entry_fn each, consent_done_fn done, void *arg) {
    CHECK(max > 0 && max <= CONSENT_ENTRIES_MAX && each != NULL);
    struct consent_job job = {.kind = JOB_READ, .read = READ_ENTRIES, .partition = partition, .after = epoch, .max = max,
                              .each_entry = each, .done = done, .arg = arg};
    return job_add(client, &job);
}

int consent_client_read_applied(struct consent_client *client, uint32_t partition, consent_applied_fn each,
                                consent_done_fn done, void *arg) {
    CHECK(each != NULL);
    struct consent_job job = {
        .kind = JOB_READ, .read = READ_APPLIED, .partition = partition, .each_applied = each, .done = done, .arg = arg};
    return job_add(client, &job);
}

int consent_client_tenants(struct consent_client *client, uint32_t partition, consent_tenant_fn each,
                           consent_done_fn done, void *arg) {
    CHECK(each != NULL);
    struct consent_job job = {
        .kind = JOB_READ, .read = READ_TENANTS, .partition = partition, .each_tenant = each, .done = done, .arg = arg};
    return job_add(client, &job);
}

int consent_client_rewrite_aof(struct consent_client *client, uint32_t partition, enum consent_aof *aof,
                               consent_done_fn done, void *arg) {
    struct consent_job job = {.kind = JOB_AOF, .partition = partition, .aof = aof, .done = done, .arg = arg};
    return job_add(client, &job);
}
