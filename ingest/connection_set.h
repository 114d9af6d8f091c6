// All connections of one worker: their slots, buffers, time-outs and what they share. Everything is allocated in set-up.
// Owned by a worker; its loop's thread only.
#ifndef OPENVEIL_CONNECTION_SET_H
#define OPENVEIL_CONNECTION_SET_H

#include "common/config.h"
#include "ingest/drop_list.h"
#include "ingest/edge_metrics.h"
#include "ingest/peer_address.h"
#include "ingest/snapshot.h"
#include "ingest/spool.h"

#include <uv.h>

struct connection_set;

struct connection_setup {
    uv_loop_t *loop;
    const struct config *config;
    const struct spool *spool;
    struct spool_port *port;
    const struct cidr_set *trusted;
    struct edge_metrics *metrics;
    struct drop_view drops; // of this worker
    size_t n_max; // connections at most
};

// `keys` holds a struct pixel_keys, `classes` a struct fetch_classes; their references become the set's, unless this fails.
int connection_set_create(struct connection_set **set, const struct connection_setup *setup, struct snapshot *keys,
                          struct snapshot *classes, struct err *err) MUST_CHECK;
void connection_set_free(struct connection_set *set); // none may be open
void connection_set_keys(struct connection_set *set, struct snapshot *keys);
void connection_set_classes(struct connection_set *set, struct snapshot *classes);

// Readable when connection_set_events has something to do: one descriptor for all of them, and of its own, so that epoll
// tells each change once (EPOLLET) and is told of nothing but new connections.
int connection_set_fd(const struct connection_set *set);
void connection_set_events(struct connection_set *set);

// Takes an accepted socket over, and closes it where it cannot be served.
void connection_set_open(struct connection_set *set, int fd);
// Answers all whose outcome is durable.
void connection_set_flush(struct connection_set *set);
bool connection_set_waits(const struct connection_set *set); // some outcome is not durable yet
uint64_t connection_set_outcomes(const struct connection_set *set); // ever
// To be called at the end of each loop iteration: hands the outcomes to the spool, closed slots back.
void connection_set_submit(struct connection_set *set);
// Closes those whose time is up; to be called every connection_set_tick_ms.
void connection_set_expire(struct connection_set *set);
uint64_t connection_set_tick_ms(const struct connection_set *set);
// Closes idle ones; the others close after their next answer, and no new ones are opened.
void connection_set_drain(struct connection_set *set);
void connection_set_close(struct connection_set *set);
size_t connection_set_count(const struct connection_set *set);

#endif
