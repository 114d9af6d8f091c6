#include "common/consent_topic.h"

#include "common/consent_topic_record.h"
#include "common/contact_key.h"
#include "common/kafka.h"
#include "common/log.h"
#include "common/tenant.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define BATCH_MAX 2000u
#define SENDERS 1024u // remembered at a time
#define SENDER_KNOWN_MS 10000
#define ANSWER_MS 3000
#define CATCH_UP_MS 20 // after a record: for how long the next one may still join its batch

// A tenant whose file was read a moment ago.
struct sender {
    bool known;
    uint32_t tenant;
    int64_t until_ms;
    struct hmac_key key; // CONSENT_TOPIC_CONTACTS
};

struct row {
    int32_t partition;
    int64_t offset;
    bool bad;
    size_t change; // its place among the changes, where it is not bad
    char reason[CONSENT_TOPIC_REASON_SIZE];
};

struct consent_topic {
    const struct config *config;
    enum consent_topic_role role;
    struct consent_store *store;
    rd_kafka_t *consumer;
    rd_kafka_t *producer;
    struct row rows[BATCH_MAX];
    size_t n_rows;
    struct consent_change changes[BATCH_MAX];
    size_t n_changes;
    rd_kafka_topic_partition_list_t *positions; // behind the last record of the batch, by partition
    struct sender senders[SENDERS];
};

// ---- one record -----------------------------------------------------------------------------------------------------
static bool sender_read(struct consent_topic *topic, struct sender *sender, uint32_t tenant) {
    struct tenant facts;
    *sender = (struct sender){.tenant = tenant, .until_ms = clock_monotonic_ms() + SENDER_KNOWN_MS};
    if (topic->role == CONSENT_TOPIC_CONTACTS) {
        sender->known = contact_key_load(&sender->key, topic->config, tenant, NULL) == 0;
    } else if (tenant_load(&facts, topic->config->tenants_dir, tenant, NULL) == 0) {
        sender->known = true;
        tenant_free(&facts);
    }
    return sender->known;
}

// The tenant's entry; NULL where it has no file, or no key.
static const struct sender *sender_find(struct consent_topic *topic, uint32_t tenant) {
    struct sender *sender = &topic->senders[tenant % SENDERS];
    bool fresh = sender->known && sender->tenant == tenant && clock_monotonic_ms() < sender->until_ms;
    return fresh || sender_read(topic, sender, tenant) ? sender : NULL;
}

static void row_bad(struct row *row, const char *reason) {
    row->bad = true;
    snprintf(row->reason, sizeof row->reason, "%s", reason);
}

// False where the record is the other role's.
static bool row_read(struct consent_topic *topic, struct row *row, const rd_kafka_message_t *message) {
    struct consent_topic_record record;
    char reason[CONSENT_TOPIC_REASON_SIZE] = "";
    int rc = consent_topic_record_parse(message->payload == NULL ? "" : message->payload, message->len,
                                        clock_today(&topic->config->clock), &record, reason);
    bool names_contact = record.contact[0] != '\0';
    if (names_contact != (topic->role == CONSENT_TOPIC_CONTACTS))
        return false;
    const struct sender *sender = rc == 0 ? sender_find(topic, record.change.tenant) : NULL;
    if (rc != 0) {
        row_bad(row, reason);
    } else if (sender == NULL) {
        row_bad(row, names_contact ? "the tenant, or its contact key, is not configured" : "the tenant is not configured");
    } else {
        if (names_contact)
            record.change.pseudonym =
                pseudonym_of(&sender->key, record.change.tenant, record.contact, strlen(record.contact));
        row->change = topic->n_changes;
        topic->changes[topic->n_changes++] = record.change;
    }
    bytes_wipe(&record, sizeof record);
    return true;
}

static void position_note(struct consent_topic *topic, const rd_kafka_message_t *message) {
    const char *name = topic->config->consent_topic;
    rd_kafka_topic_partition_t *at =
        rd_kafka_topic_partition_list_find(topic->positions, name, message->partition);
    if (at == NULL)
        at = rd_kafka_topic_partition_list_add(topic->positions, name, message->partition);
    at->offset = message->offset + 1;
}

