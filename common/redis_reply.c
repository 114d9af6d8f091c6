#include "common/redis_reply.h"

#include "common/check.h"
#include "common/hmac.h"

#include <string.h>

bool reply_is_array(const redisReply *reply, size_t elements) {
    return reply->type == REDIS_REPLY_ARRAY && reply->elements == elements;
}

bool reply_is_text(const redisReply *reply, const char *text) {
    return reply->type == REDIS_REPLY_STRING && reply->len == strlen(text) && memcmp(reply->str, text, reply->len) == 0;
}

int reply_u64(const redisReply *reply, uint64_t max, uint64_t *value) {
    if (reply->type != REDIS_REPLY_STRING || reply->len < 1 || reply->len > 15)
        return ERR_CORRUPT;
    uint64_t n = 0;
    for (size_t i = 0; i < reply->len; i++) {
        if (reply->str[i] < '0' || reply->str[i] > '9')
            return ERR_CORRUPT;
        n = n * 10 + (uint64_t)(reply->str[i] - '0');
    }
    *value = n;
    return n <= max ? 0 : ERR_CORRUPT;
}

int reply_hex(const redisReply *reply, uint8_t *bytes, size_t len) {
    CHECK(len > 0);
    if (reply->type != REDIS_REPLY_STRING || reply->len != 2 * len)
        return ERR_CORRUPT;
    return hex_decode(reply->str, 2 * len, bytes) == 0 ? 0 : ERR_CORRUPT;
}

const redisReply *reply_field(const redisReply *fields, const char *name) {
    if (fields->type != REDIS_REPLY_ARRAY)
        return NULL;
    for (size_t i = 0; i + 1 < fields->elements; i += 2) {
        if (reply_is_text(fields->element[i], name))
            return fields->element[i + 1];
    }
    return NULL;
}

const redisReply *reply_only_entry(const redisReply *reply) {
    if (!reply_is_array(reply, 1) || !reply_is_array(reply->element[0], 2))
        return NULL;
    return reply->element[0]->element[1];
}
