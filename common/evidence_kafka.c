// The log in a compacted topic. A change's key is its epoch and the first bytes of its hash, so that its erased version, and
// nothing else, takes its place once the topic is compacted; until then a reader lets the erased one win. It stands further
// back than where it belongs, so a whole read goes over the partition twice: first for what was erased.
#include "common/evidence_backend.h"

#include "common/bytes.h"
#include "common/kafka.h"

#include <stdatomic.h>
#include <string.h>

#define CALL_MS 5000
#define READ_WAIT_MS 100
#define READ_MESSAGES 1024
#define STALLED_MS 30000
#define FLUSH_MS 15000  // longer than message.timeout.ms
#define WINDOW 4096     // messages at the end in which the head is looked for first
#define KEY_MAX 16u
#define KEY_HASH 8u

struct kafka_log {
    struct evidence_log log;
    rd_kafka_t *consumer; // made when first needed
    rd_kafka_t *producer;
    _Atomic bool failed; // a message since the last sync could not be delivered
};

// ---- keys -----------------------------------------------------------------------------------------------------------
static size_t key_of(const struct evidence_line *line, uint8_t key[KEY_MAX]) {
    switch (line->kind) {
    case EVIDENCE_CHANGE:
    case EVIDENCE_ERASED:
        store_u64(key, line->entry.epoch);
        memcpy(key + 8, line->entry.hash, KEY_HASH);
        return 8 + KEY_HASH;
    case EVIDENCE_RECORD:
    case EVIDENCE_RECORD_GONE: // a later baseline's takes its place
        store_u32(key, line->entry.tenant);
        store_u64(key + 4, line->entry.pseudonym);
        return 12;
    case EVIDENCE_BASELINE:
    case EVIDENCE_BASELINE_END:
    case EVIDENCE_HEAD:
        key[0] = line->kind == EVIDENCE_BASELINE ? 'b' : line->kind == EVIDENCE_HEAD ? 'h' : 'e';
        store_u64(key + 1, line->entry.epoch);
        return 9;
    }
    CHECK(false);
    return 0;
}

// ---- walking over messages ------------------------------------------------------------------------------------------
// `line` NULL: a message that is none of ours. Non-zero stops.
typedef int (*walk_fn)(void *arg, const struct evidence_line *line);

static int consumer_need(struct kafka_log *kafka, struct err *err) {
    static const char *const settings[] = {
        "client.id", "openveil-consent-log", "enable.partition.eof", "true", "check.crcs", "true",
        "auto.offset.reset", "earliest", "queued.min.messages", "100000", "queued.max.messages.kbytes", "65536",
        "fetch.wait.max.ms", "20", NULL};
    return kafka->consumer != NULL
               ? 0
               : kafka_client_create(&kafka->consumer, RD_KAFKA_CONSUMER, kafka->log.config, settings, err);
}

static int ends_of(struct kafka_log *kafka, uint32_t partition, int64_t *low, int64_t *high, struct err *err) {
    const char *topic = kafka->log.config->consent_log_topic;
    int rc = consumer_need(kafka, err);
    if (rc != 0)
        return rc;
    rd_kafka_resp_err_t code =
        rd_kafka_query_watermark_offsets(kafka->consumer, topic, (int32_t)partition, low, high, CALL_MS);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR && *low >= 0 && *high >= *low)
        return 0;
    bool missing = code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
                   code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
    if (missing && !kafka->log.writes) {
        *low = *high = 0; // before the first aggregator made it
        return 0;
    }
    return err_set(err, ERR_UNREACHABLE, "cannot ask for the ends of %s: %s", topic, rd_kafka_err2str(code));
}

static int walk_message(const rd_kafka_message_t *message, int64_t *position, walk_fn fn, void *arg, struct err *err) {
    struct evidence_line line;
    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        if (message->offset > *position)
            *position = message->offset; // what stood last was compacted away
        return 0;
    }
    if (message->err == RD_KAFKA_RESP_ERR__BAD_MSG || message->err == RD_KAFKA_RESP_ERR__BAD_COMPRESSION)
        return err_set(err, ERR_CORRUPT, "the log of consent changes is damaged, partition %d at offset %lld",
                       message->partition, (long long)message->offset);
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        return 0; // a broker away: the library goes on by itself, or the walk stalls
    *position = message->offset + 1;
    if (message->payload == NULL)
        return 0; // erased
    const char *text = message->payload;
    size_t len = message->len;
    bool good = len > 0 && len <= EVIDENCE_LINE_MAX && evidence_decode(text, len - (text[len - 1] == '\n'), &line) == 0;
    int rc = fn(arg, good ? &line : NULL);
    explicit_bzero(&line, sizeof line);
    return rc;
}

