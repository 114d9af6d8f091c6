// How the tenants' buckets were cut when a scan of consent began, and whether they still are. Pure; one thread.
#ifndef OPENVEIL_CONSENT_LAYOUTS_H
#define OPENVEIL_CONSENT_LAYOUTS_H

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct layout {
    uint32_t partition;
    uint32_t tenant;
    unsigned bits;
};

struct layouts {
    struct layout *at; // owned by whoever owns the struct
    size_t n;
    size_t room;
};

int layouts_add(struct layouts *layouts, const struct layout *layout) MUST_CHECK; // ERR_NOMEM
void layouts_sort(struct layouts *layouts);
// Whether every tenant of `was` is cut the same in `now`; both sorted. A new one is told by the stream.
bool layouts_kept(const struct layouts *was, const struct layouts *now);

#endif
