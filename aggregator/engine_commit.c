// Commits: one batch fills while the other is on a worker thread. Effects leave (positions, files) only after success.
#include "aggregator/engine_parts.h"

// A batch that grew large gives its memory back.
#define BATCH_BYTES_KEPT (4u << 20)

int commit_create(struct engine *engine) {
    int rc = batch_create(&engine->filling, engine->n_partitions);
    if (rc == 0)
        rc = batch_create(&engine->spare, engine->n_partitions);
    if (rc != 0)
        return rc;
    CHECK(uv_mutex_init(&engine->commit.mutex) == 0 && uv_cond_init(&engine->commit.ended) == 0);
    return 0;
}

void commit_destroy(struct engine *engine) {
    CHECK(!engine->commit.at_worker);
    batch_free(engine->filling);
    batch_free(engine->spare);
    uv_mutex_destroy(&engine->commit.mutex);
    uv_cond_destroy(&engine->commit.ended);
}

static void batch_reuse(struct engine *engine, struct batch **batch) {
    struct batch *fresh;
    if (batch_bytes(*batch) > BATCH_BYTES_KEPT && batch_create(&fresh, engine->n_partitions) == 0) {
        batch_free(*batch);
        *batch = fresh;
    }
    batch_clear(*batch);
}

static void lines_hand_over(struct engine *engine, const struct batch *batch) {
    for (size_t i = 0; i < batch_count(batch); i++) {
        struct batch_record record = batch_at(batch, i);
        struct record_key key;
        struct release_record release = {0};
        if (record.release || record.value_len == 0 || record.key[0] != RECORD_RELEASE)
            continue;
        CHECK(key_decode(record.key, record.key_len, &key) == 0);
        CHECK(release_decode(record.value, record.value_len, &release) == 0);
        release.tenant = key.tenant;
        release.kind = key.release_kind;
        release.period_day = key.day;
        count_metric(METRIC_RELEASES, 1);
        if (publisher_add(engine->publisher, &release) != 0) {
            engine_fail(engine, "no memory to publish a released line; it is committed and leaves at the next start");
            return;
        }
    }
    publisher_run(engine->publisher);
}

// The batch's own announced lines first join those that had no room before.
static void lines_announce(struct engine *engine, const struct batch *batch) {
    for (size_t i = 0; i < batch_count(batch) && !engine->failed; i++) {
        struct batch_record record = batch_at(batch, i);
        struct partition *partition = &engine->partitions[record.partition];
        if (record.release || record.value_len == 0 || record.key[0] != RECORD_ANNOUNCED ||
            partition->status != PARTITION_RUNNING)
            continue;
        if (announced_apply(&partition->announced, record.key, record.key_len, record.value, record.value_len) != 0)
            engine_fail(engine, "no memory to send a released line; it is committed and leaves at the next start");
    }
    for (uint32_t p = 0; p < engine->n_partitions && !engine->failed; p++)
        if (engine->partitions[p].status == PARTITION_RUNNING)
            lines_send(&engine->partitions[p]);
}

// The batch is durable: now its effects may leave.
static void batch_committed(struct engine *engine, const struct batch *batch) {
    const struct source *source = engine->parts.source;
    count_metric(METRIC_COMMITS, 1);
    lines_hand_over(engine, batch);
    lines_announce(engine, batch);
    for (uint32_t p = 0; p < engine->n_partitions; p++) {
        if (batch_position(batch, p) >= 0 && engine->partitions[p].status == PARTITION_RUNNING)
            source->ops->committed(engine->parts.source, p, batch_position(batch, p));
        leave_committed(&engine->partitions[p]);
    }
}

void engine_reload_all(struct engine *engine) {
    CHECK(!engine->commit.under_way);
    batch_reuse(engine, &engine->filling);
    engine->filling_has_lines = false;
    for (uint32_t p = 0; p < engine->n_partitions; p++) {
        struct partition *partition = &engine->partitions[p];
        if (partition->status != PARTITION_RUNNING)
            continue;
        partition_drop(partition);
        partition_load(partition);
    }
}

