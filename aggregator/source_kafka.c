#include "aggregator/kafka_deletes.h"
#include "aggregator/kafka_session.h"

#include "common/log.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uv.h>

#define SETUP_TRY_MS 2000
#define SETUP_PAUSE_US 200000
#define LIVENESS_MS 1000
#define SEEK_MS 1000
#define END_MS 500
#define MESSAGES_A_ROUND 64
#define BEHIND_TRIES 600 // far more than a member is told after that it is one no more

// Where a partition is. Only PART_RUNNING is not paused; it is always entered by a seek, because the library resumes at
// the last message it handed out and not where we last asked for.
enum part_state {
    PART_AWAY,   // not ours
    PART_LOADS,  // assigned; the engine loads its state
    PART_SEEK,   // to be sought to `next` and resumed
    PART_RUNNING,
    PART_HELD,   // the engine refused the message in `held`
    PART_RETRY,  // to be offered `held` again
    PART_BEHIND, // the broker has nothing at `next` any more: lost, or another member's
};

struct part {
    enum part_state state;
    int64_t next; // offset, or RD_KAFKA_OFFSET_BEGINNING until that is known
    int64_t gap;  // the offset that came instead of `next`, once; -1
    rd_kafka_message_t *held;
    int tries; // in PART_BEHIND
};

enum setup { SETUP_RUNNING, SETUP_DONE, SETUP_FAILED };

struct source_kafka {
    struct source source;
    struct kafka_session *session;
    struct source_hooks hooks;
    struct part *parts;

    int event_fd; // written by the library when the consumer has something, and by ourselves
    uv_poll_t poll;
    uv_timer_t timer;
    int handles; // not yet closed
    bool started;
    bool subscribed;
    bool failed;

    // Topics and producer are got ready by a thread of its own, because brokers may be away for long.
    pthread_t setup_thread;
    bool setup_joined;
    _Atomic enum setup setup;
    struct err setup_err;

    rd_kafka_queue_t *consumer_queue;
    struct kafka_deletes *deletes;
};

static void wake(struct source_kafka *source) {
    const uint64_t one = 1;
    if (write(source->event_fd, &one, sizeof one) < 0)
        CHECK(errno == EAGAIN || errno == EINTR);
}

static void fail(struct source_kafka *source, const struct err *err) {
    if (source->failed)
        return;
    source->failed = true;
    source->hooks.failed(source->hooks.arg, err);
}

// ---- Set-up ----

static void *setup_run(void *arg) {
    struct source_kafka *source = arg;
    struct kafka_session *session = source->session;
    static const enum kafka_topic topics[] = {KAFKA_EVENTS, KAFKA_STATE, KAFKA_RELEASES, KAFKA_CONSENT_LOG};
    struct err *err = &source->setup_err;
    int rc = ERR_UNREACHABLE;
    for (bool first = true; rc == ERR_UNREACHABLE && !atomic_load(&session->stopping); first = false) {
        rc = 0;
        for (size_t i = 0; rc == 0 && i < ARRAY_LEN(topics); i++)
            rc = kafka_topic_ensure(session->watermarks, session->config, topics[i], SETUP_TRY_MS, err);
        if (rc == 0)
            rc = kafka_mode_check(session->watermarks, session->config, SETUP_TRY_MS, err);
        if (rc == 0) {
            pthread_mutex_lock(&session->producer_lock);
            rc = kafka_session_producer(session, err);
            pthread_mutex_unlock(&session->producer_lock);
        }
        if (rc == ERR_UNREACHABLE && first)
            log_warn("waiting for Kafka: %s", err->text);
        if (rc == ERR_UNREACHABLE)
            usleep(SETUP_PAUSE_US);
    }
    atomic_store(&source->setup, rc == 0 ? SETUP_DONE : SETUP_FAILED);
    wake(source);
    return NULL;
}

static void setup_join(struct source_kafka *source) {
    if (source->setup_joined)
        return;
    int rc = pthread_join(source->setup_thread, NULL);
    CHECK(rc == 0);
    source->setup_joined = true;
}

