// The sweep, once a day and after every start: last opens of contacts who may no longer be measured, or that are too old,
// are erased, and with them days and senders of imports that nobody needs any more.
#include "aggregator/engine_parts.h"
#include "common/consent.h"

#include <inttypes.h>

#ifndef SLICE // the simulation takes a small one
#define SLICE 4096
#endif
// Longer than an aggregator is down with an import or a retirement that it took in and could not delete any more.
#define IMPORT_KEEP_DAYS 30

struct sweep {
    struct task task;
    bool last;
    struct consent_query queries[SLICE];
};

static void sweep_free(struct task *task) {
    free(task);
}

// No class or regime allows it, so it may not be kept.
static bool must_go(const struct engine *engine, const struct consent_query *query) {
    const struct tenant *tenant = tenant_table_find(engine->tenants, query->tenant);
    const struct tenant_version *version = tenant == NULL ? NULL : tenant_version_on(tenant, engine_today(engine));
    if (version == NULL)
        return false; // not to be decided without its configuration; goes by age
    bool basis = version->exemption_basis != NULL;
    for (int regime = REGIME_EXEMPTION; regime <= REGIME_CONSENT; regime++)
        for (int class = CLASS_TRANSACTIONAL; class <= CLASS_PROSPECTING; class++)
            if (consent_needs(&query->record, (enum message_class)class, (enum regime)regime, basis,
                              PURPOSE_INACTIVITY) != DAY_NONE)
                return false;
    return true;
}

static void sweep_answered(struct partition *partition, struct task *task) {
    for (size_t i = 0; i < task->n_queries; i++) {
        const struct consent_query *query = &task->queries[i];
        if (must_go(partition->engine, query) && !contact_erase(partition, query->tenant, query->pseudonym))
            return;
    }
    bool last = ((const struct sweep *)task)->last;
    task_end(task);
    if (last)
        leave_sweep_done(partition);
}

static const struct task_ops sweep_ops = {.answered = sweep_answered, .free = sweep_free};

// Days, and edges that never registered (imports), by age.
static bool sweep_records(struct partition *partition, uint32_t today) {
    uint8_t key[RECORD_KEY_MAX];
    uint32_t day;
    while (state_day_count(partition->state) > 0) {
        state_day_at(partition->state, 0, &day);
        if (day + LAST_OPEN_KEEP_DAYS >= today)
            break;
        if (!partition_erase(partition, key_day(key, day), key))
            return false;
    }
    for (size_t i = state_edge_count(partition->state); i-- > 0;) {
        const struct edge_summary *edge = state_edge_at(partition->state, i);
        if (edge->registered_day == DAY_NONE && edge->closed_through + IMPORT_KEEP_DAYS < today &&
            !partition_erase(partition, key_edge(key, edge->edge), key))
            return false;
    }
    // A write a day keeps the partition's compaction going, which really removes what was erased.
    return partition_put(partition, key_meta(key), key,
                         meta_encode(partition->engine->config->rehearsal, partition->engine->n_partitions,
                                     partition->engine->value));
}

bool sweep_begin(struct partition *partition) {
    struct engine *engine = partition->engine;
    uint32_t today = engine_today(engine);
    if (partition->swept_on >= today)
        return false;
    struct sweep *sweep = calloc(1, sizeof *sweep);
    if (sweep == NULL)
        return false;
    sweep->task.ops = &sweep_ops;
    sweep->task.queries = sweep->queries;
    struct last_open_contact contact;
    bool more = true;
    if (partition->sweep_cursor.tenant == 0 && partition->sweep_cursor.hash == 0)
        leave_sweep_begun(partition);
    while (sweep->task.n_queries < SLICE &&
           (more = last_open_next(state_last_open(partition->state), &partition->sweep_cursor, &contact))) {
        if ((uint32_t)contact.value.day + LAST_OPEN_KEEP_DAYS >= today)
            sweep->queries[sweep->task.n_queries++] =
                (struct consent_query){.tenant = contact.tenant, .pseudonym = contact.pseudonym};
        else if (!contact_erase(partition, contact.tenant, contact.pseudonym))
            break;
    }
    sweep->last = !more;
    if (!more) {
        partition->swept_on = today;
        partition->sweep_cursor = (struct last_open_cursor){0};
        sweep_records(partition, today);
    }
    if (engine->failed) {
        free(sweep);
        return false;
    }
    task_start(partition, &sweep->task);
    return true;
}
