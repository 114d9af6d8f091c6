#include "common/kafka.h"

#include "common/log.h"
#include "common/message.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

// A Kafka batch around one message adds some 70 bytes; room for keys and headers of a future version too.
#define TOPIC_MESSAGE_BYTES_MAX (MESSAGE_BYTES_MAX + 65536)
#define ADMIN_TRY_MS 5000
#define ERASED_WITHIN_MS (72LL * 3600 * 1000)
#define DAY_MS (24LL * 3600 * 1000)
#define LOG_LINES_A_MINUTE 20

// ---- Configuration ----

// librdkafka's messages name brokers, topics and errors, never what a record holds. An unreachable broker makes it talk
// all the time, hence the limit; the state is part of the log sink and shared by all clients of the process.
static bool log_allowed(unsigned *suppressed) {
    static _Atomic int64_t minute = -1;
    static _Atomic unsigned lines, dropped;
    int64_t now = clock_monotonic_ms() / 60000;
    *suppressed = 0;
    if (atomic_exchange(&minute, now) != now) {
        *suppressed = atomic_exchange(&dropped, 0);
        atomic_store(&lines, 0);
    }
    if (atomic_fetch_add(&lines, 1) < LOG_LINES_A_MINUTE)
        return true;
    atomic_fetch_add(&dropped, 1);
    return false;
}

static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk;
    CHECK(text != NULL);
    enum log_level ours = level <= 3 ? LOG_ERROR : level <= 4 ? LOG_WARN : level <= 6 ? LOG_INFO : LOG_DEBUG;
    // An "error" of the library is a broker away, which is normal: the caller reports what really fails.
    if (ours == LOG_ERROR)
        ours = LOG_WARN;
    unsigned suppressed;
    if (!log_allowed(&suppressed))
        return;
    if (suppressed > 0)
        log_info("kafka: %u lines in the last minutes not shown", suppressed);
    log_line(ours, "kafka: %.32s: %.400s", facility, text);
}

int kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err) {
    char text[256];
    CHECK(conf != NULL && value != NULL);
    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) == RD_KAFKA_CONF_OK)
        return 0;
    return err_set(err, ERR_INVALID, "librdkafka does not take %.64s: %.256s", name, text);
}

static char *trimmed(char *text) {
    while (*text == ' ' || *text == '\t')
        text++;
    size_t len = strlen(text);
    while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        text[--len] = '\0';
    return text;
}

static int conf_properties(rd_kafka_conf_t *conf, const char *properties, struct err *err) {
    char *copy = strdup(properties);
    char *rest = NULL;
    int rc = 0;
    if (copy == NULL)
        return err_set(err, ERR_NOMEM, "no memory for [kafka] properties");
    for (char *item = strtok_r(copy, ";", &rest); item != NULL && rc == 0; item = strtok_r(NULL, ";", &rest)) {
        item = trimmed(item);
        char *equals = strchr(item, '=');
        if (*item == '\0')
            continue;
        if (equals == NULL) {
            rc = err_set(err, ERR_INVALID, "[kafka] properties: %.64s is not name=value", item);
            break;
        }
        *equals = '\0';
        rc = kafka_conf_set(conf, trimmed(item), trimmed(equals + 1), err);
    }
    free(copy);
    return rc;
}

