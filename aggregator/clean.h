// The rules of list cleaning (FORMATS 7), apart from files and servers: on which days it is answered, whether the N
// days were measured well enough, and who is inactive. Pure functions over the aggregator's records; any thread.
#ifndef OPENVEIL_CLEAN_H
#define OPENVEIL_CLEAN_H

#include "aggregator/state.h"
#include "common/consent.h"
#include "common/tenant.h"

#define CLEAN_DAYS_OF_MONTH 10 // answered from the 1st to this day
#define CLEAN_COMPLETE_PERCENT 95

// What one run asks: the answers as of the end of the day before `first_day` (E), over the n_days (N) before it.
struct clean_terms {
    uint32_t tenant;
    uint32_t first_day;
    uint32_t n_days; // 90, 180 or 365
    enum message_class message_class;
    enum regime regime;
    bool has_basis; // an exemption basis was configured for all of the N days, and is now
};

// E for a run on `today`; ERR_REFUSED on days without an answer, `next_day` then has the next one with.
int clean_first_day(uint32_t today, uint32_t *first_day, uint32_t *next_day) MUST_CHECK;
// Whether every version in force from `from` to `through` names a basis. Days before the first version say nothing.
bool clean_has_basis(const struct tenant *tenant, uint32_t from, uint32_t through);

// 0: the answers may be given from this state of the tenant's partition. ERR_AGAIN: not now, the day before E is not
// settled. ERR_REFUSED: not measured long or completely enough.
int clean_check(const struct clean_terms *terms, const struct state *state, struct err *err) MUST_CHECK;
// Whether a last-open record says that an open lies in the N days.
bool clean_open_counts(const struct clean_terms *terms, struct last_open last_open);
// The contact could be counted for inactivity on each of the N days, and can now.
bool clean_measured(const struct clean_terms *terms, const struct consent_record *record);

#endif
