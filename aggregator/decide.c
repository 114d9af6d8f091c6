#include "aggregator/decide.h"

bool decide_in_window(const struct event *event, const struct facts *facts) {
    if (event_class(event) != CLASS_TRANSACTIONAL || facts->measured == NULL || facts->settings == NULL)
        return false;
    CHECK(facts->settings->horizon_days <= HORIZON_DAYS_MAX);
    return event->sent_day <= facts->day && facts->day - event->sent_day <= facts->settings->horizon_days &&
           event->sent_day >= facts->measured->first_measured;
}

static bool provider_is_named(const struct settings *settings, uint8_t provider) {
    return provider < PROVIDERS_BUILTIN || settings->provider_names[provider] != NULL;
}

// The deliverability part: sets the cell, or says why a transactional open in its horizon cannot be counted there.
static void decide_cell(const struct event *event, const struct facts *facts, struct decision *decision) {
    const struct tenant_version *version = tenant_version_on(facts->tenant, event->sent_day);
    if (version == NULL || tenant_stream(version, event->stream) == NULL) {
        decision->outcome = decision->outcome_allowed = AGG_DROP_UNKNOWN_STREAM;
        return;
    }
    if (event->sent_day < facts->measured->next_window) {
        decision->outcome = decision->outcome_allowed = AGG_DROP_LATE;
        return;
    }
    decision->cell = (struct window_cell){
        .stream = event->stream,
        .provider = provider_is_named(facts->settings, event->provider) ? event->provider : PROVIDER_OTHER,
        .fetch = event->fetch,
        .class_regime = event->class_regime};
    decision->sets_cell = !facts->has_cell || window_cell_less(decision->cell, facts->cell);
}

void decide_event(const struct event *event, const struct facts *facts, struct decision *decision) {
    CHECK(event->fetch < FETCH_SCANNER);
    *decision = (struct decision){.outcome = OUTCOME_REPEATED, .outcome_allowed = OUTCOME_COUNTED};
    const struct tenant_version *version =
        facts->tenant == NULL ? NULL : tenant_version_on(facts->tenant, facts->day);
    if (facts->day > facts->today)
        decision->outcome = AGG_DROP_FUTURE_DAY;
    else if (version == NULL)
        decision->outcome = AGG_DROP_UNKNOWN_TENANT;
    else if (facts->today - facts->day > LAST_OPEN_KEEP_DAYS)
        decision->outcome = AGG_DROP_TOO_OLD;
    if (decision->outcome != OUTCOME_REPEATED)
        return;
    decision->has_basis = version->exemption_basis != NULL;
    if (decide_in_window(event, facts))
        decide_cell(event, facts, decision);
    decision->last_open = facts->last_open;
    decision->raises = last_open_raise(&decision->last_open, facts->has_open, facts->day);
}

int decide_with_consent(const struct event *event, uint32_t day, const struct consent_record *record,
                        struct decision *decision) {
    CHECK(decision_asks(decision));
    enum message_class message_class = (enum message_class)event_class(event);
    enum regime regime = (enum regime)event_regime(event);
    bool basis = decision->has_basis;
    decision->sets_cell = decision->sets_cell &&
                          consent_allows(record, message_class, regime, basis, PURPOSE_DELIVERABILITY, day);
    decision->raises =
        decision->raises && consent_allows(record, message_class, regime, basis, PURPOSE_INACTIVITY, day);
    return decision_asks(decision) ? decision->outcome_allowed : AGG_DROP_NOT_ALLOWED;
}
