// The engine's frame: partitions come and go, messages queue, and every partition gets its turns.
#include "aggregator/engine_parts.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

void engine_fail(struct engine *engine, const char *format, ...) {
    struct err err;
    if (engine->failed)
        return;
    engine->failed = true;
    va_list args;
    va_start(args, format);
    vsnprintf(err.text, sizeof err.text, format, args);
    va_end(args);
    engine->parts.failed(engine->parts.arg, &err);
}

uint32_t engine_today(const struct engine *engine) {
    return clock_today(&engine->config->clock);
}

bool partition_put(struct partition *partition, size_t key_len, const uint8_t *key, size_t value_len) {
    struct engine *engine = partition->engine;
    CHECK(partition->state != NULL && value_len > 0);
    int rc = state_change(partition->state, engine->filling, partition->number, key, key_len, engine->value, value_len);
    if (rc == ERR_LIMIT)
        engine_fail(engine, "there are more contacts than [aggregator] contacts_max = %" PRIu64 ": raise it and start again",
                    engine->contacts.contacts_max);
    else if (rc != 0)
        engine_fail(engine, "no memory for the state of partition %" PRIu32, partition->number);
    else
        commit_soon(engine);
    return rc == 0;
}

bool partition_erase(struct partition *partition, size_t key_len, const uint8_t *key) {
    struct engine *engine = partition->engine;
    int rc = state_change(partition->state, engine->filling, partition->number, key, key_len, NULL, 0);
    if (rc != 0)
        engine_fail(engine, "no memory for the state of partition %" PRIu32, partition->number);
    else
        commit_soon(engine);
    return rc == 0;
}

bool partition_speaks(const struct partition *partition) {
    const struct engine *engine = partition->engine;
    for (uint32_t p = 0; p < partition->number; p++)
        if (engine->partitions[p].status == PARTITION_RUNNING)
            return false;
    return true;
}

// ---- turns ----------------------------------------------------------------------------------------------------------

static void wake(uv_timer_t *timer) {
    struct engine *engine = timer->data;
    engine->wake_at_ms = 0;
    engine_schedule(engine);
}

static void wake_in(struct engine *engine, int64_t ms) {
    int64_t at_ms = clock_monotonic_ms() + ms;
    if (engine->stopping || (engine->wake_at_ms != 0 && engine->wake_at_ms <= at_ms))
        return;
    engine->wake_at_ms = at_ms;
    CHECK(uv_timer_start(&engine->wake, wake, (uint64_t)ms + 1, 0) == 0);
}

void partition_pause(struct partition *partition, int64_t ms) {
    CHECK(ms >= 0);
    partition->resume_at_ms = clock_monotonic_ms() + ms;
    wake_in(partition->engine, ms);
}

// Room again for what the source offered before.
static void queue_reopen(struct partition *partition) {
    if (!partition->held_back || partition->queue_count >= QUEUE_MESSAGES_MAX / 2 ||
        partition->queue_bytes >= QUEUE_BYTES_MAX / 2)
        return;
    struct source *source = partition->engine->parts.source;
    partition->held_back = false;
    source->ops->resume(source, partition->number, -2);
}

// One step of work, of limited length; false where there is nothing to do now.
static bool partition_step(struct partition *partition) {
    struct engine *engine = partition->engine;
    if (partition->resume_at_ms != 0) {
        int64_t left_ms = partition->resume_at_ms - clock_monotonic_ms();
        if (left_ms > 0) {
            wake_in(engine, left_ms);
            return false;
        }
        partition->resume_at_ms = 0;
        if (partition->task != NULL) {
            task_ask(partition->task);
            return true;
        }
    }
    if (partition->task != NULL || batch_bytes(engine->filling) > BATCH_BYTES_MAX / 2)
        return false;
    queue_reopen(partition);
    if (partition->check_days) {
        partition->check_days = false;
        days_settle(partition);
    }
    if (!partition->left_last && leave_begin(partition)) {
        partition->left_last = true;
        return true;
    }
    partition->left_last = false;
    if (windows_begin(partition))
        return true;
    bool sweeps = partition->sweep_turn || partition->queue_count == 0;
    partition->sweep_turn = false;
    if (sweeps && sweep_begin(partition))
        return true;
    return (partition->queue_count > 0 && message_take(partition)) || leave_begin(partition);
}

