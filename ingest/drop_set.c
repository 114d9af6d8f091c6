#include "ingest/drop_set.h"

#include "common/check.h"
#include "common/hmac.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SHARDS 256u
#define BUCKET_KEYS 8u
#define PATH_BUCKETS 512u // looked at for a way to make room
#define BUCKETS_MAX (1u << 30)

// 64 bytes of head, then the buckets, each in one cache line. A key of 0 is a free place.
struct block {
    uint32_t n_buckets;
    size_t bytes;
    _Alignas(64) _Atomic uint64_t keys[];
};

struct shard {
    _Atomic(struct block *) block; // NULL while the shard is empty
    _Atomic uint32_t moves;        // odd while keys change places
    uint32_t n;                    // the writer's
};

// `turn` is odd while the reader may hold a block.
struct drop_reader {
    _Alignas(64) _Atomic uint32_t turn;
    const struct drop_set *set;
};

struct drop_set {
    uint64_t seed[2]; // so that nobody can choose contacts that crowd one bucket
    struct shard shards[SHARDS];
    _Atomic size_t n;
    _Atomic size_t bytes;
    size_t n_readers;
    struct drop_reader *readers;
};

// A bucket on the way to a free place, and the place in `parent`'s bucket whose key may move here.
struct step {
    uint32_t bucket;
    uint16_t parent;
    uint16_t place;
};

// SplitMix64's finaliser: a bijection.
static inline uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

static inline uint64_t key_of(const struct drop_set *set, uint32_t tenant, uint64_t pseudonym) {
    uint64_t key = mix((pseudonym ^ mix(tenant ^ set->seed[0])) + set->seed[1]);
    return key == 0 ? 1 : key;
}

static inline uint32_t shard_of(uint64_t key) {
    return (uint32_t)(key >> 56);
}

// The key's buckets: the lower half chooses one, a second mixing the other.
static inline uint32_t first_bucket(uint64_t key, uint32_t n_buckets) {
    return (uint32_t)((key & UINT32_MAX) * n_buckets >> 32);
}

static inline uint32_t second_bucket(uint64_t key, uint32_t n_buckets) {
    return (uint32_t)((key * 0x9e3779b97f4a7c15u >> 32) * n_buckets >> 32);
}

static inline _Atomic uint64_t *bucket_at(struct block *block, uint32_t bucket) {
    return &block->keys[(size_t)bucket * BUCKET_KEYS];
}

static inline unsigned bucket_find(struct block *block, uint32_t bucket, uint64_t key) {
    const _Atomic uint64_t *keys = bucket_at(block, bucket);
    for (unsigned i = 0; i < BUCKET_KEYS; i++) {
        if (atomic_load_explicit(&keys[i], memory_order_acquire) == key)
            return i;
    }
    return BUCKET_KEYS;
}

// The shard's block, which stays while the reader's turn lasts.
static inline struct block *turn_begin(struct drop_reader *reader, const struct shard *shard) {
    uint32_t turn = atomic_load_explicit(&reader->turn, memory_order_relaxed);
    // Before the block is fetched: a writer that does not see this has put its new block there already.
    atomic_store_explicit(&reader->turn, turn + 1, memory_order_seq_cst);
    return atomic_load_explicit(&shard->block, memory_order_seq_cst);
}

static inline void turn_end(struct drop_reader *reader) {
    uint32_t turn = atomic_load_explicit(&reader->turn, memory_order_relaxed);
    atomic_store_explicit(&reader->turn, turn + 1, memory_order_release);
}

void drop_set_prefetch(struct drop_reader *reader, uint32_t tenant, uint64_t pseudonym) {
    uint64_t key = key_of(reader->set, tenant, pseudonym);
    struct block *block = turn_begin(reader, &reader->set->shards[shard_of(key)]);
    if (block != NULL) {
        __builtin_prefetch(bucket_at(block, first_bucket(key, block->n_buckets)));
        __builtin_prefetch(bucket_at(block, second_bucket(key, block->n_buckets)));
    }
    turn_end(reader);
}

bool drop_set_contains(struct drop_reader *reader, uint32_t tenant, uint64_t pseudonym) {
    uint64_t key = key_of(reader->set, tenant, pseudonym);
    const struct shard *shard = &reader->set->shards[shard_of(key)];
    struct block *block = turn_begin(reader, shard);
    bool found = false;
    if (block != NULL) {
        uint32_t first = first_bucket(key, block->n_buckets), second = second_bucket(key, block->n_buckets);
        __builtin_prefetch(bucket_at(block, second));
        // A key on its way from one bucket to the other can be missed only while `moves` moves.
        for (uint32_t before, after = atomic_load_explicit(&shard->moves, memory_order_acquire);;) {
            before = after;
            found = bucket_find(block, first, key) < BUCKET_KEYS || bucket_find(block, second, key) < BUCKET_KEYS;
            after = atomic_load_explicit(&shard->moves, memory_order_acquire);
            if (found || (before == after && before % 2 == 0))
                break;
        }
    }
    turn_end(reader);
    return found;
}

