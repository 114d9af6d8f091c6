// The edge's spool: outcomes join commit groups, a group is on disk before its answers leave, segments are sealed into
// one message per partition. Threads: the commit thread owns the open segment and decides each group's UTC day (which
// never goes back); the packer thread seals finished segments and, at a day's end, writes close markers; each worker has
// a port, used by that worker's thread alone. Owned by main: spool_open … spool_start … spool_stop … spool_free.
// A failed fsync or write is never retried: the state turns to SPOOL_FAILED, nothing more becomes durable, and main
// exits; the next start replays what is on disk.
#ifndef OPENVEIL_SPOOL_H
#define OPENVEIL_SPOOL_H

#include "common/config.h"
#include "common/event.h"
#include "common/files.h"
#include "common/message.h"

struct spool;
struct spool_port;

enum spool_state { SPOOL_OK, SPOOL_FULL, SPOOL_FAILED };

// Called from a thread of the spool's when the port's durable ticket moved or the state changed; wakes the worker's loop.
typedef void (*spool_wake_fn)(void *arg);
// Called from the packer thread when a sealed segment is on disk under its final name.
typedef void (*spool_sealed_fn)(void *arg, uint64_t segment);

// Marks and locks [spool] dir, scans it whatever it holds, seals what an earlier process left, opens a segment. An empty
// spool begins with a sealed REGISTER segment. `rules_hash` is the fetch-class file in force.
int spool_open(struct spool **spool, const struct config *config, const uint8_t rules_hash[RULES_HASH_SIZE],
               struct err *err) MUST_CHECK;
// Before spool_start: one port per worker, freed with the spool.
int spool_port_add(struct spool *spool, spool_wake_fn wake, void *arg, struct spool_port **port) MUST_CHECK;
// What spool_open sealed is not announced: consumers begin with spool_sealed_next. Before spool_start.
void spool_on_sealed(struct spool *spool, spool_sealed_fn sealed, void *arg);
int spool_start(struct spool *spool, struct err *err) MUST_CHECK;
// Commits what the ports have submitted, seals the open segment, joins the threads. Ports must be quiet.
int spool_stop(struct spool *spool, struct err *err) MUST_CHECK;
void spool_free(struct spool *spool);

// Worker side; no lock, no allocation. An outcome joins the port's filling group; the ticket says which. 0: the group is
// full or the spool cannot take outcomes: answer 503.
uint64_t spool_add_event(struct spool_port *port, const struct event *event);
uint64_t spool_add_drop(struct spool_port *port, enum edge_drop reason);
// Hands the filling group to the commit thread; call once at the end of every loop iteration that added something and
// whenever `wake` was called. Takes a lock for a pointer's exchange.
void spool_submit(struct spool_port *port);
// Outcomes with a ticket up to this one are durable.
uint64_t spool_durable(const struct spool_port *port);

enum spool_state spool_state(const struct spool *spool);
uint64_t spool_damaged(const struct spool *spool); // files and commit groups found damaged since spool_open
bool spool_nearly_full(const struct spool *spool); // for /ready, before SPOOL_FULL
uint64_t spool_bytes(const struct spool *spool);
// A consumer has all of this segment: delete its file, but keep the newest. Any thread.
void spool_forget(struct spool *spool, uint64_t segment);
// The smallest number above `after` of a sealed segment, or ERR_NOT_FOUND; a consumer begins with 0. Any thread.
int spool_sealed_next(struct spool *spool, uint64_t after, uint64_t *segment) MUST_CHECK;
// Where a sealed segment's file is, or was: files may be deleted from outside at any time. Any thread.
int spool_sealed_path(const struct spool *spool, uint64_t segment, char path[PATH_SIZE]) MUST_CHECK;
// The rules hash that later segments carry; takes effect with the next UTC day. Any thread.
void spool_set_rules(struct spool *spool, const uint8_t rules_hash[RULES_HASH_SIZE]);

#endif
