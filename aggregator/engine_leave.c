// Contacts who left, as the change stream tells it: their last open and their places in windows go at once. The consent
// store is asked again about each of them, so a stream that is behind, or not this store's, erases nothing that may stay.
// What the stream does not tell any more, a sweep finds.
#include "aggregator/engine_parts.h"
#include "common/consent.h"

#include <inttypes.h>

#define LEAVERS_MAX 4096
// How far below the committed stamp the stream is read again after a load: what was read and not yet erased at a crash is
// newer than that. Reading an entry again is harmless.
#define READ_AGAIN 10000u
#define APPLIED_MS 200 // between two reports of a partition

struct leaver {
    uint32_t tenant;
    uint64_t pseudonym;
};

struct leavers {
    bool followed;
    uint64_t read;    // entries up to here are below, or were none
    uint64_t done;    // up to here erased, in memory and batch
    uint64_t handed;  // up to here in the commit under way
    uint64_t applied; // up to here erased durably
    uint64_t told;    // up to here told to the store
    bool unsafe, unsafe_handed; // erased since the last commit began; in the one under way
    bool telling;     // a report is under way
    int64_t told_ms;
    unsigned sweeps_wanted, sweep_begun, sweeps_done; // numbers of gaps that a whole sweep has to cover
    size_t n;
    struct leaver at[LEAVERS_MAX];
};

struct leave_task {
    struct task task;
    uint64_t through; // what is done once these are
    struct consent_query queries[LEAVERS_MAX];
};

bool contact_erase(struct partition *partition, uint32_t tenant, uint64_t pseudonym) {
    uint8_t key[RECORD_KEY_MAX];
    const struct tenant_state *known = state_tenant(partition->state, tenant);
    struct last_open last_open;
    count_metric(METRIC_ERASED, 1);
    if (partition->leavers != NULL)
        partition->leavers->unsafe = true;
    // The last one first: an emptied window's place is taken by the last.
    for (size_t i = known == NULL ? 0 : tenant_state_window_count(known); i-- > 0;) {
        uint32_t sent_day;
        struct window_cell cell;
        const struct window *window = tenant_state_window_at(known, i, &sent_day);
        if (window_get(window, pseudonym, &cell) &&
            !partition_erase(partition, key_window(key, tenant, sent_day, pseudonym), key))
            return false;
    }
    return !last_open_get(state_last_open(partition->state), tenant, pseudonym, &last_open) ||
           partition_erase(partition, key_last_open(key, tenant, pseudonym), key);
}

// ---- erasing --------------------------------------------------------------------------------------------------------

static bool is_here(const struct partition *partition, const struct leaver *leaver) {
    const struct tenant_state *tenant = state_tenant(partition->state, leaver->tenant);
    struct last_open last_open;
    struct window_cell cell;
    uint32_t sent_day;
    bool here = last_open_get(state_last_open(partition->state), leaver->tenant, leaver->pseudonym, &last_open);
    for (size_t i = 0; tenant != NULL && !here && i < tenant_state_window_count(tenant); i++)
        here = window_get(tenant_state_window_at(tenant, i, &sent_day), leaver->pseudonym, &cell);
    return here;
}

// Who left and came back keeps what was opened after that, and nothing else.
static bool may_stay(const struct partition *partition, const struct consent_query *query) {
    const struct tenant *tenant = tenant_table_find(partition->engine->tenants, query->tenant);
    const struct tenant_version *version =
        tenant == NULL ? NULL : tenant_version_on(tenant, engine_today(partition->engine));
    struct last_open last_open;
    if (query->record.state == CONSENT_UNKNOWN || consent_state_leaves(query->record.state) ||
        !last_open_get(state_last_open(partition->state), query->tenant, query->pseudonym, &last_open))
        return false;
    if (version == NULL)
        return true; // not to be decided without its configuration; goes by age
    for (int regime = REGIME_EXEMPTION; regime <= REGIME_CONSENT; regime++)
        for (int class = CLASS_TRANSACTIONAL; class <= CLASS_PROSPECTING; class++)
            if (consent_allows(&query->record, (enum message_class)class, (enum regime)regime,
                               version->exemption_basis != NULL, PURPOSE_INACTIVITY, last_open.day))
                return true;
    return false;
}