// ---- the writer -----------------------------------------------------------------------------------------------------
static uint64_t key_get(struct block *block, uint32_t bucket, unsigned place) {
    return atomic_load_explicit(&bucket_at(block, bucket)[place], memory_order_relaxed);
}

static void key_put(struct block *block, uint32_t bucket, unsigned place, uint64_t key) {
    atomic_store_explicit(&bucket_at(block, bucket)[place], key, memory_order_release);
}

static uint32_t other_bucket(const struct block *block, uint64_t key, uint32_t bucket) {
    uint32_t first = first_bucket(key, block->n_buckets);
    return bucket == first ? second_bucket(key, block->n_buckets) : first;
}

// The keys on the way move one step each, the one nearest to the free place first, and each is written before its old
// place is overwritten. Returns the place in the way's first bucket that became free.
static unsigned keys_move(struct block *block, struct shard *shard, const struct step *steps, size_t at,
                          unsigned place) {
    if (shard != NULL)
        atomic_fetch_add_explicit(&shard->moves, 1, memory_order_acq_rel);
    while (steps[at].parent != UINT16_MAX) {
        const struct step *parent = &steps[steps[at].parent];
        key_put(block, steps[at].bucket, place, key_get(block, parent->bucket, steps[at].place));
        place = steps[at].place;
        at = steps[at].parent;
        key_put(block, steps[at].bucket, place, 0);
    }
    if (shard != NULL)
        atomic_fetch_add_explicit(&shard->moves, 1, memory_order_acq_rel);
    return place;
}

// Puts a key that is not there into one of its buckets, breadth first over the keys that could make room. `shard` is
// NULL where nobody reads the block yet. False where there is no way.
static bool block_insert(struct block *block, struct shard *shard, uint64_t key) {
    struct step steps[PATH_BUCKETS];
    size_t n = 2;
    steps[0] = (struct step){first_bucket(key, block->n_buckets), UINT16_MAX, 0};
    steps[1] = (struct step){second_bucket(key, block->n_buckets), UINT16_MAX, 0};
    for (size_t at = 0; at < n; at++) {
        unsigned place = bucket_find(block, steps[at].bucket, 0);
        if (place < BUCKET_KEYS) {
            size_t root = at;
            while (steps[root].parent != UINT16_MAX)
                root = steps[root].parent;
            if (root != at)
                place = keys_move(block, shard, steps, at, place);
            key_put(block, steps[root].bucket, place, key);
            return true;
        }
        for (unsigned i = 0; i < BUCKET_KEYS && n < PATH_BUCKETS; i++) {
            uint32_t bucket = steps[at].bucket;
            uint32_t other = other_bucket(block, key_get(block, bucket, i), bucket);
            bool seen = false; // a way never passes a bucket twice: its keys would be moved twice
            for (size_t up = at; !seen && up != UINT16_MAX; up = steps[up].parent)
                seen = steps[up].bucket == other;
            if (!seen)
                steps[n++] = (struct step){other, (uint16_t)at, (uint16_t)i};
        }
    }
    return false;
}

static struct block *block_create(uint32_t n_buckets) {
    size_t bytes = sizeof(struct block) + (size_t)n_buckets * BUCKET_KEYS * sizeof(uint64_t);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    struct block *block = memory;
    block->n_buckets = n_buckets;
    block->bytes = bytes;
    return block;
}

static void block_free(struct block *block) {
    if (block != NULL)
        CHECK(munmap(block, block->bytes) == 0);
}

// Waits until no reader can hold a block that was taken out before.
static void readers_pass(const struct drop_set *set) {
    for (size_t i = 0; i < set->n_readers; i++) {
        const struct drop_reader *reader = &set->readers[i];
        uint32_t turn = atomic_load_explicit(&reader->turn, memory_order_seq_cst);
        while (turn % 2 == 1 && atomic_load_explicit(&reader->turn, memory_order_acquire) == turn)
            sched_yield();
    }
}

static struct block *shard_block(const struct shard *shard) {
    return atomic_load_explicit(&shard->block, memory_order_relaxed);
}

static void shard_publish(struct drop_set *set, struct shard *shard, struct block *block) {
    struct block *old = shard_block(shard);
    size_t bytes = atomic_load_explicit(&set->bytes, memory_order_relaxed);
    atomic_store_explicit(&shard->block, block, memory_order_seq_cst);
    readers_pass(set);
    bytes = bytes + (block == NULL ? 0 : block->bytes) - (old == NULL ? 0 : old->bytes);
    atomic_store_explicit(&set->bytes, bytes, memory_order_relaxed);
    block_free(old);
}

