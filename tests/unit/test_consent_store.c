// The consent store against a real Redis: the rules of change, and look-ups on a loop.
#include "common/consent_notice.h"
#include "tests/consent_fixture.h"

// ---- rules ----------------------------------------------------------------------------------------------------------
// FORMATS 4 in its own words: leaving from every state, granted from every state, informed only from unknown or informed;
// and the order of days. `informed` yields to what was set on an earlier day, too: it would not have been legal after it.
static bool may_change(int from, int to, int days) {
    bool leaving = to >= CONSENT_REFUSED;
    if (from == CONSENT_UNKNOWN)
        return true;
    if (to == CONSENT_INFORMED)
        return from == CONSENT_INFORMED && days >= 0;
    if (from == CONSENT_INFORMED)
        return true;
    return days >= 0 && (leaving || from <= CONSENT_GRANTED || days > 0);
}

static void check_change(struct consent_store *store, uint64_t pseudonym, int from, int to, uint32_t day, int days) {
    uint32_t then = (uint32_t)((int)day + days);
    if (from != CONSENT_UNKNOWN)
        assert_true(apply_one(store, change_of(7, pseudonym, (uint8_t)from, day, "v1")) > 0);
    struct consent_record before = get_one(store, 7, pseudonym);
    assert_int_equal(before.state, from);
    int64_t result = apply_one(store, change_of(7, pseudonym, (uint8_t)to, then, "v2"));
    struct consent_record after = get_one(store, 7, pseudonym);
    assert_false(after.unreadable);
    if (from == CONSENT_GRANTED && to >= CONSENT_REFUSED && days < 0) {
        // It comes too late to count, and the days began after it.
        assert_int_equal(result, ERR_REFUSED);
        assert_int_equal(after.allowed_since, day);
    }
    if (!may_change(from, to, days)) {
        assert_int_equal(result, ERR_REFUSED);
        assert_memory_equal(&before, &after, sizeof after);
        return;
    }
    assert_true(result > 0);
    bool was_allowing = (from == CONSENT_INFORMED || from == CONSENT_GRANTED) && days >= 0;
    bool allows = to == CONSENT_INFORMED || to == CONSENT_GRANTED;
    assert_int_equal(after.state, to);
    assert_int_equal(after.since, then);
    assert_int_equal(after.allowed_since, !allows ? DAY_NONE : was_allowing ? day : then);
    assert_int_equal(after.granted_since, to != CONSENT_GRANTED ? DAY_NONE : from == CONSENT_GRANTED ? day : then);
    assert_string_equal(after.notice, "v2");
}

static void every_change_of_state(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    uint64_t pseudonym = 0x0123456789abcdef;
    for (int from = CONSENT_UNKNOWN; from < CONSENT_STATES; from++) {
        for (int to = CONSENT_INFORMED; to < CONSENT_STATES; to++) {
            for (int days = -1; days <= 1; days++)
                check_change(store, pseudonym += 0x0101010101010101, from, to, 20000, days);
        }
    }
    consent_store_close(store);
}

static void repeating_is_harmless(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    int64_t first = apply_one(store, change_of(7, 1, CONSENT_GRANTED, 19000, "v1"));
    assert_int_equal(apply_one(store, change_of(7, 1, CONSENT_GRANTED, 19000, "v1")), first);
    assert_int_equal(apply_one(store, change_of(7, 1, CONSENT_GRANTED, 19000, "v2")), first + 1);
    struct consent_record record = get_one(store, 7, 1);
    assert_int_equal(record.granted_since, 19000);
    assert_string_equal(record.notice, "v2");
    struct clock clock = clock_real();
    uint32_t today = clock_today(&clock);
    assert_true(apply_one(store, change_of(7, 2, CONSENT_INFORMED, today + 1, "v1")) > 0);
    assert_int_equal(apply_one(store, change_of(7, 3, CONSENT_INFORMED, today + 2, "v1")), ERR_INVALID);
    assert_int_equal(apply_one(store, change_of(7, 3, CONSENT_INFORMED, 0, "v1")), ERR_INVALID);
    assert_int_equal(apply_one(store, change_of(7, 3, CONSENT_INFORMED, 19000, "")), ERR_INVALID);
    assert_int_equal(apply_one(store, change_of(7, 3, CONSENT_INFORMED, 19000, "v\x01")), ERR_INVALID);
    assert_int_equal(get_one(store, 7, 3).state, CONSENT_UNKNOWN);
    consent_store_close(store);
}

