#include "ingest/word_search.h"

#include <string.h>

static void number_classes(struct word_search *search, const struct word *words, size_t n) {
    search->n_classes = 1;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < words[i].len; j++) {
            uint8_t byte = (uint8_t)words[i].at[j];
            if (search->class_of[byte] == 0)
                search->class_of[byte] = (uint8_t)search->n_classes++;
        }
    for (int upper = 'A'; upper <= 'Z'; upper++) {
        CHECK(search->class_of[upper] == 0); // words come in lower case
        search->class_of[upper] = search->class_of[upper - 'A' + 'a'];
    }
}

// The tree of all words: `next` holds 0 where there is no branch yet.
static uint16_t grow_tree(struct word_search *search, const struct word *words, size_t n) {
    uint16_t n_states = 1;
    for (size_t i = 0; i < n; i++) {
        uint16_t state = 0;
        for (size_t j = 0; j < words[i].len; j++) {
            uint8_t class = search->class_of[(uint8_t)words[i].at[j]];
            uint16_t *branch = &search->next[(size_t)state * search->n_classes + class];
            if (*branch == 0)
                *branch = n_states++;
            state = *branch;
        }
        search->hit_after[i] = search->hit[state];
        search->hit[state] = (uint16_t)i;
    }
    return n_states;
}

static void append_hits(struct word_search *search, uint16_t state, uint16_t more) {
    uint16_t *end = &search->hit[state];
    while (*end != WORD_SEARCH_NONE)
        end = &search->hit_after[*end];
    *end = more;
}

// Breadth first: where a branch is missing, go where the longest proper suffix would go. A state's suffix is shorter,
// so its own branches and hits are complete before they are copied.
static void join_suffixes(struct word_search *search, uint16_t *queue, uint16_t *suffix) {
    size_t head = 0, tail = 0;
    queue[tail++] = 0;
    while (head < tail) {
        uint16_t state = queue[head++];
        uint16_t *branches = &search->next[(size_t)state * search->n_classes];
        const uint16_t *of_suffix = &search->next[(size_t)suffix[state] * search->n_classes];
        for (uint16_t class = 0; class < search->n_classes; class++) {
            uint16_t child = branches[class];
            if (child == 0) {
                branches[class] = state == 0 ? 0 : of_suffix[class];
                continue;
            }
            suffix[child] = state == 0 ? 0 : of_suffix[class];
            append_hits(search, child, search->hit[suffix[child]]);
            queue[tail++] = child;
        }
    }
}

int word_search_build(struct word_search *search, const struct word *words, size_t n, struct err *err) {
    size_t bytes = 0;
    uint16_t *queue = NULL, *suffix = NULL;
    *search = (struct word_search){0};
    for (size_t i = 0; i < n; i++) {
        CHECK(words[i].len > 0);
        bytes += words[i].len;
    }
    if (bytes > WORD_SEARCH_BYTES_MAX || n >= WORD_SEARCH_NONE)
        return err_set(err, ERR_LIMIT, "the words have %zu bytes in all; at most %d are allowed", bytes,
                       WORD_SEARCH_BYTES_MAX);
    number_classes(search, words, n);
    search->next = calloc((bytes + 1) * search->n_classes, sizeof *search->next);
    search->hit = malloc((bytes + 1) * sizeof *search->hit);
    search->hit_after = malloc((n + 1) * sizeof *search->hit_after);
    queue = malloc((bytes + 1) * sizeof *queue);
    suffix = calloc(bytes + 1, sizeof *suffix);
    int rc = ERR_NOMEM;
    if (search->next == NULL || search->hit == NULL || search->hit_after == NULL || queue == NULL || suffix == NULL)
        goto fail;
    memset(search->hit, 0xff, (bytes + 1) * sizeof *search->hit);
    uint16_t n_states = grow_tree(search, words, n);
    CHECK(n_states <= bytes + 1);
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
    free(search->next);
    free(search->hit);
    free(search->hit_after);
    *search = (struct word_search){0};
}
