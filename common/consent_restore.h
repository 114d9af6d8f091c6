// Repairs a partition of the consent store that was emptied, restored to an older state or lost writes in a failover, from
// the log outside Redis (common/decisions/0010-the-evidence-log.md): finds the newest epoch that both share, joins the
// branches, applies the log's later changes again by the ordinary rules, and enters those that only Redis has again, so
// that the log gets them. Doing it again is harmless, also after an interruption: until it has ended, the store leads on
// from nothing. Blocking; one thread.
#ifndef OPENVEIL_CONSENT_RESTORE_H
#define OPENVEIL_CONSENT_RESTORE_H

#include "common/consent_store.h"
#include "common/evidence_log.h"

struct consent_restored {
    bool logged;      // the log holds something of this partition
    bool needed;      // the store did not lead on from the log
    uint64_t shared;  // the newest epoch that both have; 0: none
    struct consent_stamp log;
    struct consent_stamp store; // before
    uint64_t changes; // of the log after `shared`, records of a baseline included
    uint64_t erased;  // of them without content: their contact was erased
    uint64_t applied, refused; // of them; refused: a later change decides
    uint64_t entered; // changes that only this Redis had
    uint64_t broken;  // epoch of the log's first break; 0: none
};

// `progress` (may be NULL) is told now and then how many changes were applied.
typedef void (*consent_restore_progress_fn)(void *arg, uint32_t partition, uint64_t changes);
// With `dry_run` nothing is written, and applied, refused and entered stay 0. ERR_UNREACHABLE: Redis or the log is away.
int consent_restore(struct consent_store *store, struct evidence_log *log, uint32_t partition, bool dry_run,
                    consent_restore_progress_fn progress, void *arg, struct consent_restored *restored,
                    struct err *err) MUST_CHECK;

#endif
