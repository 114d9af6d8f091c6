#include "aggregator/batch.h"

#include <string.h>

// Records lie one after the other in `bytes`; offsets, not pointers, because the arena moves when it grows.
struct entry {
    size_t at;
    uint32_t partition;
    uint32_t key_len;
    uint32_t value_len;
    bool release;
};

struct batch {
    uint8_t *bytes;
    size_t used;
    size_t room;
    struct entry *entries;
    size_t n_entries;
    size_t entries_room;
    uint32_t partitions;
    size_t n_positions;
    int64_t *positions;
    bool *touched;
};

int batch_create(struct batch **out, uint32_t partitions) {
    CHECK(partitions > 0);
    struct batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL)
        return ERR_NOMEM;
    batch->partitions = partitions;
    batch->positions = calloc(partitions, sizeof *batch->positions);
    batch->touched = calloc(partitions, sizeof *batch->touched);
    if (batch->positions == NULL || batch->touched == NULL) {
        batch_free(batch);
        return ERR_NOMEM;
    }
    batch_clear(batch);
    *out = batch;
    return 0;
}

void batch_free(struct batch *batch) {
    if (batch == NULL)
        return;
    free(batch->bytes);
    free(batch->entries);
    free(batch->positions);
    free(batch->touched);
    free(batch);
}

void batch_clear(struct batch *batch) {
    batch->used = 0;
    batch->n_entries = 0;
    batch->n_positions = 0;
    for (uint32_t p = 0; p < batch->partitions; p++) {
        batch->positions[p] = -1;
        batch->touched[p] = false;
    }
}

// Room for `len` more bytes and one more entry.
static int batch_reserve(struct batch *batch, size_t len) {
    if (batch->used + len > BATCH_BYTES_MAX)
        return ERR_LIMIT;
    if (batch->used + len > batch->room) {
        size_t room = batch->room == 0 ? 65536 : batch->room;
        while (room < batch->used + len)
            room *= 2;
        uint8_t *bytes = realloc(batch->bytes, room);
        if (bytes == NULL)
            return ERR_NOMEM;
        batch->bytes = bytes;
        batch->room = room;
    }
    if (batch->n_entries == batch->entries_room) {
        size_t room = batch->entries_room == 0 ? 1024 : batch->entries_room * 2;
        struct entry *entries = realloc(batch->entries, room * sizeof *entries);
        if (entries == NULL)
            return ERR_NOMEM;
        batch->entries = entries;
        batch->entries_room = room;
    }
    return 0;
}

static int batch_append(struct batch *batch, uint32_t partition, const void *key, size_t key_len, const void *value,
                        size_t value_len, bool release) {
    CHECK(partition < batch->partitions);
    CHECK(key_len > 0 && key_len <= RECORD_KEY_MAX && value_len <= RECORD_VALUE_MAX);
    int rc = batch_reserve(batch, key_len + value_len);
    if (rc != 0)
        return rc;
    batch->entries[batch->n_entries++] = (struct entry){.at = batch->used,
                                                        .partition = partition,
                                                        .key_len = (uint32_t)key_len,
                                                        .value_len = (uint32_t)value_len,
                                                        .release = release};
    memcpy(batch->bytes + batch->used, key, key_len);
    if (value_len > 0)
        memcpy(batch->bytes + batch->used + key_len, value, value_len);
    batch->used += key_len + value_len;
    batch->touched[partition] = true;
    return 0;
}

int batch_put(struct batch *batch, uint32_t partition, const void *key, size_t key_len, const void *value,
              size_t value_len) {
    return batch_append(batch, partition, key, key_len, value, value_len, false);
}

int batch_release(struct batch *batch, uint32_t partition, const char *key, const void *line, size_t line_len) {
    CHECK(line_len > 0);
    return batch_append(batch, partition, key, strlen(key), line, line_len, true);
}

void batch_set_position(struct batch *batch, uint32_t partition, int64_t position) {
    CHECK(partition < batch->partitions && position >= 0);
    CHECK(position >= batch->positions[partition]);
    if (batch->positions[partition] < 0)
        batch->n_positions++;
    batch->positions[partition] = position;
    batch->touched[partition] = true;
}

int64_t batch_position(const struct batch *batch, uint32_t partition) {
    CHECK(partition < batch->partitions);
    return batch->positions[partition];
}

bool batch_empty(const struct batch *batch) {
    return batch->n_entries == 0 && batch->n_positions == 0;
}

size_t batch_bytes(const struct batch *batch) {
    return batch->used;
}

size_t batch_count(const struct batch *batch) {
    return batch->n_entries;
}

struct batch_record batch_at(const struct batch *batch, size_t index) {
    CHECK(index < batch->n_entries);
    const struct entry *entry = &batch->entries[index];
    return (struct batch_record){.partition = entry->partition,
                                 .key_len = entry->key_len,
                                 .value_len = entry->value_len,
                                 .release = entry->release,
                                 .key = batch->bytes + entry->at,
                                 .value = batch->bytes + entry->at + entry->key_len};
}

bool batch_touches(const struct batch *batch, uint32_t partition) {
    CHECK(partition < batch->partitions);
    return batch->touched[partition];
}
