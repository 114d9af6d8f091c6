// Where messages come from: sealed segments in a spool directory (source_spool.c) or the Kafka events topic
// (source_kafka.c). The engine does not know which. Positions are opaque and grow within a partition; a message may come
// again after a restart (the engine drops duplicates by their identity). All calls and hooks are on the uv loop's thread.
#ifndef OPENVEIL_SOURCE_H
#define OPENVEIL_SOURCE_H

#include "common/config.h"

struct uv_loop_s;

struct source_hooks {
    // This process now owns the partition: load its state, then call source resume. Nothing is delivered before.
    void (*assigned)(void *arg, uint32_t partition);
    // It no longer does. `lost`: others may own it already, so nothing of it may be committed. Before returning, the
    // engine finishes (or abandons) a commit under way and forgets the partition's state.
    void (*revoked)(void *arg, uint32_t partition, bool lost);
    // One message, to be copied or used before returning. False: not now; the source delivers this one again after the
    // next resume of the partition.
    bool (*message)(void *arg, uint32_t partition, int64_t position, const uint8_t *data, size_t len);
    // The source cannot go on (unknown offset, authorisation, a topic with other partitions): main logs and exits.
    void (*failed)(void *arg, const struct err *err);
    void *arg;
};

struct source {
    const struct source_ops *ops;
};

struct source_ops {
    int (*start)(struct source *source, struct uv_loop_s *loop, const struct source_hooks *hooks, struct err *err);
    // Deliver messages from `position` on (-1: from the oldest there is; -2: from the first one not yet accepted).
    void (*resume)(struct source *source, uint32_t partition, int64_t position);
    // The position after the last message that exists now, for the deadline's question whether there is a backlog.
    // 0, or ERR_UNREACHABLE.
    int (*end)(struct source *source, uint32_t partition, int64_t *end);
    // Everything below `position` is committed: it may be deleted.
    void (*committed)(struct source *source, uint32_t partition, int64_t position);
    void (*stop)(struct source *source); // frees once the loop has closed its handles
};

int source_spool_create(struct source **source, const struct config *config, struct err *err) MUST_CHECK;

// In Kafka mode source and journal share a consumer's group metadata and its fencing, so they are made together.
struct journal;
int kafka_session_create(struct source **source, struct journal **journal, const struct config *config, struct err *err)
    MUST_CHECK;

#endif
