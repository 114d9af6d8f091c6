#include "aggregator/kafka_session.h"

#include "common/log.h"

#include <string.h>

#define READ_MESSAGES 4096
#define READ_WAIT_MS 200
#define STALLED_MS 30000      // a load without progress for so long is given up, to be tried again
#define OFFSETS_WAIT_MS 60000 // longer than a coordinator needs to end somebody's transaction
#define PROGRESS_EVERY 100000
#define UNCLEAR_MS 30000 // then the producer is dropped, and a load finds out what became of the transaction

struct journal_kafka {
    struct journal journal;
    struct kafka_session *session; // NULL: read-only
    const struct config *config;
    rd_kafka_t *watermarks; // read-only: its own; otherwise the session's
};

// ---- Load ----

struct reading {
    rd_kafka_t *rk;
    rd_kafka_topic_t *topic;
    rd_kafka_queue_t *queue;
    uint32_t partition;
    int64_t position;
    int64_t end;
    uint64_t done;
    uint64_t total;
    journal_record_fn each;
    journal_progress_fn progress;
    void *arg;
};

static bool stopping(const struct journal_kafka *journal) {
    return journal->session != NULL && atomic_load(&journal->session->stopping);
}

static int reading_open(struct reading *reading, const struct config *config, struct err *err) {
    static const char *const settings[] = {
        "isolation.level", "read_committed", "enable.partition.eof", "true", "check.crcs", "true",
        "auto.offset.reset", "earliest", "queued.min.messages", "1000000", "queued.max.messages.kbytes", "131072",
        "fetch.message.max.bytes", "4194304", "fetch.wait.max.ms", "20", NULL}; // the end is told by an empty answer
    int rc = kafka_client_create(&reading->rk, RD_KAFKA_CONSUMER, config, settings, err);
    if (rc != 0)
        return rc;
    reading->queue = rd_kafka_queue_new(reading->rk);
    reading->topic = rd_kafka_topic_new(reading->rk, config->kafka_topic_state, NULL);
    CHECK(reading->queue != NULL && reading->topic != NULL);
    // Asked for now: by itself the library looks for the partition's leader only once a second.
    const struct rd_kafka_metadata *metadata = NULL;
    if (rd_kafka_metadata(reading->rk, 0, reading->topic, &metadata, KAFKA_CALL_MS) == RD_KAFKA_RESP_ERR_NO_ERROR)
        rd_kafka_metadata_destroy(metadata);
    if (rd_kafka_consume_start_queue(reading->topic, (int32_t)reading->partition, RD_KAFKA_OFFSET_BEGINNING,
                                     reading->queue) != 0)
        return err_set(err, ERR_UNREACHABLE, "cannot read the topic %s: %s", config->kafka_topic_state,
                       rd_kafka_err2str(rd_kafka_last_error()));
    return 0;
}

static void reading_close(struct reading *reading) {
    if (reading->topic != NULL) {
        rd_kafka_consume_stop(reading->topic, (int32_t)reading->partition);
        rd_kafka_topic_destroy(reading->topic);
    }
    if (reading->queue != NULL)
        rd_kafka_queue_destroy(reading->queue);
    if (reading->rk != NULL)
        rd_kafka_destroy(reading->rk);
}

static int reading_error(const rd_kafka_message_t *message, struct err *err) {
    switch (message->err) {
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
        return err_set(err, ERR_CORRUPT, "the state topic is damaged, partition %d at offset %lld: %.200s",
                       message->partition, (long long)message->offset, rd_kafka_message_errstr(message));
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
        return err_set(err, ERR_REFUSED, "we may not read the state topic: grant Read on it");
    default:
        log_debug("kafka: reading the state: %s", rd_kafka_err2str(message->err));
        return 0; // a broker away: the library goes on by itself
    }
}

