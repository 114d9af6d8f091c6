#include "ingest/edge_metrics.h"

#include "common/check.h"

#include <string.h>

struct metric_row {
    const char *name, *labels, *help;
    enum metric_type type;
};

#define ROW_OF_REASON(id, text, meaning)                                                                             \
    [EDGE_METRIC_DROP_##id] = {"openveil_edge_drops", "reason=\"" #text "\"",                                        \
                               "Pixel requests that became no event, by reason.", METRIC_COUNTER_STEPPED},
#define ROW_OF_STATUS(status)                                                                                        \
    [EDGE_METRIC_STATUS_##status] = {"openveil_edge_responses", "status=\"" #status "\"",                            \
                                     "Answers by status, HEAD among them.", METRIC_COUNTER_STEPPED},

static const struct metric_row rows[EDGE_METRICS] = {
    [EDGE_METRIC_REQUESTS] = {"openveil_edge_requests", "", "Pixel requests with an outcome, an event or a drop.",
                              METRIC_COUNTER_STEPPED},
    [EDGE_METRIC_RECORDED] = {"openveil_edge_recorded", "", "Pixel requests that became events.",
                              METRIC_COUNTER_STEPPED},
    EDGE_REASONS(ROW_OF_REASON)
    EDGE_STATUSES(ROW_OF_STATUS)
    [EDGE_METRIC_TIMEOUTS] = {"openveil_edge_timeouts", "", "Connections closed because a client was too slow.",
                              METRIC_COUNTER_STEPPED},
    [EDGE_METRIC_REFUSED] = {"openveil_edge_connections_refused", "",
                             "Connections closed at once because connections_max was reached.",
                             METRIC_COUNTER_STEPPED},
    [EDGE_METRIC_CONNECTIONS] = {"openveil_edge_connections", "", "Open connections.", METRIC_GAUGE},
    [EDGE_METRIC_SPOOL_BYTES] = {"openveil_edge_spool_bytes", "", "Disk space that the spool takes.", METRIC_GAUGE},
    [EDGE_METRIC_BACKLOG] = {"openveil_edge_backlog_segments", "", "Sealed segments that Kafka has not acknowledged.",
                             METRIC_GAUGE},
    [EDGE_METRIC_DROP_LIST_IN_USE] = {"openveil_edge_drop_list_in_use", "",
                                      "1 while contacts that left are dropped here; else the aggregator does it.",
                                      METRIC_GAUGE},
    [EDGE_METRIC_DROP_LIST_CONTACTS] = {"openveil_edge_drop_list_contacts", "",
                                        "Contacts that left, as the edge knows them, in steps of 100.", METRIC_GAUGE},
    [EDGE_METRIC_DROP_LIST_AGE] = {"openveil_edge_drop_list_age_seconds", "",
                                   "Time since the drop list was last known to be complete.", METRIC_GAUGE},
};

void edge_metrics_init(struct edge_metrics *metrics) {
    for (size_t i = 0; i < EDGE_METRICS; i++) {
        struct metric *metric = &metrics->table[i];
        CHECK(rows[i].name != NULL);
        metric->name = rows[i].name;
        metric->labels = rows[i].labels;
        metric->help = rows[i].help;
        metric->type = rows[i].type;
        atomic_init(&metric->value, 0);
    }
}

void edge_tally_drop(struct edge_tally *tally, enum edge_drop reason) {
    static const enum edge_metric drops[EDGE_DROPS] = {EDGE_REASONS(EDGE_METRIC_OF_REASON)};
    CHECK((size_t)reason < ARRAY_LEN(drops));
    tally->n[drops[reason]]++;
}

void edge_tally_status(struct edge_tally *tally, int status, uint64_t n) {
#define METRIC_OF_STATUS(code) {code, EDGE_METRIC_STATUS_##code},
    static const struct {
        int status;
        enum edge_metric metric;
    } known[] = {EDGE_STATUSES(METRIC_OF_STATUS)};
    size_t i = 0;
    while (i < ARRAY_LEN(known) && known[i].status != status)
        i++;
    CHECK(i < ARRAY_LEN(known));
    tally->n[known[i].metric] += n;
}

void edge_metrics_add(struct edge_metrics *metrics, struct edge_tally *tally) {
    for (size_t i = 0; i < EDGE_METRICS; i++) {
        if (tally->n[i] == 0)
            continue;
        CHECK(metrics->table[i].type != METRIC_GAUGE);
        metric_add(&metrics->table[i], tally->n[i]);
    }
    memset(tally, 0, sizeof *tally);
}