static void commit_settle(struct engine *engine, int rc, const struct err *err) {
    if (rc == 0) {
        batch_committed(engine, engine->commit.batch);
    } else if (rc != ERR_AGAIN && rc != ERR_REFUSED) {
        engine_fail(engine, "cannot commit: %s", err->text);
    } else {
        log_warn("a commit did not happen, loading again: %s", err->text);
        engine->commit.under_way = false;
        engine_reload_all(engine);
    }
    engine->commit.under_way = false;
    engine->spare = engine->commit.batch;
    engine->commit.batch = NULL;
    batch_reuse(engine, &engine->spare);
    if (rc == 0 && engine->parts.journal->ops->idle != NULL)
        engine->parts.journal->ops->idle(engine->parts.journal);
    engine_schedule(engine);
}

static void commit_on_worker(uv_work_t *work) {
    struct engine *engine = work->data;
    struct commit *commit = &engine->commit;
    commit->rc = engine->parts.journal->ops->commit(engine->parts.journal, commit->batch, &commit->err);
    uv_mutex_lock(&commit->mutex);
    commit->done = true;
    uv_cond_signal(&commit->ended);
    uv_mutex_unlock(&commit->mutex);
}

static void commit_after(uv_work_t *work, int status) {
    struct engine *engine = work->data;
    CHECK(status == 0);
    engine->commit.at_worker = false;
    if (engine->commit.under_way)
        commit_settle(engine, engine->commit.rc, &engine->commit.err);
    if (!batch_empty(engine->filling) && !engine->stopping)
        commit_soon(engine);
}

void commit_wait(struct engine *engine) {
    struct commit *commit = &engine->commit;
    if (!commit->under_way)
        return;
    uv_mutex_lock(&commit->mutex);
    while (!commit->done)
        uv_cond_wait(&commit->ended, &commit->mutex);
    uv_mutex_unlock(&commit->mutex);
    commit_settle(engine, commit->rc, &commit->err);
}

static void batch_hand_over(struct engine *engine) {
    struct commit *commit = &engine->commit;
    CHECK(!commit->under_way && commit->batch == NULL && engine->spare != NULL);
    commit->batch = engine->filling;
    engine->filling = engine->spare;
    engine->spare = NULL;
    engine->filling_has_lines = false;
    commit->under_way = true;
    commit->done = false;
    commit->err = (struct err){0};
    for (uint32_t p = 0; p < engine->n_partitions; p++)
        leave_commit_begins(&engine->partitions[p]);
}

static void commit_now(struct engine *engine) {
    struct commit *commit = &engine->commit;
    if (engine->failed || batch_empty(engine->filling) || commit->under_way || commit->at_worker)
        return;
    uv_timer_stop(&engine->commit_timer);
    batch_hand_over(engine);
    commit->work.data = engine;
    commit->at_worker = true;
    if (uv_queue_work(engine->loop, &commit->work, commit_on_worker, commit_after) != 0) {
        commit->at_worker = false;
        commit_settle(engine, ERR_IO, &(struct err){"the worker threads take no work"});
    }
}

static void commit_timer(uv_timer_t *timer) {
    commit_now(timer->data);
}

// Never at once: what is being put now belongs together, and is whole when the loop comes round.
void commit_soon(struct engine *engine) {
    uint64_t ms = engine->filling_has_lines ? 0 : engine->config->aggregator_commit_ms;
    if (engine->stopping || (ms > 0 && uv_is_active((uv_handle_t *)&engine->commit_timer)))
        return;
    CHECK(uv_timer_start(&engine->commit_timer, commit_timer, ms, 0) == 0);
}

int commit_blocking(struct engine *engine, struct err *err) {
    commit_wait(engine);
    if (engine->failed)
        return err_set(err, ERR_IO, "the engine had failed before");
    int rc = 0;
    while (rc == 0 && !engine->failed && !batch_empty(engine->filling)) { // again where lines were committed: then they are sent
        batch_hand_over(engine);
        rc = engine->parts.journal->ops->commit(engine->parts.journal, engine->commit.batch, err);
        commit_settle(engine, rc, err);
    }
    return rc;
}