// ---- a batch --------------------------------------------------------------------------------------------------------
static int batch_collect(struct consent_topic *topic, int timeout_ms, uint64_t counts[CONSENT_TOPIC_COUNTS],
                         struct err *err) {
    topic->n_rows = topic->n_changes = 0;
    rd_kafka_topic_partition_list_destroy(topic->positions);
    topic->positions = rd_kafka_topic_partition_list_new(8);
    while (topic->n_rows < BATCH_MAX) {
        rd_kafka_message_t *message =
            rd_kafka_consumer_poll(topic->consumer, topic->positions->cnt == 0 ? timeout_ms : CATCH_UP_MS);
        if (message == NULL)
            return 0;
        rd_kafka_resp_err_t code = message->err;
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
            struct row *row = &topic->rows[topic->n_rows];
            *row = (struct row){.partition = message->partition, .offset = message->offset};
            position_note(topic, message);
            if (row_read(topic, row, message))
                topic->n_rows++;
            else
                counts[CONSENT_TOPIC_PASSED]++;
        }
        rd_kafka_message_destroy(message);
        if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED ||
            code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED || code == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
            return err_set(err, ERR_UNREACHABLE, "the topic %s cannot be followed: %s", topic->config->consent_topic,
                           rd_kafka_err2str(code));
    }
    return 0;
}

// A later decision is in the store already: nothing is wrong with the record (common/consent.lua's words).
static bool superseded(const struct consent_change *change) {
    return change->result == ERR_REFUSED && (strncmp(change->reason, "the record holds a later", 24) == 0 ||
                                             strcmp(change->reason, "the contact left on that day") == 0);
}

static int batch_apply(struct consent_topic *topic, uint64_t counts[CONSENT_TOPIC_COUNTS], struct err *err) {
    int rc = topic->n_changes == 0 ? 0 : consent_store_apply(topic->store, topic->changes, topic->n_changes, err);
    for (size_t i = 0; rc == 0 && i < topic->n_rows; i++) {
        struct row *row = &topic->rows[i];
        const struct consent_change *change = row->bad ? NULL : &topic->changes[row->change];
        if (change != NULL && change->result < 0 && !superseded(change))
            row_bad(row, change->reason);
        counts[row->bad              ? CONSENT_TOPIC_REJECTED
               : change->result >= 0 ? CONSENT_TOPIC_APPLIED
                                     : CONSENT_TOPIC_SUPERSEDED]++;
    }
    return rc;
}

static int reject_send(struct consent_topic *topic, const struct row *row, struct err *err) {
    json_t *json = json_pack("{s:s, s:s, s:i, s:I}", "reason", row->reason, "topic", topic->config->consent_topic,
                             "partition", (int)row->partition, "offset", (json_int_t)row->offset);
    char *text = json == NULL ? NULL : json_dumps(json, JSON_COMPACT);
    json_decref(json);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for a rejected record");
    rd_kafka_resp_err_t code = rd_kafka_producev(
        topic->producer, RD_KAFKA_V_TOPIC(topic->config->consent_rejects_topic),
        RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY | RD_KAFKA_MSG_F_BLOCK), RD_KAFKA_V_VALUE(text, strlen(text)),
        RD_KAFKA_V_TIMESTAMP(kafka_timestamp_ms()), RD_KAFKA_V_END);
    free(text);
    return code == RD_KAFKA_RESP_ERR_NO_ERROR
               ? 0
               : err_set(err, ERR_UNREACHABLE, "cannot write to %s: %s", topic->config->consent_rejects_topic,
                         rd_kafka_err2str(code));
}

static int batch_reject(struct consent_topic *topic, struct err *err) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < topic->n_rows; i++) {
        if (topic->rows[i].bad)
            rc = reject_send(topic, &topic->rows[i], err);
    }
    if (rc == 0 && rd_kafka_flush(topic->producer, ANSWER_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        rc = err_set(err, ERR_UNREACHABLE, "the broker does not take what is for %s",
                     topic->config->consent_rejects_topic);
    return rc;
}

// Partitions that moved meanwhile are given to their new owner again, from before this batch.
static int batch_commit(struct consent_topic *topic, struct err *err) {
    rd_kafka_resp_err_t code = rd_kafka_commit(topic->consumer, topic->positions, 0);
    switch (code) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
    case RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID:
    case RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS:
        return 0;
    default:
        return err_set(err, ERR_UNREACHABLE, "cannot commit the position in %s: %s", topic->config->consent_topic,
                       rd_kafka_err2str(code));
    }
}