// One message or end mark; moves the position.
static int reading_take(struct reading *reading, const rd_kafka_message_t *message, struct err *err) {
    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        // Transaction markers occupy offsets and are no messages: the mark's offset is behind them.
        if (message->offset > reading->position)
            reading->position = message->offset;
        return 0;
    }
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        return reading_error(message, err);
    reading->position = message->offset + 1;
    if (message->key == NULL || message->key_len == 0)
        return 0; // not ours
    int rc = reading->each(reading->arg, message->key, message->key_len, message->payload,
                           message->payload == NULL ? 0 : message->len);
    if (rc == 0 && ++reading->done % PROGRESS_EVERY == 0 && reading->progress != NULL)
        rc = reading->progress(reading->arg, reading->done, reading->total);
    return rc;
}

// Reads until the position reaches the end; an end mark alone does not do, it can stand before an open transaction.
static int reading_run(struct reading *reading, const struct journal_kafka *journal, struct err *err) {
    rd_kafka_message_t **messages = calloc(READ_MESSAGES, sizeof *messages);
    int64_t moved_ms = clock_monotonic_ms();
    int rc = messages == NULL ? err_set(err, ERR_NOMEM, "no memory to read the state") : 0;
    while (rc == 0 && reading->position < reading->end) {
        int64_t before = reading->position;
        ssize_t n = rd_kafka_consume_batch_queue(reading->queue, READ_WAIT_MS, messages, READ_MESSAGES);
        for (ssize_t i = 0; i < n; i++) {
            if (rc == 0)
                rc = reading_take(reading, messages[i], err);
            rd_kafka_message_destroy(messages[i]);
        }
        if (reading->position != before)
            moved_ms = clock_monotonic_ms();
        if (rc == 0 && stopping(journal))
            rc = err_set(err, ERR_UNREACHABLE, "stopping");
        if (rc == 0 && clock_monotonic_ms() - moved_ms > STALLED_MS)
            rc = err_set(err, ERR_UNREACHABLE, "the state topic gives nothing new for %d s", STALLED_MS / 1000);
    }
    free(messages);
    return rc > 0 ? err_set(err, ERR_AGAIN, "the load was stopped") : rc;
}

// The committed position. With isolation.level=read_committed it is answered only when the transaction of whoever had the
// partition before is resolved; that closes the one gap in the broker's fencing. So it comes before anything is read. A
// time-out says offset -1001 and no error of its own: only a call that returns without error has answered.
static int offset_wait(struct kafka_session *session, uint32_t partition, uint64_t generation, int64_t *position,
                       struct err *err) {
    int64_t deadline = clock_monotonic_ms() + OFFSETS_WAIT_MS;
    rd_kafka_resp_err_t code;
    do {
        rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_t *one =
            rd_kafka_topic_partition_list_add(list, session->config->kafka_topic_events, (int32_t)partition);
        code = rd_kafka_committed(session->consumer, list, KAFKA_CALL_MS);
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
            code = one->err;
        *position = one->offset;
        rd_kafka_topic_partition_list_destroy(list);
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
            CHECK(*position >= 0 || *position == RD_KAFKA_OFFSET_INVALID);
            if (*position < 0)
                *position = -1;
            return 0;
        }
    } while (!atomic_load(&session->stopping) && kafka_session_owns(session, partition) == generation &&
             clock_monotonic_ms() < deadline);
    return err_set(err, ERR_UNREACHABLE, "the group's offset of partition %u is not to be had: %s", partition,
                   rd_kafka_err2str(code));
}

static int take_over(struct journal_kafka *journal, uint32_t partition, uint64_t generation, int64_t *position,
                     struct err *err) {
    struct kafka_session *session = journal->session;
    // A new producer resolves what this process itself left open.
    pthread_mutex_lock(&session->producer_lock);
    int rc = kafka_session_producer(session, err);
    pthread_mutex_unlock(&session->producer_lock);
    return rc == 0 ? offset_wait(session, partition, generation, position, err) : rc;
}

