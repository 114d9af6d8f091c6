// Follows who is in which state, by reading alone: all buckets once, then the change streams of all partitions, on a
// connection of its own. A stream that was cut before it was read, a store that does not lead on from what was read, a
// moved layout or an erased tenant begin a new scan. Needs only the rights +hmget +hgetall +xrange +xread, and to tell what is
// applied +fcall and +xadd on ov:*:applied.
// All calls and hooks belong to the loop's thread; memory is freed once the loop has closed the handles.
#ifndef OPENVEIL_CONSENT_FOLLOW_H
#define OPENVEIL_CONSENT_FOLLOW_H

#include "common/config.h"
#include "common/consent.h"

struct uv_loop_s;
struct consent_follow;

struct consent_follow_hooks {
    // Everything told so far is void: a scan begins.
    void (*reset)(void *arg);
    // A contact's state (CONSENT_UNKNOWN: a record that this version cannot read); later calls replace earlier ones.
    void (*state)(void *arg, uint32_t tenant, uint64_t pseudonym, uint8_t state);
    // All that Redis had acknowledged a moment ago has been told. Comes at least every CONSENT_FOLLOW_PROOF_MS, plus
    // what Redis takes to answer, for as long as it holds.
    void (*fresh)(void *arg);
    // Redis cannot be followed now, and why, in a sentence; it is tried again by itself.
    void (*lost)(void *arg, const char *why);
    // Whether what was told is in force now; NULL: Redis is not told of it.
    bool (*applied)(void *arg);
    const char *who; // as whom it is told (common/consent_tell.h); copied
    void *arg;
};
#define CONSENT_FOLLOW_PROOF_MS 500

// Reads [redis] and the number of partitions. A Redis that is away is no error.
int consent_follow_start(struct consent_follow **follow, struct uv_loop_s *loop, const struct config *config,
                         const struct consent_follow_hooks *hooks, struct err *err) MUST_CHECK;
// No hook is called any more.
void consent_follow_free(struct consent_follow *follow);

#endif