static void subscribe(struct source_kafka *source) {
    struct err err;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, source->session->config->kafka_topic_events, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t code = rd_kafka_subscribe(source->session->consumer, list);
    rd_kafka_topic_partition_list_destroy(list);
    source->subscribed = true;
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    err_set(&err, ERR_IO, "cannot subscribe to %s: %s", source->session->config->kafka_topic_events,
            rd_kafka_err2str(code));
    fail(source, &err);
}

// ---- Rebalance ----

static void part_reset(struct part *part, enum part_state state) {
    if (part->held != NULL)
        rd_kafka_message_destroy(part->held);
    *part = (struct part){.state = state, .next = RD_KAFKA_OFFSET_INVALID, .gap = -1};
}

// Partitions are assigned with a number as their offset. Without one the library would look for a committed offset and
// fail where there is none; with a logical one (beginning, end) its look-up, outdated by a seek, is repeated half a second
// later and silently moves the partition away from where it was sought to. Nothing is delivered from here.
static void assign_offsets(struct source_kafka *source, rd_kafka_topic_partition_list_t *list) {
    for (int i = 0; i < list->cnt; i++)
        list->elems[i].offset = RD_KAFKA_OFFSET_BEGINNING;
    if (rd_kafka_offsets_for_times(source->session->watermarks, list, END_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        log_debug("kafka: the oldest offsets are not to be had now");
    for (int i = 0; i < list->cnt; i++) {
        if (list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR || list->elems[i].offset < 0)
            list->elems[i].offset = 0;
        list->elems[i].err = RD_KAFKA_RESP_ERR_NO_ERROR;
    }
}

static void on_assign(struct source_kafka *source, rd_kafka_topic_partition_list_t *list) {
    struct kafka_session *session = source->session;
    struct err err;
    assign_offsets(source, list);
    rd_kafka_resp_err_t code = rd_kafka_assign(session->consumer, list);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        code = rd_kafka_pause_partitions(session->consumer, list);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
        err_set(&err, ERR_IO, "the assignment of partitions failed: %s", rd_kafka_err2str(code));
        fail(source, &err);
        return;
    }
    if (kafka_session_assign(session, list, &err) != 0) {
        fail(source, &err);
        return;
    }
    log_info("kafka: %d partitions assigned", list->cnt);
    for (int i = 0; i < list->cnt; i++)
        part_reset(&source->parts[list->elems[i].partition], PART_LOADS);
    for (int i = 0; i < list->cnt; i++)
        source->hooks.assigned(source->hooks.arg, (uint32_t)list->elems[i].partition);
}

static void on_revoke(struct source_kafka *source, const rd_kafka_topic_partition_list_t *list) {
    struct kafka_session *session = source->session;
    bool lost = rd_kafka_assignment_lost(session->consumer) != 0;
    // Lost: somebody else may own them by now, so a commit under way must not go on. Otherwise it may still finish, and
    // the engine waits for that in `revoked`.
    if (lost)
        kafka_session_forget(session);
    log_info("kafka: %d partitions %s", list->cnt, lost ? "lost" : "revoked");
    for (int i = 0; i < list->cnt; i++) {
        int32_t p = list->elems[i].partition;
        if (p < 0 || (uint32_t)p >= session->partitions || source->parts[p].state == PART_AWAY)
            continue;
        part_reset(&source->parts[p], PART_AWAY);
        source->hooks.revoked(source->hooks.arg, (uint32_t)p, lost);
    }
    kafka_session_forget(session);
    rd_kafka_resp_err_t code = rd_kafka_assign(session->consumer, NULL);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        log_warn("kafka: giving partitions back failed: %s", rd_kafka_err2str(code));
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t *list, void *opaque) {
    struct source_kafka *source = opaque;
    (void)rk;
    if (code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        on_assign(source, list);
        return;
    }
    if (code != RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS)
        log_warn("kafka: rebalance: %s", rd_kafka_err2str(code));
    on_revoke(source, list);
}

// ---- Messages ----

static rd_kafka_topic_partition_list_t *one_partition(struct source_kafka *source, uint32_t p, int64_t offset) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, source->session->config->kafka_topic_events, (int32_t)p)->offset = offset;
    return list;
}

