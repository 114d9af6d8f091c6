#include "aggregator/evidence_keeper.h"

#include "aggregator/aggregator_metrics.h"
#include "aggregator/consent_stream.h"
#include "aggregator/evidence_work.h"
#include "common/log.h"

#include <inttypes.h>
#include <string.h>
#include <uv.h>

#define LINES_MAX 8192u // that wait to be written, a partition; then the stream waits
#define AGAIN_MS 1000
#define LOOK_MS 500

enum kept_status {
    KEPT_OFF,
    KEPT_HEAD,      // the log's end is to be found
    KEPT_BASELINE,  // all records are to be listed
    KEPT_FOLLOWING, // the stream is followed
};

struct kept {
    struct evidence_keeper *keeper;
    uint32_t partition;
    enum kept_status status;
    uint64_t turn;         // grows whenever what is under way for it is void
    int64_t due_ms;        // monotonic: not before
    struct evidence_chain *chain;
    struct evidence_batch lines; // behind `chain`'s durable part, to be written
    uint64_t durable;      // epoch
    uint64_t told;         // of it, to Redis
    bool telling;
    bool level;            // Redis was seen to lead on from the log
    bool gap;              // epochs are missing before the next entry
    bool forked;
    int64_t head_day;      // of the machine's clock, on which the log's end was last written
};

struct evidence_keeper {
    const struct config *config;
    struct consent_client *client;
    struct evidence_worker *worker;
    struct consent_stream *stream;
    uv_timer_t look;
    struct kept *kept;
    uint32_t n_partitions;
    struct evidence_job job;
    uint64_t *job_turns; // by partition: its turn when the job began
    bool busy, wrote_last, stopping;
    bool failing;        // the last job did
};

static void pump(struct evidence_keeper *keeper);

static int64_t now_ms(void) {
    struct clock clock = clock_real();
    return clock_now_ms(&clock);
}

static void kept_reset(struct kept *kept, enum kept_status status, int64_t wait_ms) {
    kept->turn++;
    kept->status = status;
    kept->due_ms = clock_monotonic_ms() + wait_ms;
    kept->lines.n = 0;
    kept->level = kept->gap = false;
    consent_stream_leave(kept->keeper->stream, kept->partition);
}

// ---- telling Redis --------------------------------------------------------------------------------------------------
static void tell(struct kept *kept);

static void on_told(void *arg, int status, const struct consent_stamp *stamp) {
    struct kept *kept = arg;
    (void)stamp;
    kept->telling = false;
    if (status != 0)
        kept->told = 0; // once more, at the next look
    else if (!kept->keeper->stopping)
        tell(kept);
}

static void tell(struct kept *kept) {
    struct evidence_keeper *keeper = kept->keeper;
    if (kept->status != KEPT_FOLLOWING || kept->telling || kept->forked || !kept->level || kept->durable <= kept->told)
        return;
    kept->told = kept->durable;
    kept->telling = consent_client_applied(keeper->client, kept->partition, "log", kept->durable, on_told,
                                           kept) == 0;
    if (!kept->telling)
        kept->told = 0;
}

// ---- the stream -----------------------------------------------------------------------------------------------------
static void fork_begin(struct kept *kept, const char *how) {
    if (!kept->forked)
        log_error("consent: partition %" PRIu32 " of Redis %s; its changes are not confirmed: openveil consent restore",
                  kept->partition, how);
    kept->forked = true;
}

static void baseline_want(struct kept *kept, const char *why) {
    log_warn("consent: the log of partition %" PRIu32 " begins anew with a list of all records: %s", kept->partition, why);
    kept_reset(kept, KEPT_BASELINE, 0);
    pump(kept->keeper);
}

static bool line_push(struct kept *kept, const struct evidence_line *line) {
    if (evidence_batch_add(&kept->lines, line) == 0)
        return true;
    kept_reset(kept, KEPT_HEAD, AGAIN_MS);
    return false;
}

static bool head_push(struct kept *kept, uint64_t epoch, int64_t at_ms) {
    struct evidence_line head = {.kind = EVIDENCE_HEAD, .at_ms = at_ms, .entry.epoch = epoch};
    memcpy(head.entry.hash, kept->chain->head.hash, sizeof head.entry.hash);
    (void)evidence_chain_take(kept->chain, &head);
    return line_push(kept, &head);
}

