// The pixel token (FORMATS 2), the contact's pseudonym and the tenant's partition (FORMATS 1).
// The construction is SIV (Rogaway & Shrimpton 2006, "A Provable-Security Treatment of the Key-Wrap Problem"; the shape
// of RFC 5297) with HMAC-SHA-256 as its only primitive. Pure; prepared keys are read-only and shareable between threads.
#ifndef OPENVEIL_TOKEN_H
#define OPENVEIL_TOKEN_H

#include "common/err.h"
#include "common/hmac.h"

#include <stdbool.h>

#include <stddef.h>
#include <stdint.h>

#define KEY_SIZE 32
#define TOKEN_BYTES 38
#define TOKEN_CHARS 51
#define CONTACT_ID_MAX 256

struct token {
    uint32_t tenant;
    uint8_t key_id;
    uint64_t pseudonym;
    uint32_t sent_minute; // minutes since 1970 UTC
    uint16_t stream;
    uint8_t provider;
    uint8_t message_class; // enum message_class
    uint8_t regime;        // enum regime
};

// A tenant's keys for one key id, ready to use.
struct token_key {
    struct hmac_key mac;
    struct hmac_key enc;
};

// K(tenant, kid) and contact_key(tenant) from the masters.
void token_key_derive(const uint8_t master[KEY_SIZE], uint32_t tenant, uint8_t key_id, uint8_t key[KEY_SIZE]);
void contact_key_derive(const uint8_t master[KEY_SIZE], uint32_t tenant, uint8_t key[KEY_SIZE]);
void token_key_init(struct token_key *prepared, const uint8_t key[KEY_SIZE]);

// `contact` is 1..256 bytes of UTF-8 without tab, CR or LF: check with contact_id_valid first.
uint64_t pseudonym_of(const struct hmac_key *contact_key, uint32_t tenant, const char *contact, size_t len);
bool contact_id_valid(const char *contact, size_t len);
uint32_t partition_of(uint32_t tenant, uint32_t partitions);

// Writes TOKEN_CHARS characters and a NUL.
void token_mint(const struct token_key *key, const struct token *token, char text[TOKEN_CHARS + 1]);
// First step of opening: length, alphabet, canonical ending and version; yields the bytes, and tenant and key id so that
// the caller can find the key. ERR_INVALID otherwise.
int token_decode(const char *text, size_t len, uint8_t bytes[TOKEN_BYTES], uint32_t *tenant, uint8_t *key_id) MUST_CHECK;
// Second step: unseal and verify in constant time; ERR_INVALID for a forgery or an unknown class or regime.
int token_open(const struct token_key *key, const uint8_t bytes[TOKEN_BYTES], struct token *token) MUST_CHECK;

#endif
