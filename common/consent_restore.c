#include "common/consent_restore.h"

#include "common/clock.h"
#include "common/consent_notice.h"

#include <stdlib.h>
#include <string.h>

#define CHANGES_AT_ONCE 1000u
#define CHANGES_A_RECORD 3u

struct tenant_size {
    uint32_t tenant;
    uint64_t contacts; // or more
};

struct restore {
    struct consent_store *store;
    struct evidence_log *log;
    uint32_t partition;
    bool dry_run;
    consent_restore_progress_fn progress;
    void *progress_arg;
    struct consent_restored *out;
    struct err *err;
    int rc; // what a callback met
    struct evidence_chain chain;
    struct consent_stamp *known; // what Redis has reached, by ascending epochs
    size_t n_known, known_room;
    struct tenant_size *tenants; // ascending
    size_t n_tenants, tenants_room;
    uint64_t last; // the last epoch before the repair began
    bool entering;
    struct consent_change changes[CHANGES_AT_ONCE + CHANGES_A_RECORD];
    size_t n_changes;
};

static int out_of_memory(struct restore *restore) {
    return restore->rc = err_set(restore->err, ERR_NOMEM, "out of memory for a repair");
}

// Room for one element more.
static void *grown(void *at, size_t n, size_t *room, size_t size) {
    if (n < *room)
        return at;
    size_t more = *room == 0 ? 1024 : 2 * *room;
    void *grown_at = realloc(at, more * size);
    if (grown_at != NULL)
        *room = more;
    return grown_at;
}

// ---- what both share ------------------------------------------------------------------------------------------------
static void know(struct restore *restore, uint64_t epoch, const uint8_t hash[CONSENT_HASH_SIZE]) {
    struct consent_stamp *more =
        grown(restore->known, restore->n_known, &restore->known_room, sizeof *restore->known);
    if (more == NULL) {
        (void)out_of_memory(restore);
        return;
    }
    restore->known = more;
    restore->known[restore->n_known].epoch = epoch;
    memcpy(restore->known[restore->n_known++].hash, hash, CONSENT_HASH_SIZE);
}

static void on_known(void *arg, const struct consent_entry *entry) {
    struct restore *restore = arg;
    if (restore->rc == 0)
        know(restore, entry->epoch, entry->hash);
}

static bool is_known(const struct restore *restore, uint64_t epoch, const uint8_t hash[CONSENT_HASH_SIZE]) {
    size_t low = 0, high = restore->n_known;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (restore->known[middle].epoch < epoch)
            low = middle + 1;
        else
            high = middle;
    }
    return low < restore->n_known && restore->known[low].epoch == epoch &&
           memcmp(restore->known[low].hash, hash, CONSENT_HASH_SIZE) == 0;
}

static bool about_contact(const struct evidence_line *line) {
    return line->kind == EVIDENCE_RECORD || (line->kind == EVIDENCE_CHANGE && (line->entry.kind == ENTRY_STATE ||
                                                                               line->entry.kind == ENTRY_LATE));
}

static int count_tenant(struct restore *restore, uint32_t tenant) {
    size_t at = 0, high = restore->n_tenants;
    while (at < high) {
        size_t middle = at + (high - at) / 2;
        if (restore->tenants[middle].tenant < tenant)
            at = middle + 1;
        else
            high = middle;
    }
    if (at == restore->n_tenants || restore->tenants[at].tenant != tenant) {
        struct tenant_size *more =
            grown(restore->tenants, restore->n_tenants, &restore->tenants_room, sizeof *restore->tenants);
        if (more == NULL)
            return out_of_memory(restore);
        restore->tenants = more;
        memmove(&more[at + 1], &more[at], (restore->n_tenants - at) * sizeof *more);
        more[at] = (struct tenant_size){.tenant = tenant};
        restore->n_tenants++;
    }
    restore->tenants[at].contacts++;
    return 0;
}

static int on_first_pass(void *arg, const struct evidence_line *line) {
    struct restore *restore = arg;
    bool placed = line->kind != EVIDENCE_RECORD && line->kind != EVIDENCE_RECORD_GONE;
    if (placed && is_known(restore, line->entry.epoch, line->entry.hash)) {
        restore->out->shared = line->entry.epoch;
        restore->out->changes = restore->out->erased = 0;
        return 0;
    }
    if (line->entry.epoch > restore->out->shared) {
        restore->out->changes += about_contact(line);
        restore->out->erased += line->kind == EVIDENCE_ERASED || line->kind == EVIDENCE_RECORD_GONE;
    }
    return about_contact(line) ? count_tenant(restore, line->entry.tenant) : 0;
}

