// Exact discrete Laplace noise (Canonne, Kamath & Steinke 2020, "The Discrete Gaussian for Differential Privacy",
// Algorithms 1 and 2), in integers only: P(x) is proportional to exp(-|x| · epsilon), epsilon a fraction. Uniform
// numbers by rejection from a ChaCha20 stream keyed with 32 fresh kernel bytes a line, wiped afterwards. One thread an
// instance.
#ifndef OPENVEIL_NOISE_H
#define OPENVEIL_NOISE_H

#include "common/config.h"

// A source of uniform 64-bit words; ERR_LIMIT once the limit on words drawn is reached.
struct noise_source {
    int (*word)(void *arg, uint64_t *word);
    void *arg;
};

// What the sampler asks for: a number uniform below n, and yes with probability numerator / denominator (at most 1).
// Apart from the words, so that a test can walk through every outcome with its exact probability.
struct noise_chooser {
    int (*below)(void *arg, uint64_t n, uint64_t *value);
    int (*happens)(void *arg, uint64_t numerator, uint64_t denominator, bool *yes);
    void *arg;
};
int noise_discrete_laplace_by(const struct noise_chooser *chooser, struct fraction epsilon, int64_t *value) MUST_CHECK;

// One draw. 0, ERR_LIMIT, or ERR_INVALID for an epsilon that is not in (0, 1].
int noise_discrete_laplace(const struct noise_source *source, struct fraction epsilon, int64_t *value) MUST_CHECK;

// The stream of one line: at most NOISE_WORDS_MAX words, 10,000 for each cell of the largest line. A draw takes about
// 20; the limit is there so that a broken source ends in an error and not in an endless loop.
#define NOISE_WORDS_MAX (10000ull * 4096)
struct noise_stream;
int noise_stream_create(struct noise_stream **stream) MUST_CHECK;                                  // kernel randomness
int noise_stream_create_seeded(struct noise_stream **stream, const uint8_t seed[32]) MUST_CHECK;   // tests only
struct noise_source noise_stream_source(struct noise_stream *stream);
void noise_stream_free(struct noise_stream *stream); // wipes

#endif