static void turn(uv_idle_t *idle) {
    struct engine *engine = idle->data;
    bool more = false;
    for (uint32_t p = 0; p < engine->n_partitions && !engine->failed && !engine->stopping; p++)
        if (engine->partitions[p].status == PARTITION_RUNNING)
            more |= partition_step(&engine->partitions[p]);
    if (!more)
        uv_idle_stop(idle);
}

void engine_schedule(struct engine *engine) {
    if (!engine->stopping && !engine->failed)
        CHECK(uv_idle_start(&engine->turn, turn) == 0);
}

static void tick(uv_timer_t *timer) {
    struct engine *engine = timer->data;
    loads_start(engine);
    loading_tell(engine);
    publisher_run(engine->publisher);
    for (uint32_t p = 0; p < engine->n_partitions; p++) {
        engine->partitions[p].check_days = true;
        engine->partitions[p].sweep_turn = true;
        leave_tell(&engine->partitions[p]);
    }
    months_start(engine);
    engine_schedule(engine);
}

// ---- the source's hooks ---------------------------------------------------------------------------------------------

static void queue_clear(struct partition *partition) {
    for (; partition->queue_count > 0; partition->queue_count--) {
        free(partition->queue[partition->queue_first].data);
        partition->queue[partition->queue_first] = (struct queued){0};
        partition->queue_first = (partition->queue_first + 1) % QUEUE_MESSAGES_MAX;
    }
    partition->queue_bytes = 0;
}

void partition_drop(struct partition *partition) {
    if (partition->task != NULL)
        task_abandon(partition->task);
    month_abandon(partition->engine, partition);
    leave_drop(partition);
    if (partition->engine->parts.owns != NULL)
        partition->engine->parts.owns(partition->engine->parts.arg, partition->number, false);
    queue_clear(partition);
    state_free(partition->state);
    announced_clear(&partition->announced);
    load_cancel(partition);
    *partition = (struct partition){.engine = partition->engine, .number = partition->number, .load = partition->load};
}

static void source_assigned(void *arg, uint32_t number) {
    struct engine *engine = arg;
    CHECK(number < engine->n_partitions);
    if (engine->stopping || engine->failed)
        return;
    engine->ever_assigned = true;
    struct partition *partition = &engine->partitions[number];
    CHECK(partition->status == PARTITION_ABSENT);
    partition_load(partition);
}

static void source_revoked(void *arg, uint32_t number, bool lost) {
    struct engine *engine = arg;
    CHECK(number < engine->n_partitions);
    struct partition *partition = &engine->partitions[number];
    struct err err;
    commit_wait(engine);
    if (lost && batch_touches(engine->filling, number))
        engine_reload_all(engine); // the batch can't be taken apart
    else if (!lost && batch_touches(engine->filling, number) && commit_blocking(engine, &err) != 0)
        log_warn("what was decided last could not be committed before partition %" PRIu32 " was given up: %s", number,
                 err.text);
    partition_drop(partition);
    log_debug("partition %" PRIu32 " is given up", number);
}

static bool source_message(void *arg, uint32_t number, int64_t position, const uint8_t *data, size_t len) {
    struct engine *engine = arg;
    CHECK(number < engine->n_partitions);
    struct partition *partition = &engine->partitions[number];
    bool full = partition->queue_count == QUEUE_MESSAGES_MAX ||
                (partition->queue_count > 0 && partition->queue_bytes + len > QUEUE_BYTES_MAX);
    uint8_t *copy = NULL;
    if (!full && partition->status == PARTITION_RUNNING && !engine->stopping && !engine->failed)
        copy = malloc(len == 0 ? 1 : len);
    if (copy == NULL) {
        partition->held_back = true;
        return false;
    }
    if (len > 0)
        memcpy(copy, data, len);
    size_t at = (partition->queue_first + partition->queue_count) % QUEUE_MESSAGES_MAX;
    partition->queue[at] = (struct queued){.position = position, .len = len, .data = copy};
    partition->queue_count++;
    partition->queue_bytes += len;
    engine_schedule(engine);
    return true;
}

