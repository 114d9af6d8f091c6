// What commands see of the aggregator's committed state, while an aggregator may be running: one partition at a time,
// and of it only what a command asks for. Blocks; one thread.
#ifndef OPENVEIL_STATE_VIEW_H
#define OPENVEIL_STATE_VIEW_H

#include "aggregator/journal.h"
#include "aggregator/state.h"

struct state_filter {
    const char *kinds;    // letters of enum record_kind; the meta record always comes
    bool of_tenant;       // of records that belong to a tenant: only those of `tenant`
    uint32_t tenant;
    // Where set, last-open records of the kinds and tenant above come here, in the order of their commits, and not into
    // the state: for commands that need less of them than the state keeps. NULL: erased. Non-zero stops the load.
    int (*last_open)(void *arg, uint64_t pseudonym, const struct last_open *value);
    void *arg;
};

// A new state, to be freed with state_free. ERR_INVALID: it was written in the other mode or with other partitions than
// the configuration says; ERR_UNREACHABLE, ERR_CORRUPT, ERR_NOMEM, ERR_IO. A partition without records is empty.
int state_view_load(struct state **state, struct journal *journal, const struct config *config, uint32_t partition,
                    const struct state_filter *filter, struct err *err) MUST_CHECK;

#endif