// Sets out->shared, log, store, changes.
static int find_shared(struct restore *restore, struct consent_repair *repair) {
    struct consent_restored *out = restore->out;
    int rc = consent_store_repair(restore->store, restore->partition, &out->store, repair, restore->err);
    if (rc == 0)
        rc = consent_store_entries(restore->store, restore->partition, 0, on_known, restore, restore->err);
    if (rc == 0 && restore->rc == 0 && out->store.epoch > 0 &&
        (restore->n_known == 0 || restore->known[restore->n_known - 1].epoch < out->store.epoch))
        know(restore, out->store.epoch, out->store.hash);
    if (rc == 0)
        rc = restore->rc;
    if (rc == 0)
        rc = evidence_log_read(restore->log, restore->partition, on_first_pass, restore, &restore->chain, restore->err);
    out->log = restore->chain.head;
    out->broken = rc == 0 ? evidence_chain_break(&restore->chain) : 0;
    out->logged = out->log.epoch > 0;
    return rc;
}

// ---- applying again -------------------------------------------------------------------------------------------------
static int flush(struct restore *restore) {
    struct consent_restored *out = restore->out;
    size_t n = restore->n_changes;
    restore->n_changes = 0;
    if (n == 0)
        return 0;
    int rc = restore->entering ? consent_store_enter(restore->store, restore->changes, n, restore->err)
                               : consent_store_apply(restore->store, restore->changes, n, restore->err);
    for (size_t i = 0; i < n && rc == 0; i++) {
        bool ok = restore->changes[i].result >= 0;
        if (restore->entering)
            out->entered++;
        else if (ok)
            out->applied++;
        else
            out->refused++;
    }
    if (rc == 0 && restore->progress != NULL)
        restore->progress(restore->progress_arg, restore->partition, out->applied + out->refused + out->entered);
    return restore->rc = rc;
}

static void add(struct restore *restore, const struct consent_entry *entry, uint8_t state, uint32_t since,
                uint64_t change_id) {
    CHECK(restore->n_changes < ARRAY_LEN(restore->changes));
    struct consent_change *change = &restore->changes[restore->n_changes++];
    *change = (struct consent_change){.tenant = entry->tenant, .pseudonym = entry->pseudonym, .state = state,
                                      .since = since, .has_change_id = true, .change_id = change_id};
    snprintf(change->notice, sizeof change->notice, "%.*s", NOTICE_MAX, entry->notice);
}

// A record's days come back through the changes that make them.
static void add_record(struct restore *restore, const struct evidence_line *line) {
    const struct consent_entry *entry = &line->entry;
    uint32_t first = line->granted_since != DAY_NONE ? line->granted_since : entry->since;
    if (line->allowed_since != DAY_NONE && line->allowed_since < first)
        add(restore, entry, CONSENT_INFORMED, line->allowed_since, 0);
    if (first < entry->since)
        add(restore, entry, entry->state, first, 0);
    add(restore, entry, entry->state, entry->since, entry->has_change_id ? entry->change_id : 0);
}

static int add_notice(struct restore *restore, const struct consent_entry *entry) {
    struct consent_notice notice;
    // "<version> <purposes> <language> <first day> <hash>"; a version may have blanks.
    size_t at = strlen(entry->notice);
    for (int blanks = 0; at > 0 && blanks < 4; blanks += entry->notice[at] == ' ')
        at--;
    if (at == 0 || consent_notice_parse(entry->notice, at, entry->notice + at + 1, strlen(entry->notice + at + 1),
                                        &notice) != 0)
        return 0; // of library 2, which did not say what the notice names
    int rc = consent_store_notice_add(restore->store, &notice, restore->err);
    return rc == ERR_REFUSED ? 0 : rc;
}

// What is about no contact and can be done again.
static int act(struct restore *restore, const struct consent_entry *entry) {
    int64_t rc = flush(restore);
    if (rc != 0)
        return (int)rc;
    if (entry->kind == ENTRY_ERASED)
        rc = consent_store_erase_tenant(restore->store, entry->tenant, restore->err);
    else if (entry->kind == ENTRY_REBUCKETED)
        rc = consent_store_rebucket(restore->store, entry->tenant, (uint32_t)strtoul(entry->notice, NULL, 10), restore->err);
    else if (entry->kind == ENTRY_NOTICE)
        rc = add_notice(restore, entry);
    return restore->rc = rc < 0 && rc != ERR_REFUSED && rc != ERR_INVALID ? (int)rc : 0;
}

