#include "aggregator/retention.h"

#include "aggregator/record.h"
#include "aggregator/state_view.h"

static const struct {
    const char *name;
    const char *text;
} stores[RETENTION_STORES] = {
    [RETENTION_LAST_OPEN] = {"last_open", "last-open days of contacts"},
    [RETENTION_WINDOWS] = {"windows", "contacts in windows not yet released"},
    [RETENTION_DAYS] = {"days", "ledgers of days"},
    [RETENTION_SPOOL] = {"spool", "opens in the spool"},
    [RETENTION_INBOX] = {"inbox", "imports not yet taken"},
    [RETENTION_EVENTS] = {"events", "opens in the events topic"},
    [RETENTION_JOURNAL] = {"journal", "erased bytes in the journal's files"},
    [RETENTION_ASIDE] = {"set_aside", "damaged files kept for a look"},
    [RETENTION_RELEASES] = {"releases", "released lines (anonymous)"},
};

const char *retention_store_name(enum retention_store store) {
    CHECK(store < RETENTION_STORES);
    return stores[store].name;
}

const char *retention_store_text(enum retention_store store) {
    CHECK(store < RETENTION_STORES);
    return stores[store].text;
}

void retention_add(struct retention *retention, enum retention_store store, uint64_t n, uint32_t age, uint32_t limit) {
    CHECK(store < RETENTION_STORES && age < INT32_MAX);
    struct retention_row *row = &retention->rows[store];
    if (n == 0)
        return;
    int64_t over = (int64_t)age - limit, over_before = (int64_t)row->age - row->limit;
    if (row->n == 0 || over > over_before || (over == over_before && age > row->age)) {
        row->age = age;
        row->limit = limit;
    }
    row->n += n;
    if (over > 0)
        row->n_over += n;
}

bool retention_over(const struct retention *retention) {
    for (size_t i = 0; i < RETENTION_STORES; i++)
        if (retention->rows[i].n_over > 0)
            return true;
    return false;
}

// The window's last day is `horizon_days` later, the deadline counts from that day's end, and releasing may take a while.
uint32_t retention_window_limit(uint32_t horizon_days, uint64_t deadline_hours) {
    return horizon_days + 1 + (uint32_t)((deadline_hours + 23) / 24);
}

// ---- the aggregator's state ------------------------------------------------------------------------------------------

static uint32_t age_on(uint32_t today, uint32_t day) {
    return day < today ? today - day : 0;
}

static void add_contacts(struct retention *retention, const struct state *state, uint32_t today) {
    struct last_open_cursor cursor = {0};
    struct last_open_contact contact;
    const uint32_t limit = LAST_OPEN_KEEP_DAYS + RETENTION_SWEEP_DAYS;
    while (last_open_next(state_last_open(state), &cursor, &contact))
        retention_add(retention, RETENTION_LAST_OPEN, 1, age_on(today, contact.value.day), limit);
}

static void add_windows(struct retention *retention, const struct state *state, const struct config *config,
                        uint32_t today) {
    const struct tenant_state *tenant;
    for (size_t cursor = 0; (tenant = state_tenant_next(state, &cursor)) != NULL;)
        for (size_t i = 0; i < tenant_state_window_count(tenant); i++) {
            uint32_t sent_day;
            const struct window *window = tenant_state_window_at(tenant, i, &sent_day);
            const struct settings *settings = state_settings_on(state, sent_day);
            uint32_t horizon = settings == NULL ? (uint32_t)config->release_horizon_days : settings->horizon_days;
            retention_add(retention, RETENTION_WINDOWS, window_count(window), age_on(today, sent_day),
                          retention_window_limit(horizon, config->release_deadline_hours));
        }
}

// The same days in every partition: counted once, in the first.
static void add_days(struct retention *retention, const struct state *state, uint32_t today) {
    for (size_t i = 0; i < state_day_count(state); i++) {
        uint32_t day;
        state_day_at(state, i, &day);
        retention_add(retention, RETENTION_DAYS, 1, age_on(today, day), LAST_OPEN_KEEP_DAYS + RETENTION_SWEEP_DAYS);
    }
}

int retention_read_state(struct retention *retention, const struct config *config, struct err *err) {
    const struct state_filter filter = {.kinds = "LWDG"};
    const uint32_t today = clock_today(&config->clock);
    struct journal *journal = NULL;
    int rc = journal_open_readonly(&journal, config, err);
    if (rc != 0)
        return rc == ERR_NOT_FOUND ? 0 : rc;
    for (uint32_t partition = 0; rc == 0 && partition < config->kafka_partitions; partition++) {
        struct state *state = NULL;
        if ((rc = state_view_load(&state, journal, config, partition, &filter, err)) != 0)
            break;
        add_contacts(retention, state, today);
        add_windows(retention, state, config, today);
        add_days(retention, state, today);
        state_free(state);
    }
    journal->ops->close(journal);
    return rc;
}
