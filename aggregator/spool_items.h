// The files that the single-node source reads: sealed segments in [spool] dir, which hold a message for every partition,
// and `*.msg` files of one message in the inbox, [aggregator] state_dir/inbox. Each gets a number when it is first seen,
// which grows in the order of reading. One thread.
#ifndef OPENVEIL_SPOOL_ITEMS_H
#define OPENVEIL_SPOOL_ITEMS_H

#include "common/files.h"
#include "common/segment.h"

#define SPOOL_ITEM_NAME_SIZE 48
#define SPOOL_ITEMS_MAX (4u << 20)
#define SPOOL_LOADED_MAX 4
#define SPOOL_PARTITION_ALL UINT32_MAX

enum spool_dir { SPOOL_SEALED, SPOOL_INBOX, SPOOL_DIRS };
struct spool_item {
    enum spool_dir dir;
    uint32_t partition; // of the one message; SPOOL_PARTITION_ALL for a sealed segment
    bool gone;          // removed, by us or by somebody, or set aside: there is nothing to read any more
    bool left;          // gone for us, but the file could not be removed
    bool newest;        // the sealed segment of the highest number: the edge still needs it
    char name[SPOOL_ITEM_NAME_SIZE];
};

// A file in memory; the least recently used of SPOOL_LOADED_MAX makes way for the next.
struct spool_loaded {
    char *data;
    uint64_t index;
    uint64_t used; // when
    uint32_t partition; // SPOOL_PARTITION_ALL, or the one
    size_t offsets[LEDGER_PARTITIONS_MAX + 1];
};

struct spool_items {
    char dirs[SPOOL_DIRS][PATH_SIZE];
    bool rehearsal;
    uint32_t partitions;
    struct spool_item *items;
    size_t n, room;
    uint64_t first;   // number of items[0]
    uint64_t corrupt; // files set aside
    uint64_t clock;
    struct spool_loaded loaded[SPOOL_LOADED_MAX];
};

// Looks at both directories: numbers what is new, in order of their names, and notes what is gone. ERR_NOT_FOUND while
// the spool's directory is not there yet; ERR_REFUSED for a spool of the other mode; ERR_IO, ERR_LIMIT, ERR_NOMEM.
int spool_items_scan(struct spool_items *items, struct err *err) MUST_CHECK;
static inline uint64_t spool_items_end(const struct spool_items *items) {
    return items->first + items->n;
}
struct spool_item *spool_items_at(struct spool_items *items, uint64_t index); // NULL where it is forgotten
// Whether this file has, or may have, a message of the partition.
bool spool_item_has(const struct spool_item *item, uint32_t partition);
// One message of a file; the bytes are good until the next call but SPOOL_LOADED_MAX. ERR_NOT_FOUND: the file is gone, or
// was damaged and is set aside in a directory `corrupt` beside it. ERR_REFUSED: of another mode or number of partitions.
int spool_items_message(struct spool_items *items, uint64_t index, uint32_t partition, const uint8_t **data, size_t *len,
                        struct err *err) MUST_CHECK;
// Removes the file; spool_items_forget drops the numbers of the oldest ones that are gone.
void spool_items_remove(struct spool_items *items, uint64_t index);
void spool_items_forget(struct spool_items *items);
void spool_items_free(struct spool_items *items);

#endif
