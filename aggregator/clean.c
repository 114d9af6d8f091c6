#include "aggregator/clean.h"

#include <string.h>

int clean_first_day(uint32_t today, uint32_t *first_day, uint32_t *next_day) {
    if (day_of_month(today) > CLEAN_DAYS_OF_MONTH) {
        *next_day = day_next_month_start(today);
        return ERR_REFUSED;
    }
    *first_day = day_month_start(today);
    return 0;
}

bool clean_has_basis(const struct tenant *tenant, uint32_t from, uint32_t through) {
    CHECK(from <= through && tenant->n_versions > 0);
    for (size_t i = 0; i < tenant->n_versions && tenant->versions[i].from_day <= through; i++) {
        bool replaced_before = i + 1 < tenant->n_versions && tenant->versions[i + 1].from_day <= from;
        if (!replaced_before && tenant->versions[i].exemption_basis == NULL)
            return false;
    }
    return tenant->versions[0].from_day <= through;
}

// ---- last opens: a hash table with open addressing --------------------------------------------------------------------
struct slot {
    uint64_t pseudonym;
    struct last_open last_open;
    bool used; // stays set when the record is erased; the age is then AGE_NONE for ever
};

struct clean_state {
    struct clean_terms terms;
    bool has_meta;
    bool rehearsal;
    uint32_t partitions;
    bool has_tenant;
    struct tenant_record tenant;
    uint8_t day_flags[CLEAN_N_MAX]; // of first_day - n_days + i
    struct slot *slots;
    size_t n_slots; // a power of two
    size_t n_used;
};

#define SLOTS_FIRST 4096

int clean_state_create(struct clean_state **out, const struct clean_terms *terms) {
    CHECK(terms->n_days >= 1 && terms->n_days <= CLEAN_N_MAX && terms->first_day > terms->n_days);
    struct clean_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return ERR_NOMEM;
    state->terms = *terms;
    state->n_slots = SLOTS_FIRST;
    state->slots = calloc(state->n_slots, sizeof *state->slots);
    if (state->slots == NULL) {
        clean_state_free(state);
        return ERR_NOMEM;
    }
    *out = state;
    return 0;
}

void clean_state_free(struct clean_state *state) {
    if (state == NULL)
        return;
    free(state->slots);
    free(state);
}

// The slot of a pseudonym, or the free one where it would go. Pseudonyms are uniform, but for those who forge them.
static struct slot *slot_find(struct slot *slots, size_t n_slots, uint64_t pseudonym) {
    size_t at = (size_t)((pseudonym * 0x9e3779b97f4a7c15u) >> 20) & (n_slots - 1);
    while (slots[at].used && slots[at].pseudonym != pseudonym)
        at = (at + 1) & (n_slots - 1);
    return &slots[at];
}

static int slots_grow(struct clean_state *state) {
    size_t n_slots = state->n_slots * 2;
    struct slot *slots = calloc(n_slots, sizeof *slots);
    if (slots == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < state->n_slots; i++)
        if (state->slots[i].used)
            *slot_find(slots, n_slots, state->slots[i].pseudonym) = state->slots[i];
    free(state->slots);
    state->slots = slots;
    state->n_slots = n_slots;
    return 0;
}

static int take_last_open(struct clean_state *state, uint64_t pseudonym, const uint8_t *value, size_t value_len) {
    struct last_open last_open = {.day = UINT16_MAX, .frozen_age = AGE_NONE}; // erased: as if it came after E
    if (value_len > 0 && last_open_decode(value, value_len, &last_open) != 0)
        return ERR_CORRUPT;
    if (state->n_used >= state->n_slots / 4 * 3) {
        int rc = slots_grow(state);
        if (rc != 0)
            return rc;
    }
    struct slot *slot = slot_find(state->slots, state->n_slots, pseudonym);
    state->n_used += !slot->used;
    *slot = (struct slot){.pseudonym = pseudonym, .last_open = last_open, .used = true};
    return 0;
}

static int take_day(struct clean_state *state, uint32_t day, const uint8_t *value, size_t value_len) {
    struct day_record record = {0};
    if (value_len > 0 && day_decode(value, value_len, &record) != 0)
        return ERR_CORRUPT;
    uint32_t from = state->terms.first_day - state->terms.n_days;
    if (day >= from && day < state->terms.first_day)
        state->day_flags[day - from] = record.flags;
    return 0;
}

static int take_tenant(struct clean_state *state, const uint8_t *value, size_t value_len) {
    state->has_tenant = value_len > 0;
    return value_len == 0 ? 0 : tenant_decode(value, value_len, &state->tenant);
}