int kafka_conf(rd_kafka_conf_t **out, const struct config *config, const char *client_id, struct err *err) {
    CHECK(client_id != NULL);
    if (config->kafka_brokers[0] == '\0')
        return err_set(err, ERR_INVALID, "[kafka] brokers is empty: name at least one bootstrap server");
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (conf == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a Kafka client");
    int rc = conf_properties(conf, config->kafka_properties, err);
    // After the operator's properties: these are not to be overridden.
    if (rc == 0)
        rc = kafka_conf_set(conf, "bootstrap.servers", config->kafka_brokers, err);
    if (rc == 0)
        rc = kafka_conf_set(conf, "client.id", client_id, err);
    if (rc == 0)
        rc = kafka_conf_set(conf, "log.connection.close", "false", err);
    if (rc == 0)
        rc = kafka_conf_set(conf, "allow.auto.create.topics", "false", err);
    if (rc != 0) {
        rd_kafka_conf_destroy(conf);
        return rc;
    }
    rd_kafka_conf_set_log_cb(conf, on_log);
    *out = conf;
    return 0;
}

int64_t kafka_timestamp_ms(void) {
    struct clock clock = clock_real();
    return day_start_ms(clock_today(&clock));
}

int kafka_client_create(rd_kafka_t **rk, rd_kafka_type_t type, const struct config *config, const char *const *settings,
                        struct err *err) {
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    int rc = kafka_conf(&conf, config, "openveil-aggregator", err);
    for (; rc == 0 && settings[0] != NULL; settings += 2)
        rc = kafka_conf_set(conf, settings[0], settings[1], err);
    if (rc == 0) {
        *rk = rd_kafka_new(type, conf, text, sizeof text);
        if (*rk != NULL)
            return 0;
        rc = err_set(err, ERR_INVALID, "cannot start a Kafka client: %.256s", text);
    }
    if (conf != NULL)
        rd_kafka_conf_destroy(conf);
    return rc;
}

// ---- Topics ----

struct setting {
    const char *name;
    const char *value;
};

// Nothing expires by age: the aggregator deletes what it has committed. A deleted record leaves the disk with its whole
// file, and a file is closed when it is full or, since all timestamps are midnight, at the next day's first message; so the
// files are as small as a message allows, twice.
static const struct setting events_settings[] = {
    {"cleanup.policy", "delete"},   {"retention.ms", "-1"},       {"retention.bytes", "-1"},
    {"segment.bytes", "4325376"},   {"segment.ms", "3600000"},    {"file.delete.delay.ms", "10000"},
    {"message.timestamp.type", "CreateTime"},
};
// An erased key leaves the log after at most two rolls, each at the first commit when a segment is older than segment.ms
// (there is one a day at least), and delete.retention.ms between them: 2 x (6 h + 24 h) + 6 h = 66 h.
static const struct setting state_settings[] = {
    {"cleanup.policy", "compact"},       {"min.compaction.lag.ms", "0"},
    {"max.compaction.lag.ms", "21600000"}, {"segment.ms", "21600000"},
    {"delete.retention.ms", "21600000"}, {"file.delete.delay.ms", "10000"},
    {"segment.bytes", "268435456"},      {"message.timestamp.type", "CreateTime"},
};
static const struct setting releases_settings[] = {
    {"cleanup.policy", "compact"},
    {"message.timestamp.type", "CreateTime"},
};
// What platforms write, and what was bad of it: some days to look at.
static const struct setting consent_settings[] = {
    {"cleanup.policy", "delete"},
    {"retention.ms", "604800000"},
};

struct topic_plan {
    const char *name;
    enum kafka_topic topic;
    const struct setting *settings;
    size_t n_settings;
};

static struct topic_plan plan_of(const struct config *config, enum kafka_topic topic) {
    switch (topic) {
    case KAFKA_EVENTS:
        return (struct topic_plan){config->kafka_topic_events, topic, events_settings, ARRAY_LEN(events_settings)};
    case KAFKA_STATE:
        return (struct topic_plan){config->kafka_topic_state, topic, state_settings, ARRAY_LEN(state_settings)};
    case KAFKA_CONSENT_LOG:
        return (struct topic_plan){config->consent_log_topic, topic, state_settings, ARRAY_LEN(state_settings)};
    case KAFKA_CONSENT:
        return (struct topic_plan){config->consent_topic, topic, consent_settings, ARRAY_LEN(consent_settings)};
    case KAFKA_CONSENT_REJECTS:
        return (struct topic_plan){config->consent_rejects_topic, topic, consent_settings, ARRAY_LEN(consent_settings)};
    case KAFKA_RELEASES:
        break;
    }
    return (struct topic_plan){config->kafka_topic_releases, topic, releases_settings, ARRAY_LEN(releases_settings)};
}

// What waiting does not mend is refused; all else is a broker that is away or starting.
static int admin_error(const struct topic_plan *plan, rd_kafka_resp_err_t code, const char *text, struct err *err) {
    switch (code) {
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
        return err_set(err, ERR_REFUSED,
                       "the broker does not let us create or describe the topic %s: grant Create, Describe and "
                       "DescribeConfigs on it (%.128s)", plan->name, text);
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
    case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
    case RD_KAFKA_RESP_ERR_INVALID_PARTITIONS:
    case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
        return err_set(err, ERR_REFUSED, "the broker refuses to create the topic %s: %.256s", plan->name, text);
    default:
        return err_set(err, ERR_UNREACHABLE, "no broker answers about the topic %s: %.256s", plan->name, text);
    }
}

// One Admin request.
struct admin_call {
    rd_kafka_queue_t *queue;
    rd_kafka_AdminOptions_t *options;
};

static int admin_begin(struct admin_call *call, rd_kafka_t *rk, rd_kafka_admin_op_t op, int timeout_ms,
                       struct err *err) {
    char text[128];
    call->queue = rd_kafka_queue_new(rk);
    call->options = rd_kafka_AdminOptions_new(rk, op);
    CHECK(call->queue != NULL && call->options != NULL);
    if (rd_kafka_AdminOptions_set_request_timeout(call->options, timeout_ms, text, sizeof text) != 0)
        return err_set(err, ERR_INVALID, "librdkafka does not take a time-out of %d ms: %.128s", timeout_ms, text);
    return 0;
}

// `event` is the caller's to destroy, also where it holds an error; NULL where none came.
static int admin_wait(struct admin_call *call, const struct topic_plan *plan, int timeout_ms, rd_kafka_event_t **event,
                      struct err *err) {
    *event = rd_kafka_queue_poll(call->queue, timeout_ms + 1000);
    if (*event == NULL)
        return admin_error(plan, RD_KAFKA_RESP_ERR__TIMED_OUT, "no answer", err);
    if (rd_kafka_event_error(*event) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return admin_error(plan, rd_kafka_event_error(*event), rd_kafka_event_error_string(*event), err);
    return 0;
}

static void admin_end(struct admin_call *call) {
    rd_kafka_AdminOptions_destroy(call->options);
    rd_kafka_queue_destroy(call->queue);
}

static int topic_create(rd_kafka_t *rk, const struct config *config, const struct topic_plan *plan, int timeout_ms,
                        struct err *err) {
    char text[256], message_max[16];
    struct admin_call call;
    rd_kafka_event_t *event = NULL;
    int replication = config->kafka_replication_factor == 0 ? -1 : (int)config->kafka_replication_factor;
    int rc = admin_begin(&call, rk, RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout_ms, err);
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(plan->name, (int)config->kafka_partitions, replication, text, sizeof text);
    if (rc != 0)
        goto done;
    if (topic == NULL) {
        rc = err_set(err, ERR_INVALID, "the topic %s cannot be created: %.200s", plan->name, text);
        goto done;
    }
    snprintf(message_max, sizeof message_max, "%u", (unsigned)TOPIC_MESSAGE_BYTES_MAX);
    rd_kafka_NewTopic_set_config(topic, "max.message.bytes", message_max);
    for (size_t i = 0; i < plan->n_settings; i++)
        rd_kafka_NewTopic_set_config(topic, plan->settings[i].name, plan->settings[i].value);
    rd_kafka_CreateTopics(rk, &topic, 1, call.options, call.queue);
    rc = admin_wait(&call, plan, timeout_ms, &event, err);
    if (rc != 0)
        goto done;
    size_t n;
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
    CHECK(n == 1);
    rd_kafka_resp_err_t code = rd_kafka_topic_result_error(results[0]);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR && code != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) {
        const char *why = rd_kafka_topic_result_error_string(results[0]);
        rc = admin_error(plan, code, why == NULL ? rd_kafka_err2str(code) : why, err);
    }
done:
    if (event != NULL)
        rd_kafka_event_destroy(event);
    if (topic != NULL)
        rd_kafka_NewTopic_destroy(topic);
    admin_end(&call);
    return rc;
}

// The settings of an existing topic that decide whether events stay until read and erased contacts go in time.
struct topic_facts {
    char cleanup[64];
    long long retention_ms, retention_bytes, max_message_bytes;
    long long segment_ms, min_lag_ms, max_lag_ms, delete_retention_ms;
};

static void facts_read(struct topic_facts *facts, const rd_kafka_ConfigEntry_t *const *entries, size_t n) {
    const struct {
        const char *name;
        long long *value;
    } wanted[] = {
        {"retention.ms", &facts->retention_ms},
        {"retention.bytes", &facts->retention_bytes},
        {"max.message.bytes", &facts->max_message_bytes},
        {"segment.ms", &facts->segment_ms},
        {"min.compaction.lag.ms", &facts->min_lag_ms},
        {"max.compaction.lag.ms", &facts->max_lag_ms},
        {"delete.retention.ms", &facts->delete_retention_ms},
    };
    for (size_t i = 0; i < n; i++) {
        const char *name = rd_kafka_ConfigEntry_name(entries[i]);
        const char *value = rd_kafka_ConfigEntry_value(entries[i]);
        if (value == NULL)
            continue;
        if (strcmp(name, "cleanup.policy") == 0)
            snprintf(facts->cleanup, sizeof facts->cleanup, "%s", value);
        for (size_t k = 0; k < ARRAY_LEN(wanted); k++)
            if (strcmp(name, wanted[k].name) == 0)
                *wanted[k].value = strtoll(value, NULL, 10);
    }
}

static long long clamped_ms(long long ms) {
    return ms < 0 || ms > ERASED_WITHIN_MS * 2 ? ERASED_WITHIN_MS * 2 : ms;
}

static int facts_check(const struct topic_plan *plan, const struct topic_facts *facts, struct err *err) {
    const char *policy = plan->settings[0].value;
    CHECK(strcmp(plan->settings[0].name, "cleanup.policy") == 0);
    if (strcmp(facts->cleanup, policy) != 0)
        return err_set(err, ERR_REFUSED, "the topic %s has cleanup.policy=%s and needs %s", plan->name, facts->cleanup,
                       policy);
    if (facts->max_message_bytes < (long long)TOPIC_MESSAGE_BYTES_MAX)
        return err_set(err, ERR_REFUSED, "the topic %s has max.message.bytes=%lld and needs at least %u", plan->name,
                       facts->max_message_bytes, (unsigned)TOPIC_MESSAGE_BYTES_MAX);
    if (plan->topic == KAFKA_EVENTS && (facts->retention_ms != -1 || facts->retention_bytes != -1))
        return err_set(err, ERR_REFUSED,
                       "the topic %s has retention.ms=%lld and retention.bytes=%lld, which can delete opens that nobody "
                       "has read: set both to -1", plan->name, facts->retention_ms, facts->retention_bytes);
    if (plan->topic != KAFKA_STATE && plan->topic != KAFKA_CONSENT_LOG)
        return 0;
    long long roll = clamped_ms(facts->max_lag_ms) < clamped_ms(facts->segment_ms) ? facts->max_lag_ms
                                                                                     : facts->segment_ms;
    long long erased = 2 * (clamped_ms(roll) + DAY_MS) + clamped_ms(facts->delete_retention_ms) +
                       clamped_ms(facts->min_lag_ms);
    if (clamped_ms(facts->max_lag_ms) > ERASED_WITHIN_MS || erased > ERASED_WITHIN_MS)
        return err_set(err, ERR_REFUSED,
                       "the topic %s would keep erased contacts for longer than 72 hours: set segment.ms, "
                       "max.compaction.lag.ms and delete.retention.ms to at most 21600000, min.compaction.lag.ms to 0",
                       plan->name);
    return 0;
}

// ERR_NOT_FOUND where the topic is missing.
static int topic_describe(rd_kafka_t *rk, const struct topic_plan *plan, int timeout_ms, struct topic_facts *facts,
                          struct err *err) {
    struct admin_call call;
    rd_kafka_event_t *event = NULL;
    int rc = admin_begin(&call, rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout_ms, err);
    rd_kafka_ConfigResource_t *resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, plan->name);
    CHECK(resource != NULL);
    if (rc != 0)
        goto done;
    rd_kafka_DescribeConfigs(rk, &resource, 1, call.options, call.queue);
    rc = admin_wait(&call, plan, timeout_ms, &event, err);
    if (rc != 0)
        goto done;
    size_t n;
    const rd_kafka_ConfigResource_t **results =
        rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &n);
    CHECK(n == 1);
    rd_kafka_resp_err_t code = rd_kafka_ConfigResource_error(results[0]);
    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
        rc = ERR_NOT_FOUND;
    } else if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
        const char *why = rd_kafka_ConfigResource_error_string(results[0]);
        rc = admin_error(plan, code, why == NULL ? rd_kafka_err2str(code) : why, err);
    } else {
        const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(results[0], &n);
        facts_read(facts, (const rd_kafka_ConfigEntry_t *const *)entries, n);
    }
