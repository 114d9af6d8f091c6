#include "ingest/forwarder.h"

#include "common/kafka.h"
#include "common/log.h"
#include "common/segment.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define IN_FLIGHT_BYTES_MAX (8u << 20) // one segment may be larger, and then flies alone
#define BROKER_TRY_MS 2000
#define IDLE_WAIT_MS 1000
#define BROKER_PAUSE_MS 200
#define PAUSE_AFTER_FATAL_MS 5000

// A segment whose messages are with the client library. It owns the bytes that the library sends from.
struct flight {
    struct flight *next;
    uint64_t segment;
    uint32_t waiting; // messages not yet acknowledged
    bool registers;
    size_t len;
    char *bytes;
};

struct forwarder {
    const struct config *config;
    struct spool *spool;
    void (*on_failed)(void *arg);
    void *on_failed_arg;
    rd_kafka_t *rk; // the thread's; made anew after a fatal error of the idempotent producer
    pthread_t thread;
    int event_fd; // written by forwarder_wake and by the library when it has delivery reports

    // The thread's own. Flights are finished in order, so the first one says where a new producer has to begin.
    struct flight *first;
    struct flight *last;
    size_t in_flight;
    uint64_t taken; // the last segment given to the library
    uint64_t known; // the last segment counted in the backlog
    bool topic_checked;
    uint64_t judged;  // the last segment found damaged or gone, so that none is counted twice
    uint64_t damaged; // segments in the backlog that can't be sent
    bool broken; // this producer is of no more use

    _Atomic uint64_t backlog;
    _Atomic bool registered;
    _Atomic bool stopping;
    _Atomic int64_t stop_at_ms;
    _Atomic bool failed;
    pthread_mutex_t failure_lock;
    struct err failure;
};

static void fail(struct forwarder *forwarder, const struct err *err) {
    bool first = !atomic_load(&forwarder->failed);
    pthread_mutex_lock(&forwarder->failure_lock);
    forwarder->failure = *err;
    pthread_mutex_unlock(&forwarder->failure_lock);
    atomic_store(&forwarder->failed, true);
    if (first)
        forwarder->on_failed(forwarder->on_failed_arg);
}

static bool over(const struct forwarder *forwarder) {
    if (atomic_load(&forwarder->failed))
        return true;
    if (!atomic_load(&forwarder->stopping))
        return false;
    return atomic_load(&forwarder->backlog) == forwarder->damaged || clock_monotonic_ms() >= atomic_load(&forwarder->stop_at_ms);
}

static void wait_for_event(struct forwarder *forwarder, int timeout_ms) {
    struct pollfd pollfd = {.fd = forwarder->event_fd, .events = POLLIN};
    int n = poll(&pollfd, 1, timeout_ms);
    CHECK(n >= 0 || errno == EINTR);
    uint64_t events;
    if (n > 0 && read(forwarder->event_fd, &events, sizeof events) < 0)
        CHECK(errno == EAGAIN || errno == EINTR);
}

// ---- Acknowledgements ----

static void flights_finish(struct forwarder *forwarder) {
    while (forwarder->first != NULL && forwarder->first->waiting == 0) {
        struct flight *flight = forwarder->first;
        forwarder->first = flight->next;
        if (forwarder->first == NULL)
            forwarder->last = NULL;
        CHECK(forwarder->in_flight >= flight->len);
        forwarder->in_flight -= flight->len;
        if (flight->registers)
            atomic_store(&forwarder->registered, true);
        spool_forget(forwarder->spool, flight->segment);
        atomic_fetch_sub(&forwarder->backlog, 1);
        free(flight->bytes);
        free(flight);
    }
}

// Errors of a producer as a whole that another producer would meet again.
static bool fatal_for_good(rd_kafka_resp_err_t code) {
    return code == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED || code == RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION ||
           code == RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT ||
           code == RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
}

