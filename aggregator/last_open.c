#include "aggregator/last_open.h"

#define SLOTS_FIRST 1024

struct slot {
    uint64_t pseudonym;
    uint32_t tenant;
    uint16_t day; // 0: free, because day 0 is no day of an open
    uint8_t frozen_age;
    uint8_t unused;
};
_Static_assert(sizeof(struct slot) == 16, "a slot has 16 bytes");

struct last_open_table {
    struct slot *slots;
    uint64_t n_slots; // a power of two
    uint64_t count;
    uint64_t contacts_max;
};

int last_open_table_create(struct last_open_table **out, uint64_t contacts_max) {
    CHECK(contacts_max > 0);
    struct last_open_table *table = calloc(1, sizeof *table);
    if (table == NULL)
        return ERR_NOMEM;
    table->n_slots = SLOTS_FIRST;
    table->contacts_max = contacts_max;
    table->slots = calloc(table->n_slots, sizeof *table->slots);
    if (table->slots == NULL) {
        free(table);
        return ERR_NOMEM;
    }
    *out = table;
    return 0;
}

void last_open_table_free(struct last_open_table *table) {
    if (table == NULL)
        return;
    free(table->slots);
    free(table);
}

// Where a contact's probing begins. The pseudonym is a keyed hash already; the multiplication spreads test data too.
static uint64_t slot_home(uint64_t n_slots, uint32_t tenant, uint64_t pseudonym) {
    uint64_t mixed = (pseudonym ^ ((uint64_t)tenant << 32 | tenant)) * 0x9e3779b97f4a7c15;
    return (mixed ^ mixed >> 32) & (n_slots - 1);
}

// The contact's slot, or the free one where it would go.
static uint64_t slot_find(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym) {
    uint64_t at = slot_home(table->n_slots, tenant, pseudonym);
    for (;;) {
        const struct slot *slot = &table->slots[at];
        if (slot->day == 0 || (slot->pseudonym == pseudonym && slot->tenant == tenant))
            return at;
        at = (at + 1) & (table->n_slots - 1);
    }
}

bool last_open_get(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open *out) {
    const struct slot *slot = &table->slots[slot_find(table, tenant, pseudonym)];
    if (slot->day == 0)
        return false;
    *out = (struct last_open){.day = slot->day, .frozen_age = slot->frozen_age};
    return true;
}

static int table_grow(struct last_open_table *table) {
    struct last_open_table larger = *table;
    larger.n_slots = table->n_slots * 2;
    larger.slots = calloc(larger.n_slots, sizeof *larger.slots);
    if (larger.slots == NULL)
        return ERR_NOMEM;
    for (uint64_t i = 0; i < table->n_slots; i++) {
        const struct slot *slot = &table->slots[i];
        if (slot->day != 0)
            larger.slots[slot_find(&larger, slot->tenant, slot->pseudonym)] = *slot;
    }
    free(table->slots);
    *table = larger;
    return 0;
}

int last_open_put(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open value) {
    CHECK(value.day != 0);
    uint64_t at = slot_find(table, tenant, pseudonym);
    if (table->slots[at].day == 0) {
        if (table->count >= table->contacts_max)
            return ERR_LIMIT;
        if ((table->count + 1) * 8 > table->n_slots * 7) {
            int rc = table_grow(table);
            if (rc != 0)
                return rc;
            at = slot_find(table, tenant, pseudonym);
        }
        table->count++;
    }
    table->slots[at] =
        (struct slot){.pseudonym = pseudonym, .tenant = tenant, .day = value.day, .frozen_age = value.frozen_age};
    return 0;
}

void last_open_erase(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym) {
    uint64_t mask = table->n_slots - 1;
    uint64_t hole = slot_find(table, tenant, pseudonym);
    if (table->slots[hole].day == 0)
        return;
    CHECK(table->count > 0);
    table->count--;
    // Close the hole: move back every follower whose probing would have met it.
    for (uint64_t at = (hole + 1) & mask; table->slots[at].day != 0; at = (at + 1) & mask) {
        const struct slot *slot = &table->slots[at];
        uint64_t home = slot_home(table->n_slots, slot->tenant, slot->pseudonym);
        if (((at - home) & mask) < ((at - hole) & mask))
            continue;
        table->slots[hole] = *slot;
        hole = at;
    }
    table->slots[hole] = (struct slot){0};
}

uint64_t last_open_count(const struct last_open_table *table) {
    return table->count;
}

void last_open_prefetch(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym) {
    __builtin_prefetch(&table->slots[slot_home(table->n_slots, tenant, pseudonym)]);
}

// From the top downwards, because erasing moves contacts downwards only (but where probing wraps around).
bool last_open_next(const struct last_open_table *table, struct last_open_cursor *cursor,
                    struct last_open_contact *contact) {
    if (cursor->slots != table->n_slots)
        *cursor = (struct last_open_cursor){.slots = table->n_slots, .left = table->n_slots};
    while (cursor->left > 0) {
        const struct slot *slot = &table->slots[--cursor->left];
        if (slot->day == 0)
            continue;
        *contact = (struct last_open_contact){.tenant = slot->tenant,
                                              .pseudonym = slot->pseudonym,
                                              .value = {.day = slot->day, .frozen_age = slot->frozen_age}};
        return true;
    }
    return false;
}
