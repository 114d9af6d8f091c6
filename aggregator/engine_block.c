// Blocks and imports: which contacts have to be asked for, then all events in order, in one step with the day's ledger,
// the segment and the position.
#include "aggregator/decide.h"
#include "aggregator/edges.h"
#include "aggregator/engine_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NOT_ASKED UINT32_MAX
// Blocks are gathered up to about so many events: what one task asks for is then worth its round trip. CONSENT_LOOKUP_MAX
// holds these and a full block.
#define GATHERED_EVENTS_MAX 16384u
#define PREFETCH_FAR 32
#define PREFETCH_NEAR 16

// ---- what is known of an event --------------------------------------------------------------------------------------

// The tenant of the event before, because events of one tenant stand together.
struct fact_finder {
    struct partition *partition;
    uint32_t today, day;
    bool has_tenant;
    uint32_t tenant_id;
    const struct tenant *tenant;
    const struct tenant_state *known;
};

static void facts_find(struct fact_finder *finder, const struct event *event, struct facts *facts) {
    const struct state *state = finder->partition->state;
    if (!finder->has_tenant || finder->tenant_id != event->tenant) {
        const struct engine *engine = finder->partition->engine;
        bool ours = partition_of(event->tenant, engine->n_partitions) == finder->partition->number;
        finder->has_tenant = true;
        finder->tenant_id = event->tenant;
        finder->tenant = ours ? tenant_table_find(engine->tenants, event->tenant) : NULL;
        finder->known = finder->tenant == NULL ? NULL : state_tenant(state, event->tenant);
    }
    const struct tenant_record *record = finder->known == NULL ? NULL : tenant_state_record(finder->known);
    *facts = (struct facts){.today = finder->today, .day = finder->day, .tenant = finder->tenant};
    if (finder->tenant == NULL)
        return;
    if (record != NULL && record->first_measured != DAY_NONE)
        facts->measured = record;
    facts->settings = state_settings_on(state, event->sent_day);
    facts->has_open = last_open_get(state_last_open(state), event->tenant, event->pseudonym, &facts->last_open);
    if (decide_in_window(event, facts)) {
        const struct window *window = tenant_state_window(finder->known, event->sent_day);
        facts->has_cell = window != NULL && window_get(window, event->pseudonym, &facts->cell);
    }
}

// What facts_find will touch for the events after this one, of which `left` are left.
static void facts_prefetch(const struct fact_finder *finder, const struct event *event, size_t left) {
    const struct last_open_table *table = state_last_open(finder->partition->state);
    if (left > PREFETCH_FAR)
        last_open_prefetch_far(table, event[PREFETCH_FAR].tenant, event[PREFETCH_FAR].pseudonym);
    if (left <= PREFETCH_NEAR)
        return;
    const struct event *near = &event[PREFETCH_NEAR];
    last_open_prefetch_near(table, near->tenant, near->pseudonym);
    const struct window *window = NULL;
    if (finder->known != NULL && near->tenant == finder->tenant_id && event_class(near) == CLASS_TRANSACTIONAL)
        window = tenant_state_window(finder->known, near->sent_day);
    if (window != NULL)
        window_prefetch(window, near->pseudonym);
}

