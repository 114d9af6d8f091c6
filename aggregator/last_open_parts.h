// The inside of the last-open table, shared by last_open.c (one contact) and last_open_bulk.c (many at once).
#ifndef OPENVEIL_LAST_OPEN_PARTS_H
#define OPENVEIL_LAST_OPEN_PARTS_H

#include "aggregator/bucket_entries.h"
#include "aggregator/bucket_pool.h"
#include "aggregator/last_open.h"

// Contacts a bucket, on average, above which the tenant gets one more. While a round of splits is under way, buckets hold
// between half of it and twice as many.
#define BUCKET_MEAN 64

struct bucket {
    uint32_t ref; // POOL_NONE where n is 0
    uint32_t n;
};

// A tenant's buckets. Bucket i of 2^k holds the contacts whose hash begins with the k bits of i, reversed; where their
// number is between two powers of two, the first ones are split already.
struct contacts {
    uint32_t tenant;
    uint32_t n_buckets, room;
    struct bucket *buckets;
    uint64_t count;
};

struct last_open_table {
    struct contacts *tenants; // never removed, so that a walk's place stays one
    uint32_t n_tenants, tenants_room;
    uint32_t *tenant_slots; // open addressing; place + 1
    uint32_t n_slots;       // a power of two
    uint64_t count;
    struct bucket_pool pool;
    struct last_open_limit *limit;
    uint64_t share; // of the limit: taken, and not used yet
};

// NULL: none.
struct contacts *contacts_find(const struct last_open_table *table, uint32_t tenant);
int contacts_obtain(struct last_open_table *table, uint32_t tenant, struct contacts **out) MUST_CHECK;
// At least one contact more may be put, of the limit's: table->share says how many. ERR_LIMIT.
int share_reserve(struct last_open_table *table) MUST_CHECK;

// A bucket of a tenant, and how its entries look.
struct place {
    struct bucket *bucket;
    uint8_t *bytes; // NULL: empty
    uint64_t rest;  // of the hash in question
    unsigned bits;  // of the hash that the bucket says
    unsigned width; // of an entry, in bytes
};

static inline uint64_t hash_rest(uint64_t hash, unsigned bits) {
    return hash & (UINT64_MAX >> bits);
}

static inline uint32_t bits_reversed(uint32_t x) {
    x = __builtin_bswap32(x);
    x = (x & 0x0f0f0f0f) << 4 | (x >> 4 & 0x0f0f0f0f);
    x = (x & 0x33333333) << 2 | (x >> 2 & 0x33333333);
    return (x & 0x55555555) << 1 | (x >> 1 & 0x55555555);
}

static inline uint32_t bucket_number(uint32_t n_buckets, uint64_t hash, unsigned *bits) {
    unsigned level = 31 - (unsigned)__builtin_clz(n_buckets);
    uint32_t full = 1u << level, number = bits_reversed((uint32_t)(hash >> 32)) & (full * 2 - 1);
    if (number >= n_buckets)
        number -= full;
    *bits = level + ((number & (full - 1)) < n_buckets - full);
    return number;
}

// Without its bytes yet: to find them, the bucket must be read.
static inline struct place place_begin(const struct contacts *contacts, uint64_t hash) {
    struct place place = {.bytes = NULL};
    place.bucket = &contacts->buckets[bucket_number(contacts->n_buckets, hash, &place.bits)];
    place.width = entry_width(place.bits);
    place.rest = hash_rest(hash, place.bits);
    return place;
}

static inline void place_reach(const struct last_open_table *table, struct place *place) {
    place->bytes = place->bucket->n == 0 ? NULL : bucket_pool_at(&table->pool, place->bucket->ref);
}

static inline struct place place_of(const struct last_open_table *table, const struct contacts *contacts, uint64_t hash) {
    struct place place = place_begin(contacts, hash);
    place_reach(table, &place);
    return place;
}

// The first entry whose rest is not below the place's.
static inline size_t place_search(const struct place *place) {
    return place->bucket->n == 0 ? 0 : entries_search(place->bytes, place->bucket->n, place->rest, place->bits);
}

static inline bool place_get(const struct place *place, size_t at, struct last_open *value) {
    if (at == place->bucket->n)
        return false;
    entry there = entry_read(place->bytes, place->width, at);
    if (entry_rest(there) != place->rest)
        return false;
    *value = entry_value(there);
    return true;
}

// Gives the bucket memory for n entries; those that it has and that fit stay.
int place_resize(struct last_open_table *table, const struct contacts *contacts, struct place *place, size_t n) MUST_CHECK;

#endif
