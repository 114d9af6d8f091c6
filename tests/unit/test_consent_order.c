// Changes that arrive in any order lead to the same record, against a plain model that applies them in their own order;
// what a forgotten contact leaves behind; and how a repaired store leads on.
#include "common/consent_notice.h"
#include "tests/consent_fixture.h"

#include <inttypes.h>

#define SET_MAX 6
#define DAYS 5u
#define FIRST_DAY 19000u

static uint64_t random_state = 88172645463325252ull;

static uint32_t dice(uint32_t sides) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % sides;
}

// ---- the model ------------------------------------------------------------------------------------------------------
static int change_compare(const void *left, const void *right) {
    const struct consent_change *a = left, *b = right;
    bool a_leaves = consent_state_leaves(a->state), b_leaves = consent_state_leaves(b->state);
    if (a->since != b->since)
        return a->since < b->since ? -1 : 1;
    if (a_leaves != b_leaves)
        return a_leaves ? 1 : -1;
    return a->change_id < b->change_id ? -1 : a->change_id > b->change_id;
}

static uint8_t purposes_of(const char *notice) {
    return (uint8_t)(notice[1] - '0'); // v1, v2, v3
}

// Applied in their own order, one after the other, by the words of FORMATS 4.
static struct consent_record model(const struct consent_change *changes, size_t n) {
    struct consent_change sorted[SET_MAX];
    struct consent_record record = {0};
    memcpy(sorted, changes, n * sizeof *changes);
    qsort(sorted, n, sizeof *sorted, change_compare);
    for (size_t i = 0; i < n; i++) {
        const struct consent_change *change = &sorted[i];
        if (change->state == CONSENT_INFORMED && record.state > CONSENT_INFORMED)
            continue;
        bool goes_on = (record.state == CONSENT_INFORMED || record.state == CONSENT_GRANTED) &&
                       (purposes_of(change->notice) & ~purposes_of(record.notice)) == 0;
        struct consent_record now = {.state = change->state, .since = change->since, .change_id = change->change_id};
        memcpy(now.notice, change->notice, sizeof now.notice);
        if (!consent_state_leaves(change->state))
            now.allowed_since = goes_on ? record.allowed_since : change->since;
        if (change->state == CONSENT_GRANTED)
            now.granted_since = goes_on && record.state == CONSENT_GRANTED ? record.granted_since : change->since;
        record = now;
    }
    return record;
}

static void compare(const struct consent_record *got, const struct consent_record *truth) {
    assert_false(got->unreadable);
    assert_int_equal(got->state, truth->state);
    assert_int_equal(got->since, truth->since);
    assert_int_equal(got->change_id, truth->change_id);
    assert_string_equal(got->notice, truth->notice);
    // Never earlier than the truth.
    assert_true(got->allowed_since >= truth->allowed_since && got->granted_since >= truth->granted_since);
    assert_int_equal(got->allowed_since == DAY_NONE, truth->allowed_since == DAY_NONE);
    assert_int_equal(got->granted_since == DAY_NONE, truth->granted_since == DAY_NONE);
}

static void random_set(struct consent_change *changes, size_t n, bool notices) {
    for (size_t i = 0; i < n; i++) {
        char notice[3] = {'v', (char)('1' + (notices ? dice(3) : 2)), '\0'};
        changes[i] = change_of(7, 0, (uint8_t)(1 + dice(5)), FIRST_DAY + dice(DAYS), notice);
        changes[i].has_change_id = true;
        // Across the bounds of 32 and 53 bits, where doubles would round.
        const uint64_t bases[] = {0, 0xfffffffeu, (1ull << 53) - 1, UINT64_MAX - 8};
        changes[i].change_id = bases[dice(4)] + i;
    }
}

static void shuffle(struct consent_change *changes, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = dice((uint32_t)i);
        struct consent_change other = changes[j];
        changes[j] = changes[i - 1];
        changes[i - 1] = other;
    }
}

