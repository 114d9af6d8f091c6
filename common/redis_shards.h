// The servers that hold consent, and which of them holds a partition: one Redis, several with the partitions spread over
// them (partition p on number p mod n), the primary that Sentinels name, or the masters of a Redis Cluster. There is one
// link (redis_link.h) to each; before it counts as up its server is asked whether it is the right one: a Sentinel's
// primary for its role, one of several for the place it once was given. Sentinels and clusters are asked again every
// second, and as soon as a connection ends; where a partition moved, the links of both servers begin anew.
// All calls and hooks belong to the loop's thread; memory is freed once the loop has closed the handles.
#ifndef OPENVEIL_REDIS_SHARDS_H
#define OPENVEIL_REDIS_SHARDS_H

#include "common/config.h"
#include "common/redis_link.h"

#define REDIS_SHARDS_MAX 64u
#define REDIS_NO_SHARD 255u

struct redis_shards;

struct redis_shards_hooks {
    // The server may be asked for what lies on it. The partitions that redis_shards_of gives to it hold until `down`.
    void (*up)(void *arg, unsigned shard);
    // Its connection, or an attempt at one, ended, and why, in a sentence. REDIS_NO_SHARD: that of the Sentinels, or of
    // the node that is asked for the cluster's layout.
    void (*down)(void *arg, unsigned shard, const char *why);
    void *arg;
};

// Reads [redis] and the number of partitions; begins to connect in the loop's next turn. `writes`: the place of each of
// several servers is written into it where it has none (right +hsetnx), else it is only read. ERR_INVALID, or what
// reading a password file gave.
int redis_shards_create(struct redis_shards **shards, struct uv_loop_s *loop, const struct config *config, bool writes,
                        const struct redis_shards_hooks *hooks, struct err *err) MUST_CHECK;
// No hook is called any more; outstanding reply functions get NULL before it returns.
void redis_shards_free(struct redis_shards *shards);
// REDIS_NO_SHARD where no server is known to hold it.
unsigned redis_shards_of(const struct redis_shards *shards, uint32_t partition);
// The link of a shard that redis_shards_of or a hook named; valid until its next `down`.
struct redis_link *redis_shards_link(const struct redis_shards *shards, unsigned shard);
// Whether a command may only have keys of one partition.
bool redis_shards_split_keys(const struct redis_shards *shards);

#endif
