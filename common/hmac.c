#include "common/hmac.h"

#include "common/check.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/random.h>

// SHA256_Init and its kin are deprecated in OpenSSL 3 for EVP, which cannot copy a keyed state at a bearable price.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

_Static_assert(sizeof(SHA256_CTX) == sizeof ((struct hmac_key *)0)->inner, "hmac_key holds two SHA-256 states");

void sha256(const void *data, size_t len, uint8_t out[SHA256_SIZE]) {
    SHA256_CTX ctx;
    CHECK(SHA256_Init(&ctx) == 1 && SHA256_Update(&ctx, data, len) == 1 && SHA256_Final(out, &ctx) == 1);
}

static void hmac_pad(uint8_t state[sizeof(SHA256_CTX)], const uint8_t block[SHA256_CBLOCK], uint8_t pad) {
    SHA256_CTX ctx;
    uint8_t padded[SHA256_CBLOCK];
    for (size_t i = 0; i < SHA256_CBLOCK; i++)
        padded[i] = block[i] ^ pad;
    CHECK(SHA256_Init(&ctx) == 1 && SHA256_Update(&ctx, padded, sizeof padded) == 1);
    memcpy(state, &ctx, sizeof ctx);
    bytes_wipe(&ctx, sizeof ctx);
    bytes_wipe(padded, sizeof padded);
}

void hmac_key_init(struct hmac_key *key, const void *secret, size_t len) {
    uint8_t block[SHA256_CBLOCK] = {0};
    if (len > sizeof block)
        sha256(secret, len, block);
    else if (len > 0)
        memcpy(block, secret, len);
    hmac_pad(key->inner, block, 0x36);
    hmac_pad(key->outer, block, 0x5c);
    bytes_wipe(block, sizeof block);
}

void hmac_sign(const struct hmac_key *key, const void *data, size_t len, uint8_t mac[SHA256_SIZE]) {
    SHA256_CTX ctx;
    uint8_t digest[SHA256_SIZE];
    memcpy(&ctx, key->inner, sizeof ctx);
    CHECK(SHA256_Update(&ctx, data, len) == 1 && SHA256_Final(digest, &ctx) == 1);
    memcpy(&ctx, key->outer, sizeof ctx);
    CHECK(SHA256_Update(&ctx, digest, sizeof digest) == 1 && SHA256_Final(mac, &ctx) == 1);
}

int bytes_equal_secret(const void *a, const void *b, size_t len) {
    return CRYPTO_memcmp(a, b, len) == 0;
}

void bytes_wipe(void *data, size_t len) {
    OPENSSL_cleanse(data, len);
}

void bytes_random(void *data, size_t len) {
    uint8_t *at = data;
    while (len > 0) {
        ssize_t n = getrandom(at, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        CHECK(n > 0);
        at += n;
        len -= (size_t)n;
    }
}

void hex_encode(const uint8_t *data, size_t len, char *text) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        text[2 * i] = digits[data[i] >> 4];
        text[2 * i + 1] = digits[data[i] & 15];
    }
    text[2 * len] = '\0';
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int hex_decode(const char *text, size_t digits, uint8_t *data) {
    CHECK(digits % 2 == 0);
    for (size_t i = 0; i < digits; i += 2) {
        int high = hex_digit(text[i]);
        int low = high < 0 ? -1 : hex_digit(text[i + 1]); // stops at a NUL
        if (low < 0)
            return -1;
        data[i / 2] = (uint8_t)(high << 4 | low);
    }
    return 0;
}
