// The engine through days and months: what it releases, keeps and erases, against a plain model.
#include "aggregator/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "../engine_world.h"

static void days_pass_and_windows_are_released(void **state) {
    (void)state;
    uint32_t seed = 1;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 4; day++) {
        today_is(day);
        for (unsigned i = 0; i < 12; i++)
            random_block(i % EDGES, day, &seed, false);
        run_until(all_committed, "the commit of a day");
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
        if (day == FIRST_DAY + 1)
            engine_crash();
        if (day > FIRST_DAY)
            check_release(day - 1, true);
    }
    run_until(all_committed, "the last commit");
    struct state *after = committed_state();
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 4; day++)
        check_ledger(after, day, DAY_COMPLETE);
    check_last_opens(after);
    assert_int_equal(tenant_state_record(state_tenant(after, TENANT))->next_window, FIRST_DAY + 3);
    assert_null(tenant_state_window(state_tenant(after, TENANT), FIRST_DAY + 2)); // erased with its release
    state_free(after);
}

static void what_comes_again_counts_once(void **state) {
    (void)state;
    uint32_t seed = 2;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    for (unsigned i = 0; i < 6; i++)
        random_block(i % EDGES, FIRST_DAY, &seed, false);
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++)
        for (size_t i = 0, n = double_source.n[p]; i < n; i++)
            double_source_add(p, double_source.messages[p][i].data, double_source.messages[p][i].len);
    run_until(all_committed, "the commit");
    // And from the start again, as after the loss of all positions.
    engine_end();
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++) {
        double_journal.position[p] = -1;
        double_source.committed[p] = 0;
    }
    engine_begin();
    run_until(all_committed, "the second commit");
    struct state *after = committed_state();
    check_ledger(after, FIRST_DAY, 0);
    assert_int_equal(state_day(after, FIRST_DAY)->received, 6 * 60);
    check_last_opens(after);
    state_free(after);
}

static void a_withdrawal_counts_until_the_last_moment(void **state) {
    (void)state;
    uint32_t seed = 5;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    for (unsigned i = 0; i < 8; i++)
        random_block(i % EDGES, FIRST_DAY, &seed, false);
    run_until(all_committed, "the commit");
    for (uint64_t c = 0; c < CONTACTS; c += 3) {
        double_consent_set(TENANT, c, (struct consent_record){.state = CONSENT_WITHDRAWN, .since = FIRST_DAY});
        model.has[0][c] = false;
    }
    today_is(FIRST_DAY + 2);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 2; day++)
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
    check_release(FIRST_DAY, true);
}

static void swept(const struct state *state, size_t *gone, size_t *kept) {
    *gone = *kept = 0;
    for (uint64_t c = 0; c < CONTACTS; c++) {
        struct last_open last_open;
        bool there = last_open_get(state_last_open(state), TENANT, c, &last_open);
        if (model.last_open[c] != 0 && c % 3 == 0)
            *gone += !there;
        else
            *kept += there;
    }
}

static size_t opened_by_thirds(bool third) {
    size_t n = 0;
    for (uint64_t c = 0; c < CONTACTS; c++)
        n += model.last_open[c] != 0 && (c % 3 == 0) == third;
    return n;
}

static bool sweep_is_done(void) {
    size_t gone, kept;
    struct state *now = committed_state();
    swept(now, &gone, &kept);
    state_free(now);
    run_for(20);
    return gone == opened_by_thirds(true);
}

static void the_sweep_erases_who_left(void **state) {
    (void)state;
    uint32_t seed = 6;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    for (unsigned i = 0; i < 8; i++)
        random_block(i % EDGES, FIRST_DAY, &seed, false);
    run_until(all_committed, "the commit");
    for (uint64_t c = 0; c < CONTACTS; c += 3)
        double_consent_set(TENANT, c, (struct consent_record){.state = CONSENT_OBJECTED, .since = FIRST_DAY});
    today_is(FIRST_DAY + 1);
    run_until(sweep_is_done, "the sweep");
    size_t gone, kept;
    struct state *after = committed_state();
    swept(after, &gone, &kept);
    assert_int_equal(kept, opened_by_thirds(false));
    state_free(after);
}

