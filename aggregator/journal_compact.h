// Rewrites the local journal's older files into one snapshot, while commits go on in a newer log. Any thread.
#ifndef OPENVEIL_JOURNAL_COMPACT_H
#define OPENVEIL_JOURNAL_COMPACT_H

#include "aggregator/journal_file.h"

#include <stdatomic.h>

// Writes snapshot-<head.generation>.ovj from everything below that generation, then removes what it replaces. The old
// snapshot is streamed; of the logs only 8 bytes a record are held in memory. ERR_AGAIN once `stop` is set: nothing
// changed. `bytes`: the snapshot's size.
int journal_compact(const char *dir, const struct journal_head *head, _Atomic bool *stop, uint64_t *bytes,
                    struct err *err) MUST_CHECK;
// Removes snapshots and logs below `generation`, and unfinished files where `unfinished`.
void journal_remove_below(const char *dir, uint64_t generation, bool unfinished);

#endif