static int load(struct journal *base, uint32_t partition, journal_record_fn each, journal_progress_fn progress,
                void *arg, int64_t *position, struct err *err) {
    struct journal_kafka *journal = (struct journal_kafka *)base;
    struct reading reading = {.partition = partition, .each = each, .progress = progress, .arg = arg};
    int64_t committed = -1, low;
    uint64_t generation = 0;
    int rc;
    CHECK(each != NULL && partition < journal->config->kafka_partitions);
    if (journal->session != NULL) {
        if ((generation = kafka_session_owns(journal->session, partition)) == 0)
            return err_set(err, ERR_UNREACHABLE, "partition %u is not ours now", partition);
        if ((rc = take_over(journal, partition, generation, &committed, err)) != 0)
            return rc;
    }
    rc = kafka_watermarks(journal->watermarks, journal->config->kafka_topic_state, partition, KAFKA_CALL_MS, &low,
                          &reading.end, err);
    if (rc != 0)
        return rc;
    reading.position = low;
    reading.total = (uint64_t)(reading.end - low);
    if (reading.end > low) {
        rc = reading_open(&reading, journal->config, err);
        if (rc == 0)
            rc = reading_run(&reading, journal, err);
        reading_close(&reading);
    }
    if (rc != 0)
        return rc;
    if (journal->session != NULL) {
        if (kafka_session_owns(journal->session, partition) != generation)
            return err_set(err, ERR_UNREACHABLE, "partition %u went to another process during its load", partition);
        kafka_session_set_committed(journal->session, partition, committed);
    }
    *position = committed;
    return 0;
}

// ---- Commit ----

enum outcome { DONE, RETRY, ABORT, BROKEN };

// What an error of the transactional interface asks for; frees it.
static enum outcome outcome_of(rd_kafka_error_t *error, rd_kafka_resp_err_t *code, struct err *err) {
    if (error == NULL)
        return DONE;
    enum outcome outcome = BROKEN;
    *code = rd_kafka_error_code(error);
    if (!rd_kafka_error_is_fatal(error) && rd_kafka_error_txn_requires_abort(error))
        outcome = ABORT;
    else if (!rd_kafka_error_is_fatal(error) && rd_kafka_error_is_retriable(error))
        outcome = RETRY;
    err_set(err, ERR_AGAIN, "the transaction failed: %.256s", rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    return outcome;
}

static int code_to_err(rd_kafka_resp_err_t code) {
    switch (code) {
    case RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID:
    case RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID:
    case RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS:
    case RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST:
        return ERR_REFUSED;
    case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
        return ERR_IO;
    default:
        return ERR_AGAIN;
    }
}

// Every partition that the batch touches is ours, and its offset goes into the transaction also where it did not move:
// the broker fences by the group's generation and looks at nothing else.
static int offsets_of(struct kafka_session *session, const struct batch *batch, rd_kafka_topic_partition_list_t *list,
                      struct err *err) {
    for (uint32_t p = 0; p < session->partitions; p++) {
        int64_t low, high;
        if (!batch_touches(batch, p))
            continue;
        if (kafka_session_owns(session, p) == 0)
            return err_set(err, ERR_REFUSED, "partition %u is not ours any more", p);
        int64_t position = batch_position(batch, p);
        if (position < 0)
            position = kafka_session_committed(session, p);
        if (position < 0) {
            // Nothing of this partition was ever committed: reading begins at its oldest message.
            if (kafka_watermarks(session->watermarks, session->config->kafka_topic_events, p, KAFKA_CALL_MS, &low, &high,
                                 NULL) != 0)
                return err_set(err, ERR_AGAIN, "no broker answers");
            position = low;
        }
        rd_kafka_topic_partition_list_add(list, session->config->kafka_topic_events, (int32_t)p)->offset = position;
    }
    CHECK(list->cnt > 0); // the library does nothing, and so fences nothing, with an empty list
    return 0;
}

static rd_kafka_resp_err_t produce(struct kafka_session *session, const struct batch_record *record, int64_t timestamp) {
    const char *topic = record->release ? session->config->kafka_topic_releases : session->config->kafka_topic_state;
    // A line goes where its key hashes to; state lies in the partition that it is the state of.
    int32_t partition = record->release ? RD_KAFKA_PARTITION_UA : (int32_t)record->partition;
    void *value = record->value_len == 0 ? NULL : (void *)(uintptr_t)record->value;
    for (;;) {
        rd_kafka_resp_err_t code = rd_kafka_producev(
            session->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_KEY(record->key, record->key_len),
            RD_KAFKA_V_VALUE(value, record->value_len), RD_KAFKA_V_TIMESTAMP(timestamp), RD_KAFKA_V_END);
        // A full queue is normal. It empties, or the transaction times out and the next call says so.
        if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL || atomic_load(&session->stopping))
            return code;
        rd_kafka_poll(session->producer, 50);
    }
}

