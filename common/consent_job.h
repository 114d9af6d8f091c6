// Inside of the consent client, shared by common/consent_client.c (connection, queue, delivery), consent_calls.c (jobs),
// and what a job says to Redis: consent_lookup.c (a look-up or scan), consent_change.c (a change), consent_read.c
// (reading the streams) and consent_aof.c (Redis' append-only file). Nobody else includes this.
#ifndef OPENVEIL_CONSENT_JOB_H
#define OPENVEIL_CONSENT_JOB_H

#include "common/consent_notice.h"
#include "common/consent_store.h"
#include "common/redis_shards.h"

#include <hiredis/hiredis.h>

// Changes that the stream always keeps (common/consent.lua): within it, continuity can be proved.
#define CONSENT_STREAM_KEEPS 250000u
#define CONSENT_SCHEMA "1"

enum job_kind { JOB_LOOKUP, JOB_SCAN, JOB_APPLY, JOB_SIZE, JOB_CALL, JOB_READ, JOB_AOF };
enum read_kind { READ_STAMP, READ_ENTRIES, READ_APPLIED, READ_TENANTS };
enum job_step { STEP_OPENING, STEP_BUCKETS, STEP_CLOSING };

struct consent_item {
    uint64_t pseudonym;
    uint32_t tenant;
    uint32_t query; // its place in the caller's array
};

// A tenant of a look-up and how its buckets are cut; bits -1: it has no contact.
struct consent_layout {
    uint32_t tenant;
    int bits;
};

// A place in the walk over buckets; one walks ahead sending, another follows with the answers.
struct consent_cursor {
    size_t at;     // next item, or next bucket of a scan
    size_t layout; // the item's tenant
};

// openveil_applied, whose words nobody else keeps.
struct consent_applied_call {
    struct consent_call call;
    char who[CONSENT_WHO_MAX + 1];
    char epoch[24];
};

struct consent_job {
    struct consent_job *next;
    struct consent_client *client;
    struct redis_link *link; // its partition's server, once it began
    enum job_kind kind;
    enum job_step step;
    uint32_t partition;
    consent_done_fn done;
    void *arg;
    int status;
    unsigned ticks; // waited for a connection
    size_t outstanding;
    size_t n_answers; // of this step
    unsigned rounds;
    struct consent_stamp from;   // the store must lead on from it
    struct consent_stamp stamp;  // what it had reached when last read
    bool joined; // `from` lies on a branch that a repair joined
    bool doubt;  // the stream does not prove that the store leads on: a link may
    bool layout_moved;
    struct consent_notice *notices;
    size_t n_notices;
    struct consent_layout *layouts; // ascending tenants
    size_t n_layouts;
    struct consent_cursor sent;
    struct consent_cursor answered;
    struct consent_query *queries; // JOB_LOOKUP; the caller's
    struct consent_item *items;    // the same, sorted by tenant and pseudonym
    size_t n;                      // queries, or changes
    consent_each_fn each;          // JOB_SCAN
    consent_notices_fn each_notice; // a JOB_LOOKUP of no contact may be about the notices
    struct consent_change *changes; // JOB_APPLY; the caller's
    bool again;                     // they are entered though they change nothing
    uint32_t today;
    uint32_t tenant;   // JOB_SIZE
    uint64_t contacts; // JOB_SIZE
    struct consent_call *call; // JOB_CALL; the caller's, or `own`
    struct consent_applied_call *own;
    enum read_kind read; // JOB_READ
    uint64_t after;      // entries of later epochs
    size_t max;
    struct consent_repair *repair; // the caller's
    consent_entry_fn each_entry;
    consent_applied_fn each_applied;
    consent_tenant_fn each_tenant;
    enum consent_aof *aof; // JOB_AOF; the caller's
};

// Queues a copy of the job, or says why not: ERR_LIMIT, ERR_NOMEM, ERR_UNREACHABLE (the client is being freed).
int job_add(struct consent_client *client, const struct consent_job *model) MUST_CHECK;
// A connection exists: say what the job has to say. Ends in job_finish, at once or once the answers are in.
void consent_lookup_begin(struct consent_job *job);
void consent_change_begin(struct consent_job *job);
void consent_read_begin(struct consent_job *job);
void consent_aof_begin(struct consent_job *job);
// Sorted items and tenants of a look-up; ERR_NOMEM.
int consent_lookup_prepare(struct consent_job *job) MUST_CHECK;

// Sends a command of the job; failing is recorded in the job.
void job_send(struct consent_job *job, const struct redis_arg *args, size_t n_args, redis_reply_fn fn);
// One answer is in: false where the job has failed already, or fails with this answer, which then needs no look.
bool job_answer(struct consent_job *job, const redisReply *reply);
// The job cannot be answered: remembered, logged, and the job ends with `status` once nothing is outstanding.
void job_fail(struct consent_job *job, int status, const char *format, ...) PRINTF_LIKE(3, 4);
// The same, and the connection is dropped: what it said cannot be right. The job may be gone when this returns.
void job_fail_drop(struct consent_job *job, const char *format, ...) PRINTF_LIKE(2, 3);
// Nothing more to do: the job is handed to its caller in the loop's next turn.
void job_finish(struct consent_job *job);
const char *job_mode(const struct consent_job *job); // production or rehearsal

#endif
