// The engine when things go wrong: lost commits, an unreachable consent store, gaps, backlogs, damaged messages.
#include "aggregator/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "../engine_world.h"

static void lost_commits_lose_nothing(void **state) {
    (void)state;
    uint32_t seed = 3;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    run_until(all_committed, "the first commit");
    for (unsigned round = 0; round < 3; round++) {
        double_journal_fail(round == 1 ? ERR_REFUSED : ERR_AGAIN);
        for (unsigned i = 0; i < 4; i++)
            random_block(i % EDGES, FIRST_DAY, &seed, false);
        double_source_wake();
        run_for(150);
        double_journal_fail(0);
        if (round == 2)
            engine_crash();
        run_until(all_committed, "the commit after");
    }
    struct state *after = committed_state();
    check_ledger(after, FIRST_DAY, 0);
    assert_int_equal(state_day(after, FIRST_DAY)->received, 12 * 60);
    check_last_opens(after);
    state_free(after);
}

static void an_unreachable_store_decides_nothing(void **state) {
    (void)state;
    uint32_t seed = 4;
    char why[200];
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    run_until(all_committed, "the first commit");
    assert_true(engine_ready(engine, why, sizeof why));
    double_consent.away = true;
    random_block(0, FIRST_DAY, &seed, false);
    double_source_wake();
    run_for(300);
    assert_false(all_committed());
    assert_false(engine_ready(engine, why, sizeof why));
    assert_non_null(strstr(why, "consent store"));
    struct state *meanwhile = committed_state();
    assert_null(state_day(meanwhile, FIRST_DAY));
    assert_int_equal(last_open_count(state_last_open(meanwhile)), 0);
    state_free(meanwhile);
    double_consent.away = false;
    run_until(all_committed, "the commit");
    assert_true(engine_ready(engine, why, sizeof why));
    struct state *after = committed_state();
    check_last_opens(after);
    state_free(after);
}

static void a_gap_waits_for_the_deadline(void **state) {
    (void)state;
    uint32_t seed = 7;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    random_block(0, FIRST_DAY, &seed, false);
    random_block(0, FIRST_DAY, &seed, true);
    random_block(1, FIRST_DAY, &seed, false);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 2; day++)
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
    today_is(FIRST_DAY + 1);
    run_until(all_committed, "the commit");
    run_for(700);
    struct state *before = committed_state();
    check_ledger(before, FIRST_DAY, 0);
    state_free(before);
    // Past the deadline, but it is not known yet whether there is a backlog.
    today_is(FIRST_DAY + 3);
    double_source.hides_end = true;
    run_for(700);
    before = committed_state();
    check_ledger(before, FIRST_DAY, 0);
    state_free(before);
    double_source.hides_end = false;
    check_release(FIRST_DAY, false);
    struct state *after = committed_state();
    check_ledger(after, FIRST_DAY, DAY_GIVEN_UP);
    check_ledger(after, FIRST_DAY + 1, DAY_COMPLETE);
    state_free(after);
}

static void our_own_backlog_stops_no_clock(void **state) {
    (void)state;
    uint32_t seed = 8;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    run_until(all_committed, "the commit");
    // The consent store is away for days, and everything waits in the source.
    double_consent.away = true;
    for (unsigned i = 0; i < 40; i++)
        random_block(i % EDGES, FIRST_DAY, &seed, false);
    today_is(FIRST_DAY + 5);
    double_source_wake();
    run_for(800);
    struct state *before = committed_state();
    assert_null(state_day(before, FIRST_DAY));
    state_free(before);
    double_consent.away = false;
    check_release(FIRST_DAY, false); // no edge ever closed: given up, but with every open in it
    run_until(all_committed, "the commit");
    struct state *after = committed_state();
    check_ledger(after, FIRST_DAY, DAY_GIVEN_UP);
    assert_int_equal(state_day(after, FIRST_DAY)->received, 40 * 60);
    state_free(after);
}

