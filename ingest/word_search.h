// Finds every occurrence of many words in one pass over a text, without regard to ASCII case (Aho & Corasick 1975).
// Built once, then read-only and shareable between threads; a search allocates nothing.
#ifndef OPENVEIL_WORD_SEARCH_H
#define OPENVEIL_WORD_SEARCH_H

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>

#define WORD_SEARCH_BYTES_MAX 65000 // of all words together
#define WORD_SEARCH_NONE UINT16_MAX
#define WORD_SEARCH_HIT 0x80000000u

struct word_search {
    uint32_t row;          // entries of a state: its first word or WORD_SEARCH_NONE, then the next state by class
    uint8_t class_of[256]; // 1 to row - 1; bytes that no word tells apart share a class
    uint32_t *states;      // a state is the index of its row here, 0 the root, with WORD_SEARCH_HIT where words end
    uint16_t *hit_after;   // by word: the next word that ends at the same place, or WORD_SEARCH_NONE
};

struct word {
    const char *at; // lower case
    size_t len;     // at least 1
};

// Words may be equal and may contain each other. ERR_LIMIT, ERR_NOMEM. `words` is not kept.
int word_search_build(struct word_search *search, const struct word *words, size_t n, struct err *err) MUST_CHECK;
void word_search_free(struct word_search *search);

// for (state = 0, i = 0; i < len; i++) {
//     state = word_search_step(search, state, text[i]);
//     for (word = word_search_hit(search, &state); word != WORD_SEARCH_NONE; word = search->hit_after[word]) … ends at i
// }
static inline uint32_t word_search_step(const struct word_search *search, uint32_t state, char byte) {
    return search->states[state + search->class_of[(uint8_t)byte]];
}
// Where there are hits, and only there, it takes their mark from the state, which the next step must not see.
static inline uint16_t word_search_hit(const struct word_search *search, uint32_t *state) {
    if (__builtin_expect(!(*state & WORD_SEARCH_HIT), 1))
        return WORD_SEARCH_NONE;
    *state &= ~WORD_SEARCH_HIT;
    return (uint16_t)search->states[*state];
}

#endif
