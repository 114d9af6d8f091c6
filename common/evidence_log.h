// The log of consent changes outside Redis: one file a partition below [consent] log_dir (single node), or the compacted
// topic [consent] log_topic (Kafka). Callers do not know which. The aggregator that owns a partition appends; commands read
// and erase, also while it appends. Calls block. Threads: one at a time for a log; several logs may be open.
// Errors: ERR_UNREACHABLE (Kafka is away), ERR_IO, ERR_REFUSED (the other mode, a topic that is not as it must be).
#ifndef OPENVEIL_EVIDENCE_LOG_H
#define OPENVEIL_EVIDENCE_LOG_H

#include "common/config.h"
#include "common/evidence.h"

struct evidence_log;

// `writes`: for appending; creates what is missing and, in a directory, takes its lock (ERR_EXISTS: another process has it).
int evidence_log_open(struct evidence_log **log, const struct config *config, bool writes, struct err *err) MUST_CHECK;
void evidence_log_close(struct evidence_log *log); // NULL-safe

// One accepted line, in the order of the chain; return non-zero to stop, which is then what the read returns.
typedef int (*evidence_each_fn)(void *arg, const struct evidence_line *line);
// All of a partition's log, with an erased change in its place. `chain` (zeroed here) is what was met: look at
// evidence_chain_break. A log that does not exist is empty. `each` may be NULL.
int evidence_log_read(struct evidence_log *log, uint32_t partition, evidence_each_fn each, void *arg,
                      struct evidence_chain *chain, struct err *err) MUST_CHECK;
// The end of it alone, quickly: the head, and in_baseline.
int evidence_log_head(struct evidence_log *log, uint32_t partition, struct evidence_chain *chain, struct err *err)
    MUST_CHECK;

// Writes lines behind what was written; they are durable once evidence_log_sync has returned 0. After an error of either,
// whether they are in the log is unknown: ask for the head again before writing.
int evidence_log_write(struct evidence_log *log, uint32_t partition, const struct evidence_line *lines, size_t n,
                       struct err *err) MUST_CHECK;
int evidence_log_sync(struct evidence_log *log, struct err *err) MUST_CHECK;

// Erases content and salt of every change and record of one contact (`pseudonym` NULL: of the whole tenant), durably; the
// chain still verifies. In Kafka the bytes are gone once the topic was compacted. Call it when the log holds what it should
// find: a change that the log takes in later is not erased. `n` counts what was erased now.
int evidence_log_erase(struct evidence_log *log, uint32_t partition, uint32_t tenant, const uint64_t *pseudonym,
                       uint64_t *n, struct err *err) MUST_CHECK;

#endif