static void check_orders(struct consent_store *store, bool notices, unsigned sets) {
    enum { ORDERS = 12 };
    struct consent_change *all = calloc(ORDERS * 2 * SET_MAX, sizeof *all);
    uint64_t pseudonyms[ORDERS], next = 1;
    struct consent_record records[ORDERS];
    struct err err = {""};
    assert_non_null(all);
    for (unsigned set = 0; set < sets; set++) {
        struct consent_change changes[SET_MAX];
        size_t n = 1 + dice(SET_MAX), at = 0;
        random_set(changes, n, notices);
        struct consent_record truth = model(changes, n);
        for (size_t order = 0; order < ORDERS; order++) {
            pseudonyms[order] = next++ * 0x9e3779b97f4a7c15ull;
            if (order > 0)
                shuffle(changes, n);
            // Some come twice: that changes nothing.
            for (size_t i = 0; i < n; i++) {
                changes[i].pseudonym = pseudonyms[order];
                all[at++] = changes[i];
                if (dice(4) == 0)
                    all[at++] = changes[dice((uint32_t)i + 1)];
            }
        }
        assert_int_equal(consent_store_apply(store, all, at, &err), 0);
        assert_int_equal(consent_store_get_many(store, 7, pseudonyms, ORDERS, records, &err), 0);
        for (size_t order = 0; order < ORDERS; order++)
            compare(&records[order], &truth);
        // In their own order nothing is lost: the days are right to the day.
        qsort(changes, n, sizeof *changes, change_compare);
        uint64_t in_order = next++ * 0x9e3779b97f4a7c15ull;
        for (size_t i = 0; i < n; i++)
            changes[i].pseudonym = in_order;
        assert_int_equal(consent_store_apply(store, changes, n, &err), 0);
        struct consent_record record = get_one(store, 7, in_order);
        assert_int_equal(record.allowed_since, truth.allowed_since);
        assert_int_equal(record.granted_since, truth.granted_since);
    }
    free(all);
}

static void any_order_leads_to_the_same_record(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    check_orders(store, false, 400);
    consent_store_close(store);
}

static void any_order_with_notices(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    struct err err = {""};
    for (uint8_t purposes = 1; purposes <= PURPOSES_ALL; purposes++) {
        struct consent_notice notice = {.purposes = purposes, .language = "fr", .from = 1};
        snprintf(notice.version, sizeof notice.version, "v%u", purposes);
        assert_int_equal(consent_store_notice_add(store, &notice, &err), 0);
    }
    check_orders(store, true, 600);
    consent_store_close(store);
}

static struct consent_change numbered(struct consent_change change, uint64_t id) {
    change.has_change_id = true;
    change.change_id = id;
    return change;
}

static void ids_and_receipts(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    struct consent_change grant = change_of(7, 1, CONSENT_GRANTED, FIRST_DAY, "v1");
    int64_t first = apply_one(store, numbered(grant, 1ull << 63));
    assert_int_equal(first, 1);
    // Again, with its id or without one: the receipt is that of the state it finds.
    assert_int_equal(apply_one(store, numbered(grant, 1ull << 63)), first);
    assert_int_equal(apply_one(store, grant), first);
    assert_int_equal(get_one(store, 7, 1).change_id, 1ull << 63);
    struct consent_change other = change_of(7, 1, CONSENT_GRANTED, FIRST_DAY, "v2");
    assert_int_equal(apply_one(store, numbered(other, (1ull << 63) - 1)), ERR_REFUSED);
    assert_int_equal(apply_one(store, numbered(other, (1ull << 63) + 1)), first + 1);
    // Leaving wins on a day, whatever the ids.
    assert_int_equal(apply_one(store, numbered(change_of(7, 1, CONSENT_OBJECTED, FIRST_DAY, "-"), 0)), first + 2);
    assert_int_equal(apply_one(store, numbered(grant, UINT64_MAX)), ERR_REFUSED);
    assert_int_equal(get_one(store, 7, 1).state, CONSENT_OBJECTED);
    // A record of library 1 and 2 has id 0.
    redis_do("HSET ov:{0}:bits 7 8");
    redisContext *redis = redis_server_connect(&server);
    freeReplyObject(redisCommand(redis, "HSET ov:{0}:c:7:41 BCDEFGH %b", "\x01\x02\x4a\x38\x4a\x38\x4a\x38v1", (size_t)10));
    redisFree(redis);
    assert_int_equal(get_one(store, 7, 0x4142434445464748).change_id, 0);
    other.pseudonym = 0x4142434445464748;
    assert_true(apply_one(store, numbered(other, 1)) > 0);
    assert_string_equal(get_one(store, 7, 0x4142434445464748).notice, "v2");
    consent_store_close(store);
}

