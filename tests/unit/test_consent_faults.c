// A Redis that goes away, hangs, is emptied, restored to an older state or damaged is no answer: neither yes nor no.
#include "tests/consent_fixture.h"

static void redis_away_and_back(void **unused) {
    (void)unused;
    struct asked asked;
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    struct consent_store *store = store_open();
    apply_one(store, change_of(7, 5, CONSENT_GRANTED, 19000, "v1"));
    consent_store_close(store);
    redis_do("SAVE");
    redis_server_kill(&server);
    // Away when the client is made.
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), ERR_UNREACHABLE);
    assert_false(consent_client_connected(asked.client));
    assert_non_null(strstr(consent_client_problem(asked.client), "connect"));
    redis_server_start(&server);
    assert_int_equal(ask_until_there(&asked, &query, NULL), 0);
    assert_int_equal(query.record.state, CONSENT_GRANTED);
    assert_true(consent_client_connected(asked.client));
    struct consent_stamp known = asked.stamp;
    // Away in the middle: nothing is said of the contact, and later the same store leads on.
    redis_server_kill(&server);
    assert_int_equal(ask(&asked, 0, &query, 1, &known), ERR_UNREACHABLE);
    redis_server_start(&server);
    assert_int_equal(ask_until_there(&asked, &query, &known), 0);
    assert_int_equal(asked.stamp.epoch, known.epoch);
    // It hangs: a time-out.
    int64_t start_ms = clock_monotonic_ms();
    assert_int_equal(kill(server.pid, SIGSTOP), 0);
    assert_int_equal(ask(&asked, 0, &query, 1, &known), ERR_UNREACHABLE);
    assert_in_range(clock_monotonic_ms() - start_ms, 300, 2000);
    assert_int_equal(kill(server.pid, SIGCONT), 0);
    assert_int_equal(ask_until_there(&asked, &query, &known), 0);
    asked_end(&asked);
}

static void an_emptied_redis_is_no_answer(void **unused) {
    (void)unused;
    struct asked asked;
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    struct consent_store *store = store_open();
    apply_one(store, change_of(7, 5, CONSENT_GRANTED, 19000, "v1"));
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), 0);
    struct consent_stamp known = asked.stamp;
    redis_do("FLUSHALL");
    assert_int_equal(ask(&asked, 0, &query, 1, &known), ERR_UNREACHABLE);
    // What this client itself saw is enough to know better.
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), ERR_UNREACHABLE);
    asked_end(&asked);
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, &known), ERR_UNREACHABLE);
    assert_non_null(strstr(consent_client_problem(asked.client), "emptied"));
    asked_end(&asked);
    // To somebody who knows of nothing an empty store is a store without contacts.
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, &(struct consent_stamp){0}), 0);
    assert_int_equal(query.record.state, CONSENT_UNKNOWN);
    assert_int_equal(asked.stamp.epoch, 0);
    asked_end(&asked);
    consent_store_close(store);
}

static void lost_writes_are_noticed(void **unused) {
    (void)unused;
    struct asked asked;
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    struct consent_store *store = store_open();
    for (uint32_t i = 0; i < 3; i++)
        apply_one(store, change_of(7, 5, CONSENT_GRANTED, 19000 + i, "v1"));
    redis_do("SAVE");
    apply_one(store, change_of(7, 5, CONSENT_WITHDRAWN, 19005, "-"));
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), 0);
    struct consent_stamp known = asked.stamp;
    assert_int_equal(known.epoch, 4);
    asked_end(&asked);
    consent_store_close(store);
    redis_server_kill(&server);
    redis_server_start(&server);
    // Restored to epoch 3, then at the known epoch again with another history, then past it.
    store = store_open();
    for (uint32_t i = 0; i < 3; i++) {
        asked_begin(&asked, "");
        assert_int_equal(ask(&asked, 0, &query, 1, &known), ERR_UNREACHABLE);
        asked_end(&asked);
        apply_one(store, change_of(7, 6 + i, CONSENT_GRANTED, 19000, "v1"));
    }
    // An honest store that went on is fine.
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), 0);
    known = asked.stamp;
    asked_end(&asked);
    apply_one(store, change_of(7, 9, CONSENT_GRANTED, 19000, "v1"));
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, &known), 0);
    assert_int_equal(asked.stamp.epoch, known.epoch + 1);
    // Unless the stream that would prove it is gone.
    redis_do("DEL ov:{0}:changes");
    assert_int_equal(ask(&asked, 0, &query, 1, &known), 0);
    apply_one(store, change_of(7, 10, CONSENT_GRANTED, 19000, "v1"));
    assert_int_equal(ask(&asked, 0, &query, 1, &known), ERR_UNREACHABLE);
    asked_end(&asked);
    consent_store_close(store);
}

