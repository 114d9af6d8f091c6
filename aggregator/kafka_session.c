#include "aggregator/kafka_session.h"

#include "common/log.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define PRODUCER_WAIT_MS 60000
#define BEHIND_MS 500

// The range assignor revokes all and assigns all, so that one generation covers everything owned. A session of 6 s is
// the shortest that brokers accept by default: after a crash, it is nearly all of what others wait for.
static int consumer_open(struct kafka_session *session, void *opaque,
                         void (*rebalance)(rd_kafka_t *, rd_kafka_resp_err_t, rd_kafka_topic_partition_list_t *, void *),
                         struct err *err) {
    static const char *const settings[] = {
        "enable.auto.commit", "false", "enable.auto.offset.store", "false",
        "check.crcs", "true", "auto.offset.reset", "error",
        "partition.assignment.strategy", "range", "isolation.level", "read_committed",
        "session.timeout.ms", "6000", "heartbeat.interval.ms", "1500",
        "queued.max.messages.kbytes", "8192", NULL};
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    int rc = kafka_conf(&conf, session->config, "openveil-aggregator", err);
    for (const char *const *at = settings; rc == 0 && at[0] != NULL; at += 2)
        rc = kafka_conf_set(conf, at[0], at[1], err);
    if (rc == 0)
        rc = kafka_conf_set(conf, "group.id", session->config->kafka_group, err);
    if (rc == 0) {
        rd_kafka_conf_set_opaque(conf, opaque);
        rd_kafka_conf_set_rebalance_cb(conf, rebalance);
        session->consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
        if (session->consumer != NULL) {
            rd_kafka_resp_err_t code = rd_kafka_poll_set_consumer(session->consumer);
            CHECK(code == RD_KAFKA_RESP_ERR_NO_ERROR);
            return 0;
        }
        rc = err_set(err, ERR_INVALID, "cannot start a Kafka consumer: %.256s", text);
    }
    if (conf != NULL)
        rd_kafka_conf_destroy(conf);
    return rc;
}

int kafka_session_open(struct kafka_session **out, const struct config *config, void *opaque,
                       void (*rebalance)(rd_kafka_t *, rd_kafka_resp_err_t, rd_kafka_topic_partition_list_t *, void *),
                       struct err *err) {
    static const char *const watermark_settings[] = {"isolation.level", "read_uncommitted", NULL};
    CHECK(rebalance != NULL);
    struct kafka_session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a Kafka session");
    int rc = pthread_mutex_init(&session->lock, NULL);
    CHECK(rc == 0);
    rc = pthread_mutex_init(&session->producer_lock, NULL);
    CHECK(rc == 0);
    session->config = config;
    session->partitions = (uint32_t)config->kafka_partitions;
    atomic_store(&session->users, 1);
    session->owned = calloc(session->partitions, sizeof *session->owned);
    session->committed = calloc(session->partitions, sizeof *session->committed);
    if (session->owned == NULL || session->committed == NULL)
        rc = err_set(err, ERR_NOMEM, "no memory for a Kafka session");
    if (rc == 0)
        rc = consumer_open(session, opaque, rebalance, err);
    if (rc == 0)
        rc = kafka_client_create(&session->watermarks, RD_KAFKA_CONSUMER, config, watermark_settings, err);
    if (rc != 0) {
        kafka_session_release(session);
        return rc;
    }
    kafka_session_forget(session);
    *out = session;
    return 0;
}

