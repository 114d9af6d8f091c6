// The token against the fixed vectors, and everything that must be refused.
#include "common/token.h"

#include "common/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

struct vector {
    const char *contact;
    struct token token;
    uint32_t partition;
    const char *text;
};

static const struct vector vectors[] = {
    {"contact-1", {7, 1, 0xd1c0605349147485, 29700000, 3, 1, 1, 0}, 0,
     "AQAAAAcBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHo"},
    {"zo\xc3\xa9@exemple.fr", {4294967295, 255, 0xbfb8e1b2b5e72ed5, 4294967295, 65535, 255, 3, 2}, 3,
     "Af______O5ewLcZYWG7a9S84XF1KPyuoLtYBjZFwwFtydqcPnS0"},
    {"0", {1, 0, 0xe44cd92a5d081521, 0, 0, 0, 2, 1}, 0, "AQAAAAEAa-OGViYvt2HjUnu_fYYnmX0zJWGEdRVQSoZ5NiWon9Q"},
};
#define N_VECTORS (sizeof vectors / sizeof vectors[0])

static uint8_t token_master[KEY_SIZE], contact_master[KEY_SIZE];

static void key_of(uint32_t tenant, uint8_t key_id, struct token_key *key) {
    uint8_t secret[KEY_SIZE];
    token_key_derive(token_master, tenant, key_id, secret);
    token_key_init(key, secret);
}

static int open_text(const char *text, size_t len, struct token *token) {
    uint8_t bytes[TOKEN_BYTES];
    uint32_t tenant;
    uint8_t key_id;
    struct token_key key;
    if (token_decode(text, len, bytes, &tenant, &key_id) != 0)
        return ERR_INVALID;
    key_of(tenant, key_id, &key);
    return token_open(&key, bytes, token);
}

static void assert_tokens_equal(const struct token *a, const struct token *b) {
    assert_int_equal(a->tenant, b->tenant);
    assert_int_equal(a->key_id, b->key_id);
    assert_true(a->pseudonym == b->pseudonym);
    assert_int_equal(a->sent_minute, b->sent_minute);
    assert_int_equal(a->stream, b->stream);
    assert_int_equal(a->provider, b->provider);
    assert_int_equal(a->message_class, b->message_class);
    assert_int_equal(a->regime, b->regime);
}

static void vectors_mint_and_open(void **state) {
    (void)state;
    for (size_t i = 0; i < N_VECTORS; i++) {
        const struct vector *vector = &vectors[i];
        struct token_key key;
        struct hmac_key contact_key;
        uint8_t secret[KEY_SIZE];
        char text[TOKEN_CHARS + 1];
        contact_key_derive(contact_master, vector->token.tenant, secret);
        hmac_key_init(&contact_key, secret, sizeof secret);
        assert_true(pseudonym_of(&contact_key, vector->token.tenant, vector->contact, strlen(vector->contact)) ==
                    vector->token.pseudonym);
        assert_int_equal(partition_of(vector->token.tenant, 8), vector->partition);
        key_of(vector->token.tenant, vector->token.key_id, &key);
        token_mint(&key, &vector->token, text);
        assert_string_equal(text, vector->text);
        struct token opened;
        assert_int_equal(open_text(vector->text, strlen(vector->text), &opened), 0);
        assert_tokens_equal(&opened, &vector->token);
    }
}

static void derived_keys_are_those_of_the_page(void **state) {
    (void)state;
    uint8_t key[KEY_SIZE];
    char text[2 * KEY_SIZE + 1];
    token_key_derive(token_master, 7, 1, key);
    hex_encode(key, sizeof key, text);
    // The page abbreviates the first as 2f70e9bd…b7be42 and drops an "a" of its end; its tokens say which is meant.
    assert_string_equal(text, "2f70e9bd35c9cfc85fc3580bf1d340b74d9a07cdd2750959e5463c9b6ba7be42");
    contact_key_derive(contact_master, 7, key);
    hex_encode(key, sizeof key, text);
    assert_string_equal(text, "82b256c14e63c92961827da22cd106828356d9b5d99081c8e45bf93fd30e38fd");
}

static void every_changed_bit_is_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < N_VECTORS; i++) {
        uint8_t bytes[TOKEN_BYTES];
        uint32_t tenant;
        uint8_t key_id;
        struct token token;
        assert_int_equal(token_decode(vectors[i].text, TOKEN_CHARS, bytes, &tenant, &key_id), 0);
        for (size_t bit = 8; bit < 8 * TOKEN_BYTES; bit++) { // the version's bits are token_decode's: see below
            struct token_key key;
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            key_of(load_u32(bytes + 1), bytes[5], &key);
            assert_int_equal(token_open(&key, bytes, &token), ERR_INVALID);
            key_of(tenant, key_id, &key);
            assert_int_equal(token_open(&key, bytes, &token), ERR_INVALID);
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

static void every_changed_character_is_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < N_VECTORS; i++) {
        char text[TOKEN_CHARS + 1];
        struct token token;
        memcpy(text, vectors[i].text, sizeof text);
        for (size_t at = 0; at < TOKEN_CHARS; at++) {
            for (int c = 0; c < 256; c++) {
                if ((char)c == vectors[i].text[at])
                    continue;
                text[at] = (char)c;
                assert_int_equal(open_text(text, TOKEN_CHARS, &token), ERR_INVALID);
            }
            text[at] = vectors[i].text[at];
        }
        assert_int_equal(open_text(text, TOKEN_CHARS, &token), 0);
    }
}