static bool on_entry(void *arg, uint32_t partition, const struct consent_entry *entry) {
    struct evidence_keeper *keeper = arg;
    struct kept *kept = &keeper->kept[partition];
    struct evidence_line line = {.kind = EVIDENCE_CHANGE, .at_ms = now_ms(), .entry = *entry};
    uint8_t hash[CONSENT_HASH_SIZE] = {0};
    CHECK(kept->status == KEPT_FOLLOWING);
    if (kept->lines.n >= LINES_MAX)
        return false;
    if (entry->salted) {
        consent_entry_digest(entry, line.x);
        consent_chain(kept->chain->head.hash, line.x, hash);
    }
    if (memcmp(hash, entry->hash, sizeof hash) != 0 || !entry->salted) {
        if (!entry->salted && !kept->forked)
            baseline_want(kept, "earlier changes were written by an earlier version");
        else if (kept->gap && !kept->forked)
            baseline_want(kept, "the change stream does not reach back to the log's end any more");
        else
            fork_begin(kept, "does not lead on from the log");
        return true;
    }
    if (entry->epoch > kept->chain->head.epoch + 1 && !head_push(kept, entry->epoch - 1, line.at_ms))
        return true;
    bool taken = evidence_chain_take(kept->chain, &line);
    CHECK(taken);
    if (!line_push(kept, &line))
        return true;
    if (kept->forked)
        log_info("consent: partition %" PRIu32 " of Redis leads on from the log again", partition);
    kept->forked = kept->gap = false;
    kept->level = true;
    pump(keeper);
    return true;
}

static void on_gap(void *arg, uint32_t partition, uint64_t first, uint64_t last) {
    struct evidence_keeper *keeper = arg;
    (void)first, (void)last;
    keeper->kept[partition].gap = true;
}

static void on_behind(void *arg, uint32_t partition, const struct consent_stamp *stamp) {
    struct evidence_keeper *keeper = arg;
    (void)stamp;
    fork_begin(&keeper->kept[partition], "is behind the log");
}

static void on_level(void *arg, uint32_t partition, const struct consent_stamp *stamp) {
    struct evidence_keeper *keeper = arg;
    struct kept *kept = &keeper->kept[partition];
    if (kept->status != KEPT_FOLLOWING)
        return;
    const struct consent_stamp *head = &kept->chain->head;
    bool same = memcmp(stamp->hash, head->hash, sizeof head->hash) == 0;
    if (stamp->epoch > head->epoch && !same && !kept->forked) {
        baseline_want(kept, "the change stream does not show where the log ended");
    } else if (stamp->epoch == head->epoch && !same) {
        fork_begin(kept, "does not lead on from the log");
    } else if (stamp->epoch == head->epoch) {
        kept->level = true;
        kept->forked = false;
        tell(kept);
    }
}

// ---- jobs -----------------------------------------------------------------------------------------------------------
static void job_failed(struct evidence_keeper *keeper, const struct evidence_job *job) {
    if (!keeper->failing)
        log_error("changes of consent are not confirmed for now: %s", job->err.text);
    keeper->failing = true;
}

static void follow_begin(struct kept *kept, const struct evidence_chain *chain) {
    struct evidence_keeper *keeper = kept->keeper;
    *kept->chain = *chain;
    kept->status = KEPT_FOLLOWING;
    kept->durable = chain->head.epoch;
    kept->told = 0;
    kept->head_day = 0;
    consent_client_known(keeper->client, kept->partition, &chain->head);
    consent_stream_follow(keeper->stream, kept->partition, chain->head.epoch);
}

static void found_head(struct kept *kept, const struct evidence_job *job) {
    if (evidence_chain_break(&job->chain) != 0)
        log_error("consent: the log of partition %" PRIu32 " is broken at epoch %" PRIu64 ": openveil consent verify",
                  kept->partition, evidence_chain_break(&job->chain));
    if (job->chain.in_baseline)
        baseline_want(kept, "the last list was not finished");
    else
        follow_begin(kept, &job->chain);
}