done:
    if (event != NULL)
        rd_kafka_event_destroy(event);
    rd_kafka_ConfigResource_destroy(resource);
    admin_end(&call);
    return rc;
}

static int topic_partitions_check(rd_kafka_t *rk, const struct config *config, const struct topic_plan *plan,
                                  int timeout_ms, struct err *err) {
    const struct rd_kafka_metadata *metadata = NULL;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, plan->name, NULL);
    if (topic == NULL)
        return err_set(err, ERR_INVALID, "librdkafka does not take the topic name %s", plan->name);
    rd_kafka_resp_err_t code = rd_kafka_metadata(rk, 0, topic, &metadata, timeout_ms);
    rd_kafka_topic_destroy(topic);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return admin_error(plan, code, rd_kafka_err2str(code), err);
    int rc = 0;
    CHECK(metadata->topic_cnt == 1);
    if (metadata->topics[0].err != RD_KAFKA_RESP_ERR_NO_ERROR)
        rc = admin_error(plan, metadata->topics[0].err, rd_kafka_err2str(metadata->topics[0].err), err);
    else if ((uint64_t)metadata->topics[0].partition_cnt != config->kafka_partitions)
        rc = err_set(err, ERR_REFUSED,
                     "the topic %s has %d partitions and [kafka] partitions says %u: the number is fixed once and for "
                     "ever", plan->name, metadata->topics[0].partition_cnt, (unsigned)config->kafka_partitions);
    rd_kafka_metadata_destroy(metadata);
    return rc;
}

