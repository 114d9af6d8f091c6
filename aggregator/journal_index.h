// Where each partition's records lie in the local journal's logs: read through once, so that a start with many partitions
// need not read all logs for every one of them. It holds what was committed when it was made. Reading it: any threads.
#ifndef OPENVEIL_JOURNAL_INDEX_H
#define OPENVEIL_JOURNAL_INDEX_H

#include "aggregator/journal_load.h"

struct journal_index;
// Takes `files` over, whatever comes of it. `how` is as for journal_files_load, but for the partition and the records.
int journal_index_build(struct journal_index **index, struct journal_files *files, struct journal_load *how, const char *dir,
                        struct err *err) MUST_CHECK;
// As journal_files_load.
int journal_index_load(const struct journal_index *index, struct journal_load *load, const char *dir, struct err *err)
    MUST_CHECK;
void journal_index_free(struct journal_index *index); // NULL-safe

#endif
