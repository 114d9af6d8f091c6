// Everything that openveil holds of one contact, for `openveil contact`: the consent record and its changes in Redis, what
// the aggregator has committed, and the evidence log. Blocks; one thread. The caller owns and frees it.
#ifndef OPENVEIL_CONTACT_HELD_H
#define OPENVEIL_CONTACT_HELD_H

#include "aggregator/record.h"
#include "common/consent_store.h"
#include "common/evidence.h"

struct held_window {
    uint32_t sent_day;
    struct window_cell cell;
};

struct contact_held {
    uint32_t tenant;
    uint64_t pseudonym;
    struct consent_record record; // CONSENT_UNKNOWN: none
    bool has_open;
    struct last_open open;
    struct held_window *windows;
    size_t n_windows;
    struct consent_entry *changes; // in the change stream
    size_t n_changes;
    struct evidence_line *evidence; // with content
    size_t n_evidence;
};

// `held` has tenant and pseudonym, and zeros. Errors as those of the stores; what was read is freed by contact_held_free,
// also then.
int contact_held_read(struct contact_held *held, const struct config *config, struct consent_store *store,
                      struct err *err) MUST_CHECK;
void contact_held_free(struct contact_held *held);

#endif
