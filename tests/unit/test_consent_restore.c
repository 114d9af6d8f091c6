// A store that lost writes in a failover, was restored or emptied gets its changes back from the log, and leads on from
// every stamp that was remembered before. Redis and the log's files are real; a failover is a dump taken before.
#include "common/consent_notice.h"
#include "common/consent_restore.h"

#include "tests/consent_fixture.h"

#define DAY 19000u
#define LOST 40u

struct logged {
    struct config config;
    struct evidence_log *log;
    struct consent_store *store;
    char dir[64];
    struct evidence_line lines[4000];
    size_t n;
};

static void log_begin(struct logged *logged) {
    struct err err = {""};
    *logged = (struct logged){.n = 0};
    strcpy(logged->dir, "/tmp/openveil-restore-XXXXXX");
    assert_non_null(mkdtemp(logged->dir));
    char more[128];
    snprintf(more, sizeof more, "[consent]\nlog_dir = %s\n", logged->dir);
    config_for(&logged->config, more, false);
    assert_int_equal(evidence_log_open(&logged->log, &logged->config, true, &err), 0);
    logged->store = store_open();
}

static void log_end(struct logged *logged) {
    char command[128];
    consent_store_close(logged->store);
    evidence_log_close(logged->log);
    config_free(&logged->config);
    snprintf(command, sizeof command, "rm -r %s", logged->dir);
    assert_int_equal(system(command), 0);
}

static void on_copied(void *arg, const struct consent_entry *entry) {
    struct logged *logged = arg;
    assert_true(logged->n < ARRAY_LEN(logged->lines));
    struct evidence_line *line = &logged->lines[logged->n++];
    *line = (struct evidence_line){.kind = EVIDENCE_CHANGE, .at_ms = 1700000000000, .entry = *entry};
    consent_entry_digest(entry, line->x);
}

// What the aggregator does: the stream's entries that lead on from the log's head; where the epoch jumps, the head again.
static void log_catch_up(struct logged *logged) {
    static struct evidence_chain chain;
    struct err err = {""};
    assert_int_equal(evidence_log_head(logged->log, 0, &chain, &err), 0);
    logged->n = 0;
    assert_int_equal(consent_store_entries(logged->store, 0, chain.head.epoch, on_copied, logged, &err), 0);
    for (size_t i = 0; i < logged->n; i++) {
        const struct evidence_line *line = &logged->lines[i];
        if (!consent_entry_follows(&line->entry, chain.head.hash))
            continue;
        if (line->entry.epoch > chain.head.epoch + 1) {
            struct evidence_line head = {.kind = EVIDENCE_HEAD, .at_ms = line->at_ms, .entry.epoch = line->entry.epoch - 1};
            memcpy(head.entry.hash, chain.head.hash, sizeof head.entry.hash);
            (void)evidence_chain_take(&chain, &head);
            assert_int_equal(evidence_log_write(logged->log, 0, &head, 1, &err), 0);
        }
        assert_true(evidence_chain_take(&chain, line));
        assert_int_equal(evidence_log_write(logged->log, 0, line, 1, &err), 0);
    }
    assert_int_equal(evidence_log_sync(logged->log, &err), 0);
    assert_int_equal(evidence_log_read(logged->log, 0, NULL, NULL, &chain, &err), 0);
    assert_int_equal(evidence_chain_break(&chain), 0);
}

static struct consent_stamp stamp_now(struct logged *logged) {
    struct consent_stamp stamp;
    struct err err = {""};
    assert_int_equal(consent_store_stamp(logged->store, 0, &stamp, &err), 0);
    return stamp;
}

// Whether a client that remembers `known` and nothing else gets answers.
static bool leads_on(const struct consent_stamp *known) {
    struct err err = {""};
    struct consent_store *store = store_open();
    int rc = consent_store_leads_on(store, 0, known, &err);
    consent_store_close(store);
    return rc == 0;
}