// ---- forgetting -----------------------------------------------------------------------------------------------------
struct seen {
    struct consent_entry entries[2000];
    size_t n;
};

static void on_seen(void *arg, const struct consent_entry *entry) {
    struct seen *seen = arg;
    assert_true(seen->n < ARRAY_LEN(seen->entries));
    seen->entries[seen->n++] = *entry;
}

static void a_forgotten_contact_leaves_only_the_chain(void **unused) {
    (void)unused;
    static struct seen seen;
    struct consent_store *store = store_open();
    struct err err = {""};
    struct asked asked;
    asked_begin(&asked, "");
    seen.n = 0;
    for (uint32_t i = 0; i < 700; i++) {
        apply_one(store, change_of(7, 5, i % 2 == 0 ? CONSENT_GRANTED : CONSENT_WITHDRAWN, FIRST_DAY + i, "v1"));
        if (i % 10 == 0)
            apply_one(store, change_of(7, 6, CONSENT_GRANTED, FIRST_DAY + i, "v1"));
    }
    struct consent_query query = {.tenant = 7, .pseudonym = 6};
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), 0);
    struct consent_stamp erased = asked.stamp; // its entry is about the contact
    assert_true(consent_store_forget(store, 7, 5, false, &err) > 0);
    assert_int_equal(get_one(store, 7, 5).state, CONSENT_UNKNOWN);
    assert_int_equal(get_one(store, 7, 6).state, CONSENT_GRANTED);
    assert_int_equal(consent_store_entries(store, 0, 0, on_seen, &seen, &err), 0);
    for (size_t i = 0; i < seen.n; i++)
        assert_int_not_equal(seen.entries[i].pseudonym, 5);
    assert_int_equal(seen.n, 70 + 2); // 500 entries a call
    assert_int_equal(seen.entries[71].kind, ENTRY_FORGOTTEN);
    assert_true(consent_entry_follows(&seen.entries[71], seen.entries[70].hash));
    // Who remembers an epoch whose entry is gone is led on by its link, and nobody with another hash is.
    assert_int_equal(ask(&asked, 0, &query, 1, &erased), 0);
    asked_end(&asked);
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, &erased), 0);
    asked_end(&asked);
    asked_begin(&asked, "");
    erased.hash[3] ^= 1;
    assert_int_equal(ask(&asked, 0, &query, 1, &erased), ERR_UNREACHABLE);
    asked_end(&asked);
    // An objection may stay though what led to it goes.
    apply_one(store, change_of(7, 8, CONSENT_GRANTED, FIRST_DAY, "v1"));
    apply_one(store, change_of(7, 8, CONSENT_OBJECTED, FIRST_DAY, "v1"));
    assert_true(consent_store_forget(store, 7, 8, true, &err) > 0);
    assert_int_equal(get_one(store, 7, 8).state, CONSENT_OBJECTED);
    assert_true(consent_store_forget(store, 7, 6, true, &err) > 0);
    assert_int_equal(get_one(store, 7, 6).state, CONSENT_UNKNOWN);
    seen.n = 0;
    assert_int_equal(consent_store_entries(store, 0, 0, on_seen, &seen, &err), 0);
    for (size_t i = 0; i < seen.n; i++)
        assert_int_equal(seen.entries[i].kind, ENTRY_FORGOTTEN);
    consent_store_close(store);
}

