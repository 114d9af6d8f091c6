#include "ingest/ledger.h"

// A close marker beside its ranges: head and counts, rounded up.
#define CLOSE_BYTES_FIXED 512
#define RANGE_BYTES 24

void ledger_begin(struct ledger *ledger, uint32_t day) {
    memset(ledger, 0, offsetof(struct ledger, ranges));
    ledger->day = day;
    ledger->closed_from = day;
}

void ledger_copy(struct ledger *to, const struct ledger *from) {
    CHECK(from->n_ranges <= CLOSE_RANGES_MAX);
    memcpy(to, from, offsetof(struct ledger, ranges) + from->n_ranges * sizeof from->ranges[0]);
}

size_t ledger_ranges_max(uint16_t partitions) {
    CHECK(partitions >= 1 && partitions <= LEDGER_PARTITIONS_MAX);
    size_t fit = ((SEALED_BYTES_MAX - SEGMENT_HEADER_BYTES_MAX) / partitions - CLOSE_BYTES_FIXED) / RANGE_BYTES;
    return fit < CLOSE_RANGES_MAX ? fit : CLOSE_RANGES_MAX;
}

int ledger_add(struct ledger *ledger, uint16_t partitions, uint64_t epoch, uint64_t segment, const struct tally *tally) {
    struct segment_range *last = ledger->n_ranges > 0 ? &ledger->ranges[ledger->n_ranges - 1] : NULL;
    CHECK(last == NULL || segment > last->last);
    if (last == NULL || last->epoch != epoch) {
        if (ledger->n_ranges >= ledger_ranges_max(partitions))
            return ERR_LIMIT;
        ledger->ranges[ledger->n_ranges++] = (struct segment_range){.epoch = epoch, .first = segment, .last = segment};
    } else {
        last->last = segment;
    }
    uint64_t recorded = 0;
    ledger->counts.requests += tally->outcomes;
    ledger->counts.recorded += tally->events;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        ledger->counts.drops[i] += tally->drops[i];
    for (size_t i = 0; i < partitions; i++) {
        ledger->recorded_by_partition[i] += tally->recorded_by_partition[i];
        recorded += tally->recorded_by_partition[i];
    }
    CHECK(recorded == tally->events);
    return 0;
}

void ledger_lose(struct ledger *ledger, uint64_t segment) {
    if (ledger->n_ranges == 0) {
        // No boot has this epoch, so the segment never arrives.
        ledger->ranges[ledger->n_ranges++] = (struct segment_range){.epoch = 0, .first = segment, .last = segment};
        return;
    }
    struct segment_range *last = &ledger->ranges[ledger->n_ranges - 1];
    if (segment > last->last)
        last->last = segment;
}

struct ledger_closing ledger_next_close(const struct ledger *ledger, uint32_t today) {
    CHECK(ledger->day < today);
    return (struct ledger_closing){.from_day = ledger->closed_from, .day = ledger->n_ranges > 0 ? ledger->day : today - 1};
}

unsigned ledger_closes(const struct ledger *ledger, uint32_t today) {
    if (ledger->day >= today)
        return 0;
    return ledger->n_ranges > 0 && ledger->day + 1 < today ? 2 : 1;
}

void ledger_close(struct ledger *ledger, struct ledger_closing closing) {
    CHECK(closing.from_day == ledger->closed_from && closing.day >= ledger->day);
    ledger_begin(ledger, closing.day + 1);
}
