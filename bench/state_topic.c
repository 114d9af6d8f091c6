// The aggregator's state in a real broker; prints `name=value` lines.
//   bench-state-topic fill CONFIG CONTACTS      creates the topics and writes so many last opens to the state topic, in
//                                               transactions, as an aggregator's commits leave them
//   bench-state-topic takeover CONFIG PID       sends an edge's empty blocks to all partitions all the time, kills PID and
//                                               measures until what was sent later is committed: in the first partition
//                                               where it is, and in all
#include "aggregator/record.h"
#include "common/clock.h"
#include "common/kafka.h"
#include "common/message.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RECORDS_A_TRANSACTION 1000000u
#define CALL_MS 60000
#define BEFORE_KILL_MS 3000
#define GIVE_UP_MS 120000
#define SEND_EVERY_US 50000

static const struct config *config;

static void failed(const char *what, const char *why) {
    fprintf(stderr, "bench-state-topic: %s: %s\n", what, why);
    exit(1);
}

static rd_kafka_t *client(rd_kafka_type_t type, const char *const *settings) {
    struct err err = {""};
    char text[256];
    rd_kafka_conf_t *conf;
    int rc = kafka_conf(&conf, config, "openveil-bench", &err);
    for (; rc == 0 && settings[0] != NULL; settings += 2)
        rc = kafka_conf_set(conf, settings[0], settings[1], &err);
    if (rc != 0)
        failed("settings", err.text);
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);
    if (rk == NULL)
        failed("a client", text);
    return rk;
}

static void check_error(rd_kafka_error_t *error, const char *what) {
    if (error != NULL)
        failed(what, rd_kafka_error_string(error));
}

static void put(rd_kafka_t *rk, rd_kafka_topic_t *topic, uint32_t p, const void *key, size_t key_len, void *value,
                 size_t len) {
    while (rd_kafka_produce(topic, (int32_t)p, RD_KAFKA_MSG_F_COPY, value, len, key, key_len, NULL) != 0) {
        if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            failed("produce", rd_kafka_err2str(rd_kafka_last_error()));
        rd_kafka_poll(rk, 10);
    }
}

// Splitmix64: a pseudonym as good as random for every number.
static uint64_t random_of(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static void topics_ensure(rd_kafka_t *rk) {
    static const enum kafka_topic topics[] = {KAFKA_EVENTS, KAFKA_STATE, KAFKA_RELEASES};
    struct err err = {""};
    for (size_t i = 0; i < ARRAY_LEN(topics); i++)
        if (kafka_topic_ensure(rk, config, topics[i], CALL_MS, &err) != 0)
            failed("topics", err.text);
}

// Partitions in runs, so that batches are large; one tenant a partition, because a load does not ask whose they are.
static int run_fill(uint64_t contacts) {
    static const char *const settings[] = {"transactional.id", "bench-fill", "transaction.timeout.ms", "600000",
                                           "queue.buffering.max.messages", "2000000", "queue.buffering.max.kbytes",
                                           "1048576", "linger.ms", "50", "batch.size", "1000000",
                                           "batch.num.messages", "100000", NULL};
    const uint32_t run = 20000, partitions = (uint32_t)config->kafka_partitions, today = clock_today(&config->clock);
    uint8_t key[RECORD_KEY_MAX], value[64];
    rd_kafka_t *rk = client(RD_KAFKA_PRODUCER, settings);
    topics_ensure(rk);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, config->kafka_topic_state, NULL);
    int64_t begin_ms = clock_monotonic_ms();
    CHECK(topic != NULL);
    check_error(rd_kafka_init_transactions(rk, CALL_MS), "transactions");
    for (uint64_t i = 0; i < contacts; i++) {
        if (i % RECORDS_A_TRANSACTION == 0)
            check_error(rd_kafka_begin_transaction(rk), "begin");
        uint32_t p = (uint32_t)(i / run % partitions);
        size_t key_len = key_last_open(key, p + 1, random_of(i));
        size_t len = last_open_encode((struct last_open){.day = (uint16_t)(today - i % 300), .frozen_age = 0}, value);
        put(rk, topic, p, key, key_len, value, len);
        if ((i + 1) % RECORDS_A_TRANSACTION == 0 || i + 1 == contacts)
            check_error(rd_kafka_commit_transaction(rk, CALL_MS), "commit");
    }
    printf("fill_s=%.1f\n", (double)(clock_monotonic_ms() - begin_ms) / 1e3);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    return 0;
}

// ---- take-over ------------------------------------------------------------------------------------------------------

struct takeover {
    rd_kafka_t *producer, *group, *watermarks;
    rd_kafka_topic_t *events;
    struct message_codec *codec;
    struct message_head head;
};

