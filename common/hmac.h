// SHA-256 and HMAC-SHA-256 (RFC 2104) with the state after the key blocks saved, so that a MAC over a short message
// costs two compressions. The only module that touches OpenSSL's low-level SHA-256 calls (deprecated since 3.0; their
// EVP replacements cost 2 to 10 times as much here, see decisions/). Threads: a prepared key is read-only and shareable.
#ifndef OPENVEIL_HMAC_H
#define OPENVEIL_HMAC_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_SIZE 32

struct hmac_key {
    _Alignas(8) uint8_t inner[112]; // a SHA256_CTX after the key xor ipad
    _Alignas(8) uint8_t outer[112]; // and after the key xor opad
};

void sha256(const void *data, size_t len, uint8_t out[SHA256_SIZE]);
void hmac_key_init(struct hmac_key *key, const void *secret, size_t len);
void hmac_sign(const struct hmac_key *key, const void *data, size_t len, uint8_t mac[SHA256_SIZE]);
// Constant time; true where equal.
int bytes_equal_secret(const void *a, const void *b, size_t len);
// Overwrites secrets in a way the compiler may not drop.
void bytes_wipe(void *data, size_t len);
// Fresh kernel randomness; aborts the process where the kernel has none.
void bytes_random(void *data, size_t len);

void hex_encode(const uint8_t *data, size_t len, char *text); // 2·len lower-case digits and a NUL
int hex_decode(const char *text, size_t digits, uint8_t *data); // 0, or -1 where it is not `digits` hex digits

#endif
