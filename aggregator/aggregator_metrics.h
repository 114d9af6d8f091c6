// The aggregator's metrics: one table line each. Any thread may add.
#ifndef OPENVEIL_AGGREGATOR_METRICS_H
#define OPENVEIL_AGGREGATOR_METRICS_H

#include "common/consent_topic.h"
#include "common/metrics.h"
#include "common/reasons.h"

enum aggregator_metric {
    METRIC_RECEIVED,
    METRIC_COUNTED,
    METRIC_REPEATED,
    METRIC_DROPPED,
    METRIC_DROPPED_LAST = METRIC_DROPPED + AGG_DROPS - 1,
    METRIC_MESSAGES,
    METRIC_DUPLICATES,
    METRIC_GAPS,
    METRIC_SET_ASIDE,
    METRIC_LOOKUPS,
    METRIC_UNREACHABLE,
    METRIC_COMMITS,
    METRIC_RELEASES,
    METRIC_ERASED,
    METRIC_LOGGED,
    METRIC_BASELINES,
    METRIC_UNCONFIRMED,
    METRIC_CONTACTS,
    METRIC_PARTITIONS,
    METRIC_WAITING,
    METRIC_TOPIC, // in the order of enum consent_topic_count
    METRIC_TOPIC_LAST = METRIC_TOPIC + CONSENT_TOPIC_COUNTS - 1,
    AGGREGATOR_METRICS
};

extern struct metric aggregator_metrics[AGGREGATOR_METRICS];

static inline void count_metric(enum aggregator_metric metric, uint64_t n) {
    metric_add(&aggregator_metrics[metric], n);
}

#endif
