// The peer of the packer and forwarder: librdkafka producing one message for each event, 16 bytes, to all partitions in
// turn, with the promises that the forwarder needs too (idempotent, acks=all, a delivery report for each, because what is
// not acknowledged must stay in a spool). Prints messages and the CPU seconds of the whole process from the first message
// to the last acknowledgement.  usage: producer HOST:PORT TOPIC PARTITIONS MESSAGES
#include "common/check.h"

#include <librdkafka/rdkafka.h>
#include <string.h>
#include <time.h>

enum { PAYLOAD_BYTES = 16, WARM_UP = 10000, POLL_EVERY = 1000 };

static uint64_t delivered, failed;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    (void)rk;
    (void)opaque;
    delivered += message->err == RD_KAFKA_RESP_ERR_NO_ERROR;
    failed += message->err != RD_KAFKA_RESP_ERR_NO_ERROR;
}

static double cpu_seconds(void) {
    struct timespec used;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static rd_kafka_t *producer_open(const char *brokers) {
    // Large batches and a deep queue: the cheapest way to do it.
    static const char *const settings[][2] = {{"enable.idempotence", "true"}, {"acks", "all"}, {"linger.ms", "100"},
                                              {"queue.buffering.max.messages", "1000000"}, {"compression.codec", "none"}};
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    CHECK(rd_kafka_conf_set(conf, "bootstrap.servers", brokers, text, sizeof text) == RD_KAFKA_CONF_OK);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++)
        CHECK(rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof text) == RD_KAFKA_CONF_OK);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    CHECK(rk != NULL);
    return rk;
}

static void topic_create(rd_kafka_t *rk, const char *name, int partitions) {
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(name, partitions, 1, NULL, 0);
    CHECK(queue != NULL && topic != NULL);
    rd_kafka_CreateTopics(rk, &topic, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 30000); // an error is that it exists
    CHECK(event != NULL);
    rd_kafka_event_destroy(event);
    rd_kafka_NewTopic_destroy(topic);
    rd_kafka_queue_destroy(queue);
}

static void produce(rd_kafka_t *rk, rd_kafka_topic_t *topic, int partitions, unsigned long n) {
    char payload[PAYLOAD_BYTES] = "event";
    delivered = 0;
    for (unsigned long i = 0; i < n; i++) {
        memcpy(payload + 8, &i, sizeof i);
        while (rd_kafka_produce(topic, (int32_t)(i % (unsigned)partitions), RD_KAFKA_MSG_F_COPY, payload, sizeof payload,
                                NULL, 0, NULL) != 0) {
            CHECK(rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL);
            rd_kafka_poll(rk, 10);
        }
        if (i % POLL_EVERY == 0)
            rd_kafka_poll(rk, 0);
    }
    CHECK(rd_kafka_flush(rk, 120000) == RD_KAFKA_RESP_ERR_NO_ERROR && failed == 0 && delivered == n);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: producer HOST:PORT TOPIC PARTITIONS MESSAGES\n");
        return 64;
    }
    int partitions = atoi(argv[3]);
    unsigned long n = strtoul(argv[4], NULL, 10);
    CHECK(partitions > 0 && n > 0);
    rd_kafka_t *rk = producer_open(argv[1]);
    topic_create(rk, argv[2], partitions);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, argv[2], NULL);
    CHECK(topic != NULL);
    produce(rk, topic, partitions, WARM_UP);
    double before = cpu_seconds();
    produce(rk, topic, partitions, n);
    printf("messages=%lu cpu_s=%.6f\n", n, cpu_seconds() - before);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    return 0;
}