// An idempotent producer gives up where it can't say any more whether a message was stored. The aggregator drops what
// comes twice, so a new producer sends again what is not acknowledged.
static void check_fatal(struct forwarder *forwarder) {
    char text[256];
    struct err err;
    rd_kafka_resp_err_t code = rd_kafka_fatal_error(forwarder->rk, text, sizeof text);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR || forwarder->broken)
        return;
    forwarder->broken = true;
    if (fatal_for_good(code)) {
        err_set(&err, ERR_REFUSED, "the broker refuses our producer for good: %.256s", text);
        fail(forwarder, &err);
    } else {
        log_warn("kafka: the producer gave up and is made anew: %.256s", text);
    }
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    struct forwarder *forwarder = opaque;
    struct flight *flight = message->_private;
    (void)rk;
    CHECK(flight != NULL && flight->waiting > 0);
    if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        flight->waiting--;
        return;
    }
    // Message time-outs are off, so any error is either the producer's end or for good.
    check_fatal(forwarder);
    if (forwarder->broken || atomic_load(&forwarder->failed))
        return;
    struct err err;
    err_set(&err, ERR_REFUSED,
            "the broker does not take messages for the topic %s, partition %d: %.200s; they stay in the spool",
            forwarder->config->kafka_topic_events, message->partition, rd_kafka_err2str(message->err));
    fail(forwarder, &err);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
    (void)rk;
    if (code == RD_KAFKA_RESP_ERR__FATAL)
        check_fatal(opaque);
    else
        log_debug("kafka: %.256s", reason);
}

// ---- Sending ----

// All of a sealed file, decoded and its messages verified. ERR_NOT_FOUND: deleted from outside. ERR_CORRUPT: damaged on
// disk; it is kept for the operator and its day cannot become complete.
static int segment_load(struct forwarder *forwarder, uint64_t segment, char **bytes, size_t *len, struct sealed *sealed,
                        struct err *err) {
    char path[PATH_SIZE];
    char *data = NULL;
    int rc = spool_sealed_path(forwarder->spool, segment, path);
    if (rc == 0)
        rc = file_read(path, SEALED_BYTES_MAX, &data, len, err);
    if (rc != 0 && rc != ERR_LIMIT)
        return rc;
    if (rc == 0)
        rc = sealed_decode((const uint8_t *)data, *len, sealed, NULL);
    if (rc == 0 && sealed->head.partitions != forwarder->config->kafka_partitions)
        rc = err_set(err, ERR_REFUSED, "%s was written for %u partitions and [kafka] partitions says %u", path,
                     sealed->head.partitions, (unsigned)forwarder->config->kafka_partitions);
    const uint8_t *at = rc == 0 ? sealed->messages : NULL;
    for (uint32_t p = 0; rc == 0 && p < sealed->head.partitions; p++) {
        struct message_head head;
        const uint8_t *body;
        size_t body_len;
        rc = message_decode_head(at, sealed->message_len[p], &head, &body, &body_len);
        if (rc == 0 && (head.segment != segment || head.partition != p || head.rehearsal != forwarder->config->rehearsal))
            rc = ERR_CORRUPT;
        at += sealed->message_len[p];
    }
    if (rc == 0) {
        *bytes = data;
        return 0;
    }
    free(data);
    if (rc == ERR_REFUSED)
        return rc;
    return err_set(err, ERR_CORRUPT, "%s is damaged; it is left where it is and its events are missing", path);
}

static void segment_produce(struct forwarder *forwarder, struct flight *flight, const struct sealed *sealed) {
    const uint8_t *at = sealed->messages;
    for (uint32_t p = 0; p < sealed->head.partitions; p++) {
        rd_kafka_resp_err_t code;
        for (;;) {
            code = rd_kafka_producev(forwarder->rk, RD_KAFKA_V_TOPIC(forwarder->config->kafka_topic_events),
                                     RD_KAFKA_V_PARTITION((int32_t)p), RD_KAFKA_V_MSGFLAGS(0),
                                     RD_KAFKA_V_VALUE((void *)(uintptr_t)at, sealed->message_len[p]),
                                     RD_KAFKA_V_TIMESTAMP(kafka_timestamp_ms()), RD_KAFKA_V_OPAQUE(flight),
                                     RD_KAFKA_V_END);
            if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL || over(forwarder) || forwarder->broken)
                break;
            rd_kafka_poll(forwarder->rk, 100);
        }
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
            check_fatal(forwarder);
            if (!forwarder->broken && code != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
                struct err err;
                err_set(&err, ERR_REFUSED, "librdkafka does not take a message for partition %u: %.256s", p,
                        rd_kafka_err2str(code));
                fail(forwarder, &err);
            }
            return; // the flight keeps waiting; whoever comes next begins with it
        }
        at += sealed->message_len[p];
    }
}

// A segment that cannot be sent. A damaged one stays in the backlog, so that somebody sees it.
static void segment_skip(struct forwarder *forwarder, uint64_t segment, int why, const struct err *err) {
    forwarder->taken = segment;
    if (segment <= forwarder->judged)
        return;
    forwarder->judged = segment;
    if (why == ERR_NOT_FOUND) {
        atomic_fetch_sub(&forwarder->backlog, 1);
        return;
    }
    log_error("%s", err->text);
    forwarder->damaged++;
}

