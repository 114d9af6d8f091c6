// The discrete Laplace sampler: known answers, every outcome with its exact probability, and a goodness of fit.
#include "aggregator/noise.h"

#include "common/bytes.h"
#include "tests/noise_vectors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct counted_source {
    struct noise_source inner;
    uint64_t words;
};

static int counted_word(void *arg, uint64_t *word) {
    struct counted_source *counted = arg;
    counted->words++;
    return counted->inner.word(counted->inner.arg, word);
}

static void draws_equal_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(noise_vectors); i++) {
        const struct noise_vector *vector = &noise_vectors[i];
        struct noise_stream *stream;
        assert_int_equal(noise_stream_create_seeded(&stream, vector->seed), 0);
        struct counted_source counted = {.inner = noise_stream_source(stream)};
        struct noise_source source = {.word = counted_word, .arg = &counted};
        for (size_t draw = 0; draw < NOISE_VECTOR_DRAWS; draw++) {
            int64_t value;
            assert_int_equal(noise_discrete_laplace(&source, vector->epsilon, &value), 0);
            assert_int_equal(value, vector->draws[draw]);
        }
        assert_int_equal(counted.words, vector->words);
        noise_stream_free(stream);
    }
}

static void epsilon_outside_its_range_is_refused(void **state) {
    (void)state;
    struct noise_stream *stream;
    assert_int_equal(noise_stream_create(&stream), 0);
    struct noise_source source = noise_stream_source(stream);
    const struct fraction bad[] = {{0, 1}, {1, 0}, {0, 0}, {5, 4}, {UINT32_MAX, 1}};
    int64_t value;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(noise_discrete_laplace(&source, bad[i], &value), ERR_INVALID);
    assert_int_equal(noise_discrete_laplace(&source, (struct fraction){1, 1}, &value), 0);
    noise_stream_free(stream);
}

// Words from a list, then ERR_LIMIT.
struct listed_words {
    const uint64_t *words;
    size_t n;
    size_t at;
};

static int listed_word(void *arg, uint64_t *word) {
    struct listed_words *listed = arg;
    if (listed->at == listed->n)
        return ERR_LIMIT;
    *word = listed->words[listed->at++];
    return 0;
}

// With epsilon 1/3 the first word chooses a number below 3, and 2^64 mod 3 is 1: the last word is refused, and no other.
static void words_that_would_favour_a_value_are_refused(void **state) {
    (void)state;
    // u = 2 (refused once before); exp(-2/3): 2 < 3 no, so k = 1: yes; exp(-1): 0 < 1, then 1 of 2: no; positive.
    const uint64_t words[] = {UINT64_MAX, UINT64_MAX - 1, 2, 0, 1, 1};
    struct listed_words listed = {.words = words, .n = ARRAY_LEN(words)};
    struct noise_source source = {.word = listed_word, .arg = &listed};
    int64_t value = 0;
    assert_int_equal((UINT64_MAX - 1) % 3, 2);
    assert_int_equal(noise_discrete_laplace(&source, (struct fraction){1, 3}, &value), 0);
    assert_int_equal(value, 2);
    assert_int_equal(listed.at, ARRAY_LEN(words));
    listed = (struct listed_words){.words = words, .n = 3};
    assert_int_equal(noise_discrete_laplace(&source, (struct fraction){1, 3}, &value), ERR_LIMIT);
}

// ---- every outcome -------------------------------------------------------------------------------------------------
// Runs one attempt of the sampler along every path of choices whose probability is above a cutoff. An attempt begins by
// choosing a number below t; where it asks for one again it starts over, with nothing kept. So an outcome's probability
// is its mass divided by all but the mass of starting over, give or take what was cut off.
#define PATH_MAX_STEPS 400
#define OUTCOMES 41
struct step {
    uint64_t option;
    uint64_t options;
    double probability; // of each option, but for `happens`: of yes (option 0)
    bool yes_or_no;
};
struct walk {
    struct step steps[PATH_MAX_STEPS];
    size_t n;
    size_t at;
    double probability;
    double cutoff;
};