static void send_to_all(struct takeover *run, enum message_kind kind) {
    static uint8_t out[MESSAGE_BYTES_MAX];
    static const uint8_t rules[RULES_HASH_SIZE];
    run->head.kind = kind;
    for (run->head.partition = 0; run->head.partition < config->kafka_partitions; run->head.partition++) {
        int64_t len = kind == MESSAGE_REGISTER ? message_encode_register(&run->head, out)
                                               : message_encode_block(run->codec, &run->head, rules, NULL, 0, out);
        CHECK(len > 0);
        put(run->producer, run->events, run->head.partition, NULL, 0, out, (size_t)len);
    }
    run->head.segment++;
    rd_kafka_poll(run->producer, 0);
}

// How many partitions have a committed position above `marks`; read as it is, without waiting for open transactions.
static uint32_t partitions_above(struct takeover *run, const int64_t *marks) {
    uint32_t n = 0;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)config->kafka_partitions);
    for (uint32_t p = 0; p < config->kafka_partitions; p++)
        rd_kafka_topic_partition_list_add(list, config->kafka_topic_events, (int32_t)p);
    if (rd_kafka_committed(run->group, list, 1000) == RD_KAFKA_RESP_ERR_NO_ERROR)
        for (int i = 0; i < list->cnt; i++)
            n += list->elems[i].err == RD_KAFKA_RESP_ERR_NO_ERROR && list->elems[i].offset > marks[list->elems[i].partition];
    rd_kafka_topic_partition_list_destroy(list);
    return n;
}

static void ends(struct takeover *run, int64_t *marks) {
    int64_t low;
    if (rd_kafka_flush(run->producer, CALL_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        failed("flush", "the broker does not answer");
    for (uint32_t p = 0; p < config->kafka_partitions; p++)
        if (rd_kafka_query_watermark_offsets(run->watermarks, config->kafka_topic_events, (int32_t)p, &low, &marks[p],
                                             CALL_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
            failed("watermarks", "the broker does not answer");
}

// Seconds until so many partitions are above the marks, sending all the while.
static double wait_above(struct takeover *run, const int64_t *marks, uint32_t wanted, int64_t begin_ms) {
    while (partitions_above(run, marks) < wanted) {
        if (clock_monotonic_ms() - begin_ms > GIVE_UP_MS)
            failed("takeover", "nothing is committed");
        send_to_all(run, MESSAGE_BLOCK);
        usleep(SEND_EVERY_US);
    }
    return (double)(clock_monotonic_ms() - begin_ms) / 1e3;
}

static int run_takeover(pid_t pid) {
    static const char *const producer[] = {"enable.idempotence", "true", "linger.ms", "1", NULL};
    static const char *const reader[] = {"isolation.level", "read_uncommitted", NULL};
    const char *const group[] = {"group.id", config->kafka_group, "isolation.level", "read_uncommitted",
                                 "enable.auto.commit", "false", NULL};
    static int64_t marks[PARTITIONS_MAX];
    const uint32_t partitions = (uint32_t)config->kafka_partitions;
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    struct takeover run = {.producer = client(RD_KAFKA_PRODUCER, producer),
                           .group = client(RD_KAFKA_CONSUMER, group),
                           .watermarks = client(RD_KAFKA_CONSUMER, reader)};
    run.events = rd_kafka_topic_new(run.producer, config->kafka_topic_events, NULL);
    CHECK(run.events != NULL && message_codec_create(&run.codec) == 0);
    run.head = (struct message_head){.epoch_first = 1, .segment = 1, .partitions = (uint16_t)partitions};
    run.head.day = clock_today(&config->clock);
    run.head.epoch = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    snprintf(run.head.edge, sizeof run.head.edge, "bench-%ld", (long)getpid());
    send_to_all(&run, MESSAGE_REGISTER);
    ends(&run, marks);
    wait_above(&run, marks, partitions, clock_monotonic_ms()); // both are at work
    for (int64_t end_ms = clock_monotonic_ms() + BEFORE_KILL_MS; clock_monotonic_ms() < end_ms; usleep(SEND_EVERY_US))
        send_to_all(&run, MESSAGE_BLOCK);
    if (kill(pid, SIGKILL) != 0)
        failed("kill", "there is no such process");
    int64_t killed_ms = clock_monotonic_ms();
    ends(&run, marks);
    printf("survivor_s=%.2f\n", wait_above(&run, marks, 1, killed_ms));
    printf("all_s=%.2f\n", wait_above(&run, marks, partitions, killed_ms));
    rd_kafka_topic_destroy(run.events);
    rd_kafka_destroy(run.producer);
    rd_kafka_destroy(run.group);
    rd_kafka_destroy(run.watermarks);
    message_codec_free(run.codec);
    return 0;
}

int main(int argc, char **argv) {
    static struct config loaded;
    struct err err = {""};
    if (argc != 4) {
        fputs("usage: bench-state-topic fill CONFIG CONTACTS, bench-state-topic takeover CONFIG PID\n", stderr);
        return 64;
    }
    if (config_load(&loaded, argv[2], false, &err) != 0)
        failed("configuration", err.text);
    config = &loaded;
    uint64_t number = strtoull(argv[3], NULL, 10);
    CHECK(number > 0);
    int rc = strcmp(argv[1], "fill") == 0 ? run_fill(number) : run_takeover((pid_t)number);
    config_free(&loaded);
    return rc;
}
