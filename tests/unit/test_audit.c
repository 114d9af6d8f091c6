// The accounting of a day over partitions, and what commands see of the aggregator's state.
#include "aggregator/audit.h"

#include "aggregator/state_view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define DAY 20779
#define PARTITIONS 3

static uint8_t key[RECORD_KEY_MAX], value[65536];

// A day that meets everything: per partition 10 received, 6 counted, 1 repeated, 3 dropped; 35 requests.
static struct day_record good_day(void) {
    struct day_record record = {.received = 10, .counted = 6, .repeated = 1, .recorded_here = 10, .n_edges_closed = 1};
    record.drops[AGG_DROP_NOT_ALLOWED] = 2;
    record.drops[AGG_DROP_LATE] = 1;
    record.edges = (struct edge_counts){.requests = 35, .recorded = 30};
    record.edges.drops[EDGE_DROP_SCANNER] = 5;
    return record;
}

static struct state *state_with(const struct day_record *day, uint32_t registered_day, uint32_t closed_through) {
    struct state *state;
    assert_int_equal(state_create(&state, 1000), 0);
    struct edge_record edge = {.registered_day = registered_day, .closed_through = closed_through};
    assert_int_equal(state_apply(state, key, key_edge(key, "edge-1"), value, edge_encode(&edge, value)), 0);
    if (day != NULL)
        assert_int_equal(state_apply(state, key, key_day(key, DAY), value, day_encode(day, value)), 0);
    return state;
}

static struct audit audit_of(struct state *const *states) {
    struct audit audit = audit_begin(DAY);
    for (size_t i = 0; i < PARTITIONS; i++)
        audit_add(&audit, states[i]);
    audit_end(&audit);
    return audit;
}

// The audit of three partitions with good days, but for the last one's.
static struct audit audit_with_last(const struct day_record *last, uint32_t registered_day, uint32_t closed_through) {
    struct day_record good = good_day();
    struct state *states[PARTITIONS];
    for (size_t i = 0; i < PARTITIONS; i++)
        states[i] = i + 1 < PARTITIONS ? state_with(&good, DAY - 1, DAY)
                                       : state_with(last, registered_day, closed_through);
    struct audit audit = audit_of(states);
    for (size_t i = 0; i < PARTITIONS; i++)
        state_free(states[i]);
    return audit;
}

static void expect_meets(const struct audit *audit, bool requests, bool received, bool counted) {
    assert_true(audit->closed);
    assert_int_equal(audit->meets[AUDIT_REQUESTS], requests);
    assert_int_equal(audit->meets[AUDIT_RECEIVED], received);
    assert_int_equal(audit->meets[AUDIT_COUNTED], counted);
}

static void a_good_day_meets_all(void **state) {
    (void)state;
    struct day_record day = good_day();
    struct audit audit = audit_with_last(&day, DAY - 1, DAY);
    expect_meets(&audit, true, true, true);
    assert_int_equal(audit.received, 30);
    assert_int_equal(audit.counted, 18);
    assert_int_equal(audit.repeated, 3);
    assert_int_equal(audit.drops[AGG_DROP_NOT_ALLOWED], 6);
    assert_int_equal(audit.edges.requests, 35);
    assert_int_equal(audit.n_edges, 1);
}

static void every_broken_term_is_seen(void **state) {
    (void)state;
    struct day_record day = good_day();
    day.counted++;
    struct audit audit = audit_with_last(&day, DAY - 1, DAY);
    expect_meets(&audit, true, true, false);
    day = good_day();
    day.received--;
    day.counted--;
    audit = audit_with_last(&day, DAY - 1, DAY);
    expect_meets(&audit, true, false, true);
    day = good_day();
    day.edges.drops[EDGE_DROP_BAD_TOKEN]++; // partitions disagree on what the edges said
    audit = audit_with_last(&day, DAY - 1, DAY);
    expect_meets(&audit, true, false, true);
    audit = audit_with_last(NULL, DAY - 1, DAY); // a partition lost its record
    expect_meets(&audit, true, false, true);
    day = good_day();
    day.recorded_here = day.received = 9; // agrees with itself, but not with the edges' total
    day.counted = 5;
    audit = audit_with_last(&day, DAY - 1, DAY);
    expect_meets(&audit, true, false, true);
    day.recorded_here = day.received = 11;
    day.counted = 7;
    audit = audit_with_last(&day, DAY - 1, DAY);
    expect_meets(&audit, true, false, true);
}

static void requests_without_an_end_are_seen(void **state) {
    (void)state;
    struct state *states[PARTITIONS];
    struct day_record day = good_day();
    day.edges.requests++;
    for (size_t i = 0; i < PARTITIONS; i++)
        states[i] = state_with(&day, DAY, DAY);
    struct audit audit = audit_of(states);
    expect_meets(&audit, false, true, true);
    for (size_t i = 0; i < PARTITIONS; i++)
        state_free(states[i]);
}

