// The last open of every contact of a partition, in memory: (tenant, pseudonym) -> struct last_open. Open addressing with
// linear probing, 16 bytes a slot, at most 7/8 full; it doubles when it must. Owned by a state, one thread at a time.
// Limits: contacts_max contacts, then ERR_LIMIT.
#ifndef OPENVEIL_LAST_OPEN_H
#define OPENVEIL_LAST_OPEN_H

#include "aggregator/record.h"

struct last_open_table;
int last_open_table_create(struct last_open_table **table, uint64_t contacts_max) MUST_CHECK;
void last_open_table_free(struct last_open_table *table);
bool last_open_get(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open *out);
int last_open_put(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open value) MUST_CHECK;
void last_open_erase(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym);
uint64_t last_open_count(const struct last_open_table *table);
// Asks the processor for the slot of a contact that will be looked up soon.
void last_open_prefetch(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym);

// Walks all contacts in slices, erasing between them allowed. A cursor begins zeroed; it starts over by itself when the
// table has grown in between, so a contact may come twice but is not missed.
struct last_open_cursor {
    uint64_t slots; // of the table that the walk began in; 0: begin
    uint64_t left;  // slots below this one are still to come
};
struct last_open_contact {
    uint32_t tenant;
    uint64_t pseudonym;
    struct last_open value;
};
// False at the end.
bool last_open_next(const struct last_open_table *table, struct last_open_cursor *cursor,
                    struct last_open_contact *contact);

#endif