static double step_probability(const struct step *step) {
    return step->yes_or_no && step->option == 1 ? 1 - step->probability : step->probability;
}

static int walk_choose(struct walk *walk, struct step fresh, uint64_t *option) {
    if (walk->at == walk->n) {
        assert_true(walk->n < PATH_MAX_STEPS);
        walk->steps[walk->n++] = fresh;
    }
    const struct step *step = &walk->steps[walk->at++];
    *option = step->option;
    walk->probability *= step_probability(step);
    return walk->probability < walk->cutoff ? ERR_LIMIT : 0;
}

static int walk_below(void *arg, uint64_t n, uint64_t *value) {
    const struct walk *walk = arg;
    if (walk->at > 0)
        return ERR_AGAIN;
    return walk_choose(arg, (struct step){.options = n, .probability = 1.0 / (double)n}, value);
}

static int walk_happens(void *arg, uint64_t numerator, uint64_t denominator, bool *yes) {
    uint64_t option;
    double probability = (double)numerator / (double)denominator;
    int rc = walk_choose(arg, (struct step){.options = 2, .probability = probability, .yes_or_no = true}, &option);
    *yes = option == 0;
    return rc;
}

// The next path in order; false after the last.
static bool walk_next(struct walk *walk) {
    walk->n = walk->at;
    while (walk->n > 0 && walk->steps[walk->n - 1].option + 1 == walk->steps[walk->n - 1].options)
        walk->n--;
    if (walk->n == 0)
        return false;
    walk->steps[walk->n - 1].option++;
    return true;
}

static void masses_equal_the_distribution(struct fraction epsilon) {
    static struct walk walk;
    const double missing_max = 1e-6;
    double mass[OUTCOMES] = {0}, missing = 1, over_again = 0;
    walk = (struct walk){.cutoff = 1e-11};
    const struct noise_chooser chooser = {.below = walk_below, .happens = walk_happens, .arg = &walk};
    do {
        int64_t value;
        walk.at = 0;
        walk.probability = 1;
        int rc = noise_discrete_laplace_by(&chooser, epsilon, &value);
        if (rc == ERR_LIMIT)
            continue;
        missing -= walk.probability;
        if (rc == ERR_AGAIN)
            over_again += walk.probability;
        else if (value >= -OUTCOMES / 2 && value <= OUTCOMES / 2)
            mass[value + OUTCOMES / 2] += walk.probability;
        assert_true(rc == 0 || rc == ERR_AGAIN);
    } while (walk_next(&walk));
    assert_true(missing > -1e-9 && missing < missing_max);
    double ratio = exp(-(double)epsilon.numerator / (double)epsilon.denominator);
    for (int x = -OUTCOMES / 2; x <= OUTCOMES / 2; x++) {
        double exact = (1 - ratio) / (1 + ratio) * pow(ratio, abs(x));
        double least = mass[x + OUTCOMES / 2];
        assert_true(least / (1 - over_again) <= exact + 1e-12);
        assert_true(exact <= (least + missing) / (1 - over_again - missing) + 1e-12);
        assert_true(fabs(least - mass[OUTCOMES / 2 - x]) < 1e-12);
    }
}

static void every_outcome_has_its_probability(void **state) {
    (void)state;
    masses_equal_the_distribution((struct fraction){1, 1});
    masses_equal_the_distribution((struct fraction){1, 4});
    masses_equal_the_distribution((struct fraction){2, 3});
}

// ---- goodness of fit -----------------------------------------------------------------------------------------------
// Quantile of chi-square for alpha = 1e-6, after Wilson & Hilferty 1931.
static double chi_square_limit(double freedom) {
    const double z = 4.753424;
    double part = 2 / (9 * freedom);
    return freedom * pow(1 - part + z * sqrt(part), 3);
}