static void damaged_records_can_only_be_left(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    uint64_t pseudonym = 0x4142434445464748;
    char command[200];
    assert_true(apply_one(store, change_of(7, pseudonym, CONSENT_GRANTED, 19000, "v1")) > 0);
    snprintf(command, sizeof command, "HSET ov:{%u}:c:7:41 BCDEFGH a-record-from-the-future",
             partition_of(7, PARTITIONS));
    redis_do(command);
    assert_true(get_one(store, 7, pseudonym).unreadable);
    assert_int_equal(apply_one(store, change_of(7, pseudonym, CONSENT_GRANTED, 19001, "v1")), ERR_REFUSED);
    assert_true(apply_one(store, change_of(7, pseudonym, CONSENT_WITHDRAWN, 19001, "-")) > 0);
    assert_int_equal(get_one(store, 7, pseudonym).state, CONSENT_WITHDRAWN);
    consent_store_close(store);
}

static void the_other_mode_is_refused(void **unused) {
    (void)unused;
    struct config config;
    struct err err = {""};
    struct consent_record record;
    struct consent_store *store = store_open();
    assert_true(apply_one(store, change_of(7, 1, CONSENT_GRANTED, 19000, "v1")) > 0);
    consent_store_close(store);
    config_for(&config, "", true);
    assert_int_equal(consent_store_open(&store, &config, &err), 0);
    struct consent_change change = change_of(7, 2, CONSENT_GRANTED, 19000, "v1");
    assert_int_equal(consent_store_apply(store, &change, 1, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "belongs to production"));
    assert_int_equal(consent_store_get(store, 7, 1, &record, &err), ERR_UNREACHABLE);
    assert_non_null(strstr(err.text, "belongs to production"));
    consent_store_close(store);
    config_free(&config);
}

static uint64_t scrambled(uint64_t i) {
    return i * 0x9e3779b97f4a7c15ULL;
}

static void many_contacts(void **unused) {
    (void)unused;
    enum { N = 30000 };
    struct consent_store *store = store_open();
    struct err err = {""};
    struct consent_change *changes = calloc(N, sizeof *changes);
    struct consent_record *records = calloc(N, sizeof *records);
    uint64_t *pseudonyms = calloc(N, sizeof *pseudonyms);
    assert_true(changes != NULL && records != NULL && pseudonyms != NULL);
    assert_int_equal(consent_store_size_hint(store, 9, N, &err), 0);
    for (size_t i = 0; i < N; i++) {
        pseudonyms[i] = scrambled(i);
        changes[i] = change_of(9, pseudonyms[i], CONSENT_INFORMED, 18000 + (uint32_t)(i % 1000), "2026-04");
    }
    assert_int_equal(consent_store_apply(store, changes, N - 1, &err), 0);
    for (size_t i = 0; i < N - 1; i++)
        assert_int_equal(changes[i].result, i + 1);
    assert_int_equal(consent_store_get_many(store, 9, pseudonyms, N, records, &err), 0);
    for (size_t i = 0; i < N - 1; i++) {
        assert_int_equal(records[i].state, CONSENT_INFORMED);
        assert_int_equal(records[i].since, 18000 + i % 1000);
    }
    assert_int_equal(records[N - 1].state, CONSENT_UNKNOWN);
    redisContext *redis = redis_server_connect(&server);
    char key[CONSENT_KEY_SIZE];
    consent_bucket_key(key, partition_of(9, PARTITIONS), 9, 9, pseudonyms[0]);
    redisReply *reply = redisCommand(redis, "OBJECT ENCODING %s", key);
    assert_string_equal(reply->str, "listpack");
    freeReplyObject(reply);
    redisFree(redis);
    free(changes);
    free(records);
    free(pseudonyms);
    consent_store_close(store);
}

struct chain {
    uint8_t hash[CONSENT_HASH_SIZE];
    char salts[4][CONSENT_SALT_SIZE];
    size_t n;
};