static void open_days_are_not_judged(void **state) {
    (void)state;
    struct day_record day = good_day();
    assert_false(audit_with_last(&day, DAY - 1, DAY - 1).closed); // not closed in one partition
    assert_false(audit_with_last(&day, DAY + 1, DAY + 1).closed); // not registered there in time
    struct state *states[PARTITIONS];
    for (size_t i = 0; i < PARTITIONS; i++)
        states[i] = state_with(NULL, DAY + 1, DAY + 5); // nobody took part
    assert_false(audit_of(states).closed);
    for (size_t i = 0; i < PARTITIONS; i++)
        state_free(states[i]);
    for (size_t i = 0; i < PARTITIONS; i++)
        states[i] = state_with(NULL, DAY, DAY + 5); // a closed day without any request
    struct audit audit = audit_of(states);
    expect_meets(&audit, true, true, true);
    for (size_t i = 0; i < PARTITIONS; i++)
        state_free(states[i]);
}

// ---- state_view ----------------------------------------------------------------------------------------------------
// A journal of a few records in memory.
struct listed_journal {
    struct journal journal;
    bool rehearsal;
    bool damaged;
};

static int give(journal_record_fn each, void *arg, size_t key_len, size_t len) {
    return each(arg, key, key_len, value, len);
}

static int listed_load(struct journal *journal, uint32_t partition, journal_record_fn each,
                       journal_progress_fn progress, void *arg, int64_t *position, struct err *err) {
    struct listed_journal *listed = (struct listed_journal *)journal;
    struct day_record day = {.flags = DAY_COMPLETE};
    struct tenant_record tenant = {.first_measured = DAY};
    struct last_open last_open = {.day = DAY, .frozen_age = AGE_NONE};
    (void)err;
    assert_int_equal(partition, 2);
    assert_int_equal(progress(arg, 1, 2), 0);
    *position = -1;
    int rc = give(each, arg, key_meta(key), meta_encode(listed->rehearsal, PARTITIONS, value));
    for (uint32_t id = 7; rc == 0 && id <= 8; id++) {
        rc = give(each, arg, key_tenant(key, id), tenant_encode(&tenant, value));
        if (rc == 0)
            rc = give(each, arg, key_last_open(key, id, 99), last_open_encode(last_open, value));
    }
    if (rc == 0)
        rc = give(each, arg, key_day(key, DAY), listed->damaged ? 1 : day_encode(&day, value));
    return rc;
}

struct taken {
    size_t n;
    struct last_open last;
    int result;
};

static int take_last_open(void *arg, uint64_t pseudonym, const struct last_open *last_open) {
    struct taken *taken = arg;
    assert_int_equal(pseudonym, 99);
    taken->n++;
    taken->last = *last_open;
    return taken->result;
}

static void commands_see_what_they_ask_for(void **state) {
    (void)state;
    static const struct journal_ops ops = {.load = listed_load};
    struct listed_journal listed = {.journal = {.ops = &ops}};
    struct config config = {.kafka_partitions = PARTITIONS, .aggregator_contacts_max = 1000};
    struct state *view = NULL;
    struct last_open last_open;
    struct err err;
    struct state_filter filter = {.kinds = "DTL", .of_tenant = true, .tenant = 7};
    assert_int_equal(state_view_load(&view, &listed.journal, &config, 2, &filter, &err), 0);
    assert_non_null(state_tenant(view, 7));
    assert_null(state_tenant(view, 8));
    assert_true(last_open_get(state_last_open(view), 7, 99, &last_open));
    assert_int_equal(last_open_count(state_last_open(view)), 1);
    assert_non_null(state_day(view, DAY));
    state_free(view);
    // Last opens go to the caller who asks for them.
    struct taken taken = {0};
    filter.last_open = take_last_open;
    filter.arg = &taken;
    assert_int_equal(state_view_load(&view, &listed.journal, &config, 2, &filter, &err), 0);
    assert_int_equal(last_open_count(state_last_open(view)), 0);
    assert_int_equal(taken.n, 1);
    assert_int_equal(taken.last.day, DAY);
    state_free(view);
    taken.result = ERR_NOMEM;
    assert_int_equal(state_view_load(&view, &listed.journal, &config, 2, &filter, &err), ERR_NOMEM);
    filter = (struct state_filter){.kinds = "E"};
    assert_int_equal(state_view_load(&view, &listed.journal, &config, 2, &filter, &err), 0);
    assert_null(state_tenant(view, 7));
    assert_null(state_day(view, DAY));
    state_free(view);
    config.kafka_partitions = 4;
    assert_int_equal(state_view_load(&view, &listed.journal, &config, 2, &filter, &err), ERR_INVALID);
    config.kafka_partitions = PARTITIONS;
    listed.rehearsal = true;
    assert_int_equal(state_view_load(&view, &listed.journal, &config, 2, &filter, &err), ERR_INVALID);
    listed.rehearsal = false;
    listed.damaged = true;
    filter.kinds = "D";
    assert_int_equal(state_view_load(&view, &listed.journal, &config, 2, &filter, &err), ERR_CORRUPT);
    assert_true(strlen(err.text) > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_day_meets_all),
        cmocka_unit_test(every_broken_term_is_seen),
        cmocka_unit_test(requests_without_an_end_are_seen),
        cmocka_unit_test(open_days_are_not_judged),
        cmocka_unit_test(commands_see_what_they_ask_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
