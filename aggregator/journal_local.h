// The local journal's own door, for tests: when it writes a snapshot.
#ifndef OPENVEIL_JOURNAL_LOCAL_H
#define OPENVEIL_JOURNAL_LOCAL_H

#include "aggregator/journal.h"

// A snapshot is written once the logs hold more than the last snapshot, but at least `low` and at most `high` bytes.
void journal_local_snapshot_bytes(struct journal *journal, uint64_t low, uint64_t high);
// One is also written once the last one, or the first log, is that old: a day, because only then what was erased leaves the
// disk. In milliseconds of the machine's clock.
void journal_local_snapshot_age(struct journal *journal, int64_t age_ms);

#endif
