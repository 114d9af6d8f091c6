// Counters and gauges in OpenMetrics text. A program declares its metrics in one table; any thread adds to them with a
// relaxed atomic. Counters that count people's outcomes are shown in steps of 100 (FORMATS 8), so that nobody outside can
// see a single request move one. No labels but those fixed in the table: no tenant, stream, provider or consent state.
#ifndef OPENVEIL_METRICS_H
#define OPENVEIL_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum metric_type { METRIC_COUNTER, METRIC_COUNTER_STEPPED, METRIC_GAUGE };

struct metric {
    const char *name;   // openveil_…; without _total
    const char *labels; // "" or reason="bad_token"; rows of one name stand together
    const char *help;
    enum metric_type type;
    _Atomic uint64_t value;
};

static inline void metric_add(struct metric *metric, uint64_t n) {
    atomic_fetch_add_explicit(&metric->value, n, memory_order_relaxed);
}
static inline void metric_set(struct metric *metric, uint64_t value) {
    atomic_store_explicit(&metric->value, value, memory_order_relaxed);
}
// Text for /metrics, ended by "# EOF"; returns its length, 0 where `size` is too small.
size_t metrics_format(struct metric *metrics, size_t n, char *out, size_t size);

#endif