// One round: describe, create where missing, check. The metadata come last: asked for a topic that is missing, a broker
// might create it with settings of its own.
static int topic_ensure_once(rd_kafka_t *rk, const struct config *config, const struct topic_plan *plan, int timeout_ms,
                             struct err *err) {
    struct topic_facts facts = {0};
    int rc = topic_describe(rk, plan, timeout_ms, &facts, err);
    if (rc == ERR_NOT_FOUND) {
        rc = topic_create(rk, config, plan, timeout_ms, err);
        if (rc != 0)
            return rc;
        log_info("created the topic %s with %u partitions", plan->name, (unsigned)config->kafka_partitions);
        rc = topic_describe(rk, plan, timeout_ms, &facts, err);
    }
    if (rc == ERR_NOT_FOUND)
        return err_set(err, ERR_UNREACHABLE, "the topic %s is not there yet", plan->name);
    // Released lines are anonymous and keyed, and consent comes from outside: whoever made those topics may have chosen
    // their partitions and retention.
    if (rc != 0 || plan->topic == KAFKA_RELEASES || plan->topic == KAFKA_CONSENT || plan->topic == KAFKA_CONSENT_REJECTS)
        return rc;
    rc = topic_partitions_check(rk, config, plan, timeout_ms, err);
    return rc == 0 ? facts_check(plan, &facts, err) : rc;
}