static void on_applied(void *arg, const char *who, uint64_t epoch, int64_t unix_ms) {
    uint64_t *sum = arg;
    assert_string_equal(who, "edge/paris-1");
    assert_true(unix_ms > 1000000000000);
    *sum += epoch;
}

static void on_said(void *arg, int status, const struct consent_stamp *stamp) {
    struct asked *asked = arg;
    assert_null(stamp);
    asked->n_done++;
    asked->status = status;
}

static void who_has_applied_what(void **unused) {
    (void)unused;
    struct asked asked;
    struct err err = {""};
    uint64_t sum = 0;
    struct consent_store *store = store_open();
    assert_int_equal(consent_store_applied(store, 0, on_applied, &sum, &err), 0);
    apply_one(store, change_of(7, 5, CONSENT_GRANTED, FIRST_DAY, "v1"));
    asked_begin(&asked, "");
    for (uint64_t epoch = 1; epoch <= 100; epoch *= 10)
        assert_int_equal(
            consent_client_applied(asked.client, 0, "edge/paris-1", epoch, on_said, &asked), 0);
    asked_wait(&asked, 3);
    assert_int_equal(asked.status, 0);
    asked_end(&asked);
    assert_int_equal(consent_store_applied(store, 0, on_applied, &sum, &err), 0);
    assert_int_equal(sum, 111);
    consent_store_close(store);
}

// ---- what Redis keeps of whom it forgot -----------------------------------------------------------------------------
#define MANY 12000u // more than one step copies

static long long redis_number(const char *command) {
    redisContext *redis = redis_server_connect(&server);
    assert_non_null(redis);
    redisReply *reply = redisCommand(redis, command);
    assert_non_null(reply);
    assert_int_equal(reply->type, REDIS_REPLY_INTEGER);
    long long number = reply->integer;
    freeReplyObject(reply);
    redisFree(redis);
    return number;
}

// Whether Redis' files would hold the pseudonym for the stream.
static bool stream_keeps(uint64_t pseudonym) {
    char who[17];
    redisContext *redis = redis_server_connect(&server);
    assert_non_null(redis);
    redisReply *reply = redisCommand(redis, "DUMP ov:{0}:changes");
    assert_non_null(reply);
    assert_int_equal(reply->type, REDIS_REPLY_STRING);
    snprintf(who, sizeof who, "%016" PRIx64, pseudonym);
    bool keeps = memmem(reply->str, reply->len, who, strlen(who)) != NULL;
    freeReplyObject(reply);
    redisFree(redis);
    return keeps;
}

struct counted {
    size_t n;
    uint64_t epoch, first;
};

static void on_counted(void *arg, const struct consent_entry *entry) {
    struct counted *counted = arg;
    assert_true(entry->epoch > counted->epoch);
    counted->first = counted->n++ == 0 ? entry->epoch : counted->first;
    counted->epoch = entry->epoch;
}

static struct counted count_entries(struct consent_store *store) {
    struct counted counted = {0};
    struct err err = {""};
    assert_int_equal(consent_store_entries(store, 0, 0, on_counted, &counted, &err), 0);
    return counted;
}

static void rewrite_to_the_end(struct consent_store *store, int64_t since) {
    struct err err = {""};
    int64_t left;
    while ((left = consent_store_rewrite(store, 0, (uint64_t)since, &err)) > 0)
        continue;
    assert_int_equal(left, 0);
    assert_int_equal(redis_number("EXISTS ov:{0}:changes.new"), 0);
    assert_int_equal(redis_number("TTL ov:{0}:changes"), -1);
}

// Contact 5 at both ends, and 100 to 100 + MANY - 1 between.
static void grant_many(struct consent_store *store) {
    struct err err = {""};
    struct consent_change *changes = calloc(MANY, sizeof *changes);
    assert_non_null(changes);
    redis_do("CONFIG SET rdbcompression no");
    apply_one(store, change_of(7, 5, CONSENT_GRANTED, FIRST_DAY, "v1"));
    for (uint32_t i = 0; i < MANY; i++)
        changes[i] = change_of(7, 100 + i, CONSENT_GRANTED, FIRST_DAY, "v1");
    assert_int_equal(consent_store_apply(store, changes, MANY, &err), 0);
    apply_one(store, change_of(7, 5, CONSENT_WITHDRAWN, FIRST_DAY, "v1"));
    free(changes);
}

