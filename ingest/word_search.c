#include "ingest/word_search.h"

#include <string.h>

static void number_classes(struct word_search *search, const struct word *words, size_t n) {
    uint8_t classes = 2; // 1: bytes of no word
    memset(search->class_of, 1, sizeof search->class_of);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < words[i].len; j++) {
            uint8_t byte = (uint8_t)words[i].at[j];
            if (search->class_of[byte] == 1)
                search->class_of[byte] = classes++;
        }
    for (int upper = 'A'; upper <= 'Z'; upper++) {
        CHECK(search->class_of[upper] == 1); // words come in lower case
        search->class_of[upper] = search->class_of[upper - 'A' + 'a'];
    }
    search->row = classes;
}

// The tree of all words: an entry of 0 is a missing branch.
static void grow_tree(struct word_search *search, const struct word *words, size_t n) {
    uint32_t end = search->row;
    search->states[0] = WORD_SEARCH_NONE;
    for (size_t i = 0; i < n; i++) {
        uint32_t state = 0;
        for (size_t j = 0; j < words[i].len; j++) {
            uint32_t *branch = &search->states[state + search->class_of[(uint8_t)words[i].at[j]]];
            if (*branch == 0) {
                *branch = end;
                search->states[end] = WORD_SEARCH_NONE;
                end += search->row;
            }
            state = *branch;
        }
        search->hit_after[i] = (uint16_t)search->states[state];
        search->states[state] = (uint32_t)i;
    }
}

static void append_hits(struct word_search *search, uint32_t state, uint32_t of_suffix) {
    uint16_t more = (uint16_t)search->states[of_suffix];
    uint16_t word = (uint16_t)search->states[state];
    if (word == WORD_SEARCH_NONE) {
        search->states[state] = more;
        return;
    }
    while (search->hit_after[word] != WORD_SEARCH_NONE)
        word = search->hit_after[word];
    search->hit_after[word] = more;
}

// Breadth first: where a branch is missing, go where the longest proper suffix would go. A state's suffix is shorter,
// so its own branches and hits are complete before they are copied. `suffix` is by row number.
static void join_suffixes(struct word_search *search, uint32_t *queue, uint32_t *suffix) {
    size_t head = 0, tail = 0;
    queue[tail++] = 0;
    while (head < tail) {
        uint32_t state = queue[head++], of_suffix = suffix[state / search->row];
        for (uint32_t class = 1; class < search->row; class++) {
            uint32_t *branch = &search->states[state + class];
            uint32_t beside = state == 0 ? 0 : search->states[of_suffix + class];
            uint32_t child = *branch;
            if (child == 0) {
                *branch = beside;
                continue;
            }
            beside &= ~WORD_SEARCH_HIT;
            suffix[child / search->row] = beside;
            append_hits(search, child, beside);
            if (search->states[child] != WORD_SEARCH_NONE)
                *branch |= WORD_SEARCH_HIT;
            queue[tail++] = child;
        }
    }
}

int word_search_build(struct word_search *search, const struct word *words, size_t n, struct err *err) {
    size_t bytes = 0;
    uint32_t *queue = NULL, *suffix = NULL;
    *search = (struct word_search){0};
    for (size_t i = 0; i < n; i++) {
        CHECK(words[i].len > 0);
        bytes += words[i].len;
    }
    if (bytes > WORD_SEARCH_BYTES_MAX || n >= WORD_SEARCH_NONE)
        return err_set(err, ERR_LIMIT, "the words have %zu bytes in all; at most %d are allowed", bytes,
                       WORD_SEARCH_BYTES_MAX);
    number_classes(search, words, n);
    search->states = calloc((bytes + 1) * search->row, sizeof *search->states);
    search->hit_after = malloc((n + 1) * sizeof *search->hit_after);
    queue = malloc((bytes + 1) * sizeof *queue);
    suffix = calloc(bytes + 1, sizeof *suffix);
    int rc = ERR_NOMEM;
    if (search->states == NULL || search->hit_after == NULL || queue == NULL || suffix == NULL)
        goto fail;
    grow_tree(search, words, n);
    join_suffixes(search, queue, suffix);
    rc = 0;
fail:
    free(queue);
    free(suffix);
    if (rc != 0) {
        word_search_free(search);
        err_set(err, rc, "out of memory for %zu words", n);
    }
    return rc;
}

void word_search_free(struct word_search *search) {
    free(search->states);
    free(search->hit_after);
    *search = (struct word_search){0};
}