static int walk_run(rd_kafka_queue_t *queue, int64_t position, int64_t end, walk_fn fn, void *arg, struct err *err) {
    rd_kafka_message_t **messages = calloc(READ_MESSAGES, sizeof *messages);
    int64_t moved_ms = clock_monotonic_ms();
    int rc = messages == NULL ? err_set(err, ERR_NOMEM, "no memory to read the log of consent changes") : 0;
    while (rc == 0 && position < end) {
        int64_t before = position;
        ssize_t n = rd_kafka_consume_batch_queue(queue, READ_WAIT_MS, messages, READ_MESSAGES);
        for (ssize_t i = 0; i < n; i++) {
            if (rc == 0)
                rc = walk_message(messages[i], &position, fn, arg, err);
            rd_kafka_message_destroy(messages[i]);
        }
        if (position != before)
            moved_ms = clock_monotonic_ms();
        if (rc == 0 && clock_monotonic_ms() - moved_ms > STALLED_MS)
            rc = err_set(err, ERR_UNREACHABLE, "the log of consent changes gives nothing new for %d s",
                         STALLED_MS / 1000);
    }
    free(messages);
    return rc;
}

static int walk(struct kafka_log *kafka, uint32_t partition, int64_t from, int64_t end, walk_fn fn, void *arg,
                struct err *err) {
    if (from >= end)
        return 0;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka->consumer, kafka->log.config->consent_log_topic, NULL);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(kafka->consumer);
    CHECK(topic != NULL && queue != NULL);
    // Asked for now: by itself the library looks for the partition's leader only once a second.
    const struct rd_kafka_metadata *metadata = NULL;
    if (rd_kafka_metadata(kafka->consumer, 0, topic, &metadata, CALL_MS) == RD_KAFKA_RESP_ERR_NO_ERROR)
        rd_kafka_metadata_destroy(metadata);
    int rc;
    if (rd_kafka_consume_start_queue(topic, (int32_t)partition, from, queue) != 0) {
        rc = err_set(err, ERR_UNREACHABLE, "cannot read the log of consent changes: %s",
                     rd_kafka_err2str(rd_kafka_last_error()));
    } else {
        rc = walk_run(queue, from, end, fn, arg, err);
        rd_kafka_consume_stop(topic, (int32_t)partition);
    }
    rd_kafka_queue_destroy(queue);
    rd_kafka_topic_destroy(topic);
    return rc;
}

// ---- reading --------------------------------------------------------------------------------------------------------
struct reading {
    struct evidence_chain *chain;
    evidence_each_fn each;
    void *arg;
    struct evidence_line *erased; // ascending epochs
    size_t n_erased, room;
};

static int collect_erased(void *arg, const struct evidence_line *line) {
    struct reading *reading = arg;
    if (line == NULL || line->kind != EVIDENCE_ERASED)
        return 0;
    if (reading->n_erased == reading->room) {
        size_t room = reading->room == 0 ? 64 : 2 * reading->room;
        struct evidence_line *more = realloc(reading->erased, room * sizeof *more);
        if (more == NULL)
            return ERR_NOMEM;
        reading->erased = more;
        reading->room = room;
    }
    reading->erased[reading->n_erased++] = *line;
    return 0;
}

static int erased_compare(const void *left, const void *right) {
    const struct evidence_line *a = left, *b = right;
    return a->entry.epoch < b->entry.epoch ? -1 : a->entry.epoch > b->entry.epoch;
}

