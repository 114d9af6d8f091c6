// Ledger arithmetic: what a segment and a day's end do to the ledger that every segment header repeats. Commit thread,
// packer and start-up scan all use these functions, so that a scan comes to the numbers that the running edge had.
// Pure functions over the caller's memory; any thread. `struct ledger` is large: heap only.
#ifndef OPENVEIL_LEDGER_H
#define OPENVEIL_LEDGER_H

#include "common/check.h"
#include "common/segment.h"
#include "common/token.h"

// The outcomes of one segment.
struct tally {
    uint64_t events;
    uint64_t outcomes; // events and drops
    uint64_t drops[EDGE_DROPS_STORED];
    uint64_t recorded_by_partition[LEDGER_PARTITIONS_MAX];
};

// What the next close marker says: all days from_day..day are over.
struct ledger_closing {
    uint32_t from_day;
    uint32_t day;
};

// tenant -> partition, remembered, because a SHA-256 for every event would cost more than all the rest.
#define PARTITION_SLOTS 4096
struct partition_cache {
    uint32_t partitions; // set by the owner before use; the slots start as zeros
    struct {
        uint32_t tenant;
        uint32_t known; // partition + 1; 0: empty
    } slots[PARTITION_SLOTS];
};
static inline uint32_t partition_cached(struct partition_cache *cache, uint32_t tenant) {
    CHECK(cache->partitions >= 1);
    // Fibonacci hashing: consecutive tenant numbers go to different slots.
    size_t slot = (tenant * 2654435769u) >> 20;
    _Static_assert(PARTITION_SLOTS == 1u << 12, "the slot is the upper 12 bits");
    if (cache->slots[slot].known == 0 || cache->slots[slot].tenant != tenant) {
        cache->slots[slot].tenant = tenant;
        cache->slots[slot].known = partition_of(tenant, cache->partitions) + 1;
    }
    return cache->slots[slot].known - 1;
}

void ledger_begin(struct ledger *ledger, uint32_t day);
// Copies what is in use.
void ledger_copy(struct ledger *to, const struct ledger *from);
// Epochs of one day that still leave every partition's close marker room in one sealed file.
size_t ledger_ranges_max(uint16_t partitions);
// A sealed segment of the open day, whatever its kind but a close. ERR_LIMIT where one more epoch would be too many.
int ledger_add(struct ledger *ledger, uint16_t partitions, uint64_t epoch, uint64_t segment, const struct tally *tally)
    MUST_CHECK;
// Segment `segment` was begun but its bytes are gone: it stays listed, so that the day cannot look complete.
void ledger_lose(struct ledger *ledger, uint64_t segment);
// The close marker that is due before the ledger's day can become `today`, which is later than ledger->day. A day with
// segments is closed by a marker of its own; days without any are closed together.
struct ledger_closing ledger_next_close(const struct ledger *ledger, uint32_t today);
// How many of them.
unsigned ledger_closes(const struct ledger *ledger, uint32_t today);
void ledger_close(struct ledger *ledger, struct ledger_closing closing);

#endif
