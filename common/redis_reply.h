// Reading what Redis says where it should have a certain form. Pure; any thread.
#ifndef OPENVEIL_REDIS_REPLY_H
#define OPENVEIL_REDIS_REPLY_H

#include "common/err.h"

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool reply_is_array(const redisReply *reply, size_t elements);
bool reply_is_text(const redisReply *reply, const char *text);
// A decimal number of at most 15 digits and at most `max`; ERR_CORRUPT.
int reply_u64(const redisReply *reply, uint64_t max, uint64_t *value) MUST_CHECK;
// Exactly 2 * `len` hex digits; ERR_CORRUPT.
int reply_hex(const redisReply *reply, uint8_t *bytes, size_t len) MUST_CHECK;
// The value of a field in a flat array of names and values; NULL where it has none.
const redisReply *reply_field(const redisReply *fields, const char *name);
// The fields of the only entry that an XRANGE found; NULL where it found none, or another number.
const redisReply *reply_only_entry(const redisReply *reply);

#endif
