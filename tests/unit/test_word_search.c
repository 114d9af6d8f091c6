// The search for many words at once, against looking for each one alone.
#include "ingest/word_search.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

static unsigned long random_state = 12345;

static unsigned dice(unsigned n) {
    random_state = random_state * 6364136223846793005ul + 1442695040888963407ul;
    return (unsigned)(random_state >> 33) % n;
}

// Letters from a small alphabet, so that words overlap and contain each other.
static size_t letters(char *out, size_t len, unsigned alphabet) {
    for (size_t i = 0; i < len; i++)
        out[i] = (char)('a' + dice(alphabet));
    return len;
}

static char upper_sometimes(char c) {
    return dice(2) == 0 ? (char)(c - 'a' + 'A') : c;
}

static void finds_what_a_plain_search_finds(void **state) {
    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        char bytes[20][8], text[64];
        struct word words[20];
        struct word_search search;
        struct err err;
        unsigned alphabet = 1 + dice(3);
        size_t n = 1 + dice(20), len = letters(text, 1 + dice(64), alphabet + dice(2));
        for (size_t i = 0; i < n; i++)
            words[i] = (struct word){bytes[i], letters(bytes[i], 1 + dice(8), alphabet)};
        assert_int_equal(word_search_build(&search, words, n, &err), 0);
        uint32_t at = 0;
        for (size_t i = 0; i < len; i++) {
            bool found[20] = {false};
            at = word_search_step(&search, at, upper_sometimes(text[i]));
            for (uint16_t word = word_search_hit(&search, &at); word != WORD_SEARCH_NONE; word = search.hit_after[word]) {
                assert_true(word < n && !found[word]);
                found[word] = true;
            }
            for (size_t j = 0; j < n; j++) {
                bool there = i + 1 >= words[j].len && memcmp(text + i + 1 - words[j].len, bytes[j], words[j].len) == 0;
                assert_int_equal(found[j], there);
            }
        }
        word_search_free(&search);
        word_search_free(&search);
    }
}

static void every_byte_may_be_searched(void **state) {
    (void)state;
    struct word words[256];
    char bytes[256];
    size_t n = 0;
    struct word_search search;
    struct err err;
    for (int c = 0; c < 256; c++)
        if (c < 'A' || c > 'Z') {
            bytes[c] = (char)c;
            words[n++] = (struct word){&bytes[c], 1};
        }
    assert_int_equal(word_search_build(&search, words, n, &err), 0);
    for (int c = 0; c < 256; c++) {
        uint32_t reached = word_search_step(&search, 0, (char)c);
        uint16_t word = word_search_hit(&search, &reached);
        assert_true(word < n);
        assert_int_equal((uint8_t)words[word].at[0], c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    word_search_free(&search);
}

static void limits(void **state) {
    (void)state;
    struct word_search search;
    struct err err;
    static char text[WORD_SEARCH_BYTES_MAX + 1];
    memset(text, 'x', sizeof text);
    struct word word = {text, sizeof text};
    assert_int_equal(word_search_build(&search, &word, 1, &err), ERR_LIMIT);
    word.len--;
    assert_int_equal(word_search_build(&search, &word, 1, &err), 0);
    word_search_free(&search);
    assert_int_equal(word_search_build(&search, NULL, 0, &err), 0);
    uint32_t reached = word_search_step(&search, 0, 'a');
    assert_int_equal(word_search_hit(&search, &reached), WORD_SEARCH_NONE);
    word_search_free(&search);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_a_plain_search_finds),
        cmocka_unit_test(every_byte_may_be_searched),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
