// Tells Redis up to which change of consent somebody has applied all (ov:{p}:applied), for whoever follows the streams on a
// connection of its own. Needs the right +fcall and the Function library; without either it is left, and tried again later.
// At most one telling a partition and CONSENT_TELL_MS: a receipt's times are no finer. One thread, that of the link's loop.
#ifndef OPENVEIL_CONSENT_TELL_H
#define OPENVEIL_CONSENT_TELL_H

#include "common/config.h"
#include "common/redis_link.h"

#define CONSENT_TELL_MS 200

struct consent_tell;

// `who` is copied, at most 79 bytes of letters, digits, '/', '.', '_', ':' and '-'.
int consent_tell_create(struct consent_tell **tell, const struct config *config, const char *who) MUST_CHECK; // ERR_NOMEM
// Once the link is gone; NULL is fine.
void consent_tell_free(struct consent_tell *tell);
// All changes of the partition up to `epoch` are applied. What does not fit the link now is told another time.
void consent_tell(struct consent_tell *tell, struct redis_link *link, uint32_t partition, uint64_t epoch);

#endif
