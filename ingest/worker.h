// A worker: a thread with a uv loop, its spool port and its connections. Main owns it: worker_create before spool_start
// (the port is added there, and may be woken from then on), worker_start, worker_stop before spool_stop (ports must be
// quiet), worker_free after it.
#ifndef OPENVEIL_WORKER_H
#define OPENVEIL_WORKER_H

#include "common/config.h"
#include "ingest/drop_list.h"
#include "ingest/edge_metrics.h"
#include "ingest/peer_address.h"
#include "ingest/snapshot.h"
#include "ingest/spool.h"

struct worker;

struct worker_setup {
    const struct config *config;
    struct spool *spool;
    const struct cidr_set *trusted;
    struct edge_metrics *metrics;
    size_t connections_max; // of this worker
    struct drop_view drops; // likewise
    struct snapshot *keys;    // struct pixel_keys; a reference of its own is taken
    struct snapshot *classes; // struct fetch_classes; likewise
    void (*spool_failed)(void *arg); // from the worker's thread, once the spool's state is SPOOL_FAILED
    void *arg;
};

int worker_create(struct worker **worker, const struct worker_setup *setup, struct err *err) MUST_CHECK;
int worker_start(struct worker *worker, struct err *err) MUST_CHECK;

// Any thread.
void worker_set_keys(struct worker *worker, struct snapshot *keys);       // takes a reference of its own
void worker_set_classes(struct worker *worker, struct snapshot *classes); // likewise
void worker_drain(struct worker *worker); // closes idle connections, the others after their next answer
bool worker_alive(struct worker *worker); // main's thread only: it has taken a turn since the last call; asks for one more
size_t worker_connections(const struct worker *worker); // handed over and not closed yet

// The listener's thread only: hands a socket over; false (and it stays the caller's) where the worker is full.
bool worker_hand_over(struct worker *worker, int fd) MUST_CHECK;

// Closes all connections at once and joins the thread.
void worker_stop(struct worker *worker);
void worker_free(struct worker *worker);

#endif