static void no_byte_stays_of_who_was_forgotten(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    struct err err = {""};
    assert_int_equal(consent_store_rewrite(store, 0, 0, &err), 0); // of nothing
    grant_many(store);
    int64_t forgotten = consent_store_forget(store, 7, 5, false, &err);
    assert_int_equal(forgotten, MANY + 3);
    assert_true(stream_keeps(5));
    assert_int_equal(consent_store_rewrite(store, 0, (uint64_t)forgotten + 1, &err), ERR_REFUSED);
    // A copy that was lost is begun again; meanwhile contacts come, and go from both sides of what is copied.
    assert_int_equal(consent_store_rewrite(store, 0, (uint64_t)forgotten, &err), 1);
    redis_do("DEL ov:{0}:changes.new");
    assert_int_equal(consent_store_rewrite(store, 0, (uint64_t)forgotten, &err), 1);
    assert_true(redis_number("TTL ov:{0}:changes.new") > 0);
    apply_one(store, change_of(7, 6, CONSENT_GRANTED, FIRST_DAY, "v1"));
    assert_true(consent_store_forget(store, 7, 101, false, &err) > forgotten);
    int64_t later = consent_store_forget(store, 7, 99 + MANY, false, &err);
    struct counted before = count_entries(store), after;
    rewrite_to_the_end(store, forgotten);
    after = count_entries(store);
    assert_int_equal(before.n, (size_t)later - 4);
    assert_memory_equal(&after, &before, sizeof after);
    assert_false(stream_keeps(5));
    assert_true(stream_keeps(6) && stream_keeps(100) && stream_keeps(101)); // 101 went after the copy was begun
    rewrite_to_the_end(store, later);
    after = count_entries(store);
    assert_memory_equal(&after, &before, sizeof after);
    assert_false(stream_keeps(101) || stream_keeps(99 + MANY));
    assert_true(stream_keeps(6) && stream_keeps(100));
    // The store leads on, and so do its changes.
    assert_int_equal(apply_one(store, change_of(7, 6, CONSENT_WITHDRAWN, FIRST_DAY, "v1")), later + 1);
    assert_int_equal(count_entries(store).n, before.n + 1);
    consent_store_close(store);
}

static void what_is_trimmed_meanwhile_does_not_come_back(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    struct err err = {""};
    grant_many(store);
    assert_int_equal(consent_store_rewrite(store, 0, MANY, &err), 1);
    redis_do("XTRIM ov:{0}:changes MAXLEN 100");
    struct counted before = count_entries(store), after;
    rewrite_to_the_end(store, MANY);
    after = count_entries(store);
    assert_int_equal(before.n, 100);
    assert_memory_equal(&after, &before, sizeof after);
    assert_int_equal(consent_store_rewrite(store, 0, MANY, &err), 0); // done already, whoever asks
    apply_one(store, change_of(7, 6, CONSENT_GRANTED, FIRST_DAY, "v1"));
    redis_do("XTRIM ov:{0}:changes MAXLEN 0");
    rewrite_to_the_end(store, MANY + 3);
    assert_int_equal(apply_one(store, change_of(7, 6, CONSENT_WITHDRAWN, FIRST_DAY, "v1")), MANY + 4);
    consent_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(any_order_leads_to_the_same_record, fresh),
        cmocka_unit_test_setup(any_order_with_notices, fresh),
        cmocka_unit_test_setup(ids_and_receipts, fresh),
        cmocka_unit_test_setup(a_forgotten_contact_leaves_only_the_chain, fresh),
        cmocka_unit_test_setup(who_has_applied_what, fresh),
        cmocka_unit_test_setup(no_byte_stays_of_who_was_forgotten, fresh),
        cmocka_unit_test_setup(what_is_trimmed_meanwhile_does_not_come_back, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