static void other_lengths_and_endings_are_refused(void **state) {
    (void)state;
    char text[TOKEN_CHARS + 8] = "AQAAAAcBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHoAAA=";
    uint8_t bytes[TOKEN_BYTES];
    uint32_t tenant;
    uint8_t key_id;
    for (size_t len = 0; len < sizeof text; len++)
        assert_int_equal(token_decode(text, len, bytes, &tenant, &key_id), len == TOKEN_CHARS ? 0 : ERR_INVALID);
    // 'o' ends in two zero bits; the three characters after it say the same bytes with other unused bits.
    for (const char *c = "pqr"; *c != '\0'; c++) {
        text[TOKEN_CHARS - 1] = *c;
        assert_int_equal(token_decode(text, TOKEN_CHARS, bytes, &tenant, &key_id), ERR_INVALID);
    }
    text[TOKEN_CHARS - 1] = 'o';
    for (const char *version = "ACgI"; *version != '\0'; version++) {
        text[1] = *version;
        assert_int_equal(token_decode(text, TOKEN_CHARS, bytes, &tenant, &key_id), ERR_INVALID);
    }
}

// A well-made MAC over fields that do not exist: only the check after the MAC can refuse it.
static void sealed_by_hand(uint8_t class_regime, uint8_t bytes[TOKEN_BYTES]) {
    uint8_t secret[KEY_SIZE], sub[SHA256_SIZE], mac[SHA256_SIZE], stream[SHA256_SIZE];
    uint8_t message[22] = {1, 0, 0, 0, 7, 1, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 0, 3, 1, class_regime};
    struct hmac_key key, subkey;
    token_key_derive(token_master, 7, 1, secret);
    hmac_key_init(&key, secret, sizeof secret);
    hmac_sign(&key, "openveil token v1 mac", 21, sub);
    hmac_key_init(&subkey, sub, sizeof sub);
    hmac_sign(&subkey, message, sizeof message, mac);
    hmac_sign(&key, "openveil token v1 enc", 21, sub);
    hmac_key_init(&subkey, sub, sizeof sub);
    hmac_sign(&subkey, mac, 16, stream);
    memcpy(bytes, message, 6);
    memcpy(bytes + 6, mac, 16);
    for (size_t i = 0; i < 16; i++)
        bytes[22 + i] = message[6 + i] ^ stream[i];
}

static void unknown_class_and_regime_are_refused(void **state) {
    (void)state;
    struct token_key key;
    key_of(7, 1, &key);
    for (unsigned value = 0; value < 256; value++) {
        uint8_t bytes[TOKEN_BYTES];
        struct token token;
        bool known = value >> 4 >= 1 && value >> 4 <= 3 && (value & 15) <= 2;
        sealed_by_hand((uint8_t)value, bytes);
        assert_int_equal(token_open(&key, bytes, &token), known ? 0 : ERR_INVALID);
        if (known)
            assert_int_equal(token.message_class << 4 | token.regime, value);
    }
}

static void contact_ids_are_utf8_of_1_to_256_bytes(void **state) {
    (void)state;
    char longest[CONTACT_ID_MAX + 1];
    memset(longest, 'x', sizeof longest);
    assert_true(contact_id_valid(longest, CONTACT_ID_MAX));
    assert_false(contact_id_valid(longest, CONTACT_ID_MAX + 1));
    assert_false(contact_id_valid("", 0));
    const char *good[] = {"a", "zo\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", " a b ", "\xf4\x8f\xbf\xbf", "\x7f"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(contact_id_valid(good[i], strlen(good[i])));
    const char *bad[] = {"a\tb", "a\n", "\r", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                         "\xf8\x88\x80\x80\x80", "\x80", "a\xe2\x82", "\xf0\x80\x80\x80", "\xc1\xbf", "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(contact_id_valid(bad[i], strlen(bad[i])));
}

// RFC 4231, cases 2 and 6 (a key longer than a block).
static void hmac_is_that_of_rfc_4231(void **state) {
    (void)state;
    struct hmac_key key;
    uint8_t mac[SHA256_SIZE], expected[SHA256_SIZE], secret[131];
    hmac_key_init(&key, "Jefe", 4);
    hmac_sign(&key, "what do ya want for nothing?", 28, mac);
    assert_int_equal(hex_decode("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843", 64, expected), 0);
    assert_memory_equal(mac, expected, sizeof mac);
    memset(secret, 0xaa, sizeof secret);
    hmac_key_init(&key, secret, sizeof secret);
    hmac_sign(&key, "Test Using Larger Than Block-Size Key - Hash Key First", 54, mac);
    assert_int_equal(hex_decode("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54", 64, expected), 0);
    assert_memory_equal(mac, expected, sizeof mac);
    assert_int_equal(hex_decode("0g", 2, expected), -1);
    assert_int_equal(hex_decode("0", 2, expected), -1);
    assert_true(bytes_equal_secret("ab", "ab", 2));
    assert_false(bytes_equal_secret("ab", "ac", 2));
}

int main(void) {
    for (unsigned i = 0; i < KEY_SIZE; i++) {
        token_master[i] = (uint8_t)i;
        contact_master[i] = (uint8_t)(KEY_SIZE + i);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_mint_and_open),
        cmocka_unit_test(derived_keys_are_those_of_the_page),
        cmocka_unit_test(every_changed_bit_is_refused),
        cmocka_unit_test(every_changed_character_is_refused),
        cmocka_unit_test(other_lengths_and_endings_are_refused),
        cmocka_unit_test(unknown_class_and_regime_are_refused),
        cmocka_unit_test(contact_ids_are_utf8_of_1_to_256_bytes),
        cmocka_unit_test(hmac_is_that_of_rfc_4231),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
