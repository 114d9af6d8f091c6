// The last open of every contact of a partition, in memory: (tenant, pseudonym) -> struct last_open. Owned by a state, one
// thread at a time. Each tenant's contacts lie in buckets by the upper bits of their hash, sorted, in 8 to 11 bytes each,
// the fewer the more there are; a tenant grows by linear hashing, one bucket at a time, so nothing ever stops for a
// rehash. About 8.7 bytes a contact for one tenant of 100 million, 10.8 for 10,000 tenants of 10,000 contacts.
// Pseudonyms chosen to collide make buckets long: slower, but exact, with the same memory.
// Errors: ERR_LIMIT (the limit's contacts are used up), ERR_NOMEM; what fails changes nothing.
#ifndef OPENVEIL_LAST_OPEN_H
#define OPENVEIL_LAST_OPEN_H

#include "aggregator/record.h"

#include <stdatomic.h>

// How many contacts the tables that share it may hold together; any threads. Tables take their share in steps, so up to
// 1/1000 of it may lie unused. It outlives them.
struct last_open_limit {
    uint64_t contacts_max;
    _Atomic uint64_t taken; // begins at 0
};

struct last_open_table;
int last_open_table_create(struct last_open_table **table, struct last_open_limit *limit) MUST_CHECK;
void last_open_table_free(struct last_open_table *table);
bool last_open_get(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open *out);
int last_open_put(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open value) MUST_CHECK;
int last_open_erase(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym) MUST_CHECK;
uint64_t last_open_count(const struct last_open_table *table);
uint64_t last_open_count_of(const struct last_open_table *table, uint32_t tenant);
uint64_t last_open_bytes(const struct last_open_table *table); // of memory, all told

// Ask the processor for what a look-up will touch: `far` about 32 look-ups before it, `near` about 16.
void last_open_prefetch_far(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym);
void last_open_prefetch_near(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym);
// Many look-ups at once, several under way at any time.
struct last_open_lookup {
    uint32_t tenant;
    bool found;
    struct last_open value; // where found
    uint64_t pseudonym;
};
void last_open_get_many(const struct last_open_table *table, struct last_open_lookup *lookups, size_t n);
// Puts in order, as a load needs them; what came before one that fails is in. Where a tenant's contacts ascend by
// contact_hash, as in a snapshot, they are laid down bucket by bucket.
struct last_open_contact {
    uint32_t tenant;
    uint64_t pseudonym;
    struct last_open value;
};
int last_open_put_many(struct last_open_table *table, const struct last_open_contact *contacts, size_t n) MUST_CHECK;

// Walks all contacts in slices, with any changes between them: a contact that is there all the time comes, once. A cursor
// begins zeroed. False at the end.
struct last_open_cursor {
    uint64_t tenant; // place in the order of tenants
    uint64_t hash;   // smallest one still to come
};
bool last_open_next(const struct last_open_table *table, struct last_open_cursor *cursor,
                    struct last_open_contact *contact);
// The same, one tenant's only; do not mix cursors of both, nor of two tenants.
bool last_open_next_of(const struct last_open_table *table, uint32_t tenant, struct last_open_cursor *cursor,
                       struct last_open_contact *contact);

#endif