static void damaged_and_foreign_messages_are_set_aside(void **state) {
    (void)state;
    edge_register_all(FIRST_DAY);
    double_source_add(partition, (const uint8_t *)"nonsense", 8);
    struct message_head head = head_of(0, MESSAGE_BLOCK, FIRST_DAY, partition);
    head.rehearsal = true;
    log_set_level(LOG_ERROR);
    double_source_add(partition, out, (size_t)message_encode_block(codec, &head, rules_hash, NULL, 0, out));
    head = head_of(0, MESSAGE_BLOCK, FIRST_DAY, partition);
    head.partitions = 3;
    double_source_add(partition, out, (size_t)message_encode_block(codec, &head, rules_hash, NULL, 0, out));
    run_until(all_committed, "the commit");
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/corrupt", config.aggregator_state_dir);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    size_t files = 0;
    while (readdir(folder) != NULL)
        files++;
    closedir(folder);
    assert_int_equal(files, 2 + 3);
}

static bool has_failed(void) {
    bool failed = failure[0] != '\0';
    return failed;
}

static void another_modes_state_is_refused(void **state) {
    (void)state;
    edge_register_all(FIRST_DAY);
    run_until(all_committed, "the commit");
    engine_end();
    config.rehearsal = true;
    engine_begin();
    int64_t end_ms = clock_monotonic_ms() + 10000;
    while (!has_failed() && clock_monotonic_ms() < end_ms)
        uv_run(&loop, UV_RUN_ONCE);
    assert_non_null(strstr(failure, "production"));
    config.rehearsal = false;
}

static bool is_ready(void) {
    char why[192];
    return engine_ready(engine, why, sizeof why);
}

static void a_start_tells_how_far_it_is(void **state) {
    (void)state;
    uint32_t seed = 8;
    char why[192] = "";
    edge_register_all(FIRST_DAY);
    random_block(0, FIRST_DAY, &seed, false);
    run_until(all_committed, "the commit");
    run_until(is_ready, "the first start");
    engine_end();
    pthread_mutex_lock(&double_journal.mutex);
    engine_begin();
    int64_t end_ms = clock_monotonic_ms() + 10000;
    do {
        uv_run(&loop, UV_RUN_NOWAIT);
        assert_false(engine_ready(engine, why, sizeof why));
    } while (strstr(why, ", about 3") == NULL && clock_monotonic_ms() < end_ms);
    pthread_mutex_unlock(&double_journal.mutex);
    assert_non_null(strstr(why, "loading the state: 0 of "));
    assert_non_null(strstr(why, " contacts a second"));
    run_until(is_ready, "the second start");
}

static void a_state_that_does_not_fit_is_refused_with_numbers(void **state) {
    (void)state;
    uint32_t seed = 8;
    edge_register_all(FIRST_DAY);
    random_block(0, FIRST_DAY, &seed, false);
    run_until(all_committed, "the commit");
    engine_end();
    config.aggregator_contacts_max = 5;
    engine_begin();
    int64_t end_ms = clock_monotonic_ms() + 10000;
    while (!has_failed() && clock_monotonic_ms() < end_ms)
        uv_run(&loop, UV_RUN_ONCE);
    assert_non_null(strstr(failure, "contacts_max = 5: partition "));
    assert_non_null(strstr(failure, " had 5 contacts after about 30 % of it, and other partitions hold 0"));
}

// A boot whose first message is the close of the day before: its epoch is new, and its day is closed by itself.
static void a_new_boot_closes_the_day_of_the_old_one(void **state) {
    (void)state;
    uint32_t seed = 9;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    for (unsigned i = 0; i < 4; i++)
        random_block(i % EDGES, FIRST_DAY, &seed, false);
    today_is(FIRST_DAY + 2);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 2; day++)
        for (unsigned e = 0; e < EDGES; e++) {
            edge_boot(e);
            edge_close(e, day);
        }
    check_release(FIRST_DAY, true);
    run_until(all_committed, "the commit");
    struct state *after = committed_state();
    check_ledger(after, FIRST_DAY, DAY_COMPLETE);
    check_ledger(after, FIRST_DAY + 1, DAY_COMPLETE);
    state_free(after);
}