// The commit is refused from the moment that the partitions are known to be lost.
static bool still_ours(struct kafka_session *session, const rd_kafka_topic_partition_list_t *list, uint64_t generation) {
    return kafka_session_owns(session, (uint32_t)list->elems[0].partition) == generation;
}

static enum outcome send_offsets(struct kafka_session *session, const rd_kafka_topic_partition_list_t *list,
                                 uint64_t generation, rd_kafka_resp_err_t *code, struct err *err) {
    enum outcome outcome;
    int64_t deadline = clock_monotonic_ms() + UNCLEAR_MS;
    do {
        rd_kafka_consumer_group_metadata_t *group = kafka_session_group(session);
        if (group == NULL || !still_ours(session, list, generation)) {
            if (group != NULL)
                rd_kafka_consumer_group_metadata_destroy(group);
            *code = RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST;
            err_set(err, ERR_REFUSED, "the partitions were lost before the commit");
            return ABORT;
        }
        outcome = outcome_of(rd_kafka_send_offsets_to_transaction(session->producer, list, group, KAFKA_CALL_MS), code,
                             err);
        rd_kafka_consumer_group_metadata_destroy(group);
    } while (outcome == RETRY && !atomic_load(&session->stopping) && clock_monotonic_ms() < deadline);
    return outcome;
}

// An unclear commit is asked about again, whatever becomes of the partitions meanwhile.
static enum outcome finish(struct kafka_session *session, rd_kafka_resp_err_t *code, struct err *err) {
    enum outcome outcome;
    int64_t deadline = clock_monotonic_ms() + UNCLEAR_MS;
    do
        outcome = outcome_of(rd_kafka_commit_transaction(session->producer, KAFKA_CALL_MS), code, err);
    while (outcome == RETRY && !atomic_load(&session->stopping) && clock_monotonic_ms() < deadline);
    return outcome;
}

static enum outcome transaction(struct kafka_session *session, const struct batch *batch,
                                const rd_kafka_topic_partition_list_t *list, rd_kafka_resp_err_t *code,
                                struct err *err) {
    uint64_t generation = kafka_session_owns(session, (uint32_t)list->elems[0].partition);
    int64_t timestamp = kafka_timestamp_ms();
    enum outcome outcome = outcome_of(rd_kafka_begin_transaction(session->producer), code, err);
    if (outcome != DONE)
        return BROKEN;
    for (size_t i = 0; i < batch_count(batch); i++) {
        struct batch_record record = batch_at(batch, i);
        *code = produce(session, &record, timestamp);
        if (*code != RD_KAFKA_RESP_ERR_NO_ERROR) {
            err_set(err, ERR_AGAIN, "a record was not taken: %s", rd_kafka_err2str(*code));
            return rd_kafka_fatal_error(session->producer, NULL, 0) != RD_KAFKA_RESP_ERR_NO_ERROR ? BROKEN : ABORT;
        }
    }
    outcome = send_offsets(session, list, generation, code, err);
    if (outcome != DONE)
        return outcome == RETRY ? BROKEN : outcome;
    outcome = finish(session, code, err);
    return outcome == RETRY ? BROKEN : outcome;
}

// Leaves the producer ready for the next transaction, or drops it: the next one, with the same id, ends what it left.
static void abort_transaction(struct kafka_session *session) {
    rd_kafka_resp_err_t code;
    struct err err;
    enum outcome outcome;
    int tries = 0;
    do
        outcome = outcome_of(rd_kafka_abort_transaction(session->producer, KAFKA_CALL_MS), &code, &err);
    while (outcome == RETRY && ++tries < 3 && !atomic_load(&session->stopping));
    if (outcome != DONE)
        kafka_session_producer_drop(session);
}

