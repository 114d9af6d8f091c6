// Accepts pixel connections on the main loop and hands each to the worker that has fewest. With few long-lived
// connections from load balancers that spreads them better than SO_REUSEPORT's hash. Beyond the workers' room, and where
// the process has no descriptor left, a connection is accepted, closed and counted: leaving it in the queue would only
// let it time out. Main loop's thread only.
#ifndef OPENVEIL_LISTENER_H
#define OPENVEIL_LISTENER_H

#include "ingest/edge_metrics.h"
#include "ingest/worker.h"

struct uv_loop_s;
struct listener;

// Where new connections go; must outlive the listener.
struct listener_setup {
    struct uv_loop_s *loop;
    struct worker **workers;
    size_t n_workers;
    struct edge_metrics *metrics;
};

// Binds and listens on "host:port"; ERR_IO with the fix where the port is taken. With `inherited` >= 0 that listening socket
// is taken over instead.
int listener_start(struct listener **listener, const struct listener_setup *setup, int inherited, const char *address,
                   struct err *err) MUST_CHECK;
void listener_stop(struct listener *listener); // closes the port; frees it once the loop has closed its handle

#endif
