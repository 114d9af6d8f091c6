#include "aggregator/noise.h"

#include "common/bytes.h"
#include "common/hmac.h"

#include <openssl/evp.h>

// A number uniform below n: words from the last, incomplete run of n values are refused, so that no value is favoured.
static int source_below(void *arg, uint64_t n, uint64_t *value) {
    const struct noise_source *source = arg;
    CHECK(n > 0);
    uint64_t excess = (UINT64_MAX % n + 1) % n; // 2^64 mod n
    uint64_t word;
    do {
        int rc = source->word(source->arg, &word);
        if (rc != 0)
            return rc;
    } while (word > UINT64_MAX - excess);
    *value = word % n;
    return 0;
}

static int source_happens(void *arg, uint64_t numerator, uint64_t denominator, bool *yes) {
    uint64_t value;
    CHECK(numerator <= denominator);
    int rc = source_below(arg, denominator, &value);
    if (rc == 0)
        *yes = value < numerator;
    return rc;
}

// Algorithm 1: yes with probability exp(-numerator / denominator), for a fraction of at most 1.
static int choose_exp_minus(const struct noise_chooser *chooser, uint64_t numerator, uint64_t denominator, bool *yes) {
    CHECK(numerator <= denominator && denominator <= UINT32_MAX);
    for (uint64_t k = 1;; k++) {
        bool again;
        if (k > UINT32_MAX)
            return ERR_LIMIT; // beyond it denominator · k might not fit
        int rc = chooser->happens(chooser->arg, numerator, denominator * k, &again);
        if (rc != 0)
            return rc;
        if (!again) {
            *yes = k % 2 == 1;
            return 0;
        }
    }
}

// Algorithm 2's geometric part: P(x) is proportional to exp(-x / t), x >= 0, as a remainder below t and whole ts.
static int choose_geometric(const struct noise_chooser *chooser, uint64_t t, uint64_t *value) {
    uint64_t u, whole = 0;
    bool yes = false;
    int rc;
    do {
        if ((rc = chooser->below(chooser->arg, t, &u)) != 0)
            return rc;
        if ((rc = choose_exp_minus(chooser, u, t, &yes)) != 0)
            return rc;
    } while (!yes);
    for (;; whole++) {
        if ((rc = choose_exp_minus(chooser, 1, 1, &yes)) != 0)
            return rc;
        if (!yes)
            break;
        if (whole >= UINT32_MAX - 1)
            return ERR_LIMIT; // beyond it t · whole + u might not fit
    }
    CHECK(u < t && t <= UINT32_MAX);
    *value = t * whole + u;
    return 0;
}

int noise_discrete_laplace_by(const struct noise_chooser *chooser, struct fraction epsilon, int64_t *value) {
    uint64_t s = epsilon.numerator, t = epsilon.denominator;
    if (s == 0 || t == 0 || s > t)
        return ERR_INVALID;
    for (;;) {
        uint64_t x;
        bool negative;
        int rc = choose_geometric(chooser, t, &x);
        if (rc != 0)
            return rc;
        if ((rc = chooser->happens(chooser->arg, 1, 2, &negative)) != 0)
            return rc;
        uint64_t magnitude = x / s;
        CHECK(magnitude <= INT64_MAX);
        // Zero has two signs; one of them is drawn again, or zero would be twice as likely as it should.
        if (negative && magnitude == 0)
            continue;
        *value = negative ? -(int64_t)magnitude : (int64_t)magnitude;
        return 0;
    }
}

int noise_discrete_laplace(const struct noise_source *source, struct fraction epsilon, int64_t *value) {
    struct noise_source words = *source;
    const struct noise_chooser chooser = {.below = source_below, .happens = source_happens, .arg = &words};
    return noise_discrete_laplace_by(&chooser, epsilon, value);
}

#define STREAM_BUFFER 4096
struct noise_stream {
    EVP_CIPHER_CTX *cipher;
    uint64_t words_drawn;
    size_t used; // bytes of `buffer` that are spent
    uint8_t buffer[STREAM_BUFFER];
};

int noise_stream_create_seeded(struct noise_stream **out, const uint8_t seed[32]) {
    static const uint8_t counter_and_nonce[16]; // zero: a key is used for one stream only
    struct noise_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL)
        return ERR_NOMEM;
    stream->used = STREAM_BUFFER;
    stream->cipher = EVP_CIPHER_CTX_new();
    if (stream->cipher == NULL ||
        EVP_EncryptInit_ex(stream->cipher, EVP_chacha20(), NULL, seed, counter_and_nonce) != 1) {
        noise_stream_free(stream);
        return ERR_NOMEM;
    }
    *out = stream;
    return 0;
}

int noise_stream_create(struct noise_stream **stream) {
    uint8_t seed[32];
    bytes_random(seed, sizeof seed);
    int rc = noise_stream_create_seeded(stream, seed);
    bytes_wipe(seed, sizeof seed);
    return rc;
}

static int stream_word(void *arg, uint64_t *word) {
    static const uint8_t zeros[STREAM_BUFFER];
    struct noise_stream *stream = arg;
    if (stream->words_drawn >= NOISE_WORDS_MAX)
        return ERR_LIMIT;
    if (stream->used == STREAM_BUFFER) {
        int len = 0;
        CHECK(EVP_EncryptUpdate(stream->cipher, stream->buffer, &len, zeros, STREAM_BUFFER) == 1);
        CHECK(len == STREAM_BUFFER);
        stream->used = 0;
    }
    *word = load_u64(stream->buffer + stream->used);
    stream->used += sizeof *word;
    stream->words_drawn++;
    return 0;
}

struct noise_source noise_stream_source(struct noise_stream *stream) {
    CHECK(stream != NULL);
    return (struct noise_source){.word = stream_word, .arg = stream};
}

void noise_stream_free(struct noise_stream *stream) {
    if (stream == NULL)
        return;
    EVP_CIPHER_CTX_free(stream->cipher); // cleanses its copy of the key
    bytes_wipe(stream, sizeof *stream);
    free(stream);
}
