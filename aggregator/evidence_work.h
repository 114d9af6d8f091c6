// The thread that alone touches the log of consent changes: finds its end, writes, lists baselines. One job at a time.
// All calls belong to the loop's thread; a job belongs to the worker from evidence_work_begin until `done` was called.
#ifndef OPENVEIL_EVIDENCE_WORK_H
#define OPENVEIL_EVIDENCE_WORK_H

#include "common/config.h"
#include "common/evidence_log.h"

struct uv_loop_s;
struct evidence_worker;

struct evidence_batch {
    struct evidence_line *lines;
    size_t n, room;
};

enum evidence_job_kind { EVIDENCE_JOB_HEAD, EVIDENCE_JOB_WRITE, EVIDENCE_JOB_BASELINE };
struct evidence_job {
    enum evidence_job_kind kind;
    uint32_t partition;              // not of EVIDENCE_JOB_WRITE
    struct evidence_chain chain;     // out: the head that was found, or that the baseline begins with
    struct evidence_batch *batches;  // EVIDENCE_JOB_WRITE: by partition; durable in the end
    uint64_t n_records;              // out, EVIDENCE_JOB_BASELINE
    int rc;                          // out
    struct err err;
};

// Opens the log and starts the thread. ERR_REFUSED and what else opening it gave.
int evidence_work_start(struct evidence_worker **worker, struct uv_loop_s *loop, const struct config *config,
                        void (*done)(void *arg, struct evidence_job *job), void *arg, struct err *err) MUST_CHECK;
void evidence_work_begin(struct evidence_worker *worker, struct evidence_job *job);
// Waits for the job under way, whose `done` is not called any more; memory is freed once the loop has closed the handle.
void evidence_work_stop(struct evidence_worker *worker);

int evidence_batch_add(struct evidence_batch *batch, const struct evidence_line *line) MUST_CHECK; // ERR_NOMEM

#endif
