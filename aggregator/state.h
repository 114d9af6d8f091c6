// What the aggregator knows of one partition, in memory. It is built only by state_apply, from the same records that the
// journal keeps, so that loading and living cannot differ; state_change also puts the record into the batch of the next
// commit. Threads: one at a time (a loader's, then the engine's). Pointers that it hands out live until the next change.
// Errors: ERR_CORRUPT (not a record of this version), ERR_NOMEM, ERR_LIMIT (contacts_max, or the limit that it shares).
#ifndef OPENVEIL_STATE_H
#define OPENVEIL_STATE_H

#include "aggregator/batch.h"
#include "aggregator/last_open.h"
#include "aggregator/record.h"
#include "aggregator/windows.h"

struct state;
// `shared`: with other states, and outlives them; NULL: a limit of its own, contacts_max.
int state_create_within(struct state **state, struct last_open_limit *shared, uint64_t contacts_max) MUST_CHECK;
static inline int state_create(struct state **state, uint64_t contacts_max) {
    return state_create_within(state, NULL, contacts_max);
}
void state_free(struct state *state);
// One committed record; value_len 0 erases.
int state_apply(struct state *state, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len)
    MUST_CHECK;
int state_change(struct state *state, struct batch *batch, uint32_t partition, const uint8_t *key, size_t key_len,
                 const uint8_t *value, size_t value_len) MUST_CHECK;

// Whether there is a meta record, and what it says.
bool state_meta(const struct state *state, bool *rehearsal, uint32_t *partitions);
const struct consent_stamp *state_stamp(const struct state *state); // NULL before the first look-up
// The settings that hold on `day`, or NULL; the newest of all.
const struct settings *state_settings_on(const struct state *state, uint32_t day);
const struct settings *state_settings_newest(const struct state *state);

// Edges, by name. What completeness needs is at hand; the whole record is decoded on demand.
struct edge_summary {
    char edge[EDGE_ID_MAX + 1];
    uint32_t registered_day;
    uint32_t closed_through;
    uint32_t incomplete_through;
    uint64_t incomplete_days;
    bool retired;
};
size_t state_edge_count(const struct state *state);
const struct edge_summary *state_edge_at(const struct state *state, size_t index);
bool state_edge(const struct state *state, const char *edge, struct edge_record *out); // false: zeroes it

// Days with a record, ascending.
size_t state_day_count(const struct state *state);
const struct day_record *state_day_at(const struct state *state, size_t index, uint32_t *day);
const struct day_record *state_day(const struct state *state, uint32_t day); // NULL: none

struct last_open_table *state_last_open(const struct state *state);

// A tenant with any record here.
struct tenant_state;
struct tenant_state *state_tenant(const struct state *state, uint32_t tenant); // NULL: none
// All of them, in no order; the cursor begins at 0, and over when a tenant was added.
struct tenant_state *state_tenant_next(const struct state *state, size_t *cursor);
size_t state_tenant_count(const struct state *state);
uint32_t tenant_state_id(const struct tenant_state *tenant);
const struct tenant_record *tenant_state_record(const struct tenant_state *tenant); // NULL: none
const struct window *tenant_state_window(const struct tenant_state *tenant, uint32_t sent_day); // NULL: empty
size_t tenant_state_window_count(const struct tenant_state *tenant); // windows that are not empty, in no order
const struct window *tenant_state_window_at(const struct tenant_state *tenant, size_t index, uint32_t *sent_day);
// What lines of the month that begins on `month` spent, at most `max` of them; the number.
size_t tenant_state_spent(const struct tenant_state *tenant, uint32_t month, struct fraction *spent, size_t max);
bool tenant_state_released(const struct tenant_state *tenant, enum release_kind kind, uint32_t period_day);

// Erases a whole window, in memory and in the batch.
int state_window_drop(struct state *state, struct batch *batch, uint32_t partition, uint32_t tenant, uint32_t sent_day)
    MUST_CHECK;

#endif
