// Finds every occurrence of many words in one pass over a text, without regard to ASCII case (Aho & Corasick 1975).
// Built once, then read-only and shareable between threads; a search allocates nothing.
#ifndef OPENVEIL_WORD_SEARCH_H
#define OPENVEIL_WORD_SEARCH_H

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>

#define WORD_SEARCH_BYTES_MAX 65000 // of all words together
#define WORD_SEARCH_NONE UINT16_MAX

struct word_search {
    uint16_t n_classes;
    uint8_t class_of[256]; // bytes that no word tells apart share a class
    uint16_t *next;        // by state and class; 0 is the root
    uint16_t *hit;         // by state: the first word that ends there, or WORD_SEARCH_NONE
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
//     for (word = search->hit[state]; word != WORD_SEARCH_NONE; word = search->hit_after[word]) … ends at i
// }
static inline uint16_t word_search_step(const struct word_search *search, uint16_t state, char byte) {
    return search->next[(size_t)state * search->n_classes + search->class_of[(uint8_t)byte]];
}

#endif
