// Everything that `openveil clean` needs of one tenant, for CONTACTS contacts: `bench-clean-data CONFIG TENANT CONTACTS
// LIST` fills the consent store and the local journal as the programs would have, and writes the list of contact ids.
// Of 20 contacts, 11 opened lately, 5 were measured and silent (the ones), and 4 have no consent record.
#include "aggregator/journal.h"
#include "aggregator/record.h"
#include "common/consent.h"
#include "common/contact_key.h"
#include "common/token.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <string.h>

#define BUCKET_CONTACTS 64 // as common/consent.lua sizes a tenant's buckets
#define PIPELINE 1000
#define RECORDS_A_COMMIT 1000000
#define N_DAYS_MAX 366

struct contact {
    uint64_t pseudonym;
    bool opened;
};

static struct config config;
static uint32_t tenant, partition, first_day;
static uint8_t key[RECORD_KEY_MAX], value[RECORD_VALUE_MAX];

static int by_pseudonym(const void *a, const void *b) {
    const struct contact *left = a, *right = b;
    return left->pseudonym < right->pseudonym ? -1 : left->pseudonym > right->pseudonym;
}

// Writes the list; the contacts with a consent record, ascending.
static struct contact *contacts_make(uint64_t n, const char *list, uint64_t *n_known) {
    struct hmac_key contact_key;
    struct err err;
    struct contact *contacts = calloc(n, sizeof *contacts);
    FILE *out = fopen(list, "we");
    CHECK(contacts != NULL && out != NULL && contact_key_load(&contact_key, &config, tenant, &err) == 0);
    *n_known = 0;
    for (uint64_t i = 0; i < n; i++) {
        char id[64];
        int len = snprintf(id, sizeof id, "contact-%09" PRIu64 "@example.org", i);
        fprintf(out, "%s\n", id);
        if (i % 20 < 16)
            contacts[(*n_known)++] = (struct contact){pseudonym_of(&contact_key, tenant, id, (size_t)len), i % 20 < 11};
    }
    CHECK(fclose(out) == 0);
    qsort(contacts, *n_known, sizeof *contacts, by_pseudonym);
    return contacts;
}

// ---- the consent store ---------------------------------------------------------------------------------------------
static void replies_take(redisContext *redis, size_t n) {
    for (size_t i = 0; i < n; i++) {
        redisReply *reply;
        CHECK(redisGetReply(redis, (void **)&reply) == REDIS_OK && reply->type != REDIS_REPLY_ERROR);
        freeReplyObject(reply);
    }
}

// One bucket, from contacts[0] on; the contacts in it.
static size_t bucket_send(redisContext *redis, const struct contact *contacts, uint64_t n, unsigned bits) {
    static uint8_t record[CONSENT_RECORD_MAX], fields[1024][8];
    static const char *args[2 + 2 * 1024] = {"HSET"};
    static size_t lens[2 + 2 * 1024] = {4};
    char bucket[CONSENT_KEY_SIZE], other[CONSENT_KEY_SIZE];
    const struct consent_record informed = {
        .state = CONSENT_INFORMED, .since = first_day - 400, .allowed_since = first_day - 400, .notice = "notice-1"};
    size_t len = consent_record_encode(&informed, record), at = 0;
    lens[1] = consent_bucket_key(bucket, partition, tenant, bits, contacts[0].pseudonym);
    args[1] = bucket;
    for (; at < n && at < 1024; at++) {
        size_t other_len = consent_bucket_key(other, partition, tenant, bits, contacts[at].pseudonym);
        if (other_len != lens[1] || memcmp(other, bucket, other_len) != 0)
            break;
        args[2 + 2 * at] = (const char *)fields[at];
        lens[2 + 2 * at] = consent_bucket_field(fields[at], bits, contacts[at].pseudonym);
        args[3 + 2 * at] = (const char *)record;
        lens[3 + 2 * at] = len;
    }
    CHECK(redisAppendCommandArgv(redis, (int)(2 + 2 * at), args, lens) == REDIS_OK);
    return at;
}