static void part_pause(struct source_kafka *source, uint32_t p) {
    rd_kafka_topic_partition_list_t *list = one_partition(source, p, RD_KAFKA_OFFSET_INVALID);
    rd_kafka_resp_err_t code = rd_kafka_pause_partitions(source->session->consumer, list);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        log_debug("kafka: pause: %s", rd_kafka_err2str(code));
    rd_kafka_topic_partition_list_destroy(list);
}

// A time-out or a partition whose fetcher is not up yet: tried again with the timer.
static void part_seek(struct source_kafka *source, uint32_t p) {
    struct part *part = &source->parts[p];
    rd_kafka_t *consumer = source->session->consumer;
    int64_t high;
    if (part->next == RD_KAFKA_OFFSET_BEGINNING &&
        kafka_watermarks(source->session->watermarks, source->session->config->kafka_topic_events, p, END_MS, &part->next,
                         &high, NULL) != 0) {
        part->next = RD_KAFKA_OFFSET_BEGINNING;
        return;
    }
    rd_kafka_topic_partition_list_t *list = one_partition(source, p, part->next);
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    rd_kafka_error_t *error = rd_kafka_seek_partitions(consumer, list, SEEK_MS);
    if (error != NULL) {
        code = rd_kafka_error_code(error);
        rd_kafka_error_destroy(error);
    }
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        code = list->elems[0].err;
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
        part->state = PART_RUNNING;
        code = rd_kafka_resume_partitions(consumer, list);
    }
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
        log_debug("kafka: seek of partition %u: %s", p, rd_kafka_err2str(code));
        part->state = PART_SEEK;
    }
    rd_kafka_topic_partition_list_destroy(list);
}

static bool offer(struct source_kafka *source, uint32_t p, const rd_kafka_message_t *message) {
    const uint8_t *data = message->payload == NULL ? (const uint8_t *)"" : message->payload;
    size_t len = message->payload == NULL ? 0 : message->len;
    return source->hooks.message(source->hooks.arg, p, message->offset, data, len);
}

// Takes the message over.
static void deliver(struct source_kafka *source, rd_kafka_message_t *message) {
    uint32_t p = (uint32_t)message->partition;
    CHECK(p < source->session->partitions);
    struct part *part = &source->parts[p];
    // Whatever the library still had from before a pause or seek.
    if (part->state != PART_RUNNING || message->offset < part->next) {
        rd_kafka_message_destroy(message);
        return;
    }
    // Edges write offsets without gaps, so one that is missing was skipped by the library: ask once more. A gap that is
    // still there is somebody else's transaction marker.
    if (message->offset > part->next && part->gap != message->offset) {
        part->gap = message->offset;
        part->state = PART_SEEK;
        rd_kafka_message_destroy(message);
        part_pause(source, p);
        wake(source);
        return;
    }
    part->gap = -1;
    bool accepted = offer(source, p, message);
    if (part->state != PART_RUNNING) { // the hook asked for another position
        rd_kafka_message_destroy(message);
        return;
    }
    part->next = message->offset + 1;
    if (accepted) {
        rd_kafka_message_destroy(message);
        return;
    }
    part->held = message;
    part->state = PART_HELD;
    part_pause(source, p);
}

static void offer_again(struct source_kafka *source, uint32_t p) {
    struct part *part = &source->parts[p];
    CHECK(part->held != NULL);
    part->state = PART_HELD;
    if (!offer(source, p, part->held) || part->held == NULL)
        return;
    rd_kafka_message_destroy(part->held);
    part->held = NULL;
    part->state = PART_SEEK;
}

// One that was paused for long wakes to find that others have counted its messages and deleted them. The group then tells
// it so itself, within a heartbeat, and gives it partitions anew; until then nothing of this one is read.
static void part_behind(struct source_kafka *source, uint32_t p) {
    struct err err;
    int rc = kafka_session_behind(source->session, p, source->parts[p].next, &err);
    if (rc == ERR_IO || (rc == ERR_AGAIN && ++source->parts[p].tries > BEHIND_TRIES))
        fail(source, &err);
    else
        log_debug("kafka: partition %u: %s", p, err.text);
}

