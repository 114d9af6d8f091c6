// The contacts of one tenant that count as active: those with an open in the N days of one run of `openveil clean`. A
// set of pseudonyms with open addressing, 8 bytes a slot, at most 7/8 full; it doubles when it must, and holds one and a
// half times its size then. Fed with the tenant's last-open records in the order of their commits. One thread.
#ifndef OPENVEIL_CLEAN_OPENS_H
#define OPENVEIL_CLEAN_OPENS_H

#include "aggregator/clean.h"

struct clean_opens;
int clean_opens_create(struct clean_opens **opens, const struct clean_terms *terms) MUST_CHECK;
void clean_opens_free(struct clean_opens *opens);
// A committed last-open record; `value` NULL: it was erased. ERR_NOMEM.
int clean_opens_take(struct clean_opens *opens, uint64_t pseudonym, const struct last_open *value) MUST_CHECK;
bool clean_opens_has(const struct clean_opens *opens, uint64_t pseudonym);
// Asks the processor for the slot of a contact that will be looked up soon.
void clean_opens_prefetch(const struct clean_opens *opens, uint64_t pseudonym);

#endif
