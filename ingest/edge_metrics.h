// What the edge shows on /metrics. Workers count in a tally of their own and add it once a loop iteration, so that the
// hot path touches no shared memory. All counters move in steps of 100 (FORMATS 8).
// Threads: the table's values are atomic; a tally belongs to one thread.
#ifndef OPENVEIL_EDGE_METRICS_H
#define OPENVEIL_EDGE_METRICS_H

#include "common/metrics.h"
#include "common/reasons.h"

// The statuses that an answer may have, in the table's order.
#define EDGE_STATUSES(X) X(200) X(400) X(404) X(405) X(414) X(431) X(503)

#define EDGE_METRIC_OF_REASON(name, text, help) EDGE_METRIC_DROP_##name,
#define EDGE_METRIC_OF_STATUS(status) EDGE_METRIC_STATUS_##status,
enum edge_metric {
    EDGE_METRIC_REQUESTS,
    EDGE_METRIC_RECORDED,
    EDGE_REASONS(EDGE_METRIC_OF_REASON)
    EDGE_STATUSES(EDGE_METRIC_OF_STATUS)
    EDGE_METRIC_TIMEOUTS,
    EDGE_METRIC_REFUSED,
    EDGE_METRIC_CONNECTIONS,
    EDGE_METRIC_SPOOL_BYTES,
    EDGE_METRIC_BACKLOG,
    EDGE_METRIC_DROP_LIST_IN_USE,
    EDGE_METRIC_DROP_LIST_CONTACTS,
    EDGE_METRIC_DROP_LIST_AGE,
    EDGE_METRICS
};

struct edge_metrics {
    struct metric table[EDGE_METRICS];
};
void edge_metrics_init(struct edge_metrics *metrics);

struct edge_tally {
    uint64_t n[EDGE_METRICS]; // counters only
};
void edge_tally_drop(struct edge_tally *tally, enum edge_drop reason);
void edge_tally_status(struct edge_tally *tally, int status, uint64_t n);
// Adds the tally and empties it.
void edge_metrics_add(struct edge_metrics *metrics, struct edge_tally *tally);

#endif
