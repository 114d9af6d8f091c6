// The edge's list of contacts that left, following a real Redis: its scan, its stream, and what breaks them.
#include "ingest/drop_list.h"

#include "tests/consent_fixture.h"

#define TENANT 7u
#define OTHER 8u
#define DAY 20000u
#define WAIT_MS 8000

static struct config config;
static struct drop_list *list;
static struct drop_view view;
static struct consent_store *store;

static void list_begin(const char *more) {
    struct err err = {""};
    config_for(&config, more, false);
    if (drop_list_start(&list, &config, 1, &err) != 0)
        fail_msg("%s", err.text);
    view = drop_list_view(list, 0);
}

static void list_end(void) {
    drop_list_stop(list);
    list = NULL;
    config_free(&config);
}

static bool in_use(void) {
    return drop_list_facts(list).in_use;
}

static bool wait_use(bool wanted) {
    for (int i = 0; i < WAIT_MS && in_use() != wanted; i++)
        usleep(1000);
    return in_use() == wanted;
}

// Milliseconds until the list says so, or WAIT_MS.
static int wait_holds(uint32_t tenant, uint64_t pseudonym, bool wanted) {
    int ms = 0;
    while (ms < WAIT_MS && drop_view_holds(&view, tenant, pseudonym) != wanted) {
        usleep(1000);
        ms++;
    }
    return ms;
}

static void set_state(uint32_t tenant, uint64_t pseudonym, uint8_t state, uint32_t day) {
    assert_true(apply_one(store, change_of(tenant, pseudonym, state, day, "v1")) > 0);
}

static int begin(void **state) {
    redis_do("FLUSHALL");
    timeout_ms = 2000;
    (void)state;
    store = store_open();
    return 0;
}

static int end(void **state) {
    (void)state;
    if (list != NULL)
        list_end();
    consent_store_close(store);
    return 0;
}

static void scan_and_stream(void **state) {
    (void)state;
    struct err err = {""};
    assert_int_equal(consent_store_size_hint(store, TENANT, 5000, &err), 0);
    for (uint64_t i = 0; i < 300; i++)
        set_state(TENANT, i << 55 | i, (uint8_t)(1 + i % 5), DAY);
    set_state(OTHER, 1, CONSENT_OBJECTED, DAY);
    list_begin("");
    assert_true(wait_use(true));
    for (uint64_t i = 0; i < 300; i++)
        assert_int_equal(drop_view_holds(&view, TENANT, i << 55 | i), 1 + i % 5 >= CONSENT_REFUSED);
    assert_true(drop_view_holds(&view, OTHER, 1));
    assert_false(drop_view_holds(&view, TENANT, 1));
    assert_int_equal(drop_list_facts(list).contacts, 181);

    set_state(TENANT, 1, CONSENT_WITHDRAWN, DAY);
    assert_in_range(wait_holds(TENANT, 1, true), 0, 1000);
    set_state(TENANT, 1, CONSENT_GRANTED, DAY + 1);
    assert_in_range(wait_holds(TENANT, 1, false), 0, 1000);
    set_state(9, 1, CONSENT_REFUSED, DAY); // a tenant that the scan did not see
    assert_in_range(wait_holds(9, 1, true), 0, 1000);
    assert_true(in_use());
    assert_in_range(drop_list_facts(list).age_ms, 0, 1500);

    // A copy of the stream in its place (openveil contact erase) is followed as the stream was, without a scan.
    uint32_t partition = partition_of(TENANT, PARTITIONS);
    int64_t since = apply_one(store, change_of(TENANT, 1, CONSENT_GRANTED, DAY + 1, "v2"));
    assert_int_equal(consent_store_rewrite(store, partition, (uint64_t)since, &err), 0);
    set_state(TENANT, 1, CONSENT_WITHDRAWN, DAY + 1);
    assert_in_range(wait_holds(TENANT, 1, true), 0, 1000);
    assert_true(in_use());
}

static void no_redis_no_list(void **state) {
    (void)state;
    set_state(TENANT, 1, CONSENT_OBJECTED, DAY);
    redis_do("SAVE");
    list_begin("");
    assert_true(wait_use(true));
    redis_server_kill(&server);
    assert_true(wait_holds(TENANT, 1, true) == 0); // for a few seconds it still counts as fresh
    assert_true(wait_use(false));
    assert_false(drop_view_holds(&view, TENANT, 1));
    redis_server_start(&server);
    assert_true(wait_use(true));
    assert_true(drop_view_holds(&view, TENANT, 1));
    assert_int_equal(drop_list_facts(list).contacts, 1);
}

