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
    // Where set, the logs' records of all partitions come here, with their log and offset, and not to `each`.
    int (*found)(void *arg, size_t log, uint64_t offset, const struct frame_record *record);
    int (*found_position)(void *arg, uint32_t partition, int64_t position);
    void *found_arg;
    int64_t position; // out: committed; -1: none yet
    uint64_t records;
    uint64_t done, total;
    int stopped; // what a hook returned
    size_t log;             // being read
    uint64_t frame_offset;  // of the payload in it
    const uint8_t *payload;
};
// ERR_CORRUPT names the file. What a hook returns is returned.
int journal_files_load(struct journal_load *load, const struct journal_files *files, const char *dir, struct err *err)
    MUST_CHECK;
// The two halves of it: the snapshot's part of the partition, and what the logs after it hold.
int journal_snapshot_load(struct journal_load *load, const struct journal_files *files, const char *dir, struct err *err)
    MUST_CHECK;
int journal_logs_load(struct journal_load *load, const struct journal_files *files, const char *dir, struct err *err)
    MUST_CHECK;
// Feeds one record of the partition, with progress.
int journal_load_record(struct journal_load *load, const struct frame_record *record) MUST_CHECK;

#endif