static int take(struct restore *restore, const struct consent_entry *entry) {
    if (entry->kind != ENTRY_STATE && entry->kind != ENTRY_LATE)
        return act(restore, entry);
    add(restore, entry, entry->state, entry->since, entry->has_change_id ? entry->change_id : entry->epoch);
    return restore->n_changes >= CHANGES_AT_ONCE ? flush(restore) : 0;
}

static int on_second_pass(void *arg, const struct evidence_line *line) {
    struct restore *restore = arg;
    if (line->entry.epoch <= restore->out->shared)
        return 0;
    if (line->kind == EVIDENCE_CHANGE)
        return take(restore, &line->entry);
    if (line->kind != EVIDENCE_RECORD)
        return 0;
    add_record(restore, line);
    return restore->n_changes >= CHANGES_AT_ONCE ? flush(restore) : 0;
}

struct branch {
    struct restore *restore;
    struct consent_entry *entries;
    size_t n, room;
};

// Collected first: the connection that reads the stream is the one that changes it.
static void on_branch(void *arg, const struct consent_entry *entry) {
    struct branch *branch = arg;
    struct restore *restore = branch->restore;
    if (entry->epoch > restore->last || restore->rc != 0)
        return;
    struct consent_entry *more = grown(branch->entries, branch->n, &branch->room, sizeof *branch->entries);
    if (more == NULL) {
        (void)out_of_memory(restore);
        return;
    }
    branch->entries = more;
    branch->entries[branch->n++] = *entry;
}

// What only this Redis has, after the shared epoch.
static int enter_branch(struct restore *restore) {
    struct branch branch = {.restore = restore};
    int rc = consent_store_entries(restore->store, restore->partition, restore->out->shared, on_branch, &branch,
                                   restore->err);
    if (rc == 0)
        rc = restore->rc;
    restore->entering = true;
    for (size_t i = 0; i < branch.n && rc == 0; i++)
        rc = take(restore, &branch.entries[i]);
    if (rc == 0)
        rc = flush(restore);
    free(branch.entries);
    return rc;
}

static int repair_store(struct restore *restore, const struct consent_repair *repair) {
    struct consent_restored *out = restore->out;
    if (repair->begun && repair->shared < out->shared)
        out->shared = repair->shared;
    restore->last = repair->last;
    // One that was interrupted goes on where the log's end is what it joined, or has followed since.
    bool goes_on = repair->begun && (memcmp(repair->log_hash, out->log.hash, CONSENT_HASH_SIZE) == 0 ||
                                     is_known(restore, out->log.epoch, out->log.hash));
    if (!goes_on) {
        int64_t joined =
            consent_store_join(restore->store, restore->partition, out->shared, &out->log, restore->err);
        if (joined < 0)
            return (int)joined;
        restore->last = (uint64_t)joined - 1;
    }
    int rc = 0;
    for (size_t i = 0; i < restore->n_tenants && rc == 0; i++) // only where the tenant has no contact
        rc = consent_store_size_hint(restore->store, restore->tenants[i].tenant, restore->tenants[i].contacts,
                                     restore->err);
    if (rc == 0)
        rc = evidence_log_read(restore->log, restore->partition, on_second_pass, restore, &restore->chain, restore->err);
    if (rc == 0)
        rc = flush(restore);
    if (rc == 0)
        rc = enter_branch(restore);
    if (rc == 0) {
        int64_t ended = consent_store_joined(restore->store, restore->partition, restore->err);
        rc = ended < 0 ? (int)ended : 0;
    }
    return rc;
}

int consent_restore(struct consent_store *store, struct evidence_log *log, uint32_t partition, bool dry_run,
                    consent_restore_progress_fn progress, void *arg, struct consent_restored *restored,
                    struct err *err) {
    struct restore *restore = calloc(1, sizeof *restore);
    struct consent_repair repair;
    struct err doubt;
    *restored = (struct consent_restored){0};
    if (restore == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for a repair");
    *restore = (struct restore){.store = store, .log = log, .partition = partition, .dry_run = dry_run,
                                .progress = progress, .progress_arg = arg, .out = restored, .err = err};
    int rc = find_shared(restore, &repair);
    if (rc == 0 && restored->logged) {
        // The stream may not show the log's head any more: its entry was erased, or trimmed.
        restored->needed = repair.begun || (!is_known(restore, restored->log.epoch, restored->log.hash) &&
                                            consent_store_leads_on(store, partition, &restored->log, &doubt) != 0);
        if (restored->needed && !dry_run)
            rc = repair_store(restore, &repair);
    }
    free(restore->known);
    free(restore->tenants);
    free(restore);
    return rc;
}
