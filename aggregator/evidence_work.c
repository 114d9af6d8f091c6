#include "aggregator/evidence_work.h"

#include "common/consent_store.h"

#include <pthread.h>
#include <string.h>
#include <uv.h>

#define RECORDS_A_WRITE 2048u

struct evidence_worker {
    const struct config *config;
    struct evidence_log *log;
    void (*done)(void *arg, struct evidence_job *job);
    void *arg;
    uv_async_t ended;
    pthread_t thread;
    pthread_mutex_t lock; // of what follows
    pthread_cond_t wake;
    struct evidence_job *job;      // to be done, or being done
    struct evidence_job *finished; // to be handed back
    bool stopping;
};

int evidence_batch_add(struct evidence_batch *batch, const struct evidence_line *line) {
    if (batch->n == batch->room) {
        size_t room = batch->room == 0 ? 64 : 2 * batch->room;
        struct evidence_line *more = realloc(batch->lines, room * sizeof *more);
        if (more == NULL)
            return ERR_NOMEM;
        batch->lines = more;
        batch->room = room;
    }
    batch->lines[batch->n++] = *line;
    return 0;
}

// ---- jobs, on the worker's thread -----------------------------------------------------------------------------------
static int job_write(struct evidence_worker *worker, struct evidence_job *job) {
    int rc = 0;
    for (uint32_t p = 0; rc == 0 && p < worker->config->kafka_partitions; p++)
        rc = evidence_log_write(worker->log, p, job->batches[p].lines, job->batches[p].n, &job->err);
    int sync = evidence_log_sync(worker->log, rc == 0 ? &job->err : NULL);
    return rc == 0 ? sync : rc;
}

struct listing {
    struct evidence_worker *worker;
    struct evidence_job *job;
    struct consent_stamp stamp;
    uint32_t tenant;
    struct evidence_batch batch;
    uint32_t *tenants;
    size_t n_tenants, room;
    int rc;
};

static void listing_flush(struct listing *listing) {
    if (listing->rc == 0 && listing->batch.n > 0)
        listing->rc = evidence_log_write(listing->worker->log, listing->job->partition, listing->batch.lines,
                                         listing->batch.n, &listing->job->err);
    // Made durable piece by piece: what waits for the disk or for Kafka stays bounded.
    if (listing->rc == 0 && listing->batch.n > 0)
        listing->rc = evidence_log_sync(listing->worker->log, &listing->job->err);
    listing->batch.n = 0;
}

static void listing_add(struct listing *listing, const struct evidence_line *line) {
    if (listing->rc == 0)
        listing->rc = evidence_batch_add(&listing->batch, line);
    if (listing->batch.n >= RECORDS_A_WRITE)
        listing_flush(listing);
}

static void on_tenant(void *arg, uint32_t tenant) {
    struct listing *listing = arg;
    if (listing->n_tenants == listing->room) {
        size_t room = listing->room == 0 ? 64 : 2 * listing->room;
        uint32_t *more = realloc(listing->tenants, room * sizeof *more);
        if (more == NULL) {
            listing->rc = ERR_NOMEM;
            return;
        }
        listing->tenants = more;
        listing->room = room;
    }
    listing->tenants[listing->n_tenants++] = tenant;
}

static void on_record(void *arg, uint64_t pseudonym, const struct consent_record *record) {
    struct listing *listing = arg;
    struct evidence_line line = {.kind = EVIDENCE_RECORD,
                                 .allowed_since = record->allowed_since,
                                 .granted_since = record->granted_since};
    if (record->unreadable || record->state == CONSENT_UNKNOWN)
        return;
    line.entry = (struct consent_entry){.epoch = listing->stamp.epoch,
                                        .kind = ENTRY_STATE,
                                        .state = record->state,
                                        .tenant = listing->tenant,
                                        .pseudonym = pseudonym,
                                        .since = record->since,
                                        .has_change_id = true,
                                        .change_id = record->change_id};
    snprintf(line.entry.notice, sizeof line.entry.notice, "%s", record->notice[0] == '\0' ? "-" : record->notice);
    listing_add(listing, &line);
    listing->job->n_records++;
}

static int list_tenants(struct listing *listing, struct consent_store *store) {
    struct evidence_line line = {.kind = EVIDENCE_BASELINE, .entry.epoch = listing->stamp.epoch};
    struct clock clock = clock_real();
    line.at_ms = clock_now_ms(&clock);
    memcpy(line.entry.hash, listing->stamp.hash, sizeof line.entry.hash);
    listing_add(listing, &line);
    for (size_t i = 0; listing->rc == 0 && i < listing->n_tenants; i++) {
        listing->tenant = listing->tenants[i];
        int rc = consent_store_scan(store, listing->tenant, on_record, listing, &listing->job->err);
        if (listing->rc == 0)
            listing->rc = rc;
    }
    line.kind = EVIDENCE_BASELINE_END;
    line.n_records = listing->job->n_records;
    line.at_ms = 0;
    listing_add(listing, &line);
    listing_flush(listing);
    return listing->rc;
}

