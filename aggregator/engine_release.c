// Windows: once all days of a window are complete or given up, everyone in it is asked for again, counted per cell, and
// the line is drawn. Many tenants' windows end at the same midnight, so they go in slices with common look-ups.
#include "aggregator/engine_parts.h"
#include "aggregator/release.h"
#include "common/consent.h"

#include <inttypes.h>

#ifndef JOBS_MAX // the simulation takes small ones
#define JOBS_MAX 256
#define QUERIES_MAX 32768
#endif
#define UNPUBLISHED_BYTES_MAX (32u << 20)

struct asked {
    uint32_t job;
    struct window_cell cell;
};

struct release {
    struct task task;
    size_t n_jobs;
    struct line_job jobs[JOBS_MAX];
    size_t job_at;        // whose contacts are being asked for
    size_t window_cursor; // and where in its window
    struct asked *asked;  // beside the queries
};

static void release_free(struct task *task) {
    struct release *release = (struct release *)task;
    for (size_t i = 0; i < release->n_jobs; i++)
        free(release->jobs[i].counts);
    free(release->task.queries);
    free(release->asked);
    free(release);
}

static const struct window *job_window(const struct partition *partition, const struct line_job *job) {
    const struct tenant_state *tenant = state_tenant(partition->state, job->tenant);
    CHECK(tenant != NULL);
    return tenant_state_window(tenant, job->period_day);
}

// Goes on through the windows until the questions are many enough or all are asked.
static void release_choose(struct partition *partition, struct release *release) {
    struct task *task = &release->task;
    task->n_queries = 0;
    while (release->job_at < release->n_jobs) {
        const struct line_job *job = &release->jobs[release->job_at];
        const struct window *window = job_window(partition, job);
        uint64_t pseudonym;
        struct window_cell cell;
        while (window != NULL && task->n_queries < QUERIES_MAX &&
               window_next(window, &release->window_cursor, &pseudonym, &cell)) {
            release->asked[task->n_queries] = (struct asked){.job = (uint32_t)release->job_at, .cell = cell};
            task->queries[task->n_queries++] =
                (struct consent_query){.tenant = job->tenant, .pseudonym = pseudonym};
        }
        if (task->n_queries == QUERIES_MAX)
            return;
        release->job_at++;
        release->window_cursor = 0;
    }
}

// The day of the contact's newest open in the window, as well as it is known: what it opened before it left and came back
// does not count. DAY_NONE where it was erased meanwhile.
static uint32_t open_day(const struct partition *partition, const struct consent_query *query, uint32_t last_day) {
    struct last_open last_open;
    if (!last_open_get(state_last_open(partition->state), query->tenant, query->pseudonym, &last_open))
        return DAY_NONE;
    return last_open.day < last_day ? last_open.day : last_day;
}

static void release_count(const struct partition *partition, struct release *release) {
    for (size_t i = 0; i < release->task.n_queries; i++) {
        const struct asked *asked = &release->asked[i];
        struct line_job *line = &release->jobs[asked->job];
        const struct tenant *tenant = tenant_table_find(partition->engine->tenants, line->tenant);
        const struct tenant_version *then = tenant == NULL ? NULL : tenant_version_on(tenant, line->last_day);
        bool basis = then != NULL && then->exemption_basis != NULL;
        const struct release_frame frame = {
            .kind = RELEASE_DELIVERABILITY, .settings = line->settings, .version = line->version};
        const struct consent_query *query = &release->task.queries[i];
        if (!consent_allows(&query->record, (enum message_class)(asked->cell.class_regime >> 4),
                            (enum regime)(asked->cell.class_regime & 15), basis, PURPOSE_DELIVERABILITY,
                            open_day(partition, query, line->last_day)))
            continue;
        int64_t at = release_cell_index(&frame, &asked->cell);
        CHECK(at < (int64_t)line->n_counts);
        if (at >= 0)
            line->counts[at]++;
    }
}

// The line, the erased window and the tenant's progress are in the same batch.
static bool window_finish(struct partition *partition, struct line_job *job) {
    struct engine *engine = partition->engine;
    uint32_t tenant = job->tenant, sent_day = job->period_day;
    int rc = line_draw(partition, job);
    if (rc != 0)
        return false;
    struct tenant_record record = *tenant_state_record(state_tenant(partition->state, tenant));
    CHECK(record.next_window == sent_day);
    record.next_window = sent_day + 1;
    uint8_t key[RECORD_KEY_MAX];
    if (state_window_drop(partition->state, engine->filling, partition->number, tenant, sent_day) != 0) {
        engine_fail(engine, "no memory to erase a released window");
        return false;
    }
    return partition_put(partition, key_tenant(key, tenant), key, tenant_encode(&record, engine->value));
}

