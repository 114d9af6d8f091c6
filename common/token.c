#include "common/token.h"

#include "common/bytes.h"
#include "common/event.h"

#include <string.h>

enum {
    TOKEN_VERSION = 1,
    HEAD_BYTES = 6, // version, tenant, key id
    TAG_BYTES = 16,
    PLAIN_BYTES = 16,
};
_Static_assert(HEAD_BYTES + TAG_BYTES + PLAIN_BYTES == TOKEN_BYTES, "FORMATS 2");

void token_key_derive(const uint8_t master[KEY_SIZE], uint32_t tenant, uint8_t key_id, uint8_t key[KEY_SIZE]) {
    static const char label[] = "openveil token key v1";
    struct hmac_key hmac;
    uint8_t message[sizeof label - 1 + 5];
    memcpy(message, label, sizeof label - 1);
    store_u32(message + sizeof label - 1, tenant);
    message[sizeof message - 1] = key_id;
    hmac_key_init(&hmac, master, KEY_SIZE);
    hmac_sign(&hmac, message, sizeof message, key);
    bytes_wipe(&hmac, sizeof hmac);
}

void contact_key_derive(const uint8_t master[KEY_SIZE], uint32_t tenant, uint8_t key[KEY_SIZE]) {
    static const char label[] = "openveil contact key v1";
    struct hmac_key hmac;
    uint8_t message[sizeof label - 1 + 4];
    memcpy(message, label, sizeof label - 1);
    store_u32(message + sizeof label - 1, tenant);
    hmac_key_init(&hmac, master, KEY_SIZE);
    hmac_sign(&hmac, message, sizeof message, key);
    bytes_wipe(&hmac, sizeof hmac);
}

static void subkey_init(struct hmac_key *prepared, const struct hmac_key *key, const char *label) {
    uint8_t subkey[SHA256_SIZE];
    hmac_sign(key, label, strlen(label), subkey);
    hmac_key_init(prepared, subkey, sizeof subkey);
    bytes_wipe(subkey, sizeof subkey);
}

void token_key_init(struct token_key *prepared, const uint8_t key[KEY_SIZE]) {
    struct hmac_key hmac;
    hmac_key_init(&hmac, key, KEY_SIZE);
    subkey_init(&prepared->mac, &hmac, "openveil token v1 mac");
    subkey_init(&prepared->enc, &hmac, "openveil token v1 enc");
    bytes_wipe(&hmac, sizeof hmac);
}

uint64_t pseudonym_of(const struct hmac_key *contact_key, uint32_t tenant, const char *contact, size_t len) {
    uint8_t message[4 + CONTACT_ID_MAX];
    uint8_t mac[SHA256_SIZE];
    CHECK(len >= 1 && len <= CONTACT_ID_MAX);
    store_u32(message, tenant);
    memcpy(message + 4, contact, len);
    hmac_sign(contact_key, message, 4 + len, mac);
    return load_u64(mac);
}

// Bytes of the UTF-8 sequence at `at`, 0 where it is none (RFC 3629: no overlong forms, surrogates or above U+10FFFF).
static size_t utf8_sequence(const uint8_t *at, size_t left) {
    uint8_t first = at[0];
    if (first < 0x80)
        return 1;
    size_t len = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || left < len)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((first == 0xe0 && at[1] < 0xa0) || (first == 0xed && at[1] > 0x9f) || (first == 0xf0 && at[1] < 0x90) ||
        (first == 0xf4 && at[1] > 0x8f))
        return 0;
    return len;
}

bool contact_id_valid(const char *contact, size_t len) {
    const uint8_t *bytes = (const uint8_t *)contact;
    if (len < 1 || len > CONTACT_ID_MAX)
        return false;
    for (size_t i = 0; i < len;) {
        size_t sequence = utf8_sequence(bytes + i, len - i);
        if (sequence == 0 || bytes[i] == '\t' || bytes[i] == '\r' || bytes[i] == '\n')
            return false;
        i += sequence;
    }
    return true;
}

uint32_t partition_of(uint32_t tenant, uint32_t partitions) {
    uint8_t bytes[4];
    uint8_t hash[SHA256_SIZE];
    CHECK(partitions > 0);
    store_u32(bytes, tenant);
    sha256(bytes, sizeof bytes, hash);
    return load_u32(hash) % partitions;
}

static const char base64url[64] = {
    'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S', 'T', 'U', 'V',
    'W', 'X', 'Y', 'Z', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r',
    's', 't', 'u', 'v', 'w', 'x', 'y', 'z', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '-', '_'};

static void base64url_encode(const uint8_t bytes[TOKEN_BYTES], char text[TOKEN_CHARS + 1]) {
    uint32_t bits = 0;
    unsigned held = 0;
    size_t out = 0;
    for (size_t i = 0; i < TOKEN_BYTES; i++) {
        bits = bits << 8 | bytes[i];
        held += 8;
        while (held >= 6) {
            held -= 6;
            text[out++] = base64url[bits >> held & 63];
        }
    }
    text[out++] = base64url[bits << (6 - held) & 63];
    CHECK(out == TOKEN_CHARS);
    text[out] = '\0';
}

