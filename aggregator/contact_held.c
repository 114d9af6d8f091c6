#include "aggregator/contact_held.h"

#include "aggregator/state_view.h"
#include "common/evidence_log.h"
#include "common/token.h"

#include <stdlib.h>

struct reading {
    struct contact_held *held;
    bool no_memory;
};

// Room for one more; false where there is no memory.
static bool array_add(void *array, size_t n, size_t size) {
    void **at = array;
    if ((n & (n - 1)) != 0)
        return true; // there is room up to the next power of two
    void *more = realloc(*at, (n == 0 ? 1 : 2 * n) * size);
    if (more == NULL)
        return false;
    *at = more;
    return true;
}

static bool is_about(const struct contact_held *held, const struct consent_entry *entry) {
    return (entry->kind == ENTRY_STATE || entry->kind == ENTRY_LATE) && entry->tenant == held->tenant &&
           entry->pseudonym == held->pseudonym;
}

static void take_change(void *arg, const struct consent_entry *entry) {
    struct reading *reading = arg;
    struct contact_held *held = reading->held;
    if (!is_about(held, entry) || reading->no_memory)
        return;
    reading->no_memory = !array_add(&held->changes, held->n_changes, sizeof *held->changes);
    if (!reading->no_memory)
        held->changes[held->n_changes++] = *entry;
}

static int take_line(void *arg, const struct evidence_line *line) {
    struct reading *reading = arg;
    struct contact_held *held = reading->held;
    bool whole = line->kind == EVIDENCE_CHANGE || line->kind == EVIDENCE_RECORD;
    if (!whole || !is_about(held, &line->entry))
        return 0;
    if (!array_add(&held->evidence, held->n_evidence, sizeof *held->evidence))
        return ERR_NOMEM;
    held->evidence[held->n_evidence++] = *line;
    return 0;
}

static int take_last_open(void *arg, uint64_t pseudonym, const struct last_open *value) {
    struct contact_held *held = ((struct reading *)arg)->held;
    if (pseudonym != held->pseudonym)
        return 0;
    held->has_open = value != NULL;
    if (value != NULL)
        held->open = *value;
    return 0;
}

static int windows_take(struct contact_held *held, const struct state *state) {
    const struct tenant_state *tenant = state_tenant(state, held->tenant);
    for (size_t i = 0; tenant != NULL && i < tenant_state_window_count(tenant); i++) {
        struct held_window found;
        const struct window *window = tenant_state_window_at(tenant, i, &found.sent_day);
        if (!window_get(window, held->pseudonym, &found.cell))
            continue;
        if (!array_add(&held->windows, held->n_windows, sizeof *held->windows))
            return ERR_NOMEM;
        held->windows[held->n_windows++] = found;
    }
    return 0;
}

static int read_state(struct reading *reading, const struct config *config, uint32_t partition, struct err *err) {
    struct contact_held *held = reading->held;
    struct journal *journal = NULL;
    struct state *state = NULL;
    const struct state_filter filter = {
        .kinds = "LW", .of_tenant = true, .tenant = held->tenant, .last_open = take_last_open, .arg = reading};
    int rc = journal_open_readonly(&journal, config, err);
    if (rc == 0) {
        rc = state_view_load(&state, journal, config, partition, &filter, err);
        journal->ops->close(journal);
    }
    if (rc == ERR_NOT_FOUND)
        return 0; // nothing was ever committed
    if (rc == 0 && windows_take(held, state) != 0)
        rc = err_set(err, ERR_NOMEM, "no memory for a contact's windows");
    state_free(state);
    return rc;
}

static int read_evidence(struct reading *reading, const struct config *config, uint32_t partition, struct err *err) {
    struct evidence_log *log = NULL;
    struct evidence_chain *chain = malloc(sizeof *chain);
    int rc = chain == NULL ? err_set(err, ERR_NOMEM, "no memory to read the consent log")
                           : evidence_log_open(&log, config, false, err);
    if (rc == 0) {
        rc = evidence_log_read(log, partition, take_line, reading, chain, err);
        if (rc == ERR_NOMEM)
            (void)err_set(err, rc, "no memory for a contact's lines of the consent log");
    }
    evidence_log_close(log);
    free(chain);
    return rc;
}

int contact_held_read(struct contact_held *held, const struct config *config, struct consent_store *store,
                      struct err *err) {
    struct reading reading = {.held = held};
    uint32_t partition = partition_of(held->tenant, (uint32_t)config->kafka_partitions);
    int rc = consent_store_get(store, held->tenant, held->pseudonym, &held->record, err);
    if (rc == 0)
        rc = consent_store_entries(store, partition, 0, take_change, &reading, err);
    if (rc == 0 && reading.no_memory)
        rc = err_set(err, ERR_NOMEM, "no memory for a contact's changes");
    if (rc == 0)
        rc = read_evidence(&reading, config, partition, err);
    if (rc == 0)
        rc = read_state(&reading, config, partition, err);
    return rc;
}

void contact_held_free(struct contact_held *held) {
    free(held->windows);
    free(held->changes);
    free(held->evidence);
    held->windows = NULL;
    held->changes = NULL;
    held->evidence = NULL;
    held->n_windows = held->n_changes = held->n_evidence = 0;
}