int consent_topic_step(struct consent_topic *topic, int timeout_ms, uint64_t counts[CONSENT_TOPIC_COUNTS],
                       struct err *err) {
    uint64_t now[CONSENT_TOPIC_COUNTS] = {0};
    int rc = batch_collect(topic, timeout_ms, now, err);
    if (rc != 0 || topic->positions->cnt == 0)
        return rc;
    rc = batch_apply(topic, now, err);
    if (rc == 0)
        rc = batch_reject(topic, err);
    if (rc == 0)
        rc = batch_commit(topic, err);
    for (size_t i = 0; rc == 0 && i < CONSENT_TOPIC_COUNTS; i++)
        counts[i] += now[i];
    return rc;
}

// ---- set-up ---------------------------------------------------------------------------------------------------------
static int clients_create(struct consent_topic *topic, struct err *err) {
    char group[256];
    const struct config *config = topic->config;
    // A rehearsal takes nothing away from production.
    snprintf(group, sizeof group, "%s-consent%s%s", config->kafka_group,
             topic->role == CONSENT_TOPIC_CONTACTS ? "-contacts" : "", config->rehearsal ? "-rehearsal" : "");
    // From the beginning where the group has no position: old records lose against what the store holds.
    const char *const consuming[] = {"group.id", group, "enable.auto.commit", "false", "enable.auto.offset.store",
                                     "false", "auto.offset.reset", "earliest", "check.crcs", "true", "isolation.level",
                                     "read_committed", "queued.max.messages.kbytes", "16384", "session.timeout.ms", "10000",
                                     NULL};
    const char *const producing[] = {"enable.idempotence", "true", "message.timeout.ms", "0", NULL};
    int rc = kafka_client_create(&topic->producer, RD_KAFKA_PRODUCER, config, producing, err);
    if (rc == 0)
        rc = kafka_topic_ensure(topic->producer, config, KAFKA_CONSENT, ANSWER_MS, err);
    if (rc == 0)
        rc = kafka_topic_ensure(topic->producer, config, KAFKA_CONSENT_REJECTS, ANSWER_MS, err);
    if (rc == 0)
        rc = kafka_client_create(&topic->consumer, RD_KAFKA_CONSUMER, config, consuming, err);
    if (rc != 0)
        return rc;
    rd_kafka_poll_set_consumer(topic->consumer);
    rd_kafka_topic_partition_list_t *wanted = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(wanted, config->consent_topic, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t code = rd_kafka_subscribe(topic->consumer, wanted);
    rd_kafka_topic_partition_list_destroy(wanted);
    return code == RD_KAFKA_RESP_ERR_NO_ERROR
               ? 0
               : err_set(err, ERR_INVALID, "cannot follow the topic %s: %s", config->consent_topic,
                         rd_kafka_err2str(code));
}

int consent_topic_open(struct consent_topic **out, const struct config *config, enum consent_topic_role role,
                       struct err *err) {
    CHECK(config->consent_topic[0] != '\0');
    struct consent_topic *topic = calloc(1, sizeof *topic);
    if (topic == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for the consent topic");
    topic->config = config;
    topic->role = role;
    topic->positions = rd_kafka_topic_partition_list_new(8);
    int rc = consent_store_open(&topic->store, config, err);
    if (rc == 0)
        rc = clients_create(topic, err);
    if (rc != 0) {
        consent_topic_close(topic);
        return rc;
    }
    *out = topic;
    return 0;
}

void consent_topic_close(struct consent_topic *topic) {
    if (topic == NULL)
        return;
    if (topic->consumer != NULL) {
        rd_kafka_consumer_close(topic->consumer);
        rd_kafka_destroy(topic->consumer);
    }
    if (topic->producer != NULL) {
        rd_kafka_purge(topic->producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
        rd_kafka_destroy(topic->producer);
    }
    rd_kafka_topic_partition_list_destroy(topic->positions);
    consent_store_close(topic->store);
    bytes_wipe(topic->senders, sizeof topic->senders);
    free(topic);
}