// Takes the next segment: true where there may be more to take now.
static bool segment_take(struct forwarder *forwarder, uint64_t segment) {
    struct sealed sealed;
    struct err err = {0};
    struct flight *flight = calloc(1, sizeof *flight);
    if (flight == NULL)
        return false;
    int rc = segment_load(forwarder, segment, &flight->bytes, &flight->len, &sealed, &err);
    if (rc != 0) {
        free(flight);
        if (rc == ERR_REFUSED) {
            fail(forwarder, &err);
            return false;
        }
        if (rc != ERR_CORRUPT && rc != ERR_NOT_FOUND)
            return false; // out of memory or descriptors: the next round tries again
        segment_skip(forwarder, segment, rc, &err);
        return true;
    }
    flight->segment = segment;
    flight->waiting = sealed.head.partitions;
    flight->registers = sealed.head.kind == MESSAGE_REGISTER;
    if (forwarder->last == NULL)
        forwarder->first = flight;
    else
        forwarder->last->next = flight;
    forwarder->last = flight;
    forwarder->in_flight += flight->len;
    forwarder->taken = segment;
    segment_produce(forwarder, flight, &sealed);
    return true;
}

static void take_what_fits(struct forwarder *forwarder) {
    uint64_t segment;
    while (!over(forwarder) && !forwarder->broken && forwarder->in_flight < IN_FLIGHT_BYTES_MAX) {
        if (spool_sealed_next(forwarder->spool, forwarder->taken, &segment) != 0)
            return;
        if (!segment_take(forwarder, segment))
            return;
        rd_kafka_poll(forwarder->rk, 0);
        flights_finish(forwarder);
    }
}

// ---- The thread ----

static void backlog_count(struct forwarder *forwarder) {
    uint64_t segment;
    while (spool_sealed_next(forwarder->spool, forwarder->known, &segment) == 0) {
        CHECK(segment > forwarder->known);
        forwarder->known = segment;
        atomic_fetch_add(&forwarder->backlog, 1);
    }
}

// A spool begins with its registration, so the oldest segment tells whether it still has to be sent. Without this look an
// edge that restarts while the broker is away would not get ready.
static void registration_look(struct forwarder *forwarder) {
    struct sealed sealed;
    struct err err;
    uint64_t segment = 0;
    while (spool_sealed_next(forwarder->spool, segment, &segment) == 0) {
        char *bytes = NULL;
        size_t len;
        if (segment_load(forwarder, segment, &bytes, &len, &sealed, &err) != 0)
            continue;
        atomic_store(&forwarder->registered, sealed.head.kind != MESSAGE_REGISTER);
        free(bytes);
        return;
    }
}

static int producer_open(struct forwarder *forwarder, struct err *err) {
    static const struct {
        const char *name;
        const char *value;
    } settings[] = {
        {"enable.idempotence", "true"},  {"acks", "all"},
        {"message.timeout.ms", "0"},     {"compression.codec", "none"}, // blocks are compressed
        {"message.max.bytes", "2162688"}, // a message and its frame
    };
    char text[256], client_id[EDGE_ID_MAX + 32];
    rd_kafka_conf_t *conf = NULL;
    snprintf(client_id, sizeof client_id, "openveil-ingest-%s", forwarder->config->ingest_edge_id);
    int rc = kafka_conf(&conf, forwarder->config, client_id, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(settings); i++)
        rc = kafka_conf_set(conf, settings[i].name, settings[i].value, err);
    if (rc != 0) {
        if (conf != NULL)
            rd_kafka_conf_destroy(conf);
        return rc;
    }
    rd_kafka_conf_set_opaque(conf, forwarder);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    forwarder->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (forwarder->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_INVALID, "cannot start a Kafka producer: %.256s", text);
    }
    static const uint64_t one = 1;
    rd_kafka_queue_t *queue = rd_kafka_queue_get_main(forwarder->rk);
    rd_kafka_queue_io_event_enable(queue, forwarder->event_fd, &one, sizeof one);
    rd_kafka_queue_destroy(queue);
    forwarder->broken = false;
    return 0;
}