static bool change_is_applied(void) {
    run_for(20);
    return double_consent.applied[partition] == double_consent.epoch;
}

static bool in_a_window(const struct state *state, uint64_t contact) {
    struct window_cell cell;
    uint32_t sent_day;
    const struct tenant_state *tenant = state_tenant(state, TENANT);
    for (size_t i = 0; i < tenant_state_window_count(tenant); i++)
        if (window_get(tenant_state_window_at(tenant, i, &sent_day), contact, &cell))
            return true;
    return false;
}

static void change_tell(uint64_t contact, const struct consent_record *record) {
    double_consent_set(TENANT, contact, *record);
    const struct consent_entry entry = {.epoch = double_consent.epoch,
                                        .kind = ENTRY_STATE,
                                        .state = record->state,
                                        .tenant = TENANT,
                                        .pseudonym = contact};
    assert_true(engine_change(engine, partition, &entry));
}

static void who_leaves_is_erased_at_once(void **state) {
    (void)state;
    uint32_t seed = 6;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    for (unsigned i = 0; i < 8; i++)
        random_block(i % EDGES, FIRST_DAY, &seed, false);
    run_until(all_committed, "the commit");
    const struct consent_record left = {.state = CONSENT_WITHDRAWN, .since = FIRST_DAY};
    for (uint64_t c = 0; c < CONTACTS; c += 3)
        change_tell(c, &left);
    // One left and came back before what it opened, another after that.
    const struct consent_record before = {.state = CONSENT_GRANTED, .since = FIRST_DAY - 1,
                                          .allowed_since = FIRST_DAY - 1, .granted_since = FIRST_DAY - 1};
    const struct consent_record after = {.state = CONSENT_GRANTED, .since = FIRST_DAY + 1,
                                         .allowed_since = FIRST_DAY + 1, .granted_since = FIRST_DAY + 1};
    uint64_t stays = 1, goes = 2;
    while (model.last_open[stays] == 0 || stays % 3 == 0)
        stays++;
    while (model.last_open[goes] == 0 || goes % 3 == 0 || goes == stays)
        goes++;
    change_tell(stays, &left);
    change_tell(stays, &before);
    change_tell(goes, &left);
    change_tell(goes, &after);
    run_until(change_is_applied, "the erasure");
    struct state *now = committed_state();
    for (uint64_t c = 0; c < CONTACTS; c++) {
        struct last_open last_open;
        bool stayed = c % 3 != 0 && c != goes;
        assert_int_equal(last_open_get(state_last_open(now), TENANT, c, &last_open),
                         stayed && model.last_open[c] != 0);
        assert_int_equal(in_a_window(now, c), stayed && (model.has[0][c] || model.has[1][c]));
    }
    state_free(now);
}

static void while_consent_is_away_nobody_is_erased(void **state) {
    (void)state;
    uint32_t seed = 8;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    random_block(0, FIRST_DAY, &seed, false);
    run_until(all_committed, "the commit");
    double_consent.away = true;
    for (uint64_t c = 0; c < CONTACTS; c++)
        change_tell(c, &(struct consent_record){.state = CONSENT_OBJECTED, .since = FIRST_DAY});
    run_for(300);
    assert_true(double_consent.applied[partition] < double_consent.epoch);
    struct state *now = committed_state();
    check_last_opens(now);
    state_free(now);
    double_consent.away = false;
    run_until(change_is_applied, "the erasure");
    now = committed_state();
    assert_int_equal(last_open_count(state_last_open(now)), 0);
    assert_int_equal(tenant_state_window_count(state_tenant(now, TENANT)), 0);
    state_free(now);
}

static void tomorrow_is_refused_and_counted(void **state) {
    (void)state;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    struct event events[] = {open_of(1, FIRST_DAY, 3, 0), open_of(2, FIRST_DAY, 3, 0)};
    edge_block(0, FIRST_DAY + 1, events, 2, false);
    run_until(all_committed, "the commit");
    struct state *after = committed_state();
    assert_int_equal(state_day(after, FIRST_DAY + 1)->drops[AGG_DROP_FUTURE_DAY], 2);
    assert_int_equal(last_open_count(state_last_open(after)), 0);
    state_free(after);
}