static int commit_locked(struct kafka_session *session, const struct batch *batch,
                         rd_kafka_topic_partition_list_t *list, struct err *err) {
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    int rc = kafka_session_producer(session, err);
    if (rc == 0)
        rc = offsets_of(session, batch, list, err);
    if (rc != 0)
        return rc == ERR_UNREACHABLE ? ERR_AGAIN : rc;
    enum outcome outcome = transaction(session, batch, list, &code, err);
    if (outcome == DONE) {
        for (int i = 0; i < list->cnt; i++)
            kafka_session_set_committed(session, (uint32_t)list->elems[i].partition, list->elems[i].offset);
        return 0;
    }
    rc = code_to_err(code);
    log_warn("a commit to Kafka did not go through (%s); its state is dropped and read again", rd_kafka_err2name(code));
    if (outcome == ABORT)
        abort_transaction(session);
    else
        kafka_session_producer_drop(session);
    return rc;
}

static int commit(struct journal *base, const struct batch *batch, struct err *err) {
    struct kafka_session *session = ((struct journal_kafka *)base)->session;
    CHECK(session != NULL && !batch_empty(batch));
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)session->partitions);
    CHECK(list != NULL);
    pthread_mutex_lock(&session->producer_lock);
    int rc = commit_locked(session, batch, list, err);
    pthread_mutex_unlock(&session->producer_lock);
    rd_kafka_topic_partition_list_destroy(list);
    return rc;
}

// ---- Opening ----

static void close_journal(struct journal *base) {
    struct journal_kafka *journal = (struct journal_kafka *)base;
    if (journal->session == NULL)
        rd_kafka_destroy(journal->watermarks);
    else
        atomic_store(&journal->session->stopping, true);
    kafka_session_release(journal->session);
    free(journal);
}

static const struct journal_ops kafka_ops = {
    .sends_lines = true, .load = load, .commit = commit, .close = close_journal};
static const struct journal_ops readonly_ops = {.load = load, .close = close_journal};

int journal_kafka_create(struct journal **out, struct kafka_session *session, struct err *err) {
    struct journal_kafka *journal = calloc(1, sizeof *journal);
    if (journal == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the journal");
    atomic_fetch_add(&session->users, 1);
    journal->journal.ops = &kafka_ops;
    journal->session = session;
    journal->config = session->config;
    journal->watermarks = session->watermarks;
    *out = &journal->journal;
    return 0;
}

// A consumer's question does not have a broker create the topic.
static int state_topic_find(const struct journal_kafka *journal, struct err *err) {
    const char *name = journal->config->kafka_topic_state;
    const struct rd_kafka_metadata *metadata = NULL;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(journal->watermarks, name, NULL);
    CHECK(topic != NULL);
    rd_kafka_resp_err_t code = rd_kafka_metadata(journal->watermarks, 0, topic, &metadata, KAFKA_CALL_MS);
    rd_kafka_topic_destroy(topic);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
        CHECK(metadata->topic_cnt == 1);
        code = metadata->topics[0].err;
        rd_kafka_metadata_destroy(metadata);
    }
    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return err_set(err, ERR_NOT_FOUND, "there is no topic %s: no aggregator has run with these [kafka] brokers", name);
    return code == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : err_set(err, ERR_UNREACHABLE, "cannot ask for the topic %s: %s", name,
                                                            rd_kafka_err2str(code));
}

int journal_kafka_open_readonly(struct journal **out, const struct config *config, struct err *err) {
    // Only what is committed counts, so the last stable offset is the end here.
    static const char *const settings[] = {"isolation.level", "read_committed", NULL};
    struct journal_kafka *journal = calloc(1, sizeof *journal);
    if (journal == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the journal");
    journal->journal.ops = &readonly_ops;
    journal->config = config;
    int rc = kafka_client_create(&journal->watermarks, RD_KAFKA_CONSUMER, config, settings, err);
    if (rc != 0) {
        free(journal);
        return rc;
    }
    if ((rc = state_topic_find(journal, err)) != 0) {
        close_journal(&journal->journal);
        return rc;
    }
    *out = &journal->journal;
    return 0;
}
