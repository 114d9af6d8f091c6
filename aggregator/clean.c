#include "aggregator/clean.h"

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

// ---- was it measured well enough -----------------------------------------------------------------------------------
// Days that a declared --measured-since covers: measured elsewhere, before this pipeline began.
static bool day_declared(const struct tenant_record *tenant, uint32_t day) {
    return tenant->measured_since != DAY_NONE && day >= tenant->measured_since && day < tenant->first_measured;
}

static uint8_t day_flags(const struct state *state, uint32_t day) {
    const struct day_record *record = state_day(state, day);
    return record == NULL ? 0 : record->flags;
}

static int check_long_enough(const struct clean_terms *terms, const struct tenant_record *tenant, struct err *err) {
    uint32_t needed = terms->first_day - terms->n_days, since = tenant->first_measured;
    char since_text[DAY_TEXT_SIZE], needed_text[DAY_TEXT_SIZE];
    if (tenant->measured_since != DAY_NONE && tenant->measured_since < since)
        since = tenant->measured_since;
    if (since <= needed)
        return 0;
    day_format(since, since_text);
    day_format(needed, needed_text);
    return err_set(err, ERR_REFUSED,
                   "refused for everyone: measured only since %s; %u days before the month need a start by %s (see "
                   "last-open import --measured-since)",
                   since_text, terms->n_days, needed_text);
}

static int check_settled(const struct clean_terms *terms, const struct state *state, const struct tenant_record *tenant,
                         struct err *err) {
    uint32_t eve = terms->first_day - 1;
    char text[DAY_TEXT_SIZE];
    if (day_flags(state, eve) != 0 || day_declared(tenant, eve))
        return 0;
    day_format(eve, text);
    return err_set(err, ERR_AGAIN, "not now: %s is neither complete nor past its deadline yet; try again later", text);
}

static int check_complete_enough(const struct clean_terms *terms, const struct state *state,
                                 const struct tenant_record *tenant, struct err *err) {
    uint32_t complete = 0;
    for (uint32_t day = terms->first_day - terms->n_days; day < terms->first_day; day++)
        complete += (day_flags(state, day) & DAY_COMPLETE) != 0 || day_declared(tenant, day);
    if (complete * 100 >= terms->n_days * CLEAN_COMPLETE_PERCENT)
        return 0;
    return err_set(err, ERR_REFUSED, "refused for everyone: only %u of the %u days are complete, and %u %% must be",
                   complete, terms->n_days, CLEAN_COMPLETE_PERCENT);
}

int clean_check(const struct clean_terms *terms, const struct state *state, struct err *err) {
    CHECK(terms->n_days >= 1 && terms->first_day > terms->n_days);
    const struct tenant_state *tenant_state = state_tenant(state, terms->tenant);
    const struct tenant_record *tenant = tenant_state == NULL ? NULL : tenant_state_record(tenant_state);
    if (tenant == NULL)
        return err_set(err, ERR_REFUSED, "refused for everyone: nothing of tenant %u has been measured here yet",
                       terms->tenant);
    int rc = check_long_enough(terms, tenant, err);
    if (rc != 0 || (rc = check_settled(terms, state, tenant, err)) != 0)
        return rc;
    return check_complete_enough(terms, state, tenant, err);
}

// ---- who -----------------------------------------------------------------------------------------------------------
bool clean_open_counts(const struct clean_terms *terms, struct last_open last_open) {
    // N days before E are the ages 0 to N - 1 on its eve.
    return last_open_age_on(last_open, terms->first_day - 1) < age_of_days(terms->n_days);
}

bool clean_measured(const struct clean_terms *terms, const struct consent_record *record) {
    return consent_allows(record, terms->message_class, terms->regime, terms->has_basis, PURPOSE_INACTIVITY,
                          terms->first_day - terms->n_days);
}