// A block of the shard's keys with room for `n`.
static struct block *block_rebuild(struct block *old, uint32_t n) {
    uint64_t wanted = ((uint64_t)n * 100 / 98 + BUCKET_KEYS) / BUCKET_KEYS;
    for (; wanted <= BUCKETS_MAX; wanted += wanted / 32 + 1) {
        struct block *block = block_create((uint32_t)wanted);
        if (block == NULL)
            return NULL;
        bool whole = true;
        size_t places = old == NULL ? 0 : (size_t)old->n_buckets * BUCKET_KEYS;
        for (size_t i = 0; i < places && whole; i++) {
            uint64_t key = atomic_load_explicit(&old->keys[i], memory_order_relaxed);
            whole = key == 0 || block_insert(block, NULL, key);
        }
        if (whole)
            return block;
        block_free(block);
    }
    return NULL;
}

static int shard_resize(struct drop_set *set, struct shard *shard) {
    // A growth of a sixteenth keeps the table between 92 and 98 % full, at about 16 moves a key over its life.
    struct block *block = block_rebuild(shard_block(shard), shard->n + shard->n / 16 + BUCKET_KEYS);
    if (block == NULL)
        return ERR_NOMEM;
    shard_publish(set, shard, block);
    return 0;
}

static bool shard_holds(const struct shard *shard, uint64_t key) {
    struct block *block = shard_block(shard);
    return block != NULL && (bucket_find(block, first_bucket(key, block->n_buckets), key) < BUCKET_KEYS ||
                             bucket_find(block, second_bucket(key, block->n_buckets), key) < BUCKET_KEYS);
}

int drop_set_add(struct drop_set *set, uint32_t tenant, uint64_t pseudonym) {
    uint64_t key = key_of(set, tenant, pseudonym);
    struct shard *shard = &set->shards[shard_of(key)];
    if (shard_holds(shard, key))
        return 0;
    struct block *block = shard_block(shard);
    bool room = block != NULL && (uint64_t)shard->n * 50 < (uint64_t)block->n_buckets * BUCKET_KEYS * 49;
    while (!room || !block_insert(block, shard, key)) {
        int rc = shard_resize(set, shard);
        if (rc != 0)
            return rc;
        block = shard_block(shard);
        room = true;
    }
    shard->n++;
    atomic_fetch_add_explicit(&set->n, 1, memory_order_relaxed);
    return 0;
}

void drop_set_remove(struct drop_set *set, uint32_t tenant, uint64_t pseudonym) {
    uint64_t key = key_of(set, tenant, pseudonym);
    struct shard *shard = &set->shards[shard_of(key)];
    if (!shard_holds(shard, key))
        return;
    struct block *block = shard_block(shard);
    uint32_t bucket = first_bucket(key, block->n_buckets);
    unsigned place = bucket_find(block, bucket, key);
    if (place == BUCKET_KEYS) {
        bucket = second_bucket(key, block->n_buckets);
        place = bucket_find(block, bucket, key);
    }
    CHECK(place < BUCKET_KEYS && shard->n > 0);
    key_put(block, bucket, place, 0);
    shard->n--;
    atomic_fetch_sub_explicit(&set->n, 1, memory_order_relaxed);
    // Where there is no memory for a smaller block, the larger one stays.
    if ((uint64_t)shard->n * 2 < (uint64_t)block->n_buckets * BUCKET_KEYS && block->n_buckets > 64)
        (void)shard_resize(set, shard);
}

void drop_set_clear(struct drop_set *set) {
    for (size_t i = 0; i < SHARDS; i++) {
        set->shards[i].n = 0;
        if (shard_block(&set->shards[i]) != NULL)
            shard_publish(set, &set->shards[i], NULL);
    }
    atomic_store_explicit(&set->n, 0, memory_order_relaxed);
    CHECK(atomic_load_explicit(&set->bytes, memory_order_relaxed) == 0);
}

size_t drop_set_count(const struct drop_set *set) {
    return atomic_load_explicit(&set->n, memory_order_relaxed);
}

size_t drop_set_bytes(const struct drop_set *set) {
    return atomic_load_explicit(&set->bytes, memory_order_relaxed);
}

struct drop_reader *drop_set_reader(struct drop_set *set, size_t index) {
    CHECK(index < set->n_readers);
    return &set->readers[index];
}

int drop_set_create(struct drop_set **out, size_t n_readers, struct err *err) {
    CHECK(n_readers > 0 && n_readers < 4096);
    struct drop_set *set = calloc(1, sizeof *set);
    struct drop_reader *readers = aligned_alloc(64, n_readers * sizeof *readers);
    if (set == NULL || readers == NULL) {
        free(set);
        free(readers);
        return err_set(err, ERR_NOMEM, "no memory for the drop list");
    }
    memset(readers, 0, n_readers * sizeof *readers);
    for (size_t i = 0; i < n_readers; i++)
        readers[i].set = set;
    bytes_random(set->seed, sizeof set->seed);
    set->n_readers = n_readers;
    set->readers = readers;
    *out = set;
    return 0;
}

void drop_set_free(struct drop_set *set) {
    if (set == NULL)
        return;
    drop_set_clear(set);
    free(set->readers);
    free(set);
}