static void on_out_of_range(struct source_kafka *source, const rd_kafka_message_t *message) {
    uint32_t p = (uint32_t)message->partition;
    if (message->partition < 0 || p >= source->session->partitions || source->parts[p].state != PART_RUNNING)
        return; // of an assignment that is over
    log_warn("kafka: partition %u: nothing is left at %lld", p, (long long)source->parts[p].next);
    source->parts[p].state = PART_BEHIND;
}

// Errors that the consumer hands out: what does not mend itself ends the source.
static void on_consumer_error(struct source_kafka *source, const rd_kafka_message_t *message) {
    struct err err;
    switch (message->err) {
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        on_out_of_range(source, message);
        return;
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR__FATAL:
        err_set(&err, ERR_IO, "cannot read the topic %s any more, partition %d: %.256s",
                source->session->config->kafka_topic_events, message->partition, rd_kafka_message_errstr(message));
        fail(source, &err);
        return;
    default:
        log_debug("kafka: consumer: %s", rd_kafka_err2str(message->err));
    }
}

static void parts_serve(struct source_kafka *source) {
    for (uint32_t p = 0; p < source->session->partitions; p++) {
        if (source->parts[p].state == PART_RETRY)
            offer_again(source, p);
        if (source->parts[p].state == PART_SEEK)
            part_seek(source, p);
        if (source->parts[p].state == PART_BEHIND)
            part_behind(source, p);
    }
}

// ---- The loop ----

static void serve(struct source_kafka *source) {
    rd_kafka_t *consumer = source->session->consumer;
    int messages = 0;
    if (!source->subscribed) {
        enum setup setup = atomic_load(&source->setup);
        if (setup == SETUP_RUNNING)
            return;
        setup_join(source);
        if (setup == SETUP_FAILED) {
            fail(source, &source->setup_err);
            return;
        }
        subscribe(source);
    }
    parts_serve(source);
    // Bounded, so that other handles of the loop get their turn.
    while (messages < MESSAGES_A_ROUND && rd_kafka_queue_length(source->consumer_queue) > 0) {
        messages++;
        rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 0);
        if (message == NULL)
            continue;
        if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            deliver(source, message);
        } else {
            on_consumer_error(source, message);
            rd_kafka_message_destroy(message);
        }
    }
    if (messages == MESSAGES_A_ROUND)
        wake(source);
}

static void on_event(uv_poll_t *poll, int status, int events) {
    struct source_kafka *source = poll->data;
    uint64_t count;
    (void)status;
    (void)events;
    if (read(source->event_fd, &count, sizeof count) < 0)
        CHECK(errno == EAGAIN || errno == EINTR);
    serve(source);
}

static void on_timer(uv_timer_t *timer) {
    struct source_kafka *source = timer->data;
    if (source->subscribed) {
        // Liveness towards the library (max.poll.interval.ms), whatever the queue shows.
        rd_kafka_message_t *message = rd_kafka_consumer_poll(source->session->consumer, 0);
        if (message != NULL && message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            deliver(source, message);
        } else if (message != NULL) {
            on_consumer_error(source, message);
            rd_kafka_message_destroy(message);
        }
        kafka_deletes_serve(source->deletes);
    }
    serve(source);
}

static int start(struct source *base, struct uv_loop_s *loop, const struct source_hooks *hooks, struct err *err) {
    struct source_kafka *source = (struct source_kafka *)base;
    static const uint64_t one = 1;
    CHECK(!source->started);
    source->hooks = *hooks;
    int rc = uv_poll_init(loop, &source->poll, source->event_fd);
    if (rc != 0)
        return err_set(err, ERR_IO, "cannot watch an eventfd: %s", uv_strerror(rc));
    rc = uv_timer_init(loop, &source->timer);
    CHECK(rc == 0);
    source->handles = 2;
    source->poll.data = source->timer.data = source;
    source->started = true;
    rc = uv_poll_start(&source->poll, UV_READABLE, on_event);
    if (rc == 0)
        rc = uv_timer_start(&source->timer, on_timer, LIVENESS_MS, LIVENESS_MS);
    if (rc != 0)
        return err_set(err, ERR_IO, "cannot start the Kafka source: %s", uv_strerror(rc));
    rd_kafka_queue_io_event_enable(source->consumer_queue, source->event_fd, &one, sizeof one);
    if (pthread_create(&source->setup_thread, NULL, setup_run, source) != 0)
        return err_set(err, ERR_IO, "cannot start a thread");
    source->setup_joined = false;
    return 0;
}

