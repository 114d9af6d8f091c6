#include "common/consent_entry.h"

#include "common/hmac.h"
#include "common/redis_reply.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>

static const char *const words[ENTRY_KINDS] = {[ENTRY_ERASED] = "erased", [ENTRY_REBUCKETED] = "rebucketed",
                                               [ENTRY_NOTICE] = "notice", [ENTRY_FORGOTTEN] = "forgotten",
                                               [ENTRY_JOINED] = "joined"};
static const char *const late_words[CONSENT_STATES] = {"",          "late-informed",  "late-granted",
                                                       "late-refused", "late-withdrawn", "late-objected"};

const redisReply *consent_entries_of(const redisReply *stream, uint32_t partitions, uint32_t *partition) {
    int used = 0;
    if (!reply_is_array(stream, 2) || stream->element[0]->type != REDIS_REPLY_STRING ||
        sscanf(stream->element[0]->str, "ov:{%" SCNu32 "}:changes%n", partition, &used) != 1 ||
        (size_t)used != stream->element[0]->len || *partition >= partitions ||
        stream->element[1]->type != REDIS_REPLY_ARRAY)
        return NULL;
    return stream->element[1];
}

const char *consent_entry_word(const struct consent_entry *entry) {
    CHECK(entry->kind < ENTRY_KINDS && entry->state < CONSENT_STATES);
    if (entry->kind == ENTRY_STATE)
        return consent_state_names[entry->state];
    return entry->kind == ENTRY_LATE ? late_words[entry->state] : words[entry->kind];
}

int consent_entry_parse_word(const char *word, struct consent_entry *entry) {
    entry->state = CONSENT_UNKNOWN;
    for (int kind = ENTRY_ERASED; kind < ENTRY_KINDS; kind++) {
        if (strcmp(word, words[kind]) == 0) {
            entry->kind = (enum consent_entry_kind)kind;
            return 0;
        }
    }
    bool late = strncmp(word, "late-", 5) == 0;
    int state = consent_state_parse(late ? word + 5 : word);
    if (state < 0)
        return ERR_CORRUPT;
    entry->kind = late ? ENTRY_LATE : ENTRY_STATE;
    entry->state = (uint8_t)state;
    return 0;
}

static int read_epoch(const redisReply *id, uint64_t *epoch) {
    char text[32];
    if (id->type != REDIS_REPLY_STRING || id->len < 3 || id->len > 17 || strcmp(id->str + id->len - 2, "-0") != 0)
        return ERR_CORRUPT;
    snprintf(text, sizeof text, "%.*s", (int)id->len - 2, id->str);
    redisReply digits = {.type = REDIS_REPLY_STRING, .str = text, .len = id->len - 2};
    return reply_u64(&digits, UINT64_MAX, epoch);
}

static int read_text(const redisReply *reply, char *text, size_t size) {
    if (reply == NULL || reply->type != REDIS_REPLY_STRING || reply->len == 0 || reply->len >= size ||
        strlen(reply->str) != reply->len)
        return ERR_CORRUPT;
    memcpy(text, reply->str, reply->len + 1);
    return 0;
}

static int read_change_id(const redisReply *reply, struct consent_entry *entry) {
    char text[24], again[24];
    if (read_text(reply, text, sizeof text) != 0)
        return ERR_CORRUPT;
    if (strcmp(text, "-") == 0)
        return 0;
    errno = 0;
    entry->change_id = strtoull(text, NULL, 10);
    snprintf(again, sizeof again, "%" PRIu64, entry->change_id);
    entry->has_change_id = true;
    return errno == 0 && strcmp(text, again) == 0 ? 0 : ERR_CORRUPT;
}