// The value of each character plus one, so that 0 stands for "not in the alphabet".
#define RANGE4(c, v) [c] = v, [(c) + 1] = (v) + 1, [(c) + 2] = (v) + 2, [(c) + 3] = (v) + 3
#define RANGE24(c, v) RANGE4(c, v), RANGE4((c) + 4, (v) + 4), RANGE4((c) + 8, (v) + 8), RANGE4((c) + 12, (v) + 12), \
                      RANGE4((c) + 16, (v) + 16), RANGE4((c) + 20, (v) + 20)
static const uint8_t values[256] = {
    RANGE24('A', 1), ['Y'] = 25, ['Z'] = 26, RANGE24('a', 27), ['y'] = 51, ['z'] = 52,
    RANGE4('0', 53), RANGE4('4', 57), ['8'] = 61, ['9'] = 62, ['-'] = 63, ['_'] = 64};

static int base64url_decode(const char *text, uint8_t bytes[TOKEN_BYTES]) {
    uint32_t bits = 0;
    unsigned held = 0;
    size_t out = 0;
    for (size_t i = 0; i < TOKEN_CHARS; i++) {
        uint8_t value = values[(uint8_t)text[i]];
        if (value == 0)
            return ERR_INVALID;
        bits = bits << 6 | (uint32_t)(value - 1);
        held += 6;
        if (held >= 8) {
            held -= 8;
            bytes[out++] = (uint8_t)(bits >> held);
        }
    }
    CHECK(out == TOKEN_BYTES && held == 2);
    return (bits & 3) == 0 ? 0 : ERR_INVALID; // another ending would be a second text of the same token
}

// The tag over head and plain fields, and the key stream that a tag selects.
static void token_tag(const struct token_key *key, const uint8_t head[HEAD_BYTES], const uint8_t plain[PLAIN_BYTES],
                      uint8_t mac[SHA256_SIZE]) {
    uint8_t message[HEAD_BYTES + PLAIN_BYTES];
    memcpy(message, head, HEAD_BYTES);
    memcpy(message + HEAD_BYTES, plain, PLAIN_BYTES);
    hmac_sign(&key->mac, message, sizeof message, mac);
}

static void token_cipher(const struct token_key *key, const uint8_t tag[TAG_BYTES], const uint8_t in[PLAIN_BYTES],
                         uint8_t out[PLAIN_BYTES]) {
    uint8_t stream[SHA256_SIZE];
    hmac_sign(&key->enc, tag, TAG_BYTES, stream);
    for (size_t i = 0; i < PLAIN_BYTES; i++)
        out[i] = in[i] ^ stream[i];
}

void token_mint(const struct token_key *key, const struct token *token, char text[TOKEN_CHARS + 1]) {
    uint8_t bytes[TOKEN_BYTES];
    uint8_t plain[PLAIN_BYTES];
    uint8_t mac[SHA256_SIZE];
    CHECK(token->message_class >= CLASS_TRANSACTIONAL && token->message_class <= CLASS_PROSPECTING);
    CHECK(token->regime <= REGIME_AGGREGATE);
    bytes[0] = TOKEN_VERSION;
    store_u32(bytes + 1, token->tenant);
    bytes[5] = token->key_id;
    store_u64(plain, token->pseudonym);
    store_u32(plain + 8, token->sent_minute);
    store_u16(plain + 12, token->stream);
    plain[14] = token->provider;
    plain[15] = (uint8_t)(token->message_class << 4 | token->regime);
    token_tag(key, bytes, plain, mac);
    memcpy(bytes + HEAD_BYTES, mac, TAG_BYTES);
    token_cipher(key, mac, plain, bytes + HEAD_BYTES + TAG_BYTES);
    base64url_encode(bytes, text);
}

int token_decode(const char *text, size_t len, uint8_t bytes[TOKEN_BYTES], uint32_t *tenant, uint8_t *key_id) {
    if (len != TOKEN_CHARS || base64url_decode(text, bytes) != 0 || bytes[0] != TOKEN_VERSION)
        return ERR_INVALID;
    *tenant = load_u32(bytes + 1);
    *key_id = bytes[5];
    return 0;
}

int token_open(const struct token_key *key, const uint8_t bytes[TOKEN_BYTES], struct token *token) {
    uint8_t plain[PLAIN_BYTES];
    uint8_t mac[SHA256_SIZE];
    CHECK(bytes[0] == TOKEN_VERSION);
    token_cipher(key, bytes + HEAD_BYTES, bytes + HEAD_BYTES + TAG_BYTES, plain);
    token_tag(key, bytes, plain, mac);
    bool genuine = bytes_equal_secret(mac, bytes + HEAD_BYTES, TAG_BYTES) != 0;
    struct token opened = {
        .tenant = load_u32(bytes + 1),
        .key_id = bytes[5],
        .pseudonym = load_u64(plain),
        .sent_minute = load_u32(plain + 8),
        .stream = load_u16(plain + 12),
        .provider = plain[14],
        .message_class = plain[15] >> 4,
        .regime = plain[15] & 15,
    };
    if (!genuine || opened.message_class < CLASS_TRANSACTIONAL || opened.message_class > CLASS_PROSPECTING ||
        opened.regime > REGIME_AGGREGATE)
        return ERR_INVALID;
    *token = opened;
    return 0;
}
