// Sends sealed segments to Kafka, oldest first, and forgets a segment once every message of it is acknowledged (acks=all,
// idempotent, message.timeout.ms=0, bounded in flight). One thread of its own; owned by main, which calls forwarder_wake
// from spool_on_sealed. A broker that is away is normal: segments wait in the spool. A permanent produce error stops
// forwarding and is reported by forwarder_failed; nothing is dropped.
#ifndef OPENVEIL_FORWARDER_H
#define OPENVEIL_FORWARDER_H

#include "ingest/spool.h"

struct forwarder;
// Creates or checks the events topic in the background; does not wait for a broker. `on_failed` is called once, from the
// forwarder's thread, when forwarder_failed has become true.
int forwarder_start(struct forwarder **forwarder, const struct config *config, struct spool *spool,
                    void (*on_failed)(void *arg), void *arg, struct err *err) MUST_CHECK;
void forwarder_wake(struct forwarder *forwarder); // any thread
// The edge's registration is acknowledged on all partitions (or was, before an earlier restart).
bool forwarder_registered(const struct forwarder *forwarder);
// True, with a sentence, once a permanent error stopped forwarding.
bool forwarder_failed(const struct forwarder *forwarder, struct err *err);
uint64_t forwarder_backlog(const struct forwarder *forwarder); // sealed segments not yet acknowledged
// Flushes for at most `timeout_ms`, stops the thread, frees. What is not acknowledged stays in the spool.
void forwarder_stop(struct forwarder *forwarder, int timeout_ms);

#endif