// Changes during the list are harmless: the stream has them after the baseline's epoch, and they are logged again.
static int job_baseline(struct evidence_worker *worker, struct evidence_job *job) {
    struct listing listing = {.worker = worker, .job = job};
    struct consent_store *store = NULL;
    job->n_records = 0;
    // Also after an error: an unfinished list is not to be written behind what is not durable.
    int rc = evidence_log_head(worker->log, job->partition, &job->chain, &job->err);
    if (rc == 0)
        rc = consent_store_open(&store, worker->config, &job->err);
    if (rc == 0)
        rc = consent_store_stamp(store, job->partition, &listing.stamp, &job->err);
    if (rc == 0)
        rc = consent_store_tenants(store, job->partition, on_tenant, &listing, &job->err);
    if (rc == 0)
        rc = listing.rc != 0 ? listing.rc : list_tenants(&listing, store);
    if (rc == ERR_NOMEM)
        err_set(&job->err, rc, "no memory for the log of consent changes");
    if (listing.batch.lines != NULL)
        explicit_bzero(listing.batch.lines, listing.batch.room * sizeof *listing.batch.lines);
    free(listing.batch.lines);
    free(listing.tenants);
    consent_store_close(store);
    job->chain = (struct evidence_chain){.head = listing.stamp, .seen = listing.stamp.epoch};
    return rc;
}

static void *worker_main(void *arg) {
    struct evidence_worker *worker = arg;
    pthread_mutex_lock(&worker->lock);
    while (!worker->stopping) {
        struct evidence_job *job = worker->job;
        if (job == NULL || job == worker->finished) {
            pthread_cond_wait(&worker->wake, &worker->lock);
            continue;
        }
        pthread_mutex_unlock(&worker->lock);
        if (job->kind == EVIDENCE_JOB_HEAD)
            job->rc = evidence_log_head(worker->log, job->partition, &job->chain, &job->err);
        else
            job->rc = job->kind == EVIDENCE_JOB_WRITE ? job_write(worker, job) : job_baseline(worker, job);
        pthread_mutex_lock(&worker->lock);
        worker->finished = job;
        CHECK(uv_async_send(&worker->ended) == 0);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

// ---- the loop's side ------------------------------------------------------------------------------------------------
static void on_ended(uv_async_t *async) {
    struct evidence_worker *worker = async->data;
    pthread_mutex_lock(&worker->lock);
    struct evidence_job *job = worker->finished;
    if (job != NULL)
        worker->job = worker->finished = NULL;
    pthread_mutex_unlock(&worker->lock);
    if (job != NULL)
        worker->done(worker->arg, job);
}

void evidence_work_begin(struct evidence_worker *worker, struct evidence_job *job) {
    job->rc = 0;
    job->err.text[0] = '\0';
    pthread_mutex_lock(&worker->lock);
    CHECK(worker->job == NULL && !worker->stopping);
    worker->job = job;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
}

int evidence_work_start(struct evidence_worker **out, struct uv_loop_s *loop, const struct config *config,
                        void (*done)(void *arg, struct evidence_job *job), void *arg, struct err *err) {
    struct evidence_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the log of consent changes");
    worker->config = config;
    worker->done = done;
    worker->arg = arg;
    int rc = evidence_log_open(&worker->log, config, true, err);
    if (rc != 0) {
        free(worker);
        return rc;
    }
    CHECK(pthread_mutex_init(&worker->lock, NULL) == 0 && pthread_cond_init(&worker->wake, NULL) == 0);
    CHECK(uv_async_init(loop, &worker->ended, on_ended) == 0);
    worker->ended.data = worker;
    CHECK(pthread_create(&worker->thread, NULL, worker_main, worker) == 0);
    (void)pthread_setname_np(worker->thread, "consent-log");
    *out = worker;
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    struct evidence_worker *worker = handle->data;
    pthread_mutex_destroy(&worker->lock);
    pthread_cond_destroy(&worker->wake);
    free(worker);
}

void evidence_work_stop(struct evidence_worker *worker) {
    if (worker == NULL)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
    CHECK(pthread_join(worker->thread, NULL) == 0);
    evidence_log_close(worker->log);
    uv_close((uv_handle_t *)&worker->ended, on_closed);
}