// What is not acknowledged is sent again by the next producer, or by the next process.
static void producer_close(struct forwarder *forwarder) {
    if (forwarder->rk == NULL)
        return;
    forwarder->broken = true;
    rd_kafka_purge(forwarder->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_destroy(forwarder->rk);
    forwarder->rk = NULL;
    flights_finish(forwarder);
    if (forwarder->first != NULL)
        forwarder->taken = forwarder->first->segment - 1;
    while (forwarder->first != NULL) {
        struct flight *flight = forwarder->first;
        forwarder->first = flight->next;
        free(flight->bytes);
        free(flight);
    }
    forwarder->last = NULL;
    forwarder->in_flight = 0;
}

// False: not to be had now, or refused for good (then `failed` is set).
static bool topic_ready(struct forwarder *forwarder) {
    struct err err = {0};
    if (forwarder->topic_checked)
        return true;
    int rc = kafka_topic_ensure(forwarder->rk, forwarder->config, KAFKA_EVENTS, BROKER_TRY_MS, &err);
    if (rc == 0)
        rc = kafka_mode_check(forwarder->rk, forwarder->config, BROKER_TRY_MS, &err);
    if (rc == 0)
        forwarder->topic_checked = true;
    else if (rc != ERR_UNREACHABLE)
        fail(forwarder, &err);
    return rc == 0;
}

static void *forwarder_run(void *arg) {
    struct forwarder *forwarder = arg;
    struct err err = {0};
    registration_look(forwarder);
    backlog_count(forwarder);
    while (!over(forwarder)) {
        if (forwarder->broken) {
            producer_close(forwarder);
            wait_for_event(forwarder, PAUSE_AFTER_FATAL_MS);
            if (producer_open(forwarder, &err) != 0)
                fail(forwarder, &err);
            continue;
        }
        backlog_count(forwarder);
        if (topic_ready(forwarder))
            take_what_fits(forwarder);
        while (rd_kafka_poll(forwarder->rk, 0) > 0)
            continue;
        flights_finish(forwarder);
        if (!over(forwarder))
            wait_for_event(forwarder, forwarder->topic_checked ? IDLE_WAIT_MS : BROKER_PAUSE_MS);
    }
    producer_close(forwarder);
    return NULL;
}

int forwarder_start(struct forwarder **out, const struct config *config, struct spool *spool,
                    void (*on_failed)(void *arg), void *arg, struct err *err) {
    struct forwarder *forwarder = calloc(1, sizeof *forwarder);
    if (forwarder == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the forwarder");
    int rc = pthread_mutex_init(&forwarder->failure_lock, NULL);
    CHECK(rc == 0);
    forwarder->config = config;
    forwarder->spool = spool;
    forwarder->on_failed = on_failed;
    forwarder->on_failed_arg = arg;
    forwarder->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (forwarder->event_fd < 0) {
        rc = err_errno(err, ERR_IO, "cannot create an eventfd");
        goto failed;
    }
    if ((rc = producer_open(forwarder, err)) != 0)
        goto failed;
    if (pthread_create(&forwarder->thread, NULL, forwarder_run, forwarder) != 0) {
        rc = err_set(err, ERR_IO, "cannot start the forwarder's thread");
        goto failed;
    }
    *out = forwarder;
    return 0;
failed:
    producer_close(forwarder);
    if (forwarder->event_fd >= 0)
        close(forwarder->event_fd);
    pthread_mutex_destroy(&forwarder->failure_lock);
    free(forwarder);
    return rc;
}

void forwarder_wake(struct forwarder *forwarder) {
    const uint64_t one = 1;
    // A full counter (EAGAIN) wakes as well.
    if (write(forwarder->event_fd, &one, sizeof one) < 0)
        CHECK(errno == EAGAIN || errno == EINTR);
}

bool forwarder_registered(const struct forwarder *forwarder) {
    return atomic_load(&forwarder->registered);
}

bool forwarder_failed(const struct forwarder *forwarder, struct err *err) {
    if (!atomic_load(&forwarder->failed))
        return false;
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&forwarder->failure_lock;
    pthread_mutex_lock(lock);
    *err = forwarder->failure;
    pthread_mutex_unlock(lock);
    return true;
}

uint64_t forwarder_backlog(const struct forwarder *forwarder) {
    return atomic_load(&forwarder->backlog);
}

void forwarder_stop(struct forwarder *forwarder, int timeout_ms) {
    if (forwarder == NULL)
        return;
    atomic_store(&forwarder->stop_at_ms, clock_monotonic_ms() + timeout_ms);
    atomic_store(&forwarder->stopping, true);
    forwarder_wake(forwarder);
    int rc = pthread_join(forwarder->thread, NULL);
    CHECK(rc == 0);
    close(forwarder->event_fd);
    pthread_mutex_destroy(&forwarder->failure_lock);
    free(forwarder);
}