static void on_link(void *arg, const struct consent_entry *entry) {
    struct chain *chain = arg;
    struct consent_entry other = *entry;
    assert_true(entry->salted && chain->n < ARRAY_LEN(chain->salts));
    assert_true(consent_entry_follows(entry, chain->hash));
    other.since++;
    assert_false(consent_entry_follows(&other, chain->hash));
    other = *entry;
    other.change_id++;
    other.has_change_id = true;
    assert_false(consent_entry_follows(&other, chain->hash));
    memcpy(chain->salts[chain->n++], entry->salt, CONSENT_SALT_SIZE);
    memcpy(chain->hash, entry->hash, sizeof chain->hash);
}

// Anything that speaks to Redis may call the Function: the chain can be followed from the stream alone.
static void the_stream_holds_the_chain(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    struct consent_change with_id = change_of(7, 0xd1c0605349147485, CONSENT_GRANTED, 19003, "v 2");
    struct consent_stamp stamp;
    struct chain chain = {.n = 0};
    struct err err = {""};
    with_id.has_change_id = true;
    with_id.change_id = UINT64_MAX;
    apply_one(store, change_of(7, 0xd1c0605349147485, CONSENT_INFORMED, 19000, "v1"));
    apply_one(store, with_id);
    apply_one(store, change_of(7, 0xd1c0605349147485, CONSENT_WITHDRAWN, 19006, "-"));
    assert_int_equal(get_one(store, 7, 0xd1c0605349147485).change_id, 3); // without an id, the receipt number
    assert_int_equal(consent_store_entries(store, 0, 0, on_link, &chain, &err), 0);
    assert_int_equal(chain.n, 3);
    assert_string_not_equal(chain.salts[0], chain.salts[1]);
    assert_int_equal(consent_store_stamp(store, 0, &stamp, &err), 0);
    assert_int_equal(stamp.epoch, 3);
    assert_memory_equal(stamp.hash, chain.hash, sizeof chain.hash);
    consent_store_close(store);
}

static void look_ups_of_several_tenants(void **unused) {
    (void)unused;
    enum { N = 4000, TENANTS = 40 };
    struct consent_store *store = store_open();
    struct err err = {""};
    static struct consent_change changes[N];
    static struct consent_query queries[N + 100];
    size_t n = 0, n_queries = 0;
    uint32_t partition = partition_of(7, PARTITIONS);
    for (uint32_t tenant = 0, found = 0; found < TENANTS; tenant++) {
        if (partition_of(tenant, PARTITIONS) != partition)
            continue;
        found++;
        for (uint64_t i = 0; i < N / TENANTS; i++) {
            queries[n_queries++] = (struct consent_query){.tenant = tenant, .pseudonym = scrambled(i + tenant)};
            // A third of the contacts, and every fifth tenant, is not known.
            if (i % 3 != 0 && found % 5 != 0)
                changes[n++] = change_of(tenant, scrambled(i + tenant), CONSENT_GRANTED, 19000 + (uint32_t)i, "v1");
        }
    }
    assert_int_equal(consent_store_apply(store, changes, n, &err), 0);
    consent_store_close(store);
    memcpy(&queries[n_queries], queries, 100 * sizeof queries[0]);
    n_queries += 100;
    struct asked asked;
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, partition, queries, n_queries, NULL), 0);
    assert_int_equal(asked.stamp.epoch, n);
    for (size_t i = 0; i < n_queries; i++) {
        bool known = i % (N / TENANTS) % 3 != 0 && (i % N / (N / TENANTS) + 1) % 5 != 0;
        assert_int_equal(queries[i].record.state, known ? CONSENT_GRANTED : CONSENT_UNKNOWN);
        assert_int_equal(queries[i].record.since, known ? 19000 + i % (N / TENANTS) : 0);
    }
    assert_int_equal(ask(&asked, partition, NULL, 0, &asked.stamp), 0);
    assert_int_equal(asked.stamp.epoch, n);
    // Many at once, more than are sent at once.
    size_t before = asked.n_done;
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(consent_client_lookup(asked.client, partition, &queries[i * 10], 10, NULL, on_done, &asked), 0);
    asked_wait(&asked, before + 100);
    assert_int_equal(asked.status, 0);
    // Freed with look-ups under way: each still gets its answer.
    for (size_t i = 0; i < 20; i++)
        assert_int_equal(consent_client_lookup(asked.client, partition, &queries[i * 10], 10, NULL, on_done, &asked), 0);
    before = asked.n_done;
    asked_end(&asked);
    assert_int_equal(asked.n_done, before + 20);
    assert_int_equal(asked.status, ERR_UNREACHABLE);
}

