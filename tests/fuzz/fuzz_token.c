// Token texts. As they come: what opens is what was minted. And with the tag that belongs to their fields, which nobody
// without the key can make: only a known class and regime opens.
#include "tests/fuzz/fuzz.h"

#include "common/bytes.h"
#include "common/event.h"
#include "common/token.h"

static const uint8_t master[KEY_SIZE] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                         16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

// FORMATS 2 once more: head 6, tag 16, sealed 16.
enum { TAG_AT = 6, SEALED_AT = 22, FIELDS = 16 };

static void check_mint(const struct token_key *key, const struct token *token, const uint8_t bytes[TOKEN_BYTES]) {
    char text[TOKEN_CHARS + 1];
    uint8_t back[TOKEN_BYTES];
    uint32_t tenant;
    uint8_t key_id;
    token_mint(key, token, text);
    CHECK(strlen(text) == TOKEN_CHARS && token_decode(text, TOKEN_CHARS, back, &tenant, &key_id) == 0);
    CHECK(tenant == token->tenant && key_id == token->key_id);
    CHECK(memcmp(back, bytes, TOKEN_BYTES) == 0);
}

static void check_resealed(const struct token_key *key, uint8_t bytes[TOKEN_BYTES]) {
    uint8_t message[TAG_AT + FIELDS], mac[SHA256_SIZE], stream[SHA256_SIZE];
    uint8_t *plain = message + TAG_AT;
    memcpy(message, bytes, TAG_AT);
    memcpy(plain, bytes + SEALED_AT, FIELDS);
    hmac_sign(&key->mac, message, sizeof message, mac);
    hmac_sign(&key->enc, mac, FIELDS, stream);
    memcpy(bytes + TAG_AT, mac, FIELDS);
    for (size_t i = 0; i < FIELDS; i++)
        bytes[SEALED_AT + i] = plain[i] ^ stream[i];
    unsigned message_class = plain[15] >> 4, regime = plain[15] & 15;
    struct token token;
    int rc = token_open(key, bytes, &token);
    CHECK((rc == 0) == (message_class >= CLASS_TRANSACTIONAL && message_class <= CLASS_PROSPECTING &&
                        regime <= REGIME_AGGREGATE));
    if (rc != 0)
        return;
    CHECK(token.pseudonym == load_u64(plain) && token.sent_minute == load_u32(plain + 8));
    CHECK(token.stream == load_u16(plain + 12) && token.provider == plain[14]);
    CHECK(token.message_class == message_class && token.regime == regime);
    check_mint(key, &token, bytes);
    bytes[TAG_AT] ^= 1;
    CHECK(token_open(key, bytes, &token) == ERR_INVALID);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t bytes[TOKEN_BYTES], raw[KEY_SIZE], key_id;
    uint32_t tenant;
    struct token_key key;
    struct token token;
    const char *text = (const char *)data;
    bool contact = contact_id_valid(text, size);
    CHECK(!contact || (size >= 1 && size <= CONTACT_ID_MAX && memchr(text, '\n', size) == NULL));
    if (token_decode(text, size, bytes, &tenant, &key_id) != 0)
        return 0;
    CHECK(size == TOKEN_CHARS && contact);
    token_key_derive(master, tenant, key_id, raw);
    token_key_init(&key, raw);
    if (token_open(&key, bytes, &token) == 0)
        check_mint(&key, &token, bytes);
    check_resealed(&key, bytes);
    return 0;
}