static struct consent_restored restore(struct logged *logged, bool dry_run) {
    struct consent_restored restored;
    struct err err = {""};
    if (consent_restore(logged->store, logged->log, 0, dry_run, NULL, NULL, &restored, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(restored.broken, 0);
    return restored;
}

static void restart(struct logged *logged) {
    consent_store_close(logged->store);
    redis_server_kill(&server);
    redis_server_start(&server);
    logged->store = store_open();
}

static void lost_writes_come_back(void **unused) {
    (void)unused;
    static struct logged logged;
    log_begin(&logged);
    for (uint64_t i = 1; i <= 100; i++)
        apply_one(logged.store, change_of(7, i, CONSENT_GRANTED, DAY, "v1"));
    redis_do("SAVE");
    struct consent_stamp shared = stamp_now(&logged);
    for (uint64_t i = 1; i <= LOST; i++)
        apply_one(logged.store, change_of(7, i, CONSENT_WITHDRAWN, DAY + 1, "-"));
    log_catch_up(&logged);
    struct consent_stamp confirmed = stamp_now(&logged);
    // One more that the log does not hold yet, but an aggregator has seen.
    apply_one(logged.store, change_of(7, 90, CONSENT_WITHDRAWN, DAY + 1, "-"));
    struct consent_stamp seen = stamp_now(&logged);
    assert_false(restore(&logged, false).needed);
    restart(&logged);
    // Written to until its epoch has passed the old one.
    for (uint64_t i = 0; i < LOST + 20; i++)
        apply_one(logged.store, change_of(7, 200 + i, CONSENT_GRANTED, DAY + 2, "v1"));
    apply_one(logged.store, change_of(7, 3, CONSENT_GRANTED, DAY + 2, "v1")); // granted again, later than it left
    struct consent_stamp passed = stamp_now(&logged);
    assert_true(passed.epoch > seen.epoch);
    assert_true(leads_on(&shared) && !leads_on(&confirmed) && !leads_on(&seen));
    struct consent_restored would = restore(&logged, true);
    assert_true(would.needed && would.shared == 100 && would.changes == LOST && would.applied == 0);
    assert_int_equal(stamp_now(&logged).epoch, passed.epoch);
    struct consent_restored done = restore(&logged, false);
    assert_int_equal(done.applied, LOST - 1);
    assert_int_equal(done.refused, 1);
    assert_int_equal(done.entered, LOST + 21);
    assert_true(leads_on(&shared) && leads_on(&confirmed) && leads_on(&seen) && leads_on(&passed));
    for (uint64_t i = 1; i <= 100; i++)
        assert_int_equal(get_one(logged.store, 7, i).state, i <= LOST && i != 3 ? CONSENT_WITHDRAWN : CONSENT_GRANTED);
    assert_int_equal(get_one(logged.store, 7, 3).allowed_since, DAY + 2); // not since before the lost withdrawal
    assert_int_equal(get_one(logged.store, 7, 210).state, CONSENT_GRANTED);
    log_catch_up(&logged);
    assert_false(restore(&logged, false).needed);
    // The next loss is noticed as before.
    struct consent_stamp after = stamp_now(&logged);
    redis_do("SAVE");
    apply_one(logged.store, change_of(7, 5, CONSENT_OBJECTED, DAY + 3, "-"));
    struct consent_stamp last = stamp_now(&logged);
    log_catch_up(&logged);
    restart(&logged);
    apply_one(logged.store, change_of(7, 6, CONSENT_OBJECTED, DAY + 3, "-"));
    apply_one(logged.store, change_of(7, 7, CONSENT_OBJECTED, DAY + 3, "-"));
    assert_true(leads_on(&after) && !leads_on(&last));
    assert_int_equal(restore(&logged, false).applied, 1);
    assert_true(leads_on(&after) && leads_on(&last) && leads_on(&seen));
    for (uint64_t i = 5; i <= 7; i++)
        assert_int_equal(get_one(logged.store, 7, i).state, CONSENT_OBJECTED);
    log_end(&logged);
}

static void notice_add(struct logged *logged, const char *version) {
    struct consent_notice notice = {.purposes = 3, .language = "fr", .from = DAY};
    struct err err = {""};
    snprintf(notice.version, sizeof notice.version, "%s", version);
    assert_int_equal(consent_store_notice_add(logged->store, &notice, &err), 0);
}

static void an_emptied_store_is_filled(void **unused) {
    (void)unused;
    static struct logged logged;
    struct err err = {""};
    struct consent_notice *notices;
    size_t n = 0;
    log_begin(&logged);
    notice_add(&logged, "v1 of May");
    for (uint64_t i = 1; i <= 1500; i++)
        apply_one(logged.store, change_of(7, i << 32, CONSENT_INFORMED, DAY + 1, "v1 of May"));
    for (uint64_t i = 1; i <= 500; i++)
        apply_one(logged.store, change_of(7, i << 32, i % 2 == 0 ? CONSENT_GRANTED : CONSENT_OBJECTED, DAY + 2, "v1 of May"));
    apply_one(logged.store, change_of(1, 5, CONSENT_GRANTED, DAY + 2, "v1 of May"));
    assert_true(consent_store_erase_tenant(logged.store, 1, &err) > 0);
    assert_true(consent_store_rebucket(logged.store, 7, 6, &err) > 0);
    struct consent_record before[1500], again;
    for (uint64_t i = 0; i < 1500; i++)
        before[i] = get_one(logged.store, 7, (i + 1) << 32);
    log_catch_up(&logged);
    struct consent_stamp known = stamp_now(&logged);
    assert_true(consent_store_forget(logged.store, 7, 9ull << 32, false, &err) > 0);
    uint64_t n_erased, forgotten = 9ull << 32;
    log_catch_up(&logged);
    assert_int_equal(evidence_log_erase(logged.log, 0, 7, &forgotten, &n_erased, &err), 0);
    assert_int_equal(n_erased, 2);
    redis_do("FLUSHALL");
    consent_store_close(logged.store);
    logged.store = store_open();
    assert_false(leads_on(&known));
    struct consent_restored done = restore(&logged, false);
    assert_int_equal(done.shared, 0);
    assert_int_equal(done.erased, 2);
    assert_true(leads_on(&known));
    for (uint64_t i = 0; i < 1500; i++) {
        again = get_one(logged.store, 7, (i + 1) << 32);
        if (i + 1 == 9)
            assert_int_equal(again.state, CONSENT_UNKNOWN);
        else
            assert_memory_equal(&again, &before[i], sizeof again);
    }
    assert_int_equal(get_one(logged.store, 1, 5).state, CONSENT_UNKNOWN);
    assert_int_equal(consent_store_notices(logged.store, &notices, &n, &err), 0);
    assert_int_equal(n, 1);
    assert_string_equal(notices[0].version, "v1 of May");
    free(notices);
    log_catch_up(&logged);
    assert_false(restore(&logged, false).needed);
    log_end(&logged);
}

// Stopped anywhere between its beginning and its end, a repair leaves a store that leads on from nothing.
static void an_interrupted_repair_is_done_again(void **unused) {
    (void)unused;
    static struct logged logged;
    struct err err = {""};
    for (int caught_up = 0; caught_up < 2; caught_up++) {
        log_begin(&logged);
        for (uint64_t i = 1; i <= 20; i++)
            apply_one(logged.store, change_of(7, i, CONSENT_GRANTED, DAY, "v1"));
        redis_do("SAVE");
        apply_one(logged.store, change_of(7, 5, CONSENT_WITHDRAWN, DAY + 1, "-"));
        log_catch_up(&logged);
        struct consent_stamp lost = stamp_now(&logged);
        restart(&logged);
        apply_one(logged.store, change_of(7, 30, CONSENT_GRANTED, DAY, "v1"));
        assert_true(consent_store_join(logged.store, 0, 20, &lost, &err) > 0);
        if (caught_up == 1) // an aggregator goes on meanwhile: now the log shares the newest epoch
            log_catch_up(&logged);
        assert_false(leads_on(&lost));
        assert_false(leads_on(&(struct consent_stamp){.epoch = 0}));
        struct consent_restored done = restore(&logged, false);
        assert_true(done.needed && done.shared == 20);
        assert_true(leads_on(&lost));
        assert_int_equal(get_one(logged.store, 7, 5).state, CONSENT_WITHDRAWN);
        assert_int_equal(get_one(logged.store, 7, 30).state, CONSENT_GRANTED);
        log_catch_up(&logged);
        assert_false(restore(&logged, false).needed);
        redis_do("FLUSHALL");
        log_end(&logged);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(lost_writes_come_back, fresh),
        cmocka_unit_test_setup(an_emptied_store_is_filled, fresh),
        cmocka_unit_test_setup(an_interrupted_repair_is_done_again, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
