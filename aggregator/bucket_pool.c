#include "aggregator/bucket_pool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES ((size_t)POOL_CHUNK_UNITS * POOL_UNIT)
#define CHUNKS_MAX (POOL_LARGE >> POOL_CHUNK_UNITS_BITS)
// From this many chunks on, memory comes in huge pages: with 4 KiB ones, half a look-up would be the processor's search
// for the page.
#define BLOCK_CHUNKS 32
#define BLOCK_BYTES (BLOCK_CHUNKS * CHUNK_BYTES)

// Room for `more` elements of `size` bytes after the first n.
static int room_reserve(struct bucket_pool *pool, void *array, size_t n, size_t more, size_t *room, size_t size) {
    void **elements = array;
    if (n + more <= *room)
        return 0;
    size_t larger = n + more + (n + more) / 8 + 3;
    void *moved = realloc(*elements, larger * size);
    if (moved == NULL)
        return ERR_NOMEM;
    *elements = moved;
    pool->bytes += (larger - *room) * size;
    *room = larger;
    return 0;
}

void bucket_pool_free(struct bucket_pool *pool) {
    for (size_t i = 0; i < pool->n_blocks; i++)
        free(pool->blocks[i]);
    for (size_t i = 0; i < pool->n_large; i++)
        free(pool->large[i]);
    for (size_t i = 0; i <= POOL_UNITS_MAX; i++)
        free(pool->sizes[i].chunks);
    free(pool->chunks);
    free(pool->free_chunks);
    free(pool->blocks);
    free(pool->large);
    *pool = (struct bucket_pool){0};
}

uint64_t bucket_pool_bytes(const struct bucket_pool *pool) {
    return pool->bytes;
}

// ---- chunks ---------------------------------------------------------------------------------------------------------

// More free chunks; there is room for all chunks in the list of the free ones, so that giving one back cannot fail.
static int chunks_add(struct bucket_pool *pool) {
    bool huge = pool->n_chunks >= BLOCK_CHUNKS;
    size_t n = huge ? BLOCK_CHUNKS : 1;
    if (pool->n_chunks + n > CHUNKS_MAX ||
        room_reserve(pool, &pool->chunks, pool->n_chunks, n, &pool->chunks_room, sizeof *pool->chunks) != 0 ||
        room_reserve(pool, &pool->free_chunks, pool->n_chunks, n, &pool->free_room, sizeof *pool->free_chunks) != 0 ||
        room_reserve(pool, &pool->blocks, pool->n_blocks, 1, &pool->blocks_room, sizeof *pool->blocks) != 0)
        return ERR_NOMEM;
    uint8_t *block = aligned_alloc(huge ? BLOCK_BYTES : POOL_UNIT, n * CHUNK_BYTES);
    if (block == NULL)
        return ERR_NOMEM;
    if (huge)
        (void)madvise(block, BLOCK_BYTES, MADV_HUGEPAGE); // a kernel without them is slower, no more
    pool->blocks[pool->n_blocks++] = block;
    pool->bytes += n * CHUNK_BYTES;
    for (size_t i = n; i-- > 0;)
        pool->free_chunks[pool->n_free++] = (uint32_t)(pool->n_chunks + i);
    for (size_t i = 0; i < n; i++)
        pool->chunks[pool->n_chunks++] = block + i * CHUNK_BYTES;
    return 0;
}

static size_t slots_per_chunk(size_t units) {
    return POOL_CHUNK_UNITS / units;
}

static uint32_t slot_ref(const struct pool_size *size, size_t units, size_t slot) {
    size_t per = slots_per_chunk(units);
    CHECK(slot / per < size->n_chunks);
    return size->chunks[slot / per] << POOL_CHUNK_UNITS_BITS | (uint32_t)(slot % per * units);
}

// ---- large slots ----------------------------------------------------------------------------------------------------

static int large_take(struct bucket_pool *pool, size_t units, uint32_t *ref) {
    size_t at = 0;
    while (at < pool->n_large && pool->large[at] != NULL)
        at++;
    if (at >= POOL_NONE - POOL_LARGE || room_reserve(pool, &pool->large, at, 1, &pool->large_room, sizeof *pool->large) != 0)
        return ERR_NOMEM;
    uint8_t *bytes = malloc(units * POOL_UNIT);
    if (bytes == NULL)
        return ERR_NOMEM;
    pool->large[at] = bytes;
    pool->n_large = at == pool->n_large ? at + 1 : pool->n_large;
    pool->bytes += units * POOL_UNIT;
    *ref = POOL_LARGE | (uint32_t)at;
    return 0;
}

// ---- slots ----------------------------------------------------------------------------------------------------------

int bucket_pool_take(struct bucket_pool *pool, size_t units, uint32_t *ref) {
    CHECK(units > 0);
    if (units > POOL_UNITS_MAX)
        return large_take(pool, units, ref);
    struct pool_size *size = &pool->sizes[units];
    if (size->used == size->n_chunks * slots_per_chunk(units)) {
        if ((pool->n_free == 0 && chunks_add(pool) != 0) ||
            room_reserve(pool, &size->chunks, size->n_chunks, 1, &size->room, sizeof *size->chunks) != 0)
            return ERR_NOMEM;
        size->chunks[size->n_chunks++] = pool->free_chunks[--pool->n_free];
    }
    *ref = slot_ref(size, units, size->used++);
    return 0;
}

bool bucket_pool_release(struct bucket_pool *pool, size_t units, uint32_t ref) {
    if (ref & POOL_LARGE) {
        CHECK(units > POOL_UNITS_MAX && (ref & ~POOL_LARGE) < pool->n_large);
        free(pool->large[ref & ~POOL_LARGE]);
        pool->large[ref & ~POOL_LARGE] = NULL;
        pool->bytes -= units * POOL_UNIT;
        return false;
    }
    CHECK(units <= POOL_UNITS_MAX && pool->sizes[units].used > 0);
    struct pool_size *size = &pool->sizes[units];
    uint32_t last = slot_ref(size, units, --size->used);
    if (last != ref)
        memcpy(bucket_pool_at(pool, ref), bucket_pool_at(pool, last), units * POOL_UNIT);
    if (size->used == (size->n_chunks - 1) * slots_per_chunk(units))
        pool->free_chunks[pool->n_free++] = size->chunks[--size->n_chunks];
    return last != ref;
}