static void the_function_comes_back(void **unused) {
    (void)unused;
    struct consent_store *store = store_open();
    struct err err = {""};
    redis_do("FUNCTION FLUSH");
    struct consent_change change = change_of(7, 5, CONSENT_GRANTED, 19000, "v1");
    assert_int_equal(consent_store_apply(store, &change, 1, &err), ERR_UNREACHABLE);
    assert_true(apply_one(store, change) > 0);
    consent_store_close(store);
}

static void damaged_keys_are_no_answer(void **unused) {
    (void)unused;
    const char *const damages[] = {
        "HSET ov:{0}:meta epoch x",       "HDEL ov:{0}:meta hash",         "HSET ov:{0}:meta version 2",
        "SET ov:{0}:meta x",              "HSET ov:{0}:bits 7 29",         "SET ov:{0}:bits x",
        "SET ov:{0}:c:7:0 x",             "HSET ov:{0}:meta mode neither", "HSET ov:{0}:meta epoch 99999999999999999999",
        "HSET ov:{0}:meta hash 00112233",
    };
    struct asked asked;
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    for (size_t i = 0; i < ARRAY_LEN(damages); i++) {
        redis_do("FLUSHALL");
        struct consent_store *store = store_open();
        apply_one(store, change_of(7, 5, CONSENT_GRANTED, 19000, "v1"));
        consent_store_close(store);
        if (strncmp(damages[i], "SET", 3) == 0) {
            char del[64];
            snprintf(del, sizeof del, "DEL %.*s", (int)strcspn(damages[i] + 4, " "), damages[i] + 4);
            redis_do(del);
        }
        redis_do(damages[i]);
        asked_begin(&asked, "");
        if (ask(&asked, 0, &query, 1, NULL) != ERR_UNREACHABLE)
            fail_msg("after %s", damages[i]);
        assert_true(consent_client_problem(asked.client)[0] != '\0');
        asked_end(&asked);
    }
}

static void passwords(void **unused) {
    (void)unused;
    struct asked asked;
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    char path[] = "/tmp/openveil-test-XXXXXX", more[200];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "s3cret\nsecond line\n", 19), 19);
    close(fd);
    snprintf(more, sizeof more, "password_file = %s\n", path);
    redis_do("CONFIG SET requirepass s3cret");
    server.password = "s3cret";
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), ERR_UNREACHABLE);
    assert_non_null(strstr(consent_client_problem(asked.client), "NOAUTH"));
    asked_end(&asked);
    asked_begin(&asked, more);
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), 0);
    asked_end(&asked);
    redis_do("CONFIG SET requirepass other");
    server.password = "other";
    asked_begin(&asked, more);
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), ERR_UNREACHABLE);
    assert_non_null(strstr(consent_client_problem(asked.client), "password"));
    asked_end(&asked);
    redisContext *redis = redis_server_connect(&server);
    freeReplyObject(redisCommand(redis, "CONFIG SET requirepass %s", ""));
    redisFree(redis);
    server.password = NULL;
    unlink(path);
}

static void a_replica_is_no_answer(void **unused) {
    (void)unused;
    struct asked asked;
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    redis_do("CONFIG SET replica-serve-stale-data yes");
    redis_do("REPLICAOF 127.0.0.1 1");
    asked_begin(&asked, "");
    assert_int_equal(ask(&asked, 0, &query, 1, NULL), ERR_UNREACHABLE);
    assert_non_null(strstr(consent_client_problem(asked.client), "READONLY"));
    redis_do("REPLICAOF NO ONE");
    assert_int_equal(ask_until_there(&asked, &query, NULL), 0);
    asked_end(&asked);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(redis_away_and_back, fresh),
        cmocka_unit_test_setup(an_emptied_redis_is_no_answer, fresh),
        cmocka_unit_test_setup(lost_writes_are_noticed, fresh),
        cmocka_unit_test_setup(the_function_comes_back, fresh),
        cmocka_unit_test_setup(damaged_keys_are_no_answer, fresh),
        cmocka_unit_test_setup(passwords, fresh),
        cmocka_unit_test_setup(a_replica_is_no_answer, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