static void source_failed(void *arg, const struct err *err) {
    engine_fail(arg, "%s", err->text);
}

// ---- tenants --------------------------------------------------------------------------------------------------------

// Takes the table over, also on failure.
static int tenants_set(struct engine *engine, struct tenant_table *tenants) {
    size_t n = tenant_table_count(tenants);
    uint32_t *partition_by_index = malloc((n == 0 ? 1 : n) * sizeof *partition_by_index);
    if (partition_by_index == NULL) {
        tenant_table_free(tenants);
        return ERR_NOMEM;
    }
    for (size_t i = 0; i < n; i++)
        partition_by_index[i] = partition_of(tenant_table_at(tenants, i)->id, engine->n_partitions);
    tenant_table_free(engine->tenants);
    free(engine->tenant_partitions);
    engine->tenants = tenants;
    engine->tenant_partitions = partition_by_index;
    engine->tenants_serial++;
    return 0;
}

static void tenants_changed(void *arg) {
    struct engine *engine = arg;
    struct tenant_table *fresh;
    struct err err;
    if (engine->stopping)
        return;
    if (tenant_table_load(&fresh, engine->config->tenants_dir, &err) != 0) {
        log_error("the tenants stay as they were: %s", err.text);
        return;
    }
    // Windows under way hold pointers into the table: they start over.
    for (uint32_t p = 0; p < engine->n_partitions; p++)
        windows_abandon(&engine->partitions[p]);
    month_abandon(engine, NULL);
    if (tenants_set(engine, fresh) != 0) {
        log_error("the tenants stay as they were: no memory");
        return;
    }
    for (uint32_t p = 0; p < engine->n_partitions && !engine->failed; p++)
        if (engine->partitions[p].status == PARTITION_RUNNING)
            tenants_ensure(&engine->partitions[p]);
    log_info("%zu tenants are configured", tenant_table_count(fresh));
    engine_schedule(engine);
}

// ---- life -----------------------------------------------------------------------------------------------------------

static int noise_open(void *arg, struct noise_source *source, void **line) {
    (void)arg;
    struct noise_stream *stream;
    int rc = noise_stream_create(&stream);
    if (rc == 0) {
        *source = noise_stream_source(stream);
        *line = stream;
    }
    return rc;
}

static void noise_close(void *arg, void *line) {
    (void)arg;
    noise_stream_free(line);
}

static const struct noise_ops noise_of_the_kernel = {.open = noise_open, .close = noise_close};

static void handles_open(struct engine *engine) {
    uv_loop_t *loop = engine->loop;
    CHECK(uv_idle_init(loop, &engine->turn) == 0 && uv_timer_init(loop, &engine->tick) == 0);
    CHECK(uv_timer_init(loop, &engine->wake) == 0 && uv_timer_init(loop, &engine->commit_timer) == 0);
    engine->turn.data = engine->tick.data = engine->wake.data = engine->commit_timer.data = engine;
}

int engine_create(struct engine **out, const struct engine_parts *parts, struct err *err) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the engine");
    engine->parts = *parts;
    engine->loop = parts->loop;
    engine->config = parts->config;
    engine->contacts.contacts_max = parts->config->aggregator_contacts_max;
    engine->n_partitions = (uint32_t)parts->config->kafka_partitions;
    if (engine->parts.noise == NULL)
        engine->parts.noise = &noise_of_the_kernel;
    engine->value = malloc(RECORD_VALUE_MAX);
    engine->partitions = calloc(engine->n_partitions, sizeof *engine->partitions);
    int rc = engine->value == NULL || engine->partitions == NULL ? ERR_NOMEM : 0;
    for (uint32_t p = 0; rc == 0 && p < engine->n_partitions; p++)
        engine->partitions[p] = (struct partition){.engine = engine, .number = p};
    if (rc == 0)
        rc = message_codec_create(&engine->codec);
    if (rc == 0)
        rc = publisher_create(&engine->publisher, engine->loop, engine->config->release_dir);
    if (rc == 0)
        rc = commit_create(engine);
    if (rc != 0) {
        err_set(err, rc, "no memory for the engine");
        goto fail;
    }
    struct tenant_table *tenants;
    if ((rc = tenant_table_load(&tenants, engine->config->tenants_dir, err)) != 0)
        goto fail;
    if ((rc = tenants_set(engine, tenants)) != 0) {
        err_set(err, rc, "no memory for the tenants");
        goto fail;
    }
    *out = engine;
    return 0;
