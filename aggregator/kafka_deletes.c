#include "aggregator/kafka_deletes.h"

#include "common/clock.h"
#include "common/log.h"

#define DELETE_EVERY_MS 10000

struct kafka_deletes {
    rd_kafka_t *rk;
    rd_kafka_queue_t *answers;
    const char *topic;
    uint32_t partitions;
    bool under_way;
    int64_t sent_ms;
    int64_t *wanted; // by partition: all below may go; -1
    int64_t *asked;  // by partition: all below was asked for
};

int kafka_deletes_create(struct kafka_deletes **out, rd_kafka_t *rk, const struct config *config) {
    CHECK(rk != NULL);
    struct kafka_deletes *deletes = calloc(1, sizeof *deletes);
    if (deletes == NULL)
        return ERR_NOMEM;
    deletes->rk = rk;
    deletes->topic = config->kafka_topic_events;
    deletes->partitions = (uint32_t)config->kafka_partitions;
    deletes->sent_ms = -DELETE_EVERY_MS;
    deletes->wanted = malloc(deletes->partitions * sizeof *deletes->wanted);
    deletes->asked = malloc(deletes->partitions * sizeof *deletes->asked);
    deletes->answers = rd_kafka_queue_new(rk);
    if (deletes->wanted == NULL || deletes->asked == NULL || deletes->answers == NULL) {
        kafka_deletes_free(deletes);
        return ERR_NOMEM;
    }
    for (uint32_t p = 0; p < deletes->partitions; p++)
        deletes->wanted[p] = deletes->asked[p] = -1;
    *out = deletes;
    return 0;
}

void kafka_deletes_free(struct kafka_deletes *deletes) {
    if (deletes == NULL)
        return;
    if (deletes->answers != NULL)
        rd_kafka_queue_destroy(deletes->answers);
    free(deletes->wanted);
    free(deletes->asked);
    free(deletes);
}

void kafka_deletes_add(struct kafka_deletes *deletes, uint32_t partition, int64_t position) {
    CHECK(partition < deletes->partitions && position >= 0);
    deletes->wanted[partition] = position;
}

static rd_kafka_resp_err_t answer_error(rd_kafka_event_t *event) {
    rd_kafka_resp_err_t code = rd_kafka_event_error(event);
    const rd_kafka_DeleteRecords_result_t *result = rd_kafka_event_DeleteRecords_result(event);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR || result == NULL)
        return code;
    const rd_kafka_topic_partition_list_t *list = rd_kafka_DeleteRecords_result_offsets(result);
    for (int i = 0; i < list->cnt; i++)
        if (list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR)
            return list->elems[i].err;
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static void answer_take(struct kafka_deletes *deletes) {
    rd_kafka_event_t *event = rd_kafka_queue_poll(deletes->answers, 0);
    if (event == NULL)
        return;
    deletes->under_way = false;
    rd_kafka_resp_err_t code = answer_error(event);
    rd_kafka_event_destroy(event);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    log_warn("kafka: counted events could not be deleted from %s, which is tried again: %s", deletes->topic,
             rd_kafka_err2str(code));
    for (uint32_t p = 0; p < deletes->partitions; p++)
        deletes->asked[p] = -1;
}

void kafka_deletes_serve(struct kafka_deletes *deletes) {
    answer_take(deletes);
    int64_t now = clock_monotonic_ms();
    if (deletes->under_way || now - deletes->sent_ms < DELETE_EVERY_MS)
        return;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)deletes->partitions);
    for (uint32_t p = 0; p < deletes->partitions; p++) {
        if (deletes->wanted[p] <= deletes->asked[p])
            continue;
        rd_kafka_topic_partition_list_add(list, deletes->topic, (int32_t)p)->offset = deletes->wanted[p];
        deletes->asked[p] = deletes->wanted[p];
    }
    if (list->cnt > 0) {
        rd_kafka_DeleteRecords_t *request = rd_kafka_DeleteRecords_new(list);
        rd_kafka_DeleteRecords(deletes->rk, &request, 1, NULL, deletes->answers);
        rd_kafka_DeleteRecords_destroy(request);
        deletes->under_way = true;
        deletes->sent_ms = now;
    }
    rd_kafka_topic_partition_list_destroy(list);
}
