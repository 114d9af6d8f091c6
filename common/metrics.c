#include "common/metrics.h"

#include "common/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#define STEP 100 // FORMATS 8

struct output {
    char *at;
    size_t size, used;
    bool full;
};

static void print(struct output *out, const char *format, ...) PRINTF_LIKE(2, 3);
static void print(struct output *out, const char *format, ...) {
    if (out->full)
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out->at + out->used, out->size - out->used, format, args);
    va_end(args);
    CHECK(n >= 0);
    out->full = (size_t)n >= out->size - out->used;
    if (!out->full)
        out->used += (size_t)n;
}

size_t metrics_format(struct metric *metrics, size_t n, char *out, size_t size) {
    struct output output = {.at = out, .size = size, .full = size == 0};
    for (size_t i = 0; i < n; i++) {
        const struct metric *metric = &metrics[i];
        uint64_t value = atomic_load_explicit(&metric->value, memory_order_relaxed);
        bool counter = metric->type != METRIC_GAUGE;
        if (metric->type == METRIC_COUNTER_STEPPED)
            value -= value % STEP;
        CHECK(strncmp(metric->name, "openveil_", 9) == 0);
        if (i == 0 || strcmp(metrics[i - 1].name, metric->name) != 0) {
            print(&output, "# TYPE %s %s\n", metric->name, counter ? "counter" : "gauge");
            print(&output, "# HELP %s %s\n", metric->name, metric->help);
        }
        bool labels = metric->labels[0] != '\0';
        print(&output, "%s%s%s%s%s %" PRIu64 "\n", metric->name, counter ? "_total" : "", labels ? "{" : "",
              metric->labels, labels ? "}" : "", value);
    }
    print(&output, "# EOF\n");
    return output.full ? 0 : output.used;
}
