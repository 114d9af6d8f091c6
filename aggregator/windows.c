#include "aggregator/windows.h"

#include "aggregator/prefetch.h"

#define SLOTS_FIRST 16

struct slot {
    uint64_t pseudonym;
    struct window_cell cell;
    bool used;
};
_Static_assert(sizeof(struct slot) == 16, "a slot has 16 bytes");

struct window {
    struct slot *slots;
    size_t n_slots; // a power of two
    size_t count;
};

int window_create(struct window **out) {
    struct window *window = calloc(1, sizeof *window);
    if (window == NULL)
        return ERR_NOMEM;
    window->n_slots = SLOTS_FIRST;
    window->slots = calloc(window->n_slots, sizeof *window->slots);
    if (window->slots == NULL) {
        free(window);
        return ERR_NOMEM;
    }
    *out = window;
    return 0;
}

void window_free(struct window *window) {
    if (window == NULL)
        return;
    free(window->slots);
    free(window);
}

size_t window_count(const struct window *window) {
    return window->count;
}

static size_t slot_home(size_t n_slots, uint64_t pseudonym) {
    uint64_t mixed = pseudonym * 0x9e3779b97f4a7c15;
    return (size_t)(mixed ^ mixed >> 32) & (n_slots - 1);
}

static size_t slot_find(const struct window *window, uint64_t pseudonym) {
    size_t at = slot_home(window->n_slots, pseudonym);
    while (window->slots[at].used && window->slots[at].pseudonym != pseudonym)
        at = (at + 1) & (window->n_slots - 1);
    return at;
}

void window_prefetch(const struct window *window, uint64_t pseudonym) {
    prefetch(&window->slots[slot_home(window->n_slots, pseudonym)]);
}

bool window_get(const struct window *window, uint64_t pseudonym, struct window_cell *cell) {
    const struct slot *slot = &window->slots[slot_find(window, pseudonym)];
    if (slot->used)
        *cell = slot->cell;
    return slot->used;
}

static int window_grow(struct window *window) {
    struct window larger = *window;
    larger.n_slots = window->n_slots * 2;
    larger.slots = calloc(larger.n_slots, sizeof *larger.slots);
    if (larger.slots == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < window->n_slots; i++)
        if (window->slots[i].used)
            larger.slots[slot_find(&larger, window->slots[i].pseudonym)] = window->slots[i];
    free(window->slots);
    *window = larger;
    return 0;
}

int window_put(struct window *window, uint64_t pseudonym, struct window_cell cell) {
    size_t at = slot_find(window, pseudonym);
    if (!window->slots[at].used) {
        if ((window->count + 1) * 4 > window->n_slots * 3) {
            int rc = window_grow(window);
            if (rc != 0)
                return rc;
            at = slot_find(window, pseudonym);
        }
        window->count++;
    }
    window->slots[at] = (struct slot){.pseudonym = pseudonym, .cell = cell, .used = true};
    return 0;
}

void window_erase(struct window *window, uint64_t pseudonym) {
    size_t mask = window->n_slots - 1;
    size_t hole = slot_find(window, pseudonym);
    if (!window->slots[hole].used)
        return;
    CHECK(window->count > 0);
    window->count--;
    for (size_t at = (hole + 1) & mask; window->slots[at].used; at = (at + 1) & mask) {
        size_t home = slot_home(window->n_slots, window->slots[at].pseudonym);
        if (((at - home) & mask) < ((at - hole) & mask))
            continue;
        window->slots[hole] = window->slots[at];
        hole = at;
    }
    window->slots[hole] = (struct slot){0};
}

bool window_next(const struct window *window, size_t *cursor, uint64_t *pseudonym, struct window_cell *cell) {
    while (*cursor < window->n_slots) {
        const struct slot *slot = &window->slots[(*cursor)++];
        if (!slot->used)
            continue;
        *pseudonym = slot->pseudonym;
        *cell = slot->cell;
        return true;
    }
    return false;
}
