// What one commit holds: changed records of state, positions, and released lines. The engine fills one batch while the
// journal commits another. Owned by the engine's thread, lent to the journal for the length of a commit. Memory grows as
// needed up to BATCH_BYTES_MAX; the engine commits before that.
#ifndef OPENVEIL_BATCH_H
#define OPENVEIL_BATCH_H

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BATCH_BYTES_MAX (256u << 20)
#define RECORD_KEY_MAX 96
#define RECORD_VALUE_MAX (1u << 20)

struct batch_record {
    uint32_t partition;
    uint32_t key_len;
    uint32_t value_len; // 0: the key is erased
    bool release;       // key and value go to the releases topic, not to the state
    const uint8_t *key;
    const uint8_t *value;
};

struct batch; // opaque: an arena of records in the order added, and a position per partition
int batch_create(struct batch **batch, uint32_t partitions) MUST_CHECK;
void batch_free(struct batch *batch);
void batch_clear(struct batch *batch);
int batch_put(struct batch *batch, uint32_t partition, const void *key, size_t key_len, const void *value,
              size_t value_len) MUST_CHECK;
int batch_release(struct batch *batch, uint32_t partition, const char *key, const void *line, size_t line_len) MUST_CHECK;
// The next position to read in `partition`; everything below it has its effect in this batch or an earlier one.
void batch_set_position(struct batch *batch, uint32_t partition, int64_t position);
int64_t batch_position(const struct batch *batch, uint32_t partition); // -1: did not move
bool batch_empty(const struct batch *batch);                           // no record and no position
size_t batch_bytes(const struct batch *batch);
size_t batch_count(const struct batch *batch);
struct batch_record batch_at(const struct batch *batch, size_t index);
// The partitions that this batch has records or a position of.
bool batch_touches(const struct batch *batch, uint32_t partition);

#endif
