// The entries of one bucket of the last-open table: a sorted run of numbers of 8 to 11 bytes each. Pure, over memory of the
// caller's; any thread.
//
// An entry: what the bucket does not say of the contact's hash, then 16 bits of day and 3 of age. As numbers, entries of a
// bucket ascend.
#ifndef OPENVEIL_BUCKET_ENTRIES_H
#define OPENVEIL_BUCKET_ENTRIES_H

#include "aggregator/record.h"
#include "common/check.h"

#include <string.h>

#define VALUE_BITS 19
#define ENTRY_BYTES_MIN 8
// Up to this width the upper 8 bytes of an entry hold all of its rest: more than VALUE_BITS bits are never below them.
#define ENTRY_BYTES_SHORT 10
#define SEARCH_WINDOW 16
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "entries are read as little-endian numbers");

typedef unsigned __int128 entry; // of which the lower entry_width bytes are stored

// `bits` is what the bucket says of its contacts' hashes.
static inline unsigned entry_width(unsigned bits) {
    unsigned bytes = (64 - bits + VALUE_BITS + 7) / 8;
    return bytes < ENTRY_BYTES_MIN ? ENTRY_BYTES_MIN : bytes;
}

static inline entry entry_make(uint64_t rest, struct last_open value) {
    CHECK(value.day != 0 && value.frozen_age < 8);
    return (entry)rest << VALUE_BITS | (entry)((uint32_t)value.day << 3 | value.frozen_age);
}

// Reads 16 bytes: behind the last entry of a bucket is its owner.
static inline entry entry_read(const uint8_t *bytes, unsigned width, size_t at) {
    entry read;
    memcpy(&read, bytes + at * width, sizeof read);
    return read & (((entry)1 << width * 8) - 1);
}

static inline void entry_write(uint8_t *bytes, unsigned width, size_t at, entry written) {
    memcpy(bytes + at * width, &written, width);
}

static inline uint64_t entry_rest(entry of) {
    return (uint64_t)(of >> VALUE_BITS);
}

static inline struct last_open entry_value(entry of) {
    return (struct last_open){.day = (uint16_t)(of >> 3), .frozen_age = (uint8_t)(of & 7)};
}

// Where among n entries the rest would be if they lay evenly.
static inline size_t entries_guess(size_t n, uint64_t rest, unsigned bits) {
    return bits == 64 ? 0 : (size_t)((entry)(rest << bits) * n >> 64);
}

static inline size_t entries_bisect(const uint8_t *bytes, unsigned width, size_t low, size_t high, uint64_t rest) {
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (entry_rest(entry_read(bytes, width, middle)) < rest)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// How many of the n first are below.
static inline size_t entries_below(const uint8_t *upper, unsigned width, size_t n, uint64_t wanted) {
    size_t below = 0;
#pragma GCC unroll 16
    for (size_t i = 0; i < n; i++) {
        uint64_t number;
        memcpy(&number, upper + i * width, sizeof number);
        below += number < wanted;
    }
    return below;
}

// The first of n entries whose rest is not below this one. Counts in a window around the guess instead of walking from it:
// branches that nobody can foretell cost more than the memory does. Pseudonyms chosen to lie unevenly cost a bisection.
static inline size_t entries_search(const uint8_t *bytes, size_t n, uint64_t rest, unsigned bits) {
    const unsigned width = entry_width(bits);
    if (width > ENTRY_BYTES_SHORT)
        return entries_bisect(bytes, width, 0, n, rest);
    const unsigned skipped = width - ENTRY_BYTES_MIN;
    const uint64_t wanted = (uint64_t)((entry)rest << VALUE_BITS >> skipped * 8);
    const uint8_t *upper = bytes + skipped;
    if (n < SEARCH_WINDOW)
        return entries_below(upper, width, n, wanted);
    size_t from = entries_guess(n, rest, bits);
    from = from < SEARCH_WINDOW / 2 ? 0 : from - SEARCH_WINDOW / 2;
    from = from > n - SEARCH_WINDOW ? n - SEARCH_WINDOW : from;
    upper += from * width;
    size_t below = width == ENTRY_BYTES_MIN ? entries_below(upper, ENTRY_BYTES_MIN, SEARCH_WINDOW, wanted)
                                            : entries_below(upper, width, SEARCH_WINDOW, wanted);
    if (below == 0 && from > 0)
        return entries_bisect(bytes, width, 0, from, rest);
    if (below == SEARCH_WINDOW)
        return entries_bisect(bytes, width, from + SEARCH_WINDOW, n, rest);
    return from + below;
}

#endif