void kafka_session_release(struct kafka_session *session) {
    if (session == NULL || atomic_fetch_sub(&session->users, 1) > 1)
        return;
    kafka_session_producer_drop(session);
    if (session->consumer != NULL)
        rd_kafka_destroy_flags(session->consumer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    if (session->watermarks != NULL)
        rd_kafka_destroy(session->watermarks);
    pthread_mutex_destroy(&session->lock);
    pthread_mutex_destroy(&session->producer_lock);
    free(session->group);
    free(session->owned);
    free(session->committed);
    free(session);
}

// ---- The producer ----

// Stable over restarts, so that a restarted process ends the transaction that it left open itself, and unique: two
// processes with one id would fence each other for ever.
static int transactional_id(const struct config *config, char *id, size_t size, struct err *err) {
    char host[256] = "";
    if (gethostname(host, sizeof host - 1) != 0)
        return err_errno(err, ERR_IO, "cannot get the host's name");
    uint64_t hash = XXH3_64bits(config->aggregator_state_dir, strlen(config->aggregator_state_dir));
    int n = snprintf(id, size, "%s-%s-%016" PRIx64, config->kafka_group, host, hash);
    CHECK(n > 0 && (size_t)n < size);
    return 0;
}

static int producer_create(struct kafka_session *session, struct err *err) {
    char id[512];
    int rc = transactional_id(session->config, id, sizeof id, err);
    if (rc != 0)
        return rc;
    const char *const settings[] = {"transactional.id", id, "transaction.timeout.ms", "10000",
                                    "message.timeout.ms", "10000", "message.max.bytes", "2162688",
                                    "queue.buffering.max.messages", "2000000",
                                    "queue.buffering.max.kbytes", "1048576", NULL};
    return kafka_client_create(&session->producer, RD_KAFKA_PRODUCER, session->config, settings, err);
}

int kafka_session_producer(struct kafka_session *session, struct err *err) {
    if (session->producer != NULL)
        return 0;
    int rc = producer_create(session, err);
    if (rc != 0)
        return rc;
    int64_t deadline = clock_monotonic_ms() + PRODUCER_WAIT_MS;
    for (;;) {
        rd_kafka_error_t *error = rd_kafka_init_transactions(session->producer, KAFKA_CALL_MS);
        if (error == NULL)
            return 0;
        bool again = rd_kafka_error_is_retriable(error) && !atomic_load(&session->stopping) &&
                     clock_monotonic_ms() < deadline;
        rd_kafka_resp_err_t code = rd_kafka_error_code(error);
        if (!again)
            err_set(err, ERR_UNREACHABLE, "no transactions to be had: %.256s", rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        if (again)
            continue;
        kafka_session_producer_drop(session);
        return code == RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED ? ERR_IO : ERR_UNREACHABLE;
    }
}

void kafka_session_producer_drop(struct kafka_session *session) {
    if (session->producer == NULL)
        return;
    rd_kafka_destroy(session->producer);
    session->producer = NULL;
}

// ---- The group ----

int kafka_session_assign(struct kafka_session *session, const rd_kafka_topic_partition_list_t *list, struct err *err) {
    void *bytes = NULL;
    size_t len = 0;
    bool others = false;
    char *member = rd_kafka_memberid(session->consumer);
    bool empty = member == NULL || *member == '\0';
    for (int i = 0; i < list->cnt; i++)
        if (list->elems[i].partition < 0 || (uint32_t)list->elems[i].partition >= session->partitions)
            others = true;
    if (member != NULL)
        rd_kafka_mem_free(session->consumer, member);
    if (empty)
        return err_set(err, ERR_IO, "the consumer group assigned partitions to no member");
    if (others)
        return err_set(err, ERR_REFUSED, "the topic %s has got more than the %u partitions of [kafka] partitions",
                       session->config->kafka_topic_events, session->partitions);
    rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata(session->consumer);
    CHECK(group != NULL);
    // Kept as bytes because the library can't copy the object.
    rd_kafka_error_t *error = rd_kafka_consumer_group_metadata_write(group, &bytes, &len);
    rd_kafka_consumer_group_metadata_destroy(group);
    CHECK(error == NULL && bytes != NULL);
    pthread_mutex_lock(&session->lock);
    session->generation = ++session->assignments;
    free(session->group);
    session->group = bytes;
    session->group_len = len;
    for (uint32_t p = 0; p < session->partitions; p++) {
        session->owned[p] = false;
        session->committed[p] = -1;
    }
    for (int i = 0; i < list->cnt; i++)
        session->owned[list->elems[i].partition] = true;
    pthread_mutex_unlock(&session->lock);
    return 0;
}

void kafka_session_forget(struct kafka_session *session) {
    pthread_mutex_lock(&session->lock);
    session->generation = 0;
    free(session->group);
    session->group = NULL;
    session->group_len = 0;
    for (uint32_t p = 0; p < session->partitions; p++) {
        session->owned[p] = false;
        session->committed[p] = -1;
    }
    pthread_mutex_unlock(&session->lock);
}

uint64_t kafka_session_owns(struct kafka_session *session, uint32_t partition) {
    CHECK(partition < session->partitions);
    pthread_mutex_lock(&session->lock);
    uint64_t generation = session->owned[partition] ? session->generation : 0;
    pthread_mutex_unlock(&session->lock);
    return generation;
}

int64_t kafka_session_committed(struct kafka_session *session, uint32_t partition) {
    CHECK(partition < session->partitions);
    pthread_mutex_lock(&session->lock);
    int64_t position = session->committed[partition];
    pthread_mutex_unlock(&session->lock);
    return position;
}

void kafka_session_set_committed(struct kafka_session *session, uint32_t partition, int64_t position) {
    CHECK(partition < session->partitions);
    pthread_mutex_lock(&session->lock);
    session->committed[partition] = position;
    pthread_mutex_unlock(&session->lock);
}

int kafka_session_behind(struct kafka_session *session, uint32_t partition, int64_t next, struct err *err) {
    const char *topic = session->config->kafka_topic_events;
    int64_t low, high;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, (int32_t)partition);
    rd_kafka_resp_err_t code = rd_kafka_committed(session->consumer, list, BEHIND_MS);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        code = list->elems[0].err;
    int64_t committed = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return err_set(err, ERR_UNREACHABLE, "cannot ask for the committed position of %s, partition %u: %s", topic,
                       partition, rd_kafka_err2str(code));
    if (committed > next)
        return err_set(err, ERR_AGAIN, "the group has counted on to %lld", (long long)committed);
    int rc = kafka_watermarks(session->watermarks, topic, partition, BEHIND_MS, &low, &high, err);
    if (rc != 0)
        return rc;
    return err_set(err, ERR_IO, "cannot read on in the topic %s, partition %u: %lld comes next, and the broker holds %lld to "
                   "%lld: what is missing was deleted before it was counted", topic, partition, (long long)next,
                   (long long)low, (long long)high);
}

rd_kafka_consumer_group_metadata_t *kafka_session_group(struct kafka_session *session) {
    rd_kafka_consumer_group_metadata_t *group = NULL;
    pthread_mutex_lock(&session->lock);
    if (session->group != NULL) {
        rd_kafka_error_t *error = rd_kafka_consumer_group_metadata_read(&group, session->group, session->group_len);
        CHECK(error == NULL);
    }
    pthread_mutex_unlock(&session->lock);
    return group;
}

int kafka_watermarks(rd_kafka_t *rk, const char *topic, uint32_t partition, int timeout_ms, int64_t *low, int64_t *high,
                     struct err *err) {
    rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(rk, topic, (int32_t)partition, low, high, timeout_ms);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return err_set(err, ERR_UNREACHABLE, "cannot ask for the ends of %s, partition %u: %s", topic, partition,
                       rd_kafka_err2str(code));
    if (*low < 0 || *high < *low)
        return err_set(err, ERR_UNREACHABLE, "the broker does not know the ends of %s, partition %u", topic, partition);
    return 0;
}

int kafka_session_create(struct source **source, struct journal **journal, const struct config *config,
                         struct err *err) {
    int rc = source_kafka_create(source, config, err);
    if (rc != 0)
        return rc;
    rc = journal_kafka_create(journal, source_kafka_session(*source), err);
    if (rc != 0)
        (*source)->ops->stop(*source);
    return rc;
}
