#include "aggregator/audit.h"

#include "aggregator/edges.h"

#include <string.h>

const char *const audit_identity_texts[AUDIT_IDENTITIES] = {
    [AUDIT_REQUESTS] = "requests = recorded + edge drops",
    [AUDIT_RECEIVED] = "recorded = received by the aggregators",
    [AUDIT_COUNTED] = "received = counted + repeated + aggregator drops",
};

struct audit audit_begin(uint32_t day) {
    struct audit audit = {.day = day, .closed = true};
    for (size_t i = 0; i < AUDIT_IDENTITIES; i++)
        audit.meets[i] = true;
    return audit;
}

static uint64_t sum(const uint64_t *terms, size_t n) {
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += terms[i];
    return total;
}

// How many edges take part on the day; `closed` is cleared where one of them has not closed it.
static size_t edges_of_day(const struct state *state, uint32_t day, bool *closed) {
    size_t n = 0;
    for (size_t i = 0; i < state_edge_count(state); i++) {
        const struct edge_summary *edge = state_edge_at(state, i);
        if (edge->registered_day == DAY_NONE || edge->registered_day > day)
            continue;
        n++;
        *closed &= edge_is_through(edge->registered_day, edge->closed_through, edge->retired, day);
    }
    return n;
}

void audit_add(struct audit *audit, const struct state *state) {
    static const struct day_record none = {0}; // closed without a request
    const struct day_record *record = state_day(state, audit->day);
    if (record == NULL)
        record = &none;
    size_t n_edges = edges_of_day(state, audit->day, &audit->closed);
    if (audit->n_partitions == 0) {
        audit->n_edges = n_edges;
        audit->edges = record->edges;
        uint64_t drops = sum(record->edges.drops, EDGE_DROPS_STORED);
        audit->meets[AUDIT_REQUESTS] = record->edges.requests == record->edges.recorded + drops;
    } else if (n_edges != audit->n_edges) {
        audit->closed = false; // a registration is still on its way
    } else if (memcmp(&record->edges, &audit->edges, sizeof audit->edges) != 0) {
        audit->meets[AUDIT_RECEIVED] = false;
    }
    if (record->received != record->recorded_here)
        audit->meets[AUDIT_RECEIVED] = false;
    if (record->received != record->counted + record->repeated + sum(record->drops, AGG_DROPS_STORED))
        audit->meets[AUDIT_COUNTED] = false;
    audit->n_partitions++;
    audit->recorded_here += record->recorded_here;
    audit->received += record->received;
    audit->counted += record->counted;
    audit->repeated += record->repeated;
    for (size_t i = 0; i < AGG_DROPS_STORED; i++)
        audit->drops[i] += record->drops[i];
}

void audit_end(struct audit *audit) {
    CHECK(audit->n_partitions > 0);
    if (audit->n_edges == 0)
        audit->closed = false; // nobody measured on that day
    if (audit->recorded_here != audit->edges.recorded)
        audit->meets[AUDIT_RECEIVED] = false;
}
