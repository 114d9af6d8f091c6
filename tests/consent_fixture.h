// What the tests of the consent store share: a Redis of their own, configurations for it, and look-ups on a loop.
#ifndef OPENVEIL_TESTS_CONSENT_FIXTURE_H
#define OPENVEIL_TESTS_CONSENT_FIXTURE_H

#include "common/consent_store.h"
#include "common/token.h"
#include "tests/redis_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <uv.h>

#include <cmocka.h>

#define PARTITIONS 8 // the configuration's default

static struct redis_server server;
static unsigned timeout_ms = 400;

static inline void config_for(struct config *config, const char *more, bool rehearsal) {
    char text[400];
    struct err err;
    snprintf(text, sizeof text, "[redis]\naddress = 127.0.0.1:%u\ntimeout_ms = %u\n%s%s", server.port,
             timeout_ms, more,
             rehearsal ? "[rehearsal]\nstart_unix_s = 1700000000\nstart_day = 2026-01-01\nday_seconds = 86400\n" : "");
    if (config_parse(config, "test", text, strlen(text), rehearsal, &err) != 0)
        fail_msg("%s", err.text);
}

static inline struct consent_store *store_open(void) {
    struct config config;
    struct consent_store *store;
    struct err err = {""};
    config_for(&config, "", false);
    if (consent_store_open(&store, &config, &err) != 0)
        fail_msg("%s", err.text);
    config_free(&config);
    return store;
}

static inline void redis_do(const char *command) {
    redisContext *redis = redis_server_connect(&server);
    assert_non_null(redis);
    redisReply *reply = redisCommand(redis, command);
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s: %s", command, reply->str);
    freeReplyObject(reply);
    redisFree(redis);
}

static inline struct consent_change change_of(uint32_t tenant, uint64_t pseudonym, uint8_t state, uint32_t since,
                                       const char *notice) {
    struct consent_change change = {.tenant = tenant, .pseudonym = pseudonym, .state = state, .since = since};
    snprintf(change.notice, sizeof change.notice, "%s", notice);
    return change;
}

static inline int64_t apply_one(struct consent_store *store, struct consent_change change) {
    struct err err = {""};
    if (consent_store_apply(store, &change, 1, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(change.result > 0, change.reason[0] == '\0');
    return change.result;
}

static inline struct consent_record get_one(struct consent_store *store, uint32_t tenant, uint64_t pseudonym) {
    struct consent_record record;
    struct err err = {""};
    if (consent_store_get(store, tenant, pseudonym, &record, &err) != 0)
        fail_msg("%s", err.text);
    return record;
}

static inline int setup(void **state) {
    (void)state;
    redis_server_start(&server);
    return 0;
}

static inline int teardown(void **state) {
    (void)state;
    redis_server_remove(&server);
    return 0;
}

static inline int fresh(void **state) {
    (void)state;
    redis_do("FLUSHALL");
    return 0;
}

// ---- on a loop ------------------------------------------------------------------------------------------------------
struct asked {
    uv_loop_t loop;
    struct consent_client *client;
    size_t n_done;
    int status;
    struct consent_stamp stamp;
    size_t n_scanned;
    uint64_t sum_scanned;
};

static inline void on_done(void *arg, int status, const struct consent_stamp *stamp) {
    struct asked *asked = arg;
    asked->n_done++;
    asked->status = status;
    assert_int_equal(stamp != NULL, status == 0);
    if (stamp != NULL)
        asked->stamp = *stamp;
}

static inline void on_each(void *arg, uint64_t pseudonym, const struct consent_record *record) {
    struct asked *asked = arg;
    assert_false(record->unreadable);
    asked->n_scanned++;
    asked->sum_scanned += pseudonym ^ record->since;
}

static inline void asked_begin(struct asked *asked, const char *more) {
    struct config config;
    struct err err = {""};
    *asked = (struct asked){0};
    config_for(&config, more, false);
    assert_int_equal(uv_loop_init(&asked->loop), 0);
    assert_int_equal(consent_client_create(&asked->client, &asked->loop, &config, &err), 0);
    consent_client_quiet(asked->client);
    config_free(&config);
}

static inline void asked_wait(struct asked *asked, size_t n_done) {
    while (asked->n_done < n_done)
        uv_run(&asked->loop, UV_RUN_ONCE);
}

static inline void asked_end(struct asked *asked) {
    consent_client_free(asked->client);
    uv_run(&asked->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&asked->loop), 0);
}

static inline int ask(struct asked *asked, uint32_t partition, struct consent_query *queries, size_t n,
               const struct consent_stamp *known) {
    size_t before = asked->n_done;
    assert_int_equal(consent_client_lookup(asked->client, partition, queries, n, known, on_done, asked), 0);
    assert_int_equal(asked->n_done, before);
    asked_wait(asked, before + 1);
    return asked->status;
}

// Repeats until Redis is found again after it came back.
static inline int ask_until_there(struct asked *asked, struct consent_query *query, const struct consent_stamp *known) {
    int status = ERR_UNREACHABLE;
    for (int i = 0; i < 20 && status != 0; i++)
        status = ask(asked, partition_of(query->tenant, PARTITIONS), query, 1, known);
    return status;
}

#endif
