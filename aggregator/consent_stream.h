// Follows the change streams of some partitions, each from an epoch of the caller's choice on, by reading alone, on a
// connection of its own: no scan of the records. Each user makes one of its own, because each stands elsewhere.
// All calls and hooks belong to the loop's thread, and hooks may make any call but consent_stream_free; memory is freed
// once the loop has closed the handles. Needs only the rights +hmget +xread.
#ifndef OPENVEIL_CONSENT_STREAM_H
#define OPENVEIL_CONSENT_STREAM_H

#include "common/config.h"
#include "common/consent_store.h"

struct uv_loop_s;
struct consent_stream;

struct consent_stream_hooks {
    // The next entry, valid during the call; false: not now, it is handed over again after consent_stream_resume.
    bool (*entry)(void *arg, uint32_t partition, const struct consent_entry *entry);
    // The epochs first..last are not in the stream, or not as openveil writes them (trimmed, forgotten, skipped by a
    // restore); the next entry follows.
    void (*gap)(void *arg, uint32_t partition, uint64_t first, uint64_t last);
    // The store stands at `stamp`, which is below what was handed over (emptied, or restored to an older state): nothing
    // more comes of this partition until consent_stream_follow says from where, or the store has passed that epoch.
    void (*behind)(void *arg, uint32_t partition, const struct consent_stamp *stamp);
    // All that the store held when it was asked has been handed over; `stamp` is where it stood then. Comes about every
    // 5 s for each partition, and after each connection.
    void (*level)(void *arg, uint32_t partition, const struct consent_stamp *stamp);
    // Redis cannot be followed now, and why, in a sentence; it is tried again by itself.
    void (*lost)(void *arg, const char *why);
    void *arg;
};

// Reads [redis] and the number of partitions; follows none yet. A Redis that is away is no error. NULL hooks are skipped.
int consent_stream_create(struct consent_stream **stream, struct uv_loop_s *loop, const struct config *config,
                          const struct consent_stream_hooks *hooks, struct err *err) MUST_CHECK;
void consent_stream_free(struct consent_stream *stream); // no hook is called any more; NULL is fine
// From now on the entries after epoch `from` (0: all that the stream has; CONSENT_STREAM_NOW: none that is there when
// Redis is asked first). Once more: starts over from there.
#define CONSENT_STREAM_NOW UINT64_MAX
void consent_stream_follow(struct consent_stream *stream, uint32_t partition, uint64_t from);
void consent_stream_leave(struct consent_stream *stream, uint32_t partition);
void consent_stream_resume(struct consent_stream *stream, uint32_t partition);

#endif