fail:
    engine_free(engine);
    return rc;
}

int engine_start(struct engine *engine, struct err *err) {
    const struct source_hooks hooks = {.assigned = source_assigned,
                                       .revoked = source_revoked,
                                       .message = source_message,
                                       .failed = source_failed,
                                       .arg = engine};
    handles_open(engine);
    int rc = dir_watch_start(&engine->watch, engine->loop, engine->config->tenants_dir, tenants_changed, engine, err);
    if (rc == 0)
        rc = leave_start(engine, err);
    if (rc != 0)
        return rc;
    CHECK(uv_timer_start(&engine->tick, tick, TICK_MS, TICK_MS) == 0);
    return engine->parts.source->ops->start(engine->parts.source, engine->loop, &hooks, err);
}

int engine_stop(struct engine *engine, struct err *err) {
    CHECK(!engine->stopping);
    engine->stopping = true;
    int rc = engine->failed ? 0 : commit_blocking(engine, err);
    engine->parts.source->ops->stop(engine->parts.source);
    for (uint32_t p = 0; p < engine->n_partitions; p++)
        partition_drop(&engine->partitions[p]);
    publisher_stop(engine->publisher);
    consent_stream_free(engine->changes);
    engine->changes = NULL;
    dir_watch_stop(engine->watch);
    engine->watch = NULL;
    uv_close((uv_handle_t *)&engine->turn, NULL);
    uv_close((uv_handle_t *)&engine->tick, NULL);
    uv_close((uv_handle_t *)&engine->wake, NULL);
    uv_close((uv_handle_t *)&engine->commit_timer, NULL);
    return rc;
}

void engine_free(struct engine *engine) {
    if (engine == NULL)
        return;
    CHECK(engine->n_loads == 0);
    if (engine->filling != NULL)
        commit_destroy(engine);
    publisher_free(engine->publisher);
    message_codec_free(engine->codec);
    tenant_table_free(engine->tenants);
    free(engine->tenant_partitions);
    free(engine->partitions);
    free(engine->value);
    free(engine);
}

bool engine_ready(const struct engine *engine, char *why, size_t size) {
    struct err err;
    if (engine->failed || engine->stopping) {
        snprintf(why, size, "stopping");
        return false;
    }
    if (!engine->ever_assigned) {
        snprintf(why, size, "waiting for partitions");
        return false;
    }
    for (uint32_t p = 0; p < engine->n_partitions; p++) {
        const struct partition *partition = &engine->partitions[p];
        if (partition->status == PARTITION_LOADING) {
            loading_text(engine, why, size);
            return false;
        }
        if (partition->task != NULL && partition->task->failures > 0) {
            snprintf(why, size, "partition %" PRIu32 " waits: the consent store does not answer", p);
            return false;
        }
    }
    if (!engine->parts.consent.connected(engine->parts.consent.arg)) {
        snprintf(why, size, "the consent store is not connected");
        return false;
    }
    if (publisher_failing(engine->publisher, &err)) {
        snprintf(why, size, "a released line waits for its file: %s", err.text);
        return false;
    }
    return true;
}

void engine_refresh(struct engine *engine) {
    uint64_t contacts = 0, running = 0, waiting = 0;
    for (uint32_t p = 0; p < engine->n_partitions; p++) {
        const struct partition *partition = &engine->partitions[p];
        if (partition->status != PARTITION_RUNNING)
            continue;
        running++;
        waiting += partition->task != NULL && partition->task->failures > 0;
        contacts += last_open_count(state_last_open(partition->state));
    }
    metric_set(&aggregator_metrics[METRIC_CONTACTS], contacts - contacts % 100);
    metric_set(&aggregator_metrics[METRIC_PARTITIONS], running);
    metric_set(&aggregator_metrics[METRIC_WAITING], waiting);
}
