// What an event changes, and where it ends: the table of FORMATS 4 to 6 without any state around it.
#include "aggregator/decide.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define DAY 20000u

static char basis[] = "art. 5(3)";
static struct tenant_version version = {
    .from_day = DAY - 100, .inactive_days = 180, .exemption_basis = basis, .n_streams = 1, .streams = {{3, "receipts"}}};
static struct tenant tenant = {.id = 7, .n_versions = 1, .versions = &version};
static struct tenant_record measured = {.first_measured = DAY - 50, .next_window = DAY - 1};
static struct settings settings = {.epsilon = {1, 4}, .threshold = 40, .horizon_days = 1};

static struct facts facts_of_day(uint32_t day) {
    return (struct facts){.today = DAY, .day = day, .tenant = &tenant, .measured = &measured, .settings = &settings};
}

static struct event event_of(uint8_t message_class, uint32_t sent_day) {
    return (struct event){.tenant = 7,
                          .pseudonym = 1,
                          .sent_day = sent_day,
                          .stream = 3,
                          .provider = 1,
                          .class_regime = (uint8_t)(message_class << 4 | REGIME_EXEMPTION),
                          .fetch = FETCH_PERSON};
}

static struct decision decide(struct event event, struct facts facts) {
    struct decision decision;
    decide_event(&event, &facts, &decision);
    return decision;
}

static void a_transactional_open_has_two_parts(void **state) {
    (void)state;
    struct decision decision = decide(event_of(CLASS_TRANSACTIONAL, DAY), facts_of_day(DAY));
    assert_true(decision.raises && decision.sets_cell && decision.has_basis);
    assert_int_equal(decision.last_open.day, DAY);
    assert_true(decision.cell.stream == 3 && decision.cell.provider == 1 && decision.cell.fetch == FETCH_PERSON);
    assert_int_equal(decision.outcome_allowed, OUTCOME_COUNTED);
}

static void other_classes_only_raise(void **state) {
    (void)state;
    for (unsigned message_class = CLASS_REQUESTED; message_class <= CLASS_PROSPECTING; message_class++) {
        struct decision decision = decide(event_of((uint8_t)message_class, DAY), facts_of_day(DAY));
        assert_true(decision.raises);
        assert_false(decision.sets_cell);
    }
}

static void outside_the_horizon_only_raises(void **state) {
    (void)state;
    struct facts facts = facts_of_day(DAY);
    assert_true(decide(event_of(CLASS_TRANSACTIONAL, DAY - 1), facts).sets_cell);
    assert_false(decide(event_of(CLASS_TRANSACTIONAL, DAY - 2), facts).sets_cell);
    assert_false(decide(event_of(CLASS_TRANSACTIONAL, DAY + 1), facts).sets_cell);
    struct tenant_record young = {.first_measured = DAY, .next_window = DAY};
    facts.measured = &young;
    struct decision decision = decide(event_of(CLASS_TRANSACTIONAL, DAY - 1), facts);
    assert_false(decision.sets_cell);
    assert_int_equal(decision.outcome_allowed, OUTCOME_COUNTED);
}

static void a_released_window_is_late(void **state) {
    (void)state;
    struct facts facts = facts_of_day(DAY);
    struct tenant_record released = {.first_measured = DAY - 50, .next_window = DAY};
    facts.measured = &released;
    struct decision decision = decide(event_of(CLASS_TRANSACTIONAL, DAY - 1), facts);
    assert_true(decision.raises);
    assert_false(decision.sets_cell);
    assert_int_equal(decision.outcome_allowed, AGG_DROP_LATE);
    facts.has_open = true;
    facts.last_open = (struct last_open){.day = DAY, .frozen_age = AGE_NONE};
    decision = decide(event_of(CLASS_TRANSACTIONAL, DAY - 1), facts);
    assert_false(decision_asks(&decision));
    assert_int_equal(decision.outcome, AGG_DROP_LATE);
}

static void an_unknown_stream_still_raises(void **state) {
    (void)state;
    struct event event = event_of(CLASS_TRANSACTIONAL, DAY);
    event.stream = 4;
    struct decision decision = decide(event, facts_of_day(DAY));
    assert_true(decision.raises && !decision.sets_cell);
    assert_int_equal(decision.outcome_allowed, AGG_DROP_UNKNOWN_STREAM);
    event = event_of(CLASS_REQUESTED, DAY);
    event.stream = 4;
    assert_int_equal(decide(event, facts_of_day(DAY)).outcome_allowed, OUTCOME_COUNTED);
}