int clean_state_take(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    struct clean_state *state = arg;
    struct record_key decoded;
    int rc = key_decode(key, key_len, &decoded);
    if (rc != 0)
        return rc;
    switch (decoded.kind) {
    case RECORD_META:
        state->has_meta = value_len > 0;
        return value_len == 0 ? 0 : meta_decode(value, value_len, &state->rehearsal, &state->partitions);
    case RECORD_DAY:
        return take_day(state, decoded.day, value, value_len);
    case RECORD_TENANT:
        return decoded.tenant == state->terms.tenant ? take_tenant(state, value, value_len) : 0;
    case RECORD_LAST_OPEN:
        return decoded.tenant == state->terms.tenant ? take_last_open(state, decoded.pseudonym, value, value_len) : 0;
    default:
        return 0;
    }
}

// ---- was it measured well enough ---------------------------------------------------------------------------------------
// Days that a declared --measured-since covers: measured elsewhere, before this pipeline began.
static bool day_declared(const struct tenant_record *tenant, uint32_t day) {
    return tenant->measured_since != DAY_NONE && day >= tenant->measured_since && day < tenant->first_measured;
}

static int check_settled(const struct clean_state *state, struct err *err) {
    uint32_t eve = state->terms.first_day - 1;
    uint8_t flags = state->day_flags[state->terms.n_days - 1];
    char text[DAY_TEXT_SIZE];
    if (flags != 0 || day_declared(&state->tenant, eve))
        return 0;
    day_format(eve, text);
    return err_set(err, ERR_AGAIN, "not now: %s is neither complete nor past its deadline yet; try again later", text);
}

static int check_long_enough(const struct clean_state *state, struct err *err) {
    uint32_t needed = state->terms.first_day - state->terms.n_days;
    uint32_t since = state->tenant.first_measured;
    char since_text[DAY_TEXT_SIZE], needed_text[DAY_TEXT_SIZE];
    if (state->tenant.measured_since != DAY_NONE && state->tenant.measured_since < since)
        since = state->tenant.measured_since;
    if (since <= needed)
        return 0;
    day_format(since, since_text);
    day_format(needed, needed_text);
    return err_set(err, ERR_REFUSED,
                   "refused for everyone: measured only since %s; %u days before the month need a start by %s (see "
                   "last-open import --measured-since)",
                   since_text, state->terms.n_days, needed_text);
}

static int check_complete_enough(const struct clean_state *state, struct err *err) {
    const struct clean_terms *terms = &state->terms;
    uint32_t complete = 0;
    for (uint32_t i = 0; i < terms->n_days; i++)
        complete += (state->day_flags[i] & DAY_COMPLETE) != 0 ||
                    day_declared(&state->tenant, terms->first_day - terms->n_days + i);
    if (complete * 100 >= terms->n_days * CLEAN_COMPLETE_PERCENT)
        return 0;
    return err_set(err, ERR_REFUSED, "refused for everyone: only %u of the %u days are complete, and %u %% must be",
                   complete, terms->n_days, CLEAN_COMPLETE_PERCENT);
}

int clean_state_check(const struct clean_state *state, bool rehearsal, uint32_t partitions, struct err *err) {
    if (!state->has_meta || !state->has_tenant)
        return err_set(err, ERR_REFUSED, "refused for everyone: nothing of tenant %u has been measured here yet",
                       state->terms.tenant);
    if (state->rehearsal != rehearsal)
        return err_set(err, ERR_INVALID, "the aggregator's state is of %s", rehearsal ? "production" : "a rehearsal");
    if (state->partitions != partitions)
        return err_set(err, ERR_INVALID, "the aggregator's state has %u partitions and the configuration %u",
                       state->partitions, partitions);
    int rc = check_long_enough(state, err);
    if (rc != 0 || (rc = check_settled(state, err)) != 0)
        return rc;
    return check_complete_enough(state, err);
}

// ---- who ---------------------------------------------------------------------------------------------------------------
bool clean_opened(const struct clean_state *state, uint64_t pseudonym) {
    const struct clean_terms *terms = &state->terms;
    const struct slot *slot = slot_find(state->slots, state->n_slots, pseudonym);
    if (!slot->used)
        return false;
    // N days before E are the ages 0 to N - 1 on its eve.
    return last_open_age_on(slot->last_open, terms->first_day - 1) < age_of_days(terms->n_days);
}

bool clean_measured(const struct clean_terms *terms, const struct consent_record *record) {
    return consent_allows(record, terms->message_class, terms->regime, terms->has_basis, PURPOSE_INACTIVITY,
                          terms->first_day - terms->n_days);
}
