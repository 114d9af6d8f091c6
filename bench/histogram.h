// A log-linear histogram of durations after Gil Tene's HDR Histogram: values in nanoseconds up to 2^40 (18 minutes), 64
// steps a power of two, so every quantile is within 1.6 % of the recorded value. One thread.
#ifndef OPENVEIL_BENCH_HISTOGRAM_H
#define OPENVEIL_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 7
#define HISTOGRAM_STEPS (1u << HISTOGRAM_STEP_BITS)
#define HISTOGRAM_POWERS 34
#define HISTOGRAM_SLOTS (HISTOGRAM_STEPS + HISTOGRAM_POWERS * HISTOGRAM_STEPS / 2)

struct histogram {
    uint64_t count[HISTOGRAM_SLOTS];
    uint64_t total;
    uint64_t largest_ns;
};

static inline unsigned histogram_slot(uint64_t ns) {
    if (ns < HISTOGRAM_STEPS)
        return (unsigned)ns;
    unsigned power = 63u - (unsigned)__builtin_clzll(ns) - HISTOGRAM_STEP_BITS + 1;
    unsigned slot = power * (HISTOGRAM_STEPS / 2) + (unsigned)(ns >> power);
    return slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1;
}

// The largest value of a slot.
static inline uint64_t histogram_slot_ns(unsigned slot) {
    if (slot < HISTOGRAM_STEPS)
        return slot;
    unsigned power = slot / (HISTOGRAM_STEPS / 2) - 1;
    uint64_t step = slot - power * (HISTOGRAM_STEPS / 2);
    return ((step + 1) << power) - 1;
}

static inline void histogram_add(struct histogram *histogram, uint64_t ns) {
    histogram->count[histogram_slot(ns)]++;
    histogram->total++;
    if (ns > histogram->largest_ns)
        histogram->largest_ns = ns;
}

static inline uint64_t histogram_quantile(const struct histogram *histogram, double quantile) {
    uint64_t rank = (uint64_t)((double)histogram->total * quantile + 0.5), seen = 0;
    for (unsigned slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        seen += histogram->count[slot];
        if (seen >= rank && seen > 0)
            return histogram_slot_ns(slot) < histogram->largest_ns ? histogram_slot_ns(slot) : histogram->largest_ns;
    }
    return histogram->largest_ns;
}

#endif
