// Chance, memory and words.
#include "sim.h"

#include <stdarg.h>

struct sim sim;

#define CHUNK_BYTES (4u << 20)
#define CHUNKS_MAX 64
static uint8_t *chunks[CHUNKS_MAX];
static size_t n_chunks, chunk_at, chunk_used;

uint64_t sim_random(void) {
    uint64_t z = sim.random += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

uint32_t sim_below(uint32_t n) {
    CHECK(n > 0);
    return (uint32_t)((sim_random() >> 32) * n >> 32);
}

bool sim_chance(uint32_t per_mille) {
    return sim_below(1000) < per_mille;
}

void sim_memory_reset(void) {
    for (size_t i = 0; i <= chunk_at && i < n_chunks; i++)
        memset(chunks[i], 0, i == chunk_at ? chunk_used : CHUNK_BYTES);
    chunk_at = chunk_used = 0;
}

void *sim_alloc(size_t size) {
    size = (size + 15) & ~(size_t)15;
    CHECK(size <= CHUNK_BYTES);
    if (n_chunks > 0 && chunk_used + size > CHUNK_BYTES) {
        chunk_at++;
        chunk_used = 0;
    }
    if (chunk_at == n_chunks) {
        CHECK(n_chunks < CHUNKS_MAX);
        chunks[n_chunks] = calloc(1, CHUNK_BYTES);
        CHECK(chunks[n_chunks] != NULL);
        n_chunks++;
    }
    void *memory = chunks[chunk_at] + chunk_used;
    chunk_used += size;
    return memory;
}

void *sim_copy(const void *data, size_t size) {
    void *copy = sim_alloc(size == 0 ? 1 : size);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

void *sim_room(void *array, size_t n, size_t *room, size_t size) {
    if (n < *room)
        return array;
    size_t larger = *room == 0 ? 16 : *room * 2;
    void *moved = sim_alloc(larger * size);
    if (n > 0)
        memcpy(moved, array, n * size);
    *room = larger;
    return moved;
}

void sim_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "simulation: seed %llu: ", (unsigned long long)sim.seed);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\nreplay it: test_simulation --seed %llu --verbose\n", (unsigned long long)sim.seed);
    va_end(args);
    exit(1);
}

void sim_trace(const char *format, ...) {
    if (!sim.verbose)
        return;
    va_list args;
    va_start(args, format);
    char day[DAY_TEXT_SIZE];
    day_format(sim_today(), day);
    int64_t ms = sim.now_ms % (DAY_SECONDS * 1000);
    fprintf(stderr, "%s %02d:%02d:%02d.%03d ", day, (int)(ms / 3600000), (int)(ms / 60000 % 60), (int)(ms / 1000 % 60),
            (int)(ms % 1000));
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}
