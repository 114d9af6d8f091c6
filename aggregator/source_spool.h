// The single-node source's own door: what the spool gave up on.
#ifndef OPENVEIL_SOURCE_SPOOL_H
#define OPENVEIL_SOURCE_SPOOL_H

#include "aggregator/source.h"

// Files set aside as damaged since the start.
uint64_t source_spool_corrupt(const struct source *source);

#endif