static bool last_open_change(struct partition *partition, uint32_t tenant, uint64_t pseudonym,
                             struct last_open last_open) {
    uint8_t key[RECORD_KEY_MAX];
    return partition_put(partition, key_last_open(key, tenant, pseudonym), key,
                         last_open_encode(last_open, partition->engine->value));
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

// One message's events among those of the task.
struct block_part {
    struct message_head head;
    int64_t position;
    uint8_t rules_hash[RULES_HASH_SIZE];
    size_t first, end;
};

struct block {
    struct task task;
    uint32_t today;
    uint64_t tenants_serial; // the table that the questions were chosen by
    size_t n_parts, parts_room;
    struct block_part *parts;
    size_t n_events, events_room;
    struct event *events;
    uint32_t *query_of; // by event; NOT_ASKED
    uint8_t *outcome_of; // by event that was not asked for: it changes nothing, so nothing before it changes that
};

static void block_free(struct task *task) {
    struct block *block = (struct block *)task;
    free(block->task.queries);
    free(block->parts);
    free(block->events);
    free(block->query_of);
    free(block->outcome_of);
    free(block);
}

// Chooses the contacts to ask for: those of events that would change something.
static void part_choose(struct block *block, struct partition *partition, const struct block_part *part) {
    struct fact_finder finder = {.partition = partition, .today = block->today, .day = part->head.day};
    struct task *task = &block->task;
    for (size_t i = part->first; i < part->end; i++) {
        const struct event *event = &block->events[i];
        struct facts facts;
        struct decision decision;
        facts_prefetch(&finder, event, part->end - i);
        facts_find(&finder, event, &facts);
        decide_event(event, &facts, &decision);
        block->query_of[i] = NOT_ASKED;
        block->outcome_of[i] = (uint8_t)decision.outcome;
        if (!decision_asks(&decision))
            continue;
        const struct consent_query *last = task->n_queries == 0 ? NULL : &task->queries[task->n_queries - 1];
        if (last == NULL || last->tenant != event->tenant || last->pseudonym != event->pseudonym)
            task->queries[task->n_queries++] =
                (struct consent_query){.tenant = event->tenant, .pseudonym = event->pseudonym};
        block->query_of[i] = (uint32_t)task->n_queries - 1;
    }
}

static int query_order(const void *left, const void *right) {
    const struct consent_query *a = left, *b = right;
    if (a->tenant != b->tenant)
        return a->tenant < b->tenant ? -1 : 1;
    return a->pseudonym < b->pseudonym ? -1 : a->pseudonym > b->pseudonym;
}

// A contact of several messages is asked for once, so that all of its events get the same answer.
static void queries_unite(struct block *block) {
    struct task *task = &block->task;
    qsort(task->queries, task->n_queries, sizeof *task->queries, query_order);
    size_t n = 0;
    for (size_t i = 0; i < task->n_queries; i++)
        if (n == 0 || query_order(&task->queries[n - 1], &task->queries[i]) != 0)
            task->queries[n++] = task->queries[i];
    task->n_queries = n;
    for (size_t i = 0; i < block->n_events; i++) {
        if (block->query_of[i] == NOT_ASKED)
            continue;
        struct consent_query key = {.tenant = block->events[i].tenant, .pseudonym = block->events[i].pseudonym};
        const struct consent_query *found = bsearch(&key, task->queries, n, sizeof key, query_order);
        CHECK(found != NULL);
        block->query_of[i] = (uint32_t)(found - task->queries);
    }
}

static void block_choose(struct block *block, struct partition *partition) {
    block->task.n_queries = 0;
    block->tenants_serial = partition->engine->tenants_serial;
    for (size_t i = 0; i < block->n_parts; i++)
        part_choose(block, partition, &block->parts[i]);
    if (block->n_parts > 1 && block->task.n_queries > 0)
        queries_unite(block);
}

// Applies one event; the outcome, or a negative ERR_* after the engine has failed.
static int event_apply(struct block *block, struct partition *partition, struct fact_finder *finder, size_t at) {
    const struct event *event = &block->events[at];
    struct facts facts;
    struct decision decision;
    if (block->query_of[at] == NOT_ASKED)
        return block->outcome_of[at];
    facts_find(finder, event, &facts);
    decide_event(event, &facts, &decision);
    if (!decision_asks(&decision)) // an event before it changed all that it would have
        return decision.outcome;
    const struct consent_query *query = &block->task.queries[block->query_of[at]];
    CHECK(query->tenant == event->tenant && query->pseudonym == event->pseudonym);
    int outcome = decide_with_consent(event, finder->day, &query->record, &decision);
    uint8_t key[RECORD_KEY_MAX];
    if (decision.raises && !last_open_change(partition, event->tenant, event->pseudonym, decision.last_open))
        return ERR_IO;
    if (decision.sets_cell &&
        !partition_put(partition, key_window(key, event->tenant, event->sent_day, event->pseudonym), key,
                       window_encode(decision.cell, partition->engine->value)))
        return ERR_IO;
    return outcome;
}

static bool block_ledger(struct partition *partition, const struct message_head *head, const uint8_t *rules_hash,
                         const uint64_t outcomes[OUTCOMES]) {
    const struct day_record *known = state_day(partition->state, head->day);
    struct day_record day = known == NULL ? (struct day_record){0} : *known;
    uint64_t received = 0;
    for (int i = 0; i < OUTCOMES; i++)
        received += outcomes[i];
    for (int i = 0; i < AGG_DROPS; i++) {
        day.drops[i] += outcomes[i];
        count_metric(METRIC_DROPPED + (unsigned)i, outcomes[i]);
    }
    day.received += received;
    day.counted += outcomes[OUTCOME_COUNTED];
    day.repeated += outcomes[OUTCOME_REPEATED];
    count_metric(METRIC_RECEIVED, received);
    count_metric(METRIC_COUNTED, outcomes[OUTCOME_COUNTED]);
    count_metric(METRIC_REPEATED, outcomes[OUTCOME_REPEATED]);
    if (!day_add_rules(&day, rules_hash))
        log_warn("more than %d files of fetch-class rules on one day: releases name the first ones", DAY_RULES_MAX);
    return day_put(partition, head->day, &day);
}

// False after the engine has failed.
static bool part_apply(struct block *block, struct partition *partition, const struct block_part *part) {
    uint64_t outcomes[OUTCOMES] = {0};
    if (message_is_seen(partition, &part->head)) { // the same one came twice within the task
        count_metric(METRIC_DUPLICATES, 1);
        message_position(partition, part->position);
        return true;
    }
    struct fact_finder finder = {.partition = partition, .today = block->today, .day = part->head.day};
    for (size_t i = part->first; i < part->end; i++) {
        if (block->query_of[i] != NOT_ASKED) // about as many of those ahead are
            facts_prefetch(&finder, &block->events[i], part->end - i);
        int outcome = event_apply(block, partition, &finder, i);
        if (outcome < 0)
            return false;
        outcomes[outcome]++;
    }
    if (!block_ledger(partition, &part->head, part->rules_hash, outcomes))
        return false;
    message_done(partition, &part->head, part->position);
    return !partition->engine->failed;
}

static void block_answered(struct partition *partition, struct task *task) {
    struct block *block = (struct block *)task;
    if (block->tenants_serial != partition->engine->tenants_serial) {
        block_choose(block, partition);
        task_ask(task);
        return;
    }
    for (size_t i = 0; i < block->n_parts; i++)
        if (!part_apply(block, partition, &block->parts[i]))
            return;
    task_end(task);
}

static const struct task_ops block_ops = {.answered = block_answered, .free = block_free};

static bool block_grow(struct block *block, size_t n_events) {
    if (block->n_parts == block->parts_room) {
        size_t room = block->parts_room == 0 ? 1 : 2 * block->parts_room;
        struct block_part *parts = realloc(block->parts, room * sizeof *parts);
        if (parts == NULL)
            return false;
        block->parts = parts;
        block->parts_room = room;
    }
    if (block->n_events + n_events > block->events_room) {
        size_t room = block->n_events == 0 ? n_events : block->n_events + n_events + GATHERED_EVENTS_MAX;
        struct event *events = realloc(block->events, room * sizeof *events);
        if (events == NULL)
            return false;
        block->events = events;
        block->events_room = room;
    }
    return true;
}

// One more message's events; ERR_CORRUPT, ERR_NOMEM.
static int block_add(struct block *block, struct message_codec *codec, const struct message_head *head,
                     const uint8_t *body, size_t body_len, int64_t position) {
    struct block_part part = {.head = *head, .position = position, .first = block->n_events};
    const struct event *events;
    size_t n_events;
    if (message_decode_block(codec, head, body, body_len, part.rules_hash, &events, &n_events) != 0)
        return ERR_CORRUPT;
    if (!block_grow(block, n_events))
        return ERR_NOMEM;
    if (n_events > 0)
        memcpy(block->events + block->n_events, events, n_events * sizeof *events);
    block->n_events += n_events;
    part.end = block->n_events;
    block->parts[block->n_parts++] = part;
    return 0;
}

static int block_prepare(struct block *block) {
    size_t room = block->n_events == 0 ? 1 : block->n_events;
    block->query_of = malloc(room * sizeof *block->query_of);
    block->outcome_of = malloc(room);
    block->task.queries = calloc(room, sizeof *block->task.queries);
    return block->query_of == NULL || block->outcome_of == NULL || block->task.queries == NULL ? ERR_NOMEM : 0;
}

void blocks_begin(struct partition *partition, const struct message_head *head, const uint8_t *body, size_t body_len) {
    struct engine *engine = partition->engine;
    struct message_head next = *head;
    struct block *block = calloc(1, sizeof *block);
    if (block == NULL) {
        engine_fail(engine, "no memory for a block");
        return;
    }
    block->task.ops = &block_ops;
    block->today = engine_today(engine);
    int rc;
    do {
        rc = block_add(block, engine->codec, &next, body, body_len, queue_first(partition)->position);
        if (rc == 0)
            message_drop(partition);
    } while (rc == 0 && block->n_events < GATHERED_EVENTS_MAX &&
             message_is_block(partition, block->today, &next, &body, &body_len));
    if (rc == ERR_CORRUPT && block->n_parts == 0) {
        const struct queued *queued = queue_first(partition);
        message_set_aside(partition, queued->position, queued->data, queued->len, "its events are damaged");
        message_drop(partition);
        block_free(&block->task);
        return;
    }
    // A damaged one behind others is set aside in the next turn, as the first.
    if (rc == ERR_NOMEM || block_prepare(block) != 0) {
        block_free(&block->task);
        engine_fail(engine, "no memory for a block");
        return;
    }
    block_choose(block, partition);
    task_start(partition, &block->task);
}

// ---- imports --------------------------------------------------------------------------------------------------------

struct import {
    struct task task;
    struct message_head head;
    int64_t position;
    uint32_t tenant, measured_since;
    struct import_row *rows;
};

static void import_free(struct task *task) {
    struct import *import = (struct import *)task;
    free(import->task.queries);
    free(import->rows);
    free(import);
}

// A day brought in counts as an open of requested mail, under whichever regime allows.
static bool import_allows(const struct tenant *tenant, const struct consent_record *record, uint32_t day) {
    const struct tenant_version *version = tenant_version_on(tenant, day);
    if (version == NULL)
        version = &tenant->versions[0]; // days before the tenant came here
    bool basis = version->exemption_basis != NULL;
    return consent_allows(record, CLASS_REQUESTED, REGIME_EXEMPTION, basis, PURPOSE_INACTIVITY, day) ||
           consent_allows(record, CLASS_REQUESTED, REGIME_CONSENT, basis, PURPOSE_INACTIVITY, day);
}

static bool import_row_apply(struct partition *partition, const struct import *import, const struct tenant *tenant,
                             size_t at) {
    const struct consent_query *query = &import->task.queries[at];
    uint32_t day = import->rows[at].day;
    uint32_t today = engine_today(partition->engine);
    struct last_open last_open;
    if (day == DAY_NONE || day > today || today - day > LAST_OPEN_KEEP_DAYS ||
        !import_allows(tenant, &query->record, day))
        return true;
    bool exists = last_open_get(state_last_open(partition->state), import->tenant, query->pseudonym, &last_open);
    return !last_open_raise(&last_open, exists, day) ||
           last_open_change(partition, import->tenant, query->pseudonym, last_open);
}

static bool import_declare(struct partition *partition, const struct import *import) {
    const struct tenant_state *known = state_tenant(partition->state, import->tenant);
    const struct tenant_record *there = known == NULL ? NULL : tenant_state_record(known);
    struct tenant_record record = there == NULL ? (struct tenant_record){0} : *there;
    if (import->measured_since == DAY_NONE || record.measured_since == import->measured_since)
        return true;
    record.measured_since = import->measured_since;
    uint8_t key[RECORD_KEY_MAX];
    return partition_put(partition, key_tenant(key, import->tenant), key,
                         tenant_encode(&record, partition->engine->value));
}

static void import_answered(struct partition *partition, struct task *task) {
    struct import *import = (struct import *)task;
    const struct tenant *tenant = tenant_table_find(partition->engine->tenants, import->tenant);
    if (tenant == NULL)
        log_warn("an import for tenant %" PRIu32 " was dropped: the tenant is not configured here", import->tenant);
    for (size_t i = 0; tenant != NULL && i < task->n_queries; i++)
        if (!import_row_apply(partition, import, tenant, i))
            return;
    if (tenant != NULL && !import_declare(partition, import))
        return;
    log_info("last opens of tenant %" PRIu32 " were imported", import->tenant);
    message_done(partition, &import->head, import->position);
    task_end(task);
}

static const struct task_ops import_ops = {.answered = import_answered, .free = import_free};

static int import_fill(struct import *import, const struct import_body *body) {
    size_t room = body->n_rows == 0 ? 1 : body->n_rows;
    import->tenant = body->tenant;
    import->measured_since = body->measured_since;
    import->rows = malloc(room * sizeof *import->rows);
    import->task.queries = calloc(room, sizeof *import->task.queries);
    if (import->rows == NULL || import->task.queries == NULL)
        return ERR_NOMEM;
    if (body->n_rows > 0)
        memcpy(import->rows, body->rows, body->n_rows * sizeof *body->rows);
    for (size_t i = 0; i < body->n_rows; i++)
        import->task.queries[i] = (struct consent_query){.tenant = body->tenant, .pseudonym = body->rows[i].pseudonym};
    import->task.n_queries = body->n_rows;
    return 0;
}

void import_begin(struct partition *partition, const struct message_head *head, const uint8_t *body, size_t body_len,
                  const struct queued *queued) {
    struct engine *engine = partition->engine;
    struct import_body rows;
    if (message_decode_import(engine->codec, body, body_len, &rows) != 0 ||
        partition_of(rows.tenant, engine->n_partitions) != partition->number) {
        message_set_aside(partition, queued->position, queued->data, queued->len, "its rows are damaged");
        return;
    }
    struct import *import = calloc(1, sizeof *import);
    if (import == NULL || import_fill(import, &rows) != 0) {
        if (import != NULL)
            import_free(&import->task);
        engine_fail(engine, "no memory for an import");
        return;
    }
    import->task.ops = &import_ops;
    import->head = *head;
    import->position = queued->position;
    task_start(partition, &import->task);
}
