// One released line: budget, noise, the record. Drawn once: from here on memory and batch have it, and should the commit
// not happen, both are dropped together and nobody saw it. Only what is committed leaves: to its file (publisher.h), and to
// the releases topic (announced.h).
#include "aggregator/engine_parts.h"
#include "aggregator/release_files.h"
#include "common/hmac.h"

#include <inttypes.h>
#include <string.h>

#define RULES_MAX DAY_RULES_MAX // what a line has room for
#define MONTH_LINES_MAX 64

// The fetch-class files of all the period's days, sorted, each once.
static size_t rules_collect(const struct state *state, const struct line_job *job,
                            uint8_t rules[RULES_MAX][RULES_HASH_SIZE]) {
    size_t n = 0;
    for (uint32_t day = job->period_day; day <= job->last_day; day++) {
        const struct day_record *record = state_day(state, day);
        for (size_t i = 0; record != NULL && i < record->n_rules; i++) {
            size_t at = 0;
            int order = 1;
            while (at < n && (order = memcmp(rules[at], record->rules[i], RULES_HASH_SIZE)) < 0)
                at++;
            if ((at < n && order == 0) || n == RULES_MAX)
                continue;
            memmove(rules[at + 1], rules[at], (n - at) * RULES_HASH_SIZE);
            memcpy(rules[at], record->rules[i], RULES_HASH_SIZE);
            n++;
        }
    }
    return n;
}

static bool line_put(struct partition *partition, const struct line_job *job, struct fraction spent, const char *line,
                     size_t len) {
    struct engine *engine = partition->engine;
    uint8_t key[RECORD_KEY_MAX];
    const struct release_record record = {.spent = spent, .line = (const uint8_t *)line, .line_len = len};
    if (!partition_put(partition, key_release(key, job->tenant, (uint8_t)job->kind, job->period_day), key,
                       release_encode(&record, engine->value)))
        return false;
    if (engine->parts.journal->ops->sends_lines) {
        memcpy(engine->value, line, len);
        if (!partition_put(partition, key_announced(key, job->tenant, (uint8_t)job->kind, job->period_day), key, len))
            return false;
    }
    engine->filling_has_lines = true;
    commit_soon(engine);
    return true;
}

// A line that is out already, though the state does not know: it was put back to an earlier one. That line stays the one
// of its period. ERR_NOT_FOUND: there is none, or what stands in its place is no line.
static int line_adopt(struct partition *partition, const struct line_job *job) {
    struct release_file published;
    struct err err;
    int rc = release_file_find(&published, partition->engine->config->release_dir, job->tenant, job->kind,
                               job->period_day, &err);
    if (rc != 0)
        return ERR_NOT_FOUND;
    log_warn("tenant %" PRIu32 ": the %s line of %s was released before this state; it stays", job->tenant,
             release_kind_names[job->kind], published.period);
    if (!line_put(partition, job, published.epsilon, published.line, strlen(published.line)))
        rc = ERR_IO;
    release_file_free(&published);
    return rc;
}

int line_draw(struct partition *partition, const struct line_job *job) {
    struct engine *engine = partition->engine;
    const struct tenant_state *tenant = state_tenant(partition->state, job->tenant);
    CHECK(tenant != NULL && !tenant_state_released(tenant, job->kind, job->period_day));
    int rc = line_adopt(partition, job);
    if (rc != ERR_NOT_FOUND) {
        bytes_wipe(job->counts, job->n_counts * sizeof *job->counts);
        return rc;
    }
    static const struct fraction nothing = {0, 1};
    struct fraction spent[MONTH_LINES_MAX];
    uint8_t rules[RULES_MAX][RULES_HASH_SIZE];
    size_t n_spent = tenant_state_spent(tenant, day_month_start(job->period_day), spent, MONTH_LINES_MAX);
    struct release_frame frame = {.tenant = job->tenant,
                                  .kind = job->kind,
                                  .period_day = job->period_day,
                                  .complete = job->complete,
                                  .rehearsal = engine->config->rehearsal,
                                  .settings = job->settings,
                                  .version = job->version,
                                  .rules = (const uint8_t(*)[RULES_HASH_SIZE])rules};
    frame.budget_spent = !release_budget_fits(spent, n_spent, job->settings->epsilon);
    frame.n_rules = rules_collect(partition->state, job, rules);
    struct noise_source noise;
    void *stream = NULL;
    char *line = NULL;
    size_t len = 0;
    const struct noise_ops *ops = engine->parts.noise;
    rc = ops->open(ops->arg, &noise, &stream);
    if (rc != 0)
        return rc;
    rc = release_line(&frame, &noise, job->counts, job->n_counts, &line, &len);
    ops->close(ops->arg, stream);
    if (rc == 0 && !line_put(partition, job, frame.budget_spent ? nothing : job->settings->epsilon, line, len))
        rc = ERR_IO;
    free(line);
    return rc;
}

void lines_send(struct partition *partition) {
    struct engine *engine = partition->engine;
    CHECK(partition->state != NULL);
    if (partition->announced.first == NULL || engine->failed)
        return;
    if (announced_send(&partition->announced, engine->filling, partition->number) != 0) {
        engine_fail(engine, "no memory to send a released line; it is committed and leaves at the next start");
        return;
    }
    engine->filling_has_lines = true;
    commit_soon(engine);
}