static void written(struct evidence_keeper *keeper, const struct evidence_job *job) {
    for (uint32_t p = 0; p < keeper->n_partitions; p++) {
        struct kept *kept = &keeper->kept[p];
        struct evidence_batch *batch = &job->batches[p];
        size_t n = batch->n;
        batch->n = 0;
        if (n == 0 || kept->turn != keeper->job_turns[p])
            continue;
        if (job->rc != 0) {
            kept_reset(kept, KEPT_HEAD, AGAIN_MS);
            continue;
        }
        // A Redis that lost what the log holds is noticed also where no look-up had seen it.
        struct consent_stamp durable = {.epoch = batch->lines[n - 1].entry.epoch};
        memcpy(durable.hash, batch->lines[n - 1].entry.hash, sizeof durable.hash);
        consent_client_known(keeper->client, p, &durable);
        kept->durable = durable.epoch;
        count_metric(METRIC_LOGGED, n);
        consent_stream_resume(keeper->stream, p);
        tell(kept);
    }
}

static void on_done(void *arg, struct evidence_job *job) {
    struct evidence_keeper *keeper = arg;
    keeper->busy = false;
    if (job->rc != 0)
        job_failed(keeper, job);
    else if (keeper->failing)
        log_info("changes of consent are confirmed again");
    keeper->failing = job->rc != 0;
    if (job->kind == EVIDENCE_JOB_WRITE) {
        written(keeper, job);
    } else if (keeper->kept[job->partition].turn == keeper->job_turns[job->partition]) {
        struct kept *kept = &keeper->kept[job->partition];
        if (job->rc != 0) {
            kept->due_ms = clock_monotonic_ms() + AGAIN_MS;
        } else if (job->kind == EVIDENCE_JOB_HEAD) {
            found_head(kept, job);
        } else {
            count_metric(METRIC_BASELINES, 1);
            log_info("consent: the log of partition %" PRIu32 " has a list of all records", kept->partition);
            follow_begin(kept, &job->chain);
        }
    }
    pump(keeper);
}

static bool write_begin(struct evidence_keeper *keeper) {
    bool any = false;
    for (uint32_t p = 0; p < keeper->n_partitions; p++) {
        struct kept *kept = &keeper->kept[p];
        if (kept->lines.n == 0)
            continue;
        struct evidence_batch empty = keeper->job.batches[p];
        CHECK(empty.n == 0 && kept->status == KEPT_FOLLOWING);
        keeper->job.batches[p] = kept->lines;
        kept->lines = empty;
        any = true;
    }
    keeper->job.kind = EVIDENCE_JOB_WRITE;
    return any;
}

static bool partition_begin(struct evidence_keeper *keeper) {
    int64_t now = clock_monotonic_ms();
    for (uint32_t p = 0; p < keeper->n_partitions; p++) {
        const struct kept *kept = &keeper->kept[p];
        if ((kept->status != KEPT_HEAD && kept->status != KEPT_BASELINE) || now < kept->due_ms)
            continue;
        keeper->job.kind = kept->status == KEPT_HEAD ? EVIDENCE_JOB_HEAD : EVIDENCE_JOB_BASELINE;
        keeper->job.partition = p;
        return true;
    }
    return false;
}

static void pump(struct evidence_keeper *keeper) {
    if (keeper->busy || keeper->stopping)
        return;
    // In turns, so that neither waits for all of the other.
    bool any = keeper->wrote_last ? partition_begin(keeper) || write_begin(keeper)
                                  : write_begin(keeper) || partition_begin(keeper);
    if (!any)
        return;
    keeper->busy = true;
    keeper->wrote_last = keeper->job.kind == EVIDENCE_JOB_WRITE;
    for (uint32_t p = 0; p < keeper->n_partitions; p++)
        keeper->job_turns[p] = keeper->kept[p].turn;
    evidence_work_begin(keeper->worker, &keeper->job);
}

static void on_look(uv_timer_t *timer) {
    struct evidence_keeper *keeper = timer->data;
    int64_t day = now_ms() / (DAY_SECONDS * INT64_C(1000));
    for (uint32_t p = 0; p < keeper->n_partitions; p++) {
        struct kept *kept = &keeper->kept[p];
        tell(kept);
        // Once a day, so that the topic's last file is closed and compacted.
        if (kept->status != KEPT_FOLLOWING || keeper->config->kafka_brokers[0] == '\0' || kept->head_day == day)
            continue;
        kept->head_day = day;
        (void)head_push(kept, kept->chain->head.epoch, now_ms());
    }
    pump(keeper);
}

