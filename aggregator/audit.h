// The accounting of one closed day (FORMATS 8), from the records of all partitions. Pure; one thread.
#ifndef OPENVEIL_AUDIT_H
#define OPENVEIL_AUDIT_H

#include "aggregator/state.h"

#define AUDIT_TERMS_MIN 1000 // recorded opens from which on a day's terms say nothing about one person

enum audit_identity { AUDIT_REQUESTS, AUDIT_RECEIVED, AUDIT_COUNTED, AUDIT_IDENTITIES };
extern const char *const audit_identity_texts[AUDIT_IDENTITIES];

struct audit {
    uint32_t day;
    uint32_t n_partitions; // added so far
    size_t n_edges;        // registered on or before the day, in the first partition
    bool closed;           // by every registered edge, in every partition added
    bool meets[AUDIT_IDENTITIES];
    struct edge_counts edges; // as the edges say
    uint64_t recorded_here;   // summed over the partitions, as are those below
    uint64_t received;
    uint64_t counted;
    uint64_t repeated;
    uint64_t drops[AGG_DROPS_STORED];
};

struct audit audit_begin(uint32_t day);
// The next partition: its meta, edge and day records are looked at. Identities hold in each partition or not at all.
void audit_add(struct audit *audit, const struct state *state);
// After the last partition: what only the sums can tell.
void audit_end(struct audit *audit);

#endif