int consent_entry_read(const struct redisReply *reply, struct consent_entry *entry) {
    char word[24];
    uint8_t bytes[8], salt[CONSENT_HASH_SIZE];
    uint64_t tenant, since;
    *entry = (struct consent_entry){0};
    if (!reply_is_array(reply, 2) || read_epoch(reply->element[0], &entry->epoch) != 0)
        return ERR_CORRUPT;
    const redisReply *fields = reply->element[1];
    const redisReply *t = reply_field(fields, "t"), *p = reply_field(fields, "p"), *d = reply_field(fields, "d"),
                     *c = reply_field(fields, "c"), *z = reply_field(fields, "z"), *h = reply_field(fields, "h");
    if (t == NULL || p == NULL || d == NULL || h == NULL || (c == NULL) != (z == NULL))
        return ERR_CORRUPT;
    if (read_text(reply_field(fields, "s"), word, sizeof word) != 0 || consent_entry_parse_word(word, entry) != 0 ||
        read_text(reply_field(fields, "n"), entry->notice, sizeof entry->notice) != 0 ||
        reply_u64(t, UINT32_MAX, &tenant) != 0 || reply_hex(p, bytes, sizeof bytes) != 0 ||
        reply_u64(d, UINT16_MAX, &since) != 0 || reply_hex(h, entry->hash, sizeof entry->hash) != 0)
        return ERR_CORRUPT;
    for (size_t i = 0; i < sizeof bytes; i++)
        entry->pseudonym = entry->pseudonym << 8 | bytes[i];
    entry->tenant = (uint32_t)tenant;
    entry->since = (uint32_t)since;
    entry->salted = z != NULL;
    if (!entry->salted)
        return 0;
    if (reply_hex(z, salt, sizeof salt) != 0 || read_change_id(c, entry) != 0)
        return ERR_CORRUPT;
    memcpy(entry->salt, z->str, CONSENT_SALT_SIZE);
    return 0;
}

static size_t content_of(const struct consent_entry *entry, char content[CONSENT_ENTRY_CONTENT_SIZE]) {
    int n = snprintf(content, CONSENT_ENTRY_CONTENT_SIZE, "%" PRIu32 " %016" PRIx64 " %s %" PRIu32 " %s", entry->tenant,
                     entry->pseudonym, consent_entry_word(entry), entry->since, entry->notice);
    CHECK(n > 0 && n < CONSENT_ENTRY_CONTENT_SIZE - 24);
    return (size_t)n;
}

size_t consent_entry_content(const struct consent_entry *entry, char content[CONSENT_ENTRY_CONTENT_SIZE]) {
    size_t len = content_of(entry, content);
    int n = entry->has_change_id ? snprintf(content + len, 24, " %" PRIu64, entry->change_id)
                                 : snprintf(content + len, 24, " -");
    CHECK(n > 0 && n < 24);
    return len + (size_t)n;
}

static void sha1_text(const char *text, size_t len, uint8_t out[CONSENT_HASH_SIZE]) {
    unsigned size = 0;
    int ok = EVP_Digest(text, len, out, &size, EVP_sha1(), NULL);
    CHECK(ok == 1 && size == CONSENT_HASH_SIZE);
}

void consent_entry_digest(const struct consent_entry *entry, uint8_t x[CONSENT_HASH_SIZE]) {
    char content[CONSENT_ENTRY_CONTENT_SIZE], text[CONSENT_SALT_SIZE + CONSENT_ENTRY_CONTENT_SIZE];
    CHECK(entry->salted);
    consent_entry_content(entry, content);
    int n = snprintf(text, sizeof text, "%s %s", entry->salt, content);
    CHECK(n > 0 && (size_t)n < sizeof text);
    sha1_text(text, (size_t)n, x);
}

void consent_chain(const uint8_t before[CONSENT_HASH_SIZE], const uint8_t x[CONSENT_HASH_SIZE],
                   uint8_t hash[CONSENT_HASH_SIZE]) {
    char text[4 * CONSENT_HASH_SIZE + 2];
    hex_encode(before, CONSENT_HASH_SIZE, text);
    text[2 * CONSENT_HASH_SIZE] = ' ';
    hex_encode(x, CONSENT_HASH_SIZE, text + 2 * CONSENT_HASH_SIZE + 1);
    sha1_text(text, sizeof text - 1, hash);
}

bool consent_entry_follows(const struct consent_entry *entry, const uint8_t before[CONSENT_HASH_SIZE]) {
    uint8_t x[CONSENT_HASH_SIZE], hash[CONSENT_HASH_SIZE];
    if (entry->salted) {
        consent_entry_digest(entry, x);
        consent_chain(before, x, hash);
    } else {
        char content[CONSENT_ENTRY_CONTENT_SIZE], hex[2 * CONSENT_HASH_SIZE + 1];
        char text[sizeof hex + CONSENT_ENTRY_CONTENT_SIZE];
        content_of(entry, content);
        hex_encode(before, CONSENT_HASH_SIZE, hex);
        int n = snprintf(text, sizeof text, "%s %s", hex, content);
        CHECK(n > 0 && (size_t)n < sizeof text);
        sha1_text(text, (size_t)n, hash);
    }
    return memcmp(hash, entry->hash, sizeof hash) == 0;
}