// Something stands where the tenant's directory would be: the committed line waits, says so, and is not lost.
static void a_line_waits_for_its_file(void **state) {
    (void)state;
    uint32_t seed = 10;
    char path[PATH_SIZE], why[600];
    struct err err;
    memset(&model, 0, sizeof model);
    snprintf(path, sizeof path, "%s/%u", config.release_dir, TENANT);
    assert_int_equal(dir_create(config.release_dir, 0700, &err), 0);
    assert_int_equal(file_create(path, 0600, "x", 1, &err), 0);
    edge_register_all(FIRST_DAY);
    random_block(0, FIRST_DAY, &seed, false);
    today_is(FIRST_DAY + 2);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 2; day++)
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
    run_until(all_committed, "the commit");
    run_for(300);
    assert_false(engine_ready(engine, why, sizeof why));
    assert_non_null(strstr(why, "waits for its file"));
    engine_end();
    assert_int_equal(unlink(path), 0);
    engine_begin();
    check_release(FIRST_DAY, true);
    run_for(50);
    assert_true(engine_ready(engine, why, sizeof why));
}

// The state was put back to one of before a release: the line that people have seen stays the only one.
static void a_line_that_is_out_already_stays(void **state) {
    (void)state;
    uint32_t seed = 11;
    char path[PATH_SIZE], line[1000], *text;
    size_t len, found = 0;
    struct err err;
    memset(&model, 0, sizeof model);
    int line_len = snprintf(line, sizeof line,
                            "{\"schema\":\"openveil.release.v1\",\"kind\":\"deliverability\",\"tenant\":%u,"
                            "\"period\":\"2026-11-22\",\"complete\":true,\"epsilon\":\"1/2\",\"threshold\":11,"
                            "\"cells\":[]}\n",
                            TENANT);
    snprintf(path, sizeof path, "%s/%u", config.release_dir, TENANT);
    assert_int_equal(dir_create(path, 0700, &err), 0);
    snprintf(path, sizeof path, "%s/%u/deliverability-2026-11-22.json", config.release_dir, TENANT);
    assert_int_equal(file_create(path, 0600, line, (size_t)line_len, &err), 0);
    edge_register_all(FIRST_DAY);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 3; day++) {
        today_is(day);
        random_block(0, day, &seed, false);
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
    }
    check_release(FIRST_DAY + 1, true); // the next one is drawn as ever
    run_until(all_committed, "the commit");
    struct state *after = committed_state();
    const struct tenant_state *tenant = state_tenant(after, TENANT);
    struct fraction spent[4];
    assert_true(tenant_state_released(tenant, RELEASE_DELIVERABILITY, FIRST_DAY));
    assert_int_equal(tenant_state_spent(tenant, day_month_start(FIRST_DAY), spent, ARRAY_LEN(spent)), 2);
    assert_int_equal(spent[0].denominator + spent[1].denominator, 1 + 2);
    state_free(after);
    pthread_mutex_lock(&double_journal.mutex);
    for (size_t i = 0; i < double_journal.state.n; i++) {
        const struct double_record *r = &double_journal.state.records[i];
        if (r->bytes[0] == RECORD_RELEASE && r->value_len == 8 + (size_t)line_len - 1)
            found += memcmp(r->bytes + r->key_len + 8, line, (size_t)line_len - 1) == 0;
    }
    pthread_mutex_unlock(&double_journal.mutex);
    assert_int_equal(found, 1);
    assert_int_equal(file_read(path, 1000, &text, &len, &err), 0);
    assert_string_equal(text, line);
    free(text);
}

