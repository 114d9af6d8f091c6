// Months: once a month's last day is settled, all of a tenant's consent records are walked through, one tenant at a time
// for the whole engine. Blocks go on meanwhile: the age of a last open as of the month's end does not change with them.
#include "aggregator/engine_parts.h"
#include "aggregator/release.h"
#include "common/consent.h"

// A contact must have been measurable on each of so many days before the month's end.
#define MEASURED_DAYS 366

struct month_task {
    struct partition *partition;
    bool orphan;
    bool in_flight;
    bool basis;
    uint32_t tenant;
    uint32_t first, last; // days of the month
    int64_t retry_at_ms;
    bool knows;
    struct consent_stamp known;
    uint64_t counts[INACTIVITY_CELLS];
};

static bool measured_long_enough(const struct consent_record *record, bool basis, uint32_t last) {
    for (int regime = REGIME_EXEMPTION; regime <= REGIME_CONSENT; regime++) {
        uint32_t day = consent_needs(record, CLASS_REQUESTED, (enum regime)regime, basis, PURPOSE_INACTIVITY);
        if (day != DAY_NONE && day + MEASURED_DAYS < last + 1)
            return true;
    }
    return false;
}

static void month_contact(void *arg, uint64_t pseudonym, const struct consent_record *record) {
    struct month_task *month = arg;
    struct last_open last_open;
    if (month->orphan || !measured_long_enough(record, month->basis, month->last))
        return;
    const struct last_open_table *table = state_last_open(month->partition->state);
    enum frozen_age age = AGE_NONE;
    if (last_open_get(table, month->tenant, pseudonym, &last_open))
        age = last_open_age_on(last_open, month->last);
    month->counts[inactivity_cell_of(age)]++;
}

static bool month_finish(struct month_task *month) {
    struct partition *partition = month->partition;
    const struct tenant *tenant = tenant_table_find(partition->engine->tenants, month->tenant);
    const struct tenant_state *known = state_tenant(partition->state, month->tenant);
    const struct settings *settings = state_settings_on(partition->state, month->first);
    CHECK(tenant != NULL && known != NULL && settings != NULL);
    struct tenant_record record = *tenant_state_record(known);
    CHECK(record.next_month == month->first);
    uint32_t from = record.first_measured > month->first ? record.first_measured : month->first;
    const struct line_job job = {.tenant = month->tenant,
                                 .kind = RELEASE_INACTIVITY,
                                 .period_day = month->first,
                                 .last_day = month->last,
                                 .complete = days_are_complete(partition->state, from, month->last),
                                 .settings = settings,
                                 .version = tenant_version_on(tenant, month->last),
                                 .counts = month->counts,
                                 .n_counts = INACTIVITY_CELLS};
    if (line_draw(partition, &job) != 0)
        return false;
    record.next_month = month->last + 1;
    uint8_t key[RECORD_KEY_MAX];
    return partition_put(partition, key_tenant(key, month->tenant), key,
                         tenant_encode(&record, partition->engine->value));
}

static void month_done(void *arg, int status, const struct consent_stamp *stamp) {
    struct month_task *month = arg;
    month->in_flight = false;
    if (month->orphan) {
        free(month);
        return;
    }
    struct engine *engine = month->partition->engine;
    CHECK(engine->month == month);
    if (status == 0)
        partition_stamp(month->partition, stamp);
    if (status != 0 || !month_finish(month)) {
        count_metric(METRIC_UNREACHABLE, status != 0);
        month->retry_at_ms = clock_monotonic_ms() + RETRY_MS_MAX;
        return;
    }
    engine->month = NULL;
    free(month);
    months_start(engine);
}

static void month_ask(struct month_task *month) {
    struct partition *partition = month->partition;
    struct consent_ops *consent = &partition->engine->parts.consent;
    const struct consent_stamp *known = state_stamp(partition->state);
    month->knows = known != NULL;
    if (month->knows)
        month->known = *known;
    for (int i = 0; i < INACTIVITY_CELLS; i++)
        month->counts[i] = 0;
    month->in_flight = true;
    if (consent->scan(consent->arg, partition->number, month->tenant, month->knows ? &month->known : NULL,
                      month_contact, month_done, month) != 0) {
        month->in_flight = false;
        month->retry_at_ms = clock_monotonic_ms() + RETRY_MS_MAX;
    }
}

// The next tenant of a partition whose month is due; NULL (and the pass over) where there is none.
static struct month_task *month_next(struct partition *partition) {
    const struct tenant_state *known;
    while ((known = state_tenant_next(partition->state, &partition->month_cursor)) != NULL) {
        const struct tenant_record *record = tenant_state_record(known);
        const struct tenant *tenant = tenant_table_find(partition->engine->tenants, tenant_state_id(known));
        if (record == NULL || record->first_measured == DAY_NONE || tenant == NULL)
            continue;
        uint32_t last = day_next_month_start(record->next_month) - 1;
        const struct tenant_version *version = tenant_version_on(tenant, last);
        if (last > partition->settled_through || version == NULL)
            continue;
        struct month_task *month = calloc(1, sizeof *month);
        if (month == NULL)
            return NULL;
        month->partition = partition;
        month->tenant = tenant->id;
        month->first = record->next_month;
        month->last = last;
        month->basis = version->exemption_basis != NULL;
        partition->months_found = true;
        return month;
    }
    partition->month_cursor = 0;
    if (!partition->months_found)
        partition->months_done_for = partition->settled_through;
    partition->months_found = false;
    return NULL;
}

void months_start(struct engine *engine) {
    struct month_task *month = engine->month;
    if (engine->stopping || engine->failed)
        return;
    if (month != NULL) {
        if (!month->in_flight && clock_monotonic_ms() >= month->retry_at_ms)
            month_ask(month);
        return;
    }
    for (uint32_t p = 0; p < engine->n_partitions && engine->month == NULL; p++) {
        struct partition *partition = &engine->partitions[p];
        if (partition->status == PARTITION_RUNNING && partition->months_done_for < partition->settled_through)
            engine->month = month_next(partition);
    }
    if (engine->month != NULL)
        month_ask(engine->month);
}

void month_abandon(struct engine *engine, const struct partition *partition) {
    struct month_task *month = engine->month;
    if (month == NULL || (partition != NULL && month->partition != partition))
        return;
    engine->month = NULL;
    month->partition->months_found = true; // so that the pass comes round to it again
    if (month->in_flight)
        month->orphan = true;
    else
        free(month);
}