static void leave_free(struct task *task) {
    free(task);
}

// Where nothing that was erased waits for a commit, what is done is durable.
static void leave_settle(struct partition *partition) {
    struct leavers *leavers = partition->leavers;
    if (!leavers->unsafe && !leavers->unsafe_handed)
        leavers->applied = leavers->done;
    leave_tell(partition);
}

static void leave_done(struct partition *partition, uint64_t through) {
    CHECK(through >= partition->leavers->done);
    partition->leavers->done = through;
    leave_settle(partition);
}

static void leave_answered(struct partition *partition, struct task *task) {
    for (size_t i = 0; i < task->n_queries; i++) {
        const struct consent_query *query = &task->queries[i];
        if (!may_stay(partition, query) && !contact_erase(partition, query->tenant, query->pseudonym))
            return;
    }
    uint64_t through = ((const struct leave_task *)task)->through;
    task_end(task);
    leave_done(partition, through);
}

static const struct task_ops leave_ops = {.answered = leave_answered, .free = leave_free};

bool leave_begin(struct partition *partition) {
    struct leavers *leavers = partition->leavers;
    if (leavers == NULL || leavers->done == leavers->read)
        return false;
    struct leave_task *leave = leavers->n == 0 ? NULL : calloc(1, sizeof *leave);
    if (leavers->n > 0 && leave == NULL)
        return false;
    for (size_t i = 0; i < leavers->n; i++)
        if (is_here(partition, &leavers->at[i]))
            leave->queries[leave->task.n_queries++] =
                (struct consent_query){.tenant = leavers->at[i].tenant, .pseudonym = leavers->at[i].pseudonym};
    bool was_full = leavers->n == LEAVERS_MAX;
    leavers->n = 0;
    if (was_full && partition->engine->changes != NULL)
        consent_stream_resume(partition->engine->changes, partition->number);
    if (leave == NULL || leave->task.n_queries == 0) {
        free(leave);
        leave_done(partition, leavers->read);
        return false;
    }
    leave->task.ops = &leave_ops;
    leave->task.queries = leave->queries;
    leave->through = leavers->read;
    task_start(partition, &leave->task);
    return true;
}

// ---- what the stream tells ------------------------------------------------------------------------------------------

// Everything that is here has to be looked at before more is reported.
static void sweep_want(struct partition *partition) {
    partition->leavers->sweeps_wanted++;
    partition->swept_on = 0;
    partition->sweep_cursor = (struct last_open_cursor){0};
    engine_schedule(partition->engine);
}

bool engine_change(struct engine *engine, uint32_t number, const struct consent_entry *entry) {
    CHECK(number < engine->n_partitions);
    struct partition *partition = &engine->partitions[number];
    struct leavers *leavers = partition->leavers;
    if (partition->status != PARTITION_RUNNING || leavers == NULL || entry->epoch <= leavers->read)
        return true;
    bool leaves = (entry->kind == ENTRY_STATE || entry->kind == ENTRY_LATE) && consent_state_leaves(entry->state);
    if (leaves && leavers->n == LEAVERS_MAX)
        return false;
    // Also who is not here now: a task under way may be about to put the contact in.
    if (leaves)
        leavers->at[leavers->n++] = (struct leaver){entry->tenant, entry->pseudonym};
    if (entry->kind == ENTRY_ERASED)
        sweep_want(partition);
    leavers->read = entry->epoch;
    engine_schedule(engine);
    return true;
}

static bool on_entry(void *arg, uint32_t partition, const struct consent_entry *entry) {
    return engine_change(arg, partition, entry);
}

static void on_gap(void *arg, uint32_t number, uint64_t first, uint64_t last) {
    struct engine *engine = arg;
    struct partition *partition = &engine->partitions[number];
    if (partition->status != PARTITION_RUNNING || partition->leavers == NULL)
        return;
    log_info("partition %" PRIu32 ": %" PRIu64 " changes of consent are not in the stream any more; a sweep covers them",
             number, last - first + 1);
    sweep_want(partition);
    partition->leavers->read = last;
}