static void consent_fill(const struct contact *contacts, uint64_t n) {
    char host[256];
    const char *colon = strrchr(config.redis_address, ':');
    CHECK(colon != NULL && (size_t)(colon - config.redis_address) < sizeof host);
    memcpy(host, config.redis_address, (size_t)(colon - config.redis_address));
    host[colon - config.redis_address] = '\0';
    redisContext *redis = redisConnect(host, atoi(colon + 1));
    CHECK(redis != NULL && redis->err == 0);
    unsigned bits = 0;
    while (bits < CONSENT_BITS_MAX && n > (uint64_t)BUCKET_CONTACTS << bits)
        bits++;
    CHECK(redisAppendCommand(redis, "HSET ov:{%u}:meta mode rehearsal epoch 0 hash %040d version 1", partition, 0) == 0);
    CHECK(redisAppendCommand(redis, "HSET ov:{%u}:bits %u %u", partition, tenant, bits) == 0);
    size_t pending = 2;
    for (uint64_t at = 0; at < n; pending++) {
        if (pending == PIPELINE) {
            replies_take(redis, pending);
            pending = 0;
        }
        at += bucket_send(redis, contacts + at, n - at, bits);
    }
    replies_take(redis, pending);
    redisFree(redis);
}

// ---- the journal ---------------------------------------------------------------------------------------------------
static void put(struct batch *batch, size_t key_len, size_t len) {
    CHECK(batch_put(batch, partition, key, key_len, value, len) == 0);
}

static void journal_fill(const struct contact *contacts, uint64_t n) {
    struct journal *journal;
    struct batch *batch;
    struct err err;
    CHECK(journal_local_open(&journal, &config, &err) == 0);
    CHECK(batch_create(&batch, (uint32_t)config.kafka_partitions) == 0);
    const struct tenant_record record = {.first_measured = first_day - N_DAYS_MAX, .measured_since = DAY_NONE};
    const struct day_record complete = {.flags = DAY_COMPLETE};
    put(batch, key_meta(key), meta_encode(config.rehearsal, (uint32_t)config.kafka_partitions, value));
    put(batch, key_tenant(key, tenant), tenant_encode(&record, value));
    for (uint32_t back = 1; back <= N_DAYS_MAX; back++)
        put(batch, key_day(key, first_day - back), day_encode(&complete, value));
    for (uint64_t i = 0; i < n; i++) {
        const struct last_open last_open = {.day = (uint16_t)(first_day - 1 - i % 90), .frozen_age = AGE_NONE};
        if (contacts[i].opened)
            put(batch, key_last_open(key, tenant, contacts[i].pseudonym), last_open_encode(last_open, value));
        if (batch_count(batch) >= RECORDS_A_COMMIT) {
            CHECK(journal->ops->commit(journal, batch, &err) == 0);
            batch_clear(batch);
        }
    }
    CHECK(journal->ops->commit(journal, batch, &err) == 0);
    batch_free(batch);
    journal->ops->close(journal);
}

int main(int argc, char **argv) {
    struct err err;
    uint64_t n_known;
    if (argc != 5)
        return fprintf(stderr, "usage: bench-clean-data CONFIG TENANT CONTACTS LIST\n"), 64;
    CHECK(config_load(&config, argv[1], true, &err) == 0);
    tenant = (uint32_t)strtoul(argv[2], NULL, 10);
    partition = partition_of(tenant, (uint32_t)config.kafka_partitions);
    first_day = day_month_start(clock_today(&config.clock));
    struct contact *contacts = contacts_make(strtoull(argv[3], NULL, 10), argv[4], &n_known);
    consent_fill(contacts, n_known);
    journal_fill(contacts, n_known);
    free(contacts);
    config_free(&config);
    return 0;
}