static void resume(struct source *base, uint32_t partition, int64_t position) {
    struct source_kafka *source = (struct source_kafka *)base;
    CHECK(partition < source->session->partitions && position >= -2);
    struct part *part = &source->parts[partition];
    if (part->state == PART_AWAY)
        return;
    if (position == -2) {
        if (part->state == PART_HELD)
            part->state = PART_RETRY;
    } else {
        if (part->state == PART_RUNNING)
            part_pause(source, partition);
        part_reset(part, PART_SEEK);
        part->next = position == -1 ? RD_KAFKA_OFFSET_BEGINNING : position;
    }
    // Not from here: we may be inside a hook, or inside the rebalance callback.
    wake(source);
}

static int end(struct source *base, uint32_t partition, int64_t *position) {
    struct source_kafka *source = (struct source_kafka *)base;
    int64_t low;
    return kafka_watermarks(source->session->watermarks, source->session->config->kafka_topic_events, partition, END_MS,
                            &low, position, NULL);
}

static void committed(struct source *base, uint32_t partition, int64_t position) {
    struct source_kafka *source = (struct source_kafka *)base;
    kafka_deletes_add(source->deletes, partition, position);
}

static void destroy(struct source_kafka *source) {
    for (uint32_t p = 0; source->parts != NULL && p < source->session->partitions; p++)
        part_reset(&source->parts[p], PART_AWAY);
    if (source->consumer_queue != NULL)
        rd_kafka_queue_destroy(source->consumer_queue);
    kafka_deletes_free(source->deletes);
    kafka_session_release(source->session);
    free(source->parts);
    if (source->event_fd >= 0)
        close(source->event_fd);
    free(source);
}

static void on_closed(uv_handle_t *handle) {
    struct source_kafka *source = handle->data;
    if (--source->handles == 0)
        destroy(source);
}

static void stop(struct source *base) {
    struct source_kafka *source = (struct source_kafka *)base;
    atomic_store(&source->session->stopping, true);
    setup_join(source);
    if (!source->started) {
        destroy(source);
        return;
    }
    // Leaves the group, so that others take over at once; this calls `revoked` for what is ours.
    rd_kafka_queue_io_event_enable(source->consumer_queue, -1, NULL, 0);
    rd_kafka_resp_err_t code = rd_kafka_consumer_close(source->session->consumer);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        log_warn("kafka: leaving the group: %s", rd_kafka_err2str(code));
    uv_close((uv_handle_t *)&source->poll, on_closed);
    uv_close((uv_handle_t *)&source->timer, on_closed);
}

static const struct source_ops kafka_ops = {
    .start = start, .resume = resume, .end = end, .committed = committed, .stop = stop};

struct kafka_session *source_kafka_session(struct source *source) {
    return ((struct source_kafka *)source)->session;
}

int source_kafka_create(struct source **out, const struct config *config, struct err *err) {
    struct source_kafka *source = calloc(1, sizeof *source);
    if (source == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the Kafka source");
    source->source.ops = &kafka_ops;
    source->setup_joined = true;
    source->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = source->event_fd < 0 ? err_errno(err, ERR_IO, "cannot create an eventfd") : 0;
    if (rc == 0)
        rc = kafka_session_open(&source->session, config, source, on_rebalance, err);
    if (rc == 0) {
        source->parts = calloc(source->session->partitions, sizeof *source->parts);
        if (source->parts == NULL || kafka_deletes_create(&source->deletes, source->session->watermarks, config) != 0)
            rc = err_set(err, ERR_NOMEM, "no memory for the Kafka source");
    }
    if (rc != 0) {
        destroy(source);
        return rc;
    }
    source->consumer_queue = rd_kafka_queue_get_consumer(source->session->consumer);
    CHECK(source->consumer_queue != NULL);
    *out = &source->source;
    return 0;
}
