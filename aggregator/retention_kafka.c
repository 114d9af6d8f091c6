// The events topic: the oldest record of each partition, and whether it was counted and should have been deleted.
#include "aggregator/kafka_session.h"
#include "aggregator/retention.h"

#define CALL_MS 5000
#define READ_MS 10000
#define DAY_MS (24LL * 3600 * 1000)
// The aggregator deletes what it has counted every few seconds; records carry no time but their day.
#define COUNTED_DAYS 1

static int committed_position(rd_kafka_t *rk, const char *topic, uint32_t partition, int64_t *position, struct err *err) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    CHECK(list != NULL);
    rd_kafka_topic_partition_t *one = rd_kafka_topic_partition_list_add(list, topic, (int32_t)partition);
    rd_kafka_resp_err_t code = rd_kafka_committed(rk, list, CALL_MS);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        code = one->err;
    *position = one->offset;
    rd_kafka_topic_partition_list_destroy(list);
    return code == RD_KAFKA_RESP_ERR_NO_ERROR
               ? 0
               : err_set(err, ERR_UNREACHABLE, "the committed position of partition %u is not to be had: %s", partition,
                         rd_kafka_err2str(code));
}

// The timestamp of the first record from `low` on; -1 where there is none.
static int oldest_ms(rd_kafka_topic_t *topic, uint32_t partition, int64_t low, int64_t *ms, struct err *err) {
    const int64_t deadline = clock_monotonic_ms() + READ_MS;
    bool done = false;
    *ms = -1;
    if (rd_kafka_consume_start(topic, (int32_t)partition, low) != 0)
        return err_set(err, ERR_UNREACHABLE, "cannot read partition %u: %s", partition,
                       rd_kafka_err2str(rd_kafka_last_error()));
    while (!done && clock_monotonic_ms() < deadline) {
        rd_kafka_message_t *message = rd_kafka_consume(topic, (int32_t)partition, 200);
        if (message == NULL)
            continue;
        done = message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF || message->err == RD_KAFKA_RESP_ERR_NO_ERROR;
        if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
            *ms = rd_kafka_message_timestamp(message, NULL);
        rd_kafka_message_destroy(message);
    }
    rd_kafka_consume_stop(topic, (int32_t)partition);
    return done ? 0 : err_set(err, ERR_UNREACHABLE, "partition %u gives no record within %d s", partition, READ_MS / 1000);
}

static int read_partition(struct retention *retention, rd_kafka_t *rk, rd_kafka_topic_t *topic, uint32_t partition,
                          struct err *err) {
    const char *name = rd_kafka_topic_name(topic);
    int64_t low, high, committed, ms;
    const struct clock machine = clock_real();
    int rc = kafka_watermarks(rk, name, partition, CALL_MS, &low, &high, err);
    if (rc != 0 || low == high)
        return rc;
    if ((rc = committed_position(rk, name, partition, &committed, err)) != 0 ||
        (rc = oldest_ms(topic, partition, low, &ms, err)) != 0 || ms < 0)
        return rc;
    int64_t age_ms = clock_now_ms(&machine) - ms;
    retention_add(retention, RETENTION_EVENTS, (uint64_t)(high - low), age_ms < 0 ? 0 : (uint32_t)(age_ms / DAY_MS),
                  low < committed ? COUNTED_DAYS : RETENTION_ERASED_DAYS);
    return 0;
}

int retention_read_events(struct retention *retention, const struct config *config, struct err *err) {
    const char *const settings[] = {"group.id", config->kafka_group, "enable.auto.commit", "false",
                                    "enable.partition.eof", "true", "isolation.level", "read_committed", NULL};
    rd_kafka_t *rk = NULL;
    if (config->kafka_brokers[0] == '\0')
        return 0;
    int rc = kafka_client_create(&rk, RD_KAFKA_CONSUMER, config, settings, err);
    if (rc != 0)
        return rc;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, config->kafka_topic_events, NULL);
    CHECK(topic != NULL);
    for (uint32_t partition = 0; rc == 0 && partition < config->kafka_partitions; partition++)
        rc = read_partition(retention, rk, topic, partition, err);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    return rc;
}
