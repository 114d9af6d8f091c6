// Where the aggregator's state is committed: a local file (journal_local.c) or the compacted Kafka topic
// (journal_kafka.c). A commit is atomic: all records and positions of a batch, or none. The engine does not know which
// it has. Threads: `load` and `commit` block and run on threads of the engine's choice, never two commits at once and
// never a load and a commit of one partition at once; the other calls belong to the engine's thread.
#ifndef OPENVEIL_JOURNAL_H
#define OPENVEIL_JOURNAL_H

#include "aggregator/batch.h"
#include "common/config.h"

// One committed record, newest value only matters; value_len 0: erased. Return non-zero to stop.
typedef int (*journal_record_fn)(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len);
// How far a load is, in units of the journal's own; `total` may be an estimate, 0 unknown. Called about every 100,000
// records; return non-zero to stop.
typedef int (*journal_progress_fn)(void *arg, uint64_t done, uint64_t total);

struct journal {
    const struct journal_ops *ops;
};

struct journal_ops {
    // There is a topic for released lines, where readers may see what is never committed: a line goes there in a later
    // commit than the one that made it the line of its period.
    bool sends_lines;
    // Feeds the committed records of one partition, in commit order, and yields the committed position (-1: none yet).
    // ERR_UNREACHABLE: not to be had now, try again.
    int (*load)(struct journal *journal, uint32_t partition, journal_record_fn each, journal_progress_fn progress,
                void *arg, int64_t *position, struct err *err);
    // 0: durable. ERR_REFUSED: this process does not own the partitions any more (fenced): drop their state and load
    // again. ERR_AGAIN: nothing was committed and nothing is lost: drop, load again. ERR_IO: give up and exit.
    int (*commit)(struct journal *journal, const struct batch *batch, struct err *err);
    // Called now and then between commits by the engine's thread: a chance to write a snapshot. May be NULL.
    void (*idle)(struct journal *journal);
    void (*close)(struct journal *journal);
};

// [aggregator] state_dir/journal; takes the directory's lock. The state is kept per partition, so that load can feed one.
int journal_local_open(struct journal **journal, const struct config *config, struct err *err) MUST_CHECK;
// Read-only view for commands while an aggregator may be running: load only, no lock. ERR_NOT_FOUND: none ever ran.
int journal_local_open_readonly(struct journal **journal, const struct config *config, struct err *err) MUST_CHECK;
int journal_kafka_open_readonly(struct journal **journal, const struct config *config, struct err *err) MUST_CHECK;
// The one that the configuration asks for.
int journal_open_readonly(struct journal **journal, const struct config *config, struct err *err) MUST_CHECK;

#endif