int kafka_topic_ensure(rd_kafka_t *rk, const struct config *config, enum kafka_topic topic, int timeout_ms,
                       struct err *err) {
    struct topic_plan plan = plan_of(config, topic);
    int64_t deadline = clock_monotonic_ms() + timeout_ms;
    for (;;) {
        int64_t left = deadline - clock_monotonic_ms();
        int try_ms = left < 1 ? 1 : left < ADMIN_TRY_MS ? (int)left : ADMIN_TRY_MS;
        int rc = topic_ensure_once(rk, config, &plan, try_ms, err);
        if (rc != ERR_UNREACHABLE || clock_monotonic_ms() >= deadline)
            return rc;
        struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
        nanosleep(&pause, NULL);
    }
}

// ---- Mode ----

// The newest of our messages in start..end: 1 rehearsal, 0 production, -1 none of ours, ERR_UNREACHABLE.
static int mode_read(rd_kafka_topic_t *topic, int64_t start, int64_t end, int timeout_ms) {
    int64_t deadline = clock_monotonic_ms() + timeout_ms;
    int mode = -1;
    if (rd_kafka_consume_start(topic, 0, start) != 0)
        return ERR_UNREACHABLE;
    for (bool more = true; more;) {
        rd_kafka_message_t *message = rd_kafka_consume(topic, 0, 100);
        struct message_head head;
        const uint8_t *body;
        size_t body_len;
        if (clock_monotonic_ms() >= deadline) {
            mode = ERR_UNREACHABLE;
            more = false;
        }
        if (message == NULL)
            continue;
        if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            more = false;
        } else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR && more) {
            if (message->payload != NULL &&
                message_decode_head(message->payload, message->len, &head, &body, &body_len) == 0)
                mode = head.rehearsal ? 1 : 0;
            more = message->offset < end - 1;
        }
        rd_kafka_message_destroy(message);
    }
    rd_kafka_consume_stop(topic, 0);
    return mode;
}

