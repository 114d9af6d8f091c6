// What one event changes and where it ends in the accounting (FORMATS 4, 5, 6, 8). Pure: everything known about the
// event's tenant and contact comes in as facts; any thread.
#ifndef OPENVEIL_DECIDE_H
#define OPENVEIL_DECIDE_H

#include "aggregator/release.h"
#include "common/consent.h"

// Where an event ends: a drop reason (enum agg_drop) or one of these two.
enum outcome { OUTCOME_COUNTED = AGG_DROPS, OUTCOME_REPEATED, OUTCOMES };

struct facts {
    uint32_t today;
    uint32_t day;                        // of the open
    const struct tenant *tenant;         // NULL: not in the table
    const struct tenant_record *measured; // NULL: not measured yet, so without windows
    const struct settings *settings;     // as of the day of sending; NULL as `measured`
    bool has_open;
    struct last_open last_open;
    bool has_cell;
    struct window_cell cell;
};

// What would change, if consent allows.
struct decision {
    bool raises; // last open
    struct last_open last_open;
    bool sets_cell;
    struct window_cell cell;
    bool has_basis; // for consent_allows
    int outcome;    // final where nothing would change
    int outcome_allowed; // where something would, and may
};

// True where the day of sending has a window in which this event would count: then `facts` need the contact's cell.
bool decide_in_window(const struct event *event, const struct facts *facts);
void decide_event(const struct event *event, const struct facts *facts, struct decision *decision);
static inline bool decision_asks(const struct decision *decision) {
    return decision->raises || decision->sets_cell;
}
// Applies the contact's record: takes back what is not allowed and returns the outcome.
int decide_with_consent(const struct event *event, uint32_t day, const struct consent_record *record,
                        struct decision *decision);

#endif
