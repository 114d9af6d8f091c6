// Removes one contact from everywhere, for `openveil contact erase`. Blocks; one thread. Begun again after an error, or
// done twice, it does no harm.
#ifndef OPENVEIL_CONTACT_ERASE_H
#define OPENVEIL_CONTACT_ERASE_H

#include "common/config.h"
#include "common/consent_store.h"

struct contact_erase {
    const struct config *config;
    struct consent_store *store;
    uint32_t tenant;
    uint64_t pseudonym;
    bool keep_objection; // the record of a contact who left stays, as one change without history
    uint32_t wait_s;     // for the aggregator, and for the log
    void (*progress)(const char *what, int64_t waited_s); // every few seconds of waiting
    uint64_t n_evidence; // out: lines of the log that lost their content now
    enum consent_aof aof; // out: what became of Redis' append-only file
};

// Withdraws, waits until an aggregator says that it has erased what it holds, and until the log holds the withdrawal;
// then forgets in Redis, erases in the log, and lets Redis write anew what keeps bytes of what was forgotten. ERR_AGAIN:
// nobody said so in time: the contact has left (it counts for nothing), and erasing has to be begun again.
// ERR_UNREACHABLE, ERR_IO and others as those of the stores.
int contact_erase_run(struct contact_erase *erase, struct err *err) MUST_CHECK;

#endif