static void a_cut_stream_is_scanned_again(void **state) {
    (void)state;
    set_state(TENANT, 1, CONSENT_OBJECTED, DAY);
    list_begin("");
    assert_true(wait_use(true));
    // In one step, so that the follower finds the stream already cut.
    uint32_t partition = partition_of(TENANT, PARTITIONS);
    redisContext *redis = redis_server_connect(&server);
    assert_non_null(redis);
    freeReplyObject(redisCommand(redis, "MULTI"));
    for (int i = 2; i < 6; i++)
        freeReplyObject(redisCommand(redis, "FCALL openveil_set 1 ov:{%u}:meta production 20001 7 %016x withdrawn 20000 -",
                                     partition, i));
    freeReplyObject(redisCommand(redis, "XTRIM ov:{%u}:changes MAXLEN 1", partition));
    redisReply *reply = redisCommand(redis, "EXEC");
    assert_int_equal(reply->elements, 5);
    assert_int_equal(reply->element[4]->integer, 4);
    freeReplyObject(reply);
    redisFree(redis);
    for (uint64_t i = 1; i < 6; i++)
        assert_true(wait_holds(TENANT, i, true) < WAIT_MS);
    assert_int_equal(drop_list_facts(list).contacts, 5);
}

static void an_emptied_store_empties_the_list(void **state) {
    (void)state;
    for (uint64_t i = 1; i < 4; i++)
        set_state(TENANT, i, CONSENT_OBJECTED, DAY);
    list_begin("");
    assert_true(wait_use(true));
    redis_do("FLUSHALL");
    assert_true(wait_holds(TENANT, 1, false) < WAIT_MS);
    assert_true(wait_use(true));
    assert_int_equal(drop_list_facts(list).contacts, 0);
    consent_store_close(store); // it remembers the emptied store's epoch
    store = store_open();
    set_state(TENANT, 2, CONSENT_REFUSED, DAY);
    assert_true(wait_holds(TENANT, 2, true) < WAIT_MS);
}

static void an_erased_tenant_is_forgotten(void **state) {
    (void)state;
    struct err err = {""};
    for (uint64_t i = 0; i < 100; i++)
        set_state(TENANT, i << 55, CONSENT_OBJECTED, DAY);
    set_state(OTHER, 1, CONSENT_OBJECTED, DAY);
    list_begin("");
    assert_true(wait_use(true));
    assert_true(consent_store_rebucket(store, TENANT, 3, &err) > 0);
    set_state(TENANT, 1, CONSENT_OBJECTED, DAY); // told after the layout moved
    assert_true(wait_holds(TENANT, 1, true) < WAIT_MS);
    assert_int_equal(drop_list_facts(list).contacts, 102);
    assert_true(consent_store_erase_tenant(store, TENANT, &err) > 0);
    assert_true(wait_holds(TENANT, 1, false) < WAIT_MS);
    assert_true(wait_use(true));
    assert_int_equal(drop_list_facts(list).contacts, 1);
    assert_true(drop_view_holds(&view, OTHER, 1));
}

static void limits_and_refusals(void **state) {
    (void)state;
    for (uint64_t i = 1; i < 5; i++)
        set_state(TENANT, i, CONSENT_OBJECTED, DAY);
    list_begin("[ingest]\ndrop_contacts_max = 3\n");
    usleep(300000);
    assert_false(in_use());
    assert_false(drop_view_holds(&view, TENANT, 1));
    list_end();
    list_begin("[ingest]\ndrop_contacts_max = 0\n");
    assert_null(list);
    assert_false(drop_view_holds(&view, TENANT, 1));
    list_end();
    redis_do("FLUSHALL");
    redis_do("HSET ov:{0}:meta mode rehearsal epoch 0 hash 0000000000000000000000000000000000000000 version 1");
    list_begin("");
    usleep(300000);
    assert_false(in_use());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(scan_and_stream, begin, end),
        cmocka_unit_test_setup_teardown(no_redis_no_list, begin, end),
        cmocka_unit_test_setup_teardown(a_cut_stream_is_scanned_again, begin, end),
        cmocka_unit_test_setup_teardown(an_emptied_store_empties_the_list, begin, end),
        cmocka_unit_test_setup_teardown(an_erased_tenant_is_forgotten, begin, end),
        cmocka_unit_test_setup_teardown(limits_and_refusals, begin, end),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