static void scans_find_every_contact(void **unused) {
    (void)unused;
    enum { N = 5000 };
    static struct consent_change changes[N];
    const uint64_t hints[] = {0, 1, 700, 5000, 40000};
    struct err err = {""};
    struct consent_store *store = store_open();
    struct asked asked;
    asked_begin(&asked, "");
    for (uint32_t tenant = 0; tenant < ARRAY_LEN(hints); tenant++) {
        uint64_t sum = 0;
        if (hints[tenant] > 0)
            assert_int_equal(consent_store_size_hint(store, tenant, hints[tenant], &err), 0);
        for (size_t i = 0; i < N; i++) {
            changes[i] = change_of(tenant, scrambled(i + 1), CONSENT_INFORMED, 19000 + (uint32_t)i % 7, "v1");
            sum += changes[i].pseudonym ^ changes[i].since;
        }
        assert_int_equal(consent_store_apply(store, changes, N, &err), 0);
        asked.n_scanned = asked.sum_scanned = 0;
        assert_int_equal(consent_client_scan(asked.client, partition_of(tenant, PARTITIONS), tenant, NULL, on_each, on_done,
                                             &asked),
                         0);
        asked_wait(&asked, tenant + 1);
        assert_int_equal(asked.status, 0);
        assert_int_equal(asked.n_scanned, N);
        assert_int_equal(asked.sum_scanned, sum);
    }
    asked.n_scanned = 0;
    assert_int_equal(consent_client_scan(asked.client, 0, 4000000000, NULL, on_each, on_done, &asked), 0);
    asked_wait(&asked, ARRAY_LEN(hints) + 1);
    assert_int_equal(asked.status, 0);
    assert_int_equal(asked.n_scanned, 0);
    asked_end(&asked);
    consent_store_close(store);
}

static void notices_reach_every_reader(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    struct consent_notice notice = {.version = "v1", .purposes = 1u << PURPOSE_INACTIVITY, .language = "fr", .from = 19000};
    struct err err = {""};
    apply_one(store, change_of(7, 1, CONSENT_GRANTED, 19000, "v1"));
    apply_one(store, change_of(7, 2, CONSENT_GRANTED, 19000, "v0"));
    apply_one(store, change_of(7, 3, CONSENT_OBJECTED, 19000, "-"));
    assert_int_equal(get_one(store, 7, 1).excludes, 0);
    assert_int_equal(consent_store_notice_add(store, &notice, &err), 0);
    assert_int_equal(get_one(store, 7, 1).excludes, 1u << PURPOSE_DELIVERABILITY);
    assert_int_equal(get_one(store, 7, 2).excludes, PURPOSES_ALL);
    assert_int_equal(get_one(store, 7, 3).excludes, 0);
    assert_int_equal(apply_one(store, change_of(7, 4, CONSENT_GRANTED, 19001, "v0")), ERR_REFUSED);
    // In the store of every partition, and a reader that knows what was there before is led on.
    assert_int_equal(apply_one(store, change_of(UINT32_MAX, 4, CONSENT_GRANTED, 19001, "v0")), ERR_REFUSED);
    assert_true(apply_one(store, change_of(UINT32_MAX, 4, CONSENT_GRANTED, 19001, "v1")) > 0);
    assert_true(consent_store_rebucket(store, 7, 3, &err) > 0);
    assert_int_equal(get_one(store, 7, 2).state, CONSENT_GRANTED);
    assert_true(consent_store_erase_tenant(store, 7, &err) > 0);
    assert_int_equal(get_one(store, 7, 2).state, CONSENT_UNKNOWN);
    assert_int_equal(consent_store_rebucket(store, 7, 3, &err), ERR_REFUSED);
    consent_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(notices_reach_every_reader, fresh),
        cmocka_unit_test_setup(every_change_of_state, fresh),
        cmocka_unit_test_setup(repeating_is_harmless, fresh),
        cmocka_unit_test_setup(damaged_records_can_only_be_left, fresh),
        cmocka_unit_test_setup(the_other_mode_is_refused, fresh),
        cmocka_unit_test_setup(many_contacts, fresh),
        cmocka_unit_test_setup(the_stream_holds_the_chain, fresh),
        cmocka_unit_test_setup(look_ups_of_several_tenants, fresh),
        cmocka_unit_test_setup(scans_find_every_contact, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