static void an_import_raises_last_opens(void **state) {
    (void)state;
    edge_register_all(FIRST_DAY);
    struct message_head head = head_of(0, MESSAGE_IMPORT, FIRST_DAY, partition);
    strcpy(head.edge, "import-1");
    const struct import_row rows[] = {{1, FIRST_DAY - 30}, {9, FIRST_DAY - 30}, {2, FIRST_DAY - 399}, {3, FIRST_DAY + 1}};
    const struct import_body body = {
        .tenant = TENANT, .measured_since = FIRST_DAY - 200, .n_rows = ARRAY_LEN(rows), .rows = rows};
    double_source_add(partition, out, (size_t)message_encode_import(&head, &body, out));
    run_until(all_committed, "the commit");
    struct state *after = committed_state();
    struct last_open last_open;
    assert_true(last_open_get(state_last_open(after), TENANT, 1, &last_open));
    assert_int_equal(last_open.day, FIRST_DAY - 30);
    assert_int_equal(last_open_count(state_last_open(after)), 2);
    const struct tenant_record *tenant = tenant_state_record(state_tenant(after, TENANT));
    assert_int_equal(tenant->measured_since, FIRST_DAY - 200);
    assert_int_equal(tenant->first_measured, FIRST_DAY);
    assert_null(state_day(after, FIRST_DAY));
    state_free(after);
}

static void a_month_ends_with_an_inactivity_line(void **state) {
    (void)state;
    uint32_t last = day_next_month_start(FIRST_DAY) - 1, first = last - 2; // three lines fit the budget
    char *text;
    size_t len;
    struct err err;
    edge_register_all(first);
    struct event events[200];
    for (uint64_t c = 0; c < ARRAY_LEN(events); c++)
        events[c] = open_of(c, first, 3, 0);
    edge_block(0, first, events, ARRAY_LEN(events), false);
    today_is(last + 1);
    for (uint32_t day = first; day <= last; day++)
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
    snprintf(awaited, sizeof awaited, "%s/%u/inactivity-2026-11.json", config.release_dir, TENANT);
    run_until(file_is_there, awaited);
    assert_int_equal(file_read(awaited, 1 << 20, &text, &len, &err), 0);
    // 360 contacts could be measured, 180 of them opened; the others have none recorded. Noise of epsilon 1 is small.
    long active = 0, none = 0;
    assert_int_equal(sscanf(strstr(text, "\"0-30\",\"contacts\":"), "\"0-30\",\"contacts\":%ld", &active), 1);
    assert_int_equal(sscanf(strstr(text, "\"none-recorded\",\"contacts\":"), "\"none-recorded\",\"contacts\":%ld", &none), 1);
    assert_true(labs(active - 180) < 30 && labs(none - 180) < 30);
    assert_non_null(strstr(text, "\"complete\":true"));
    free(text);
    run_until(all_committed, "the commit");
    struct state *after = committed_state();
    assert_int_equal(tenant_state_record(state_tenant(after, TENANT))->next_month, last + 1);
    state_free(after);
}

static void changed_settings_begin_tomorrow(void **state) {
    (void)state;
    edge_register_all(FIRST_DAY);
    run_until(all_committed, "the commit");
    engine_end();
    config.release_horizon_days = 0;
    engine_begin();
    size_t commits = double_journal_commits();
    for (int i = 0; i < 100 && double_journal_commits() == commits; i++)
        run_for(20);
    struct state *after = committed_state();
    assert_int_equal(state_settings_on(after, FIRST_DAY)->horizon_days, 1);
    assert_int_equal(state_settings_on(after, FIRST_DAY + 1)->horizon_days, 0);
    state_free(after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD_TEST(days_pass_and_windows_are_released),
        WORLD_TEST(what_comes_again_counts_once),
        WORLD_TEST(a_withdrawal_counts_until_the_last_moment),
        WORLD_TEST(the_sweep_erases_who_left),
        WORLD_TEST(who_leaves_is_erased_at_once),
        WORLD_TEST(while_consent_is_away_nobody_is_erased),
        WORLD_TEST(tomorrow_is_refused_and_counted),
        WORLD_TEST(an_import_raises_last_opens),
        WORLD_TEST(a_month_ends_with_an_inactivity_line),
        WORLD_TEST(changed_settings_begin_tomorrow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
