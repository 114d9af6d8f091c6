// What source_kafka.c and journal_kafka.c share: the consumer and its group's metadata, which fence every commit, and the
// transactional producer. Made by kafka_session_create (aggregator/source.h), freed when both have released it.
// Threads: the consumer's callbacks and kafka_session_assign/forget belong to the loop's thread; all else is locked here.
#ifndef OPENVEIL_KAFKA_SESSION_H
#define OPENVEIL_KAFKA_SESSION_H

#include "aggregator/journal.h"
#include "aggregator/source.h"
#include "common/kafka.h"

#include <pthread.h>
#include <stdatomic.h>

#define KAFKA_CALL_MS 5000 // one blocking call; every loop around one looks at `stopping` in between

struct kafka_session {
    const struct config *config;
    uint32_t partitions;
    rd_kafka_t *consumer;   // read_committed, in the group
    rd_kafka_t *watermarks; // read_uncommitted: asked for the end of a partition, which a read_committed one hides
    _Atomic int users;
    _Atomic bool stopping; // nobody waits for the broker any more

    pthread_mutex_t lock; // of what follows
    uint64_t assignments; // so far
    uint64_t generation;  // the number of the assignment in force; 0 while nothing is assigned
    void *group;          // the group's metadata as captured in the assign callback
    size_t group_len;
    bool *owned;        // by partition
    int64_t *committed; // by partition: the committed position, -1 unknown

    pthread_mutex_t producer_lock; // held for a whole commit
    rd_kafka_t *producer;          // NULL: to be made before the next use
};

int kafka_session_open(struct kafka_session **session, const struct config *config, void *opaque,
                       void (*rebalance)(rd_kafka_t *, rd_kafka_resp_err_t, rd_kafka_topic_partition_list_t *, void *),
                       struct err *err) MUST_CHECK;
void kafka_session_release(struct kafka_session *session); // NULL-safe

// Blocks until the producer exists and its earlier transactions are resolved; producer_lock held.
int kafka_session_producer(struct kafka_session *session, struct err *err) MUST_CHECK;
void kafka_session_producer_drop(struct kafka_session *session); // after a fatal error; producer_lock held

// In the assign callback, after rd_kafka_assign. ERR_IO where the library has no member id (such metadata
// fence nothing), ERR_REFUSED for a partition that [kafka] partitions does not have.
int kafka_session_assign(struct kafka_session *session, const rd_kafka_topic_partition_list_t *list, struct err *err)
    MUST_CHECK;
void kafka_session_forget(struct kafka_session *session); // from now on every commit is refused
// The generation in which this process owns the partition; 0: it does not.
uint64_t kafka_session_owns(struct kafka_session *session, uint32_t partition);
int64_t kafka_session_committed(struct kafka_session *session, uint32_t partition);
void kafka_session_set_committed(struct kafka_session *session, uint32_t partition, int64_t position);
// What it means that the broker has nothing at `next`, where this process would read on. ERR_AGAIN: the group has committed
// more than that, so another member has the partition and has deleted what it counted; ours will hear of it. ERR_IO: what lay
// there is lost. ERR_UNREACHABLE: not known now. Blocks for at most a second.
int kafka_session_behind(struct kafka_session *session, uint32_t partition, int64_t next, struct err *err) MUST_CHECK;
// A copy of the captured metadata, to be destroyed by the caller; NULL while nothing is assigned.
rd_kafka_consumer_group_metadata_t *kafka_session_group(struct kafka_session *session);
// Both ends of a partition as they are now. ERR_UNREACHABLE.
int kafka_watermarks(rd_kafka_t *rk, const char *topic, uint32_t partition, int timeout_ms, int64_t *low, int64_t *high,
                     struct err *err) MUST_CHECK;

int source_kafka_create(struct source **source, const struct config *config, struct err *err) MUST_CHECK;
struct kafka_session *source_kafka_session(struct source *source);
int journal_kafka_create(struct journal **journal, struct kafka_session *session, struct err *err) MUST_CHECK;

#endif
