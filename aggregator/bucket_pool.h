// Memory of the last-open table: slots of 1 to 128 units of 64 bytes (larger ones by malloc), referred to by a number. The
// slots of one size always lie dense: where one is released, the last of its size moves into its place, so that growth
// and shrinking leave no holes. Owned by a table, one thread at a time. Memory that became free is kept for other sizes.
// Errors: ERR_NOMEM.
#ifndef OPENVEIL_BUCKET_POOL_H
#define OPENVEIL_BUCKET_POOL_H

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POOL_UNIT 64u
#define POOL_UNITS_MAX 128u
#define POOL_CHUNK_UNITS_BITS 10
#define POOL_CHUNK_UNITS (1u << POOL_CHUNK_UNITS_BITS)
#define POOL_LARGE 0x80000000u // in a ref: not in a chunk
#define POOL_NONE UINT32_MAX

// Whose slot it is, so that a slot can be moved: the last bytes of every slot are the owner's to fill in.
struct bucket_owner {
    uint32_t tenant;
    uint32_t bucket;
};

struct pool_size {
    uint32_t *chunks; // by number, in the order of their slots
    size_t n_chunks, room;
    size_t used; // slots
};
struct bucket_pool {
    uint8_t **chunks; // of POOL_CHUNK_UNITS units
    size_t n_chunks, chunks_room;
    uint32_t *free_chunks;
    size_t n_free, free_room;
    void **blocks; // what was allocated for chunks
    size_t n_blocks, blocks_room;
    uint8_t **large;
    size_t n_large, large_room;
    struct pool_size sizes[POOL_UNITS_MAX + 1]; // by units
    uint64_t bytes;
};

// A zeroed pool is an empty one.
void bucket_pool_free(struct bucket_pool *pool);
int bucket_pool_take(struct bucket_pool *pool, size_t units, uint32_t *ref) MUST_CHECK;
// True: another slot of this size lives at `ref` now, and its owner has to know.
bool bucket_pool_release(struct bucket_pool *pool, size_t units, uint32_t ref);
uint64_t bucket_pool_bytes(const struct bucket_pool *pool); // all that is allocated

static inline uint8_t *bucket_pool_at(const struct bucket_pool *pool, uint32_t ref) {
    if (ref & POOL_LARGE)
        return pool->large[ref & ~POOL_LARGE];
    return pool->chunks[ref >> POOL_CHUNK_UNITS_BITS] + (size_t)(ref & (POOL_CHUNK_UNITS - 1)) * POOL_UNIT;
}

#endif