// The first erased change of an epoch or later.
static size_t erased_from(const struct reading *reading, uint64_t epoch) {
    size_t low = 0, high = reading->n_erased;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (reading->erased[middle].entry.epoch < epoch)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int reading_give(const struct reading *reading, const struct evidence_line *line, bool *taken) {
    *taken = evidence_chain_take(reading->chain, line);
    return *taken && reading->each != NULL ? reading->each(reading->arg, line) : 0;
}

// Erased changes that come next in the chain.
static int reading_fill(const struct reading *reading) {
    for (bool moved = true; moved;) {
        uint64_t next = reading->chain->head.epoch + 1;
        moved = false;
        for (size_t i = erased_from(reading, next);
             !moved && i < reading->n_erased && reading->erased[i].entry.epoch == next; i++) {
            uint8_t hash[CONSENT_HASH_SIZE];
            consent_chain(reading->chain->head.hash, reading->erased[i].x, hash);
            if (memcmp(hash, reading->erased[i].entry.hash, sizeof hash) != 0)
                continue;
            int rc = reading_give(reading, &reading->erased[i], &moved);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

static int reading_line(void *arg, const struct evidence_line *line) {
    const struct reading *reading = arg;
    bool taken;
    if (line == NULL) {
        reading->chain->damaged++;
        return 0;
    }
    if (line->kind == EVIDENCE_ERASED)
        return 0; // comes where it belongs
    int rc = reading->chain->in_baseline ? 0 : reading_fill(reading);
    if (rc != 0)
        return rc;
    if (line->kind == EVIDENCE_CHANGE)
        for (size_t i = erased_from(reading, line->entry.epoch);
             i < reading->n_erased && reading->erased[i].entry.epoch == line->entry.epoch; i++)
            if (memcmp(reading->erased[i].entry.hash, line->entry.hash, CONSENT_HASH_SIZE) == 0)
                return 0; // not compacted yet
    return reading_give(reading, line, &taken);
}

static int kafka_read(struct evidence_log *log, uint32_t partition, evidence_each_fn each, void *arg,
                      struct evidence_chain *chain, struct err *err) {
    struct kafka_log *kafka = (struct kafka_log *)log;
    struct reading reading = {.chain = chain, .each = each, .arg = arg};
    int64_t low, high;
    chain->sparse = true;
    int rc = ends_of(kafka, partition, &low, &high, err);
    if (rc == 0)
        rc = walk(kafka, partition, low, high, collect_erased, &reading, err);
    if (reading.n_erased > 0)
        qsort(reading.erased, reading.n_erased, sizeof *reading.erased, erased_compare);
    if (rc == 0)
        rc = walk(kafka, partition, low, high, reading_line, &reading, err);
    if (rc == 0)
        rc = reading_fill(&reading);
    free(reading.erased);
    return rc;
}

static int head_line(void *arg, const struct evidence_line *line) {
    struct evidence_chain *chain = arg;
    // An erased one says nothing about the end; that which the owner wrote at its place leads on from the one before.
    if (line != NULL && !(chain->unanchored && line->kind == EVIDENCE_ERASED))
        (void)evidence_chain_take(chain, line);
    return 0;
}

static int kafka_head(struct evidence_log *log, uint32_t partition, struct evidence_chain *chain, struct err *err) {
    struct kafka_log *kafka = (struct kafka_log *)log;
    int64_t low, high;
    int rc = ends_of(kafka, partition, &low, &high, err);
    for (int64_t window = WINDOW; rc == 0; window *= 8) {
        if (window >= high - low)
            return kafka_read(log, partition, NULL, NULL, memset(chain, 0, sizeof *chain), err);
        memset(chain, 0, sizeof *chain);
        chain->sparse = chain->unanchored = true;
        rc = walk(kafka, partition, high - window, high, head_line, chain, err);
        if (rc == 0 && !chain->unanchored)
            return 0;
    }
    return rc;
}

// ---- writing --------------------------------------------------------------------------------------------------------
static void on_delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    struct kafka_log *kafka = opaque;
    (void)rk;
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        atomic_store(&kafka->failed, true);
}

static int producer_need(struct kafka_log *kafka, struct err *err) {
    static const char *const settings[] = {
        "client.id", "openveil-consent-log", "enable.idempotence", "true", "acks", "all",
        "message.timeout.ms", "10000", "linger.ms", "1", "queue.buffering.max.messages", "200000", NULL};
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    if (kafka->producer != NULL)
        return 0;
    int rc = kafka_conf(&conf, kafka->log.config, "openveil-consent-log", err);
    for (const char *const *at = settings; rc == 0 && at[0] != NULL; at += 2)
        rc = kafka_conf_set(conf, at[0], at[1], err);
    if (rc == 0) {
        rd_kafka_conf_set_opaque(conf, kafka);
        rd_kafka_conf_set_dr_msg_cb(conf, on_delivered);
        kafka->producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
        if (kafka->producer != NULL)
            return 0;
        rc = err_set(err, ERR_INVALID, "cannot start a Kafka client: %.256s", text);
    }
    if (conf != NULL)
        rd_kafka_conf_destroy(conf);
    return rc;
}

// What is still under way may or may not arrive: the reader's rule takes either.
static void producer_drop(struct kafka_log *kafka) {
    if (kafka->producer == NULL)
        return;
    rd_kafka_purge(kafka->producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(kafka->producer, 1000);
    rd_kafka_destroy(kafka->producer);
    kafka->producer = NULL;
}

// `value` NULL: erases the key.
static int produce(struct kafka_log *kafka, uint32_t partition, const uint8_t *key, size_t key_len, char *value,
                   size_t len, struct err *err) {
    int64_t deadline = clock_monotonic_ms() + FLUSH_MS;
    for (;;) {
        rd_kafka_resp_err_t code = rd_kafka_producev(
            kafka->producer, RD_KAFKA_V_TOPIC(kafka->log.config->consent_log_topic),
            RD_KAFKA_V_PARTITION((int32_t)partition), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
            RD_KAFKA_V_KEY(key, key_len), RD_KAFKA_V_VALUE(value, len), RD_KAFKA_V_END);
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
            return 0;
        if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL || clock_monotonic_ms() > deadline)
            return err_set(err, ERR_UNREACHABLE, "cannot write to the log of consent changes: %s",
                           rd_kafka_err2str(code));
        rd_kafka_poll(kafka->producer, 20);
    }
}

static int kafka_sync(struct evidence_log *log, struct err *err) {
    struct kafka_log *kafka = (struct kafka_log *)log;
    if (kafka->producer == NULL)
        return 0;
    rd_kafka_resp_err_t code = rd_kafka_flush(kafka->producer, FLUSH_MS);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR && !atomic_exchange(&kafka->failed, false))
        return 0;
    producer_drop(kafka);
    atomic_store(&kafka->failed, false);
    return err_set(err, ERR_UNREACHABLE, "the log of consent changes cannot be written: Kafka did not take it");
}

static int kafka_write(struct evidence_log *log, uint32_t partition, const struct evidence_line *lines, size_t n,
                       struct err *err) {
    struct kafka_log *kafka = (struct kafka_log *)log;
    char text[EVIDENCE_LINE_MAX];
    uint8_t key[KEY_MAX];
    int rc = producer_need(kafka, err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        size_t len = evidence_encode(&lines[i], text);
        rc = produce(kafka, partition, key, key_of(&lines[i], key), text, len - 1, err);
    }
    explicit_bzero(text, sizeof text);
    if (rc != 0)
        producer_drop(kafka);
    return rc;
}

// ---- erasing --------------------------------------------------------------------------------------------------------
struct erasing {
    struct kafka_log *kafka;
    uint32_t partition, tenant;
    const uint64_t *pseudonym;
    uint64_t *n;
    struct reading known; // what was erased before
    struct err *err;
};

static int erasing_line(void *arg, const struct evidence_line *line) {
    struct erasing *erasing = arg;
    struct evidence_line erased;
    char text[EVIDENCE_LINE_MAX];
    uint8_t key[KEY_MAX];
    if (line == NULL || !evidence_concerns(line, erasing->tenant, erasing->pseudonym))
        return 0;
    for (size_t i = erased_from(&erasing->known, line->entry.epoch);
         line->kind == EVIDENCE_CHANGE && i < erasing->known.n_erased &&
         erasing->known.erased[i].entry.epoch == line->entry.epoch; i++)
        if (memcmp(erasing->known.erased[i].entry.hash, line->entry.hash, CONSENT_HASH_SIZE) == 0)
            return 0;
    erased = *line;
    size_t key_len = key_of(line, key);
    evidence_erase(&erased);
    size_t len = evidence_encode(&erased, text);
    bool change = erased.kind == EVIDENCE_ERASED;
    ++*erasing->n;
    return produce(erasing->kafka, erasing->partition, key, key_len, change ? text : NULL, change ? len - 1 : 0,
                   erasing->err);
}

static int kafka_erase(struct evidence_log *log, uint32_t partition, uint32_t tenant, const uint64_t *pseudonym,
                       uint64_t *n, struct err *err) {
    struct kafka_log *kafka = (struct kafka_log *)log;
    struct erasing erasing = {.kafka = kafka, .partition = partition, .tenant = tenant, .pseudonym = pseudonym, .n = n,
                              .err = err};
    int64_t low, high;
    int rc = producer_need(kafka, err);
    if (rc == 0)
        rc = ends_of(kafka, partition, &low, &high, err);
    if (rc == 0)
        rc = walk(kafka, partition, low, high, collect_erased, &erasing.known, err);
    if (erasing.known.n_erased > 0)
        qsort(erasing.known.erased, erasing.known.n_erased, sizeof *erasing.known.erased, erased_compare);
    if (rc == 0)
        rc = walk(kafka, partition, low, high, erasing_line, &erasing, err);
    if (rc == 0)
        rc = kafka_sync(log, err);
    free(erasing.known.erased);
    return rc;
}

// ---- opening --------------------------------------------------------------------------------------------------------
static void kafka_close(struct evidence_log *log) {
    struct kafka_log *kafka = (struct kafka_log *)log;
    producer_drop(kafka);
    if (kafka->consumer != NULL)
        rd_kafka_destroy(kafka->consumer);
    free(kafka);
}

static const struct evidence_log_ops kafka_ops = {.read = kafka_read,
                                                  .head = kafka_head,
                                                  .write = kafka_write,
                                                  .sync = kafka_sync,
                                                  .erase = kafka_erase,
                                                  .close = kafka_close};

int evidence_kafka_open(struct evidence_log **out, const struct config *config, bool writes, struct err *err) {
    struct kafka_log *kafka = calloc(1, sizeof *kafka);
    if (kafka == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the log of consent changes");
    kafka->log = (struct evidence_log){.ops = &kafka_ops, .config = config, .writes = writes};
    *out = &kafka->log;
    return 0;
}