static void draws_fit(struct fraction epsilon, uint64_t n, uint8_t seed_byte) {
    uint8_t seed[32] = {seed_byte};
    uint64_t seen[OUTCOMES + 2] = {0}; // outside on the left, the outcomes, outside on the right
    struct noise_stream *stream;
    struct noise_source source;
    assert_int_equal(noise_stream_create_seeded(&stream, seed), 0);
    source = noise_stream_source(stream);
    for (uint64_t i = 0; i < n; i++) {
        int64_t value;
        assert_int_equal(noise_discrete_laplace(&source, epsilon, &value), 0);
        int64_t cell = value + OUTCOMES / 2 + 1;
        seen[cell < 0 ? 0 : cell > OUTCOMES + 1 ? OUTCOMES + 1 : cell]++;
        if (i % 1000000 == 999999) { // a stream has a limit on its words
            noise_stream_free(stream);
            seed[1]++;
            assert_int_equal(noise_stream_create_seeded(&stream, seed), 0);
            source = noise_stream_source(stream);
        }
    }
    noise_stream_free(stream);
    double ratio = exp(-(double)epsilon.numerator / (double)epsilon.denominator);
    double sum = 0, pooled = 0, pooled_seen = 0, freedom = -1;
    for (int cell = 0; cell <= OUTCOMES + 1; cell++) {
        int distance = abs(cell - OUTCOMES / 2 - 1);
        double p = distance > OUTCOMES / 2 ? pow(ratio, distance) / (1 + ratio)
                                           : (1 - ratio) / (1 + ratio) * pow(ratio, distance);
        pooled += p * (double)n;
        pooled_seen += (double)seen[cell];
        if (pooled < 20 && cell <= OUTCOMES)
            continue;
        if (pooled < 20) // the right tail: too few to expect for a cell of its own
            break;
        sum += (pooled_seen - pooled) * (pooled_seen - pooled) / pooled;
        freedom++;
        pooled = pooled_seen = 0;
    }
    assert_true(freedom >= 10);
    assert_true(sum < chi_square_limit(freedom));
    assert_true(sum > freedom / 10); // too good is wrong too
}

static void many_draws_fit_the_distribution(void **state) {
    (void)state;
    // OPENVEIL_TEST_LONG=1: ten million draws instead of one.
    uint64_t n = getenv("OPENVEIL_TEST_LONG") != NULL ? 10000000 : 1000000;
    draws_fit((struct fraction){1, 1}, n, 1);
    draws_fit((struct fraction){1, 4}, n, 2);
    draws_fit((struct fraction){2, 3}, n, 3);
}

static void a_stream_ends_at_its_limit(void **state) {
    (void)state;
    const uint8_t seed[32] = {7};
    struct noise_stream *stream;
    assert_int_equal(noise_stream_create_seeded(&stream, seed), 0);
    struct noise_source source = noise_stream_source(stream);
    uint64_t word;
    for (uint64_t i = 0; i < NOISE_WORDS_MAX; i++)
        if (source.word(source.arg, &word) != 0)
            fail();
    assert_int_equal(source.word(source.arg, &word), ERR_LIMIT);
    int64_t value;
    assert_int_equal(noise_discrete_laplace(&source, (struct fraction){1, 4}, &value), ERR_LIMIT);
    noise_stream_free(stream);
}

static void two_streams_differ(void **state) {
    (void)state;
    struct noise_stream *a, *b;
    assert_int_equal(noise_stream_create(&a), 0);
    assert_int_equal(noise_stream_create(&b), 0);
    struct noise_source from_a = noise_stream_source(a), from_b = noise_stream_source(b);
    uint64_t word_a, word_b;
    assert_int_equal(from_a.word(from_a.arg, &word_a), 0);
    assert_int_equal(from_b.word(from_b.arg, &word_b), 0);
    assert_int_not_equal(word_a, word_b);
    noise_stream_free(a);
    noise_stream_free(b);
    noise_stream_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_equal_the_reference),
        cmocka_unit_test(epsilon_outside_its_range_is_refused),
        cmocka_unit_test(words_that_would_favour_a_value_are_refused),
        cmocka_unit_test(every_outcome_has_its_probability),
        cmocka_unit_test(many_draws_fit_the_distribution),
        cmocka_unit_test(a_stream_ends_at_its_limit),
        cmocka_unit_test(two_streams_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
