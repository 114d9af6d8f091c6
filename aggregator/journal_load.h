// Feeds one partition's committed records from the local journal's files. Any thread.
#ifndef OPENVEIL_JOURNAL_LOAD_H
#define OPENVEIL_JOURNAL_LOAD_H

#include "aggregator/journal.h"
#include "aggregator/journal_file.h"

struct journal_load {
    uint32_t partition;
    // How far the log of this generation must be whole; 0 where another process writes, and its end may be half-written.
    uint64_t generation, size;
    journal_record_fn each;
    journal_progress_fn progress; // in bytes; may be NULL
    void *arg;
    int64_t position; // out: committed; -1: none yet
    uint64_t records;
    uint64_t done, total;
    int stopped; // what a hook returned
};
// ERR_CORRUPT names the file. What a hook returns is returned.
int journal_files_load(struct journal_load *load, const struct journal_files *files, const char *dir, struct err *err)
    MUST_CHECK;

#endif
