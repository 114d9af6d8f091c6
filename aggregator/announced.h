// Released lines that are committed and not yet sent to the releases topic, oldest first. What is in here is the line of
// its period for ever, so anybody may see it, and sending it again gives the same bytes. Owned by a partition or by its
// load; one thread at a time.
#ifndef OPENVEIL_ANNOUNCED_H
#define OPENVEIL_ANNOUNCED_H

#include "aggregator/batch.h"

struct announced_line;
struct announced { // zeroed: empty
    struct announced_line *first, *last;
};

// A committed record of kind RECORD_ANNOUNCED, in the order of the commits; len 0: it was sent. ERR_NOMEM, ERR_CORRUPT.
int announced_apply(struct announced *announced, const uint8_t *key, size_t key_len, const uint8_t *line, size_t len)
    MUST_CHECK;
// Moves lines into the batch, each with the erasure of its record, while the batch is at most half full; what stays goes
// with a later one. ERR_NOMEM.
int announced_send(struct announced *announced, struct batch *batch, uint32_t partition) MUST_CHECK;
void announced_clear(struct announced *announced);

#endif