static void on_level(void *arg, uint32_t partition, const struct consent_stamp *stamp) {
    struct engine *engine = arg;
    (void)partition;
    (void)stamp;
    if (engine->changes_lost)
        log_info("the changes of consent are followed again");
    engine->changes_lost = false;
}

static void on_lost(void *arg, const char *why) {
    struct engine *engine = arg;
    if (!engine->changes_lost)
        log_warn("who leaves is erased by the daily sweep alone until the changes of consent can be followed: %s", why);
    engine->changes_lost = true;
}

int leave_start(struct engine *engine, struct err *err) {
    const struct consent_stream_hooks hooks = {
        .entry = on_entry, .gap = on_gap, .level = on_level, .lost = on_lost, .arg = engine};
    return engine->parts.follows_changes
               ? consent_stream_create(&engine->changes, engine->loop, engine->config, &hooks, err)
               : 0;
}

void leave_follow(struct partition *partition) {
    struct engine *engine = partition->engine;
    const struct consent_stamp *stamp = state_stamp(partition->state);
    CHECK(partition->leavers == NULL);
    partition->leavers = calloc(1, sizeof *partition->leavers);
    if (partition->leavers == NULL) {
        engine_fail(engine, "no memory to follow the changes of partition %" PRIu32, partition->number);
        return;
    }
    // What happened before is the first sweep's, which comes after every load.
    partition->leavers->sweeps_wanted = 1;
    uint64_t from = stamp == NULL || stamp->epoch < READ_AGAIN ? 0 : stamp->epoch - READ_AGAIN;
    partition->leavers->read = partition->leavers->done = from;
    partition->leavers->handed = partition->leavers->applied = partition->leavers->told = from;
    if (engine->changes != NULL)
        consent_stream_follow(engine->changes, partition->number, from);
}

void leave_drop(struct partition *partition) {
    if (partition->leavers != NULL && partition->engine->changes != NULL)
        consent_stream_leave(partition->engine->changes, partition->number);
    free(partition->leavers);
    partition->leavers = NULL;
}

// ---- what is reported -----------------------------------------------------------------------------------------------

void leave_sweep_begun(struct partition *partition) {
    if (partition->leavers != NULL)
        partition->leavers->sweep_begun = partition->leavers->sweeps_wanted;
}

void leave_sweep_done(struct partition *partition) {
    struct leavers *leavers = partition->leavers;
    if (leavers == NULL)
        return;
    leavers->sweeps_done = leavers->sweep_begun;
    leave_settle(partition);
}

void leave_commit_begins(struct partition *partition) {
    struct leavers *leavers = partition->leavers;
    if (leavers == NULL)
        return;
    leavers->handed = leavers->done;
    leavers->unsafe_handed = leavers->unsafe;
    leavers->unsafe = false;
}

void leave_committed(struct partition *partition) {
    struct leavers *leavers = partition->leavers;
    if (leavers == NULL)
        return;
    leavers->unsafe_handed = false;
    leavers->applied = leavers->handed;
    leave_settle(partition);
}

// The partition may have gone and come back meanwhile: nothing but the engine is held.
static void on_told(void *arg, int status, const struct consent_stamp *stamp) {
    struct partition *partition = arg;
    (void)stamp;
    if (partition->leavers == NULL)
        return;
    partition->leavers->telling = false;
    if (status != 0)
        partition->leavers->told = 0; // again: there may be no next change for a long time
}

void leave_tell(struct partition *partition) {
    struct leavers *leavers = partition->leavers;
    const struct consent_ops *consent = &partition->engine->parts.consent;
    int64_t now_ms = clock_monotonic_ms();
    if (leavers == NULL || consent->applied == NULL || leavers->telling || leavers->applied <= leavers->told ||
        leavers->sweeps_done != leavers->sweeps_wanted || now_ms - leavers->told_ms < APPLIED_MS)
        return;
    if (consent->applied(consent->arg, partition->number, leavers->applied, on_told, partition) != 0)
        return;
    leavers->telling = true;
    leavers->told = leavers->applied;
    leavers->told_ms = now_ms;
}