static void an_unknown_provider_is_other(void **state) {
    (void)state;
    struct event event = event_of(CLASS_TRANSACTIONAL, DAY);
    event.provider = 14;
    assert_int_equal(decide(event, facts_of_day(DAY)).cell.provider, PROVIDER_OTHER);
    event.provider = 13;
    assert_int_equal(decide(event, facts_of_day(DAY)).cell.provider, 13);
}

static void nothing_new_asks_nobody(void **state) {
    (void)state;
    struct facts facts = facts_of_day(DAY);
    facts.has_open = true;
    facts.last_open = (struct last_open){.day = DAY, .frozen_age = AGE_NONE};
    facts.has_cell = true;
    facts.cell = (struct window_cell){.stream = 3, .provider = 1, .fetch = FETCH_PERSON, .class_regime = 0x10};
    struct decision decision = decide(event_of(CLASS_TRANSACTIONAL, DAY), facts);
    assert_false(decision_asks(&decision));
    assert_int_equal(decision.outcome, OUTCOME_REPEATED);
    facts.cell.fetch = FETCH_MACHINE; // a person's fetch is the smaller cell
    assert_true(decide(event_of(CLASS_TRANSACTIONAL, DAY), facts).sets_cell);
}

static void days_and_tenants_out_of_reach(void **state) {
    (void)state;
    struct facts facts = facts_of_day(DAY + 1);
    assert_int_equal(decide(event_of(CLASS_REQUESTED, DAY), facts).outcome, AGG_DROP_FUTURE_DAY);
    facts = facts_of_day(DAY - 101);
    assert_int_equal(decide(event_of(CLASS_REQUESTED, DAY), facts).outcome, AGG_DROP_UNKNOWN_TENANT);
    facts = facts_of_day(DAY);
    facts.tenant = NULL;
    struct decision decision = decide(event_of(CLASS_REQUESTED, DAY), facts);
    assert_int_equal(decision.outcome, AGG_DROP_UNKNOWN_TENANT);
    assert_false(decision_asks(&decision));
    facts = facts_of_day(DAY - 60);
    facts.today = DAY - 60 + LAST_OPEN_KEEP_DAYS;
    assert_true(decide(event_of(CLASS_REQUESTED, DAY), facts).raises);
    facts.today++;
    assert_int_equal(decide(event_of(CLASS_REQUESTED, DAY), facts).outcome, AGG_DROP_TOO_OLD);
}

static void consent_decides(void **state) {
    (void)state;
    struct event event = event_of(CLASS_TRANSACTIONAL, DAY);
    const struct consent_record informed = {.state = CONSENT_INFORMED, .since = DAY - 1, .allowed_since = DAY - 1};
    const struct consent_record young = {.state = CONSENT_INFORMED, .since = DAY, .allowed_since = DAY};
    const struct consent_record none = {0};
    struct decision decision = decide(event, facts_of_day(DAY));
    assert_int_equal(decide_with_consent(&event, DAY, &informed, &decision), OUTCOME_COUNTED);
    assert_true(decision.raises && decision.sets_cell);
    decision = decide(event, facts_of_day(DAY));
    assert_int_equal(decide_with_consent(&event, DAY, &young, &decision), AGG_DROP_NOT_ALLOWED);
    assert_false(decision.raises || decision.sets_cell);
    decision = decide(event, facts_of_day(DAY));
    assert_int_equal(decide_with_consent(&event, DAY, &none, &decision), AGG_DROP_NOT_ALLOWED);
    // not_allowed comes before late.
    struct facts facts = facts_of_day(DAY);
    struct tenant_record released = {.first_measured = DAY - 50, .next_window = DAY + 1};
    facts.measured = &released;
    decision = decide(event, facts);
    assert_int_equal(decide_with_consent(&event, DAY, &none, &decision), AGG_DROP_NOT_ALLOWED);
    decision = decide(event, facts);
    assert_int_equal(decide_with_consent(&event, DAY, &informed, &decision), AGG_DROP_LATE);
    assert_true(decision.raises);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_transactional_open_has_two_parts),
        cmocka_unit_test(other_classes_only_raise),
        cmocka_unit_test(outside_the_horizon_only_raises),
        cmocka_unit_test(a_released_window_is_late),
        cmocka_unit_test(an_unknown_stream_still_raises),
        cmocka_unit_test(an_unknown_provider_is_other),
        cmocka_unit_test(nothing_new_asks_nobody),
        cmocka_unit_test(days_and_tenants_out_of_reach),
        cmocka_unit_test(consent_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