static bool line_was_sent(void) {
    pthread_mutex_lock(&double_journal.mutex);
    bool sent = double_journal.n_sent > 0;
    pthread_mutex_unlock(&double_journal.mutex);
    return sent;
}

static bool line_was_tried_twice(void) {
    pthread_mutex_lock(&double_journal.mutex);
    bool tried = double_journal.sent.n >= 2;
    pthread_mutex_unlock(&double_journal.mutex);
    return tried;
}

static size_t announced_records(void) {
    size_t n = 0;
    for (size_t i = 0; i < double_journal.state.n; i++) {
        const struct double_record *r = &double_journal.state.records[i];
        if (r->bytes[0] == RECORD_ANNOUNCED)
            n = r->value_len > 0 ? n + 1 : n - 1;
    }
    return n;
}

static void lose_sent(bool loses) {
    pthread_mutex_lock(&double_journal.mutex);
    double_journal.loses_sent = loses;
    pthread_mutex_unlock(&double_journal.mutex);
}

// Whatever a reader of the topic may see, also of commits that fail, is the committed line; in the end it is sent once.
static void only_a_committed_line_is_sent(void **state) {
    (void)state;
    uint32_t seed = 13;
    memset(&model, 0, sizeof model);
    lose_sent(true);
    edge_register_all(FIRST_DAY);
    random_block(0, FIRST_DAY, &seed, false);
    today_is(FIRST_DAY + 2);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 2; day++)
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
    run_until(line_was_tried_twice, "two attempts to send the line");
    engine_crash();
    assert_int_equal(double_journal.n_sent, 0);
    assert_int_equal(announced_records(), 1);
    lose_sent(false);
    run_until(line_was_sent, "the line in the topic");
    engine_crash();
    check_release(FIRST_DAY, true);
    run_for(100);
    char *line = model_line(FIRST_DAY, true);
    static const char key[] = "7/deliverability/2026-11-22";
    for (size_t i = 0; i < double_journal.sent.n; i++) {
        const struct double_record *sent = &double_journal.sent.records[i];
        assert_true(sent->key_len == strlen(key) && memcmp(sent->bytes, key, strlen(key)) == 0);
        assert_int_equal(sent->value_len, strlen(line));
        assert_memory_equal(sent->bytes + sent->key_len, line, strlen(line));
    }
    free(line);
    assert_int_equal(double_journal.n_sent, 1);
    assert_int_equal(announced_records(), 0);
}

// Who is told to end still sends what it has just committed.
static void a_stop_sends_what_it_commits(void **state) {
    (void)state;
    uint32_t seed = 17;
    memset(&model, 0, sizeof model);
    edge_register_all(FIRST_DAY);
    random_block(0, FIRST_DAY, &seed, false);
    today_is(FIRST_DAY + 2);
    for (uint32_t day = FIRST_DAY; day < FIRST_DAY + 2; day++)
        for (unsigned e = 0; e < EDGES; e++)
            edge_close(e, day);
    check_release(FIRST_DAY, true);
    engine_end();
    assert_int_equal(double_journal.n_sent, 1);
    assert_int_equal(announced_records(), 0);
    engine_begin();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD_TEST(lost_commits_lose_nothing),
        WORLD_TEST(an_unreachable_store_decides_nothing),
        WORLD_TEST(a_gap_waits_for_the_deadline),
        WORLD_TEST(our_own_backlog_stops_no_clock),
        WORLD_TEST(damaged_and_foreign_messages_are_set_aside),
        WORLD_TEST(another_modes_state_is_refused),
        WORLD_TEST(a_start_tells_how_far_it_is),
        WORLD_TEST(a_state_that_does_not_fit_is_refused_with_numbers),
        WORLD_TEST(a_line_waits_for_its_file),
        WORLD_TEST(a_line_that_is_out_already_stays),
        WORLD_TEST(only_a_committed_line_is_sent),
        WORLD_TEST(a_stop_sends_what_it_commits),
        WORLD_TEST(a_new_boot_closes_the_day_of_the_old_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
