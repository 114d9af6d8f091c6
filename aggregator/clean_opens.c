#include "aggregator/clean_opens.h"

#define SLOTS_FIRST 1024

struct clean_opens {
    struct clean_terms terms;
    uint64_t *slots; // 0: free
    uint64_t n_slots; // a power of two
    uint64_t count;
    bool has_zero; // the one pseudonym that no slot can hold
};

int clean_opens_create(struct clean_opens **out, const struct clean_terms *terms) {
    struct clean_opens *opens = calloc(1, sizeof *opens);
    if (opens == NULL)
        return ERR_NOMEM;
    opens->terms = *terms;
    opens->n_slots = SLOTS_FIRST;
    opens->slots = calloc(opens->n_slots, sizeof *opens->slots);
    if (opens->slots == NULL) {
        free(opens);
        return ERR_NOMEM;
    }
    *out = opens;
    return 0;
}

void clean_opens_free(struct clean_opens *opens) {
    if (opens == NULL)
        return;
    free(opens->slots);
    free(opens);
}

// Where probing begins. A pseudonym is a keyed hash already; the multiplication spreads chosen ones too.
static uint64_t slot_home(uint64_t n_slots, uint64_t pseudonym) {
    uint64_t mixed = pseudonym * 0x9e3779b97f4a7c15;
    return (mixed ^ mixed >> 32) & (n_slots - 1);
}

// The pseudonym's slot, or the free one where it would go.
static uint64_t slot_find(const uint64_t *slots, uint64_t n_slots, uint64_t pseudonym) {
    uint64_t at = slot_home(n_slots, pseudonym);
    while (slots[at] != 0 && slots[at] != pseudonym)
        at = (at + 1) & (n_slots - 1);
    return at;
}

static int opens_grow(struct clean_opens *opens) {
    uint64_t n_slots = opens->n_slots * 2;
    uint64_t *slots = calloc(n_slots, sizeof *slots);
    if (slots == NULL)
        return ERR_NOMEM;
    for (uint64_t i = 0; i < opens->n_slots; i++)
        if (opens->slots[i] != 0)
            slots[slot_find(slots, n_slots, opens->slots[i])] = opens->slots[i];
    free(opens->slots);
    opens->slots = slots;
    opens->n_slots = n_slots;
    return 0;
}

static int opens_add(struct clean_opens *opens, uint64_t pseudonym) {
    uint64_t at = slot_find(opens->slots, opens->n_slots, pseudonym);
    if (opens->slots[at] != 0)
        return 0;
    if ((opens->count + 1) * 8 > opens->n_slots * 7) {
        int rc = opens_grow(opens);
        if (rc != 0)
            return rc;
        at = slot_find(opens->slots, opens->n_slots, pseudonym);
    }
    opens->slots[at] = pseudonym;
    opens->count++;
    return 0;
}

static void opens_erase(struct clean_opens *opens, uint64_t pseudonym) {
    uint64_t mask = opens->n_slots - 1;
    uint64_t hole = slot_find(opens->slots, opens->n_slots, pseudonym);
    if (opens->slots[hole] == 0)
        return;
    CHECK(opens->count > 0);
    opens->count--;
    // Close the hole: move back every follower whose probing would have met it.
    for (uint64_t at = (hole + 1) & mask; opens->slots[at] != 0; at = (at + 1) & mask) {
        uint64_t home = slot_home(opens->n_slots, opens->slots[at]);
        if (((at - home) & mask) < ((at - hole) & mask))
            continue;
        opens->slots[hole] = opens->slots[at];
        hole = at;
    }
    opens->slots[hole] = 0;
}

int clean_opens_take(struct clean_opens *opens, uint64_t pseudonym, const struct last_open *value) {
    bool counts = value != NULL && clean_open_counts(&opens->terms, *value);
    if (pseudonym == 0)
        opens->has_zero = counts;
    else if (counts)
        return opens_add(opens, pseudonym);
    else
        opens_erase(opens, pseudonym);
    return 0;
}

bool clean_opens_has(const struct clean_opens *opens, uint64_t pseudonym) {
    if (pseudonym == 0)
        return opens->has_zero;
    return opens->slots[slot_find(opens->slots, opens->n_slots, pseudonym)] != 0;
}

void clean_opens_prefetch(const struct clean_opens *opens, uint64_t pseudonym) {
    __builtin_prefetch(&opens->slots[slot_home(opens->n_slots, pseudonym)]);
}