// ---- life -----------------------------------------------------------------------------------------------------------
void evidence_keeper_own(struct evidence_keeper *keeper, uint32_t partition, bool owned) {
    CHECK(partition < keeper->n_partitions);
    struct kept *kept = &keeper->kept[partition];
    if (keeper->stopping || owned == (kept->status != KEPT_OFF))
        return;
    kept->forked = false;
    kept_reset(kept, owned ? KEPT_HEAD : KEPT_OFF, 0);
    pump(keeper);
}

void evidence_keeper_refresh(struct evidence_keeper *keeper) {
    uint64_t waiting = 0;
    for (uint32_t p = 0; p < keeper->n_partitions; p++) {
        const struct kept *kept = &keeper->kept[p];
        bool follows = kept->status == KEPT_FOLLOWING && !kept->forked && kept->level;
        waiting += kept->status != KEPT_OFF && (!follows || keeper->failing);
    }
    metric_set(&aggregator_metrics[METRIC_UNCONFIRMED], waiting);
}

static int keeper_allocate(struct evidence_keeper *keeper) {
    uint32_t n = keeper->n_partitions;
    keeper->kept = calloc(n, sizeof *keeper->kept);
    keeper->job.batches = calloc(n, sizeof *keeper->job.batches);
    keeper->job_turns = calloc(n, sizeof *keeper->job_turns);
    if (keeper->kept == NULL || keeper->job.batches == NULL || keeper->job_turns == NULL)
        return ERR_NOMEM;
    for (uint32_t p = 0; p < n; p++) {
        keeper->kept[p] = (struct kept){.keeper = keeper, .partition = p};
        keeper->kept[p].chain = calloc(1, sizeof *keeper->kept[p].chain);
        if (keeper->kept[p].chain == NULL)
            return ERR_NOMEM;
    }
    return 0;
}

int evidence_keeper_start(struct evidence_keeper **out, struct uv_loop_s *loop, const struct config *config,
                          struct consent_client *client, struct err *err) {
    struct evidence_keeper *keeper = calloc(1, sizeof *keeper);
    if (keeper == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the log of consent changes");
    keeper->config = config;
    keeper->client = client;
    keeper->n_partitions = (uint32_t)config->kafka_partitions;
    const struct consent_stream_hooks hooks = {
        .entry = on_entry, .gap = on_gap, .behind = on_behind, .level = on_level, .arg = keeper};
    int rc = keeper_allocate(keeper);
    if (rc != 0)
        err_set(err, rc, "no memory for the log of consent changes");
    if (rc == 0)
        rc = consent_stream_create(&keeper->stream, loop, config, &hooks, err);
    if (rc == 0)
        rc = evidence_work_start(&keeper->worker, loop, config, on_done, keeper, err);
    if (rc != 0) {
        consent_stream_free(keeper->stream);
        evidence_keeper_free(keeper);
        return rc;
    }
    CHECK(uv_timer_init(loop, &keeper->look) == 0);
    keeper->look.data = keeper;
    CHECK(uv_timer_start(&keeper->look, on_look, LOOK_MS, LOOK_MS) == 0);
    *out = keeper;
    return 0;
}

void evidence_keeper_stop(struct evidence_keeper *keeper) {
    if (keeper == NULL)
        return;
    keeper->stopping = true;
    consent_stream_free(keeper->stream);
    keeper->stream = NULL;
    evidence_work_stop(keeper->worker);
    uv_close((uv_handle_t *)&keeper->look, NULL);
}

static void batch_free(struct evidence_batch *batch) {
    if (batch->lines != NULL)
        explicit_bzero(batch->lines, batch->room * sizeof *batch->lines);
    free(batch->lines);
}

void evidence_keeper_free(struct evidence_keeper *keeper) {
    if (keeper == NULL)
        return;
    for (uint32_t p = 0; p < keeper->n_partitions; p++) {
        if (keeper->kept != NULL) {
            batch_free(&keeper->kept[p].lines);
            free(keeper->kept[p].chain);
        }
        if (keeper->job.batches != NULL)
            batch_free(&keeper->job.batches[p]);
    }
    free(keeper->kept);
    free(keeper->job.batches);
    free(keeper->job_turns);
    free(keeper);
}