int kafka_mode_check(rd_kafka_t *rk, const struct config *config, int timeout_ms, struct err *err) {
    int64_t low, high;
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    rd_kafka_resp_err_t code =
        rd_kafka_query_watermark_offsets(rk, config->kafka_topic_events, 0, &low, &high, timeout_ms);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return err_set(err, ERR_UNREACHABLE, "cannot look at the topic %s: %s", config->kafka_topic_events,
                       rd_kafka_err2str(code));
    if (high <= low)
        return 0;
    int rc = kafka_conf(&conf, config, "openveil-mode-check", err);
    if (rc == 0)
        rc = kafka_conf_set(conf, "enable.partition.eof", "true", err);
    if (rc != 0) {
        if (conf != NULL)
            rd_kafka_conf_destroy(conf);
        return rc;
    }
    rd_kafka_t *reader = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    if (reader == NULL) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_INVALID, "cannot start a Kafka consumer: %.256s", text);
    }
    rd_kafka_topic_t *topic = rd_kafka_topic_new(reader, config->kafka_topic_events, NULL);
    CHECK(topic != NULL);
    int mode = mode_read(topic, high - low > 8 ? high - 8 : low, high, timeout_ms);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(reader);
    if (mode == ERR_UNREACHABLE)
        return err_set(err, ERR_UNREACHABLE, "cannot read the topic %s now", config->kafka_topic_events);
    if (mode >= 0 && (mode == 1) != config->rehearsal)
        return err_set(err, ERR_REFUSED,
                       "the topic %s belongs to %s and this process runs in %s: name another topic, or start %s "
                       "--rehearsal", config->kafka_topic_events, mode == 1 ? "a rehearsal" : "production",
                       config->rehearsal ? "a rehearsal" : "production", config->rehearsal ? "without" : "with");
    return 0;
}