static void release_answered(struct partition *partition, struct task *task) {
    struct release *release = (struct release *)task;
    const struct engine *engine = partition->engine;
    release_count(partition, release);
    release_choose(partition, release);
    if (task->n_queries > 0) {
        task_ask(task);
        return;
    }
    // What does not fit the batch, or could not be drawn, is found again in the next pass.
    bool drawn = true;
    for (size_t i = 0; i < release->n_jobs && drawn; i++)
        if (batch_bytes(engine->filling) < BATCH_BYTES_MAX / 2)
            drawn = window_finish(partition, &release->jobs[i]);
    if (engine->failed)
        return;
    task_end(task);
    if (!drawn)
        partition_pause(partition, RETRY_MS_MAX);
}

static const struct task_ops release_ops = {.answered = release_answered, .free = release_free};

// The tenant's next window as a job; false where it is not due.
static bool window_job(const struct partition *partition, const struct tenant_state *known, struct line_job *job) {
    const struct tenant_record *record = tenant_state_record(known);
    const struct tenant *tenant = tenant_table_find(partition->engine->tenants, tenant_state_id(known));
    if (record == NULL || record->first_measured == DAY_NONE || tenant == NULL)
        return false;
    uint32_t sent_day = record->next_window;
    const struct settings *settings = state_settings_on(partition->state, sent_day);
    const struct tenant_version *version = tenant_version_on(tenant, sent_day);
    if (settings == NULL || version == NULL || sent_day + settings->horizon_days > partition->settled_through)
        return false;
    *job = (struct line_job){.tenant = tenant->id,
                             .kind = RELEASE_DELIVERABILITY,
                             .period_day = sent_day,
                             .last_day = sent_day + settings->horizon_days,
                             .settings = settings,
                             .version = version};
    job->complete = days_are_complete(partition->state, sent_day, job->last_day);
    const struct release_frame frame = {.kind = RELEASE_DELIVERABILITY, .settings = settings, .version = version};
    if (release_cell_count(&frame, &job->n_counts) != 0) {
        log_error("tenant %" PRIu32 ": streams and providers make more than %d cells; its windows wait", tenant->id,
                  RELEASE_CELLS_MAX);
        return false;
    }
    job->counts = calloc(job->n_counts == 0 ? 1 : job->n_counts, sizeof *job->counts);
    return job->counts != NULL;
}

// Goes on through the tenants; false once a whole pass found nothing that is due.
static bool release_collect(struct partition *partition, struct release *release) {
    while (release->n_jobs < JOBS_MAX) {
        const struct tenant_state *known = state_tenant_next(partition->state, &partition->window_cursor);
        if (known == NULL)
            break;
        if (window_job(partition, known, &release->jobs[release->n_jobs]))
            release->n_jobs++;
    }
    if (release->n_jobs > 0) {
        partition->windows_found = true;
        return true;
    }
    partition->window_cursor = 0;
    if (!partition->windows_found)
        partition->windows_done_for = partition->settled_through;
    partition->windows_found = false;
    return false;
}

bool windows_begin(struct partition *partition) {
    if (partition->windows_done_for >= partition->settled_through ||
        publisher_bytes(partition->engine->publisher) > UNPUBLISHED_BYTES_MAX)
        return false;
    struct release *release = calloc(1, sizeof *release);
    if (release != NULL) {
        release->task.ops = &release_ops;
        release->task.queries = malloc(QUERIES_MAX * sizeof *release->task.queries);
        release->asked = malloc(QUERIES_MAX * sizeof *release->asked);
    }
    if (release == NULL || release->task.queries == NULL || release->asked == NULL) {
        if (release != NULL)
            release_free(&release->task);
        engine_fail(partition->engine, "no memory to release windows");
        return false;
    }
    bool again = partition->windows_found;
    if (!release_collect(partition, release)) {
        release_free(&release->task);
        return again; // another pass from the start
    }
    release_choose(partition, release);
    task_start(partition, &release->task);
    return true;
}

void windows_abandon(struct partition *partition) {
    if (partition->task != NULL && partition->task->ops == &release_ops)
        task_abandon(partition->task);
}
