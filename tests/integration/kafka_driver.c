// Drives source_kafka.c and journal_kafka.c for test_kafka_session.py: `kafka_driver BROKER PARTITIONS COMMAND …`.
//   ensure events|state|releases      create or check a topic
//   produce FIRST COUNT               messages with the numbers FIRST.. to partition number % PARTITIONS
//   run [STATE_DIR]                   the smallest engine: counts how often each number was applied, commits 5 times a
//                                     second; a line on standard input: stop-before-offsets, stop-before-commit, reload;
//                                     its end stops it
//   delete PARTITION                  everything that is in the events topic's partition now
//   read                              the committed state, read-only: how many numbers were applied once, more, erased
// Messages "mark:TEXT" and "erase:TEXT" put and erase a record with the key TEXT.
// Its engine has no identities to drop what comes twice, so every number must be applied exactly once.
#include "aggregator/journal.h"
#include "aggregator/source.h"
#include "common/bytes.h"
#include "common/kafka.h"
#include "common/log.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define NUMBERS_MAX 200000
#define PARTITIONS_MAX 16
#define COMMIT_EVERY_MS 200

// ---- Where a process can be stopped in the middle of its transaction ----

static _Atomic bool stop_before_offsets, stop_before_commit;

rd_kafka_error_t *rd_kafka_send_offsets_to_transaction(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *offsets,
                                                       const rd_kafka_consumer_group_metadata_t *group, int timeout_ms) {
    rd_kafka_error_t *(*real)(rd_kafka_t *, const rd_kafka_topic_partition_list_t *,
                              const rd_kafka_consumer_group_metadata_t *, int) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "rd_kafka_send_offsets_to_transaction");
    CHECK(real != NULL);
    if (atomic_exchange(&stop_before_offsets, false)) {
        puts("stopped before offsets");
        raise(SIGSTOP);
    }
    return real(rk, offsets, group, timeout_ms);
}

rd_kafka_error_t *rd_kafka_commit_transaction(rd_kafka_t *rk, int timeout_ms) {
    rd_kafka_error_t *(*real)(rd_kafka_t *, int) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "rd_kafka_commit_transaction");
    CHECK(real != NULL);
    if (atomic_exchange(&stop_before_commit, false)) {
        puts("stopped before commit");
        raise(SIGSTOP);
    }
    return real(rk, timeout_ms);
}

// ---- The smallest engine ----

struct engine;
struct part {
    struct engine *engine;
    uint32_t number;
    bool owned;
    bool loaded;
    bool refused; // a message; to be resumed
    bool reload;
    unsigned loads; // grows with every load, so that an old one's result is dropped
    int64_t end_seen;
    uint32_t *counts;
};

struct engine {
    uv_loop_t loop;
    uv_timer_t timer;
    uv_poll_t input;
    struct source *source;
    struct journal *journal;
    uint32_t partitions;
    struct part parts[PARTITIONS_MAX];
    struct batch *batch;
    uint64_t committed;
    bool closing;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool committing; // under the lock
    bool done;       // the commit is finished and its result not yet looked at
    bool drop;       // a partition of the commit under way was revoked
    int rc;
    bool leave;
};

static void *commit_thread(void *arg) {
    struct engine *engine = arg;
    struct err err = {0};
    pthread_mutex_lock(&engine->lock);
    for (;;) {
        while ((!engine->committing || engine->done) && !engine->leave)
            pthread_cond_wait(&engine->changed, &engine->lock);
        if (engine->leave)
            break;
        pthread_mutex_unlock(&engine->lock);
        int rc = engine->journal->ops->commit(engine->journal, engine->batch, &err);
        if (rc != 0)
            printf("commit failed %d %s\n", rc, err.text);
        pthread_mutex_lock(&engine->lock);
        engine->rc = rc;
        engine->done = true;
        pthread_cond_broadcast(&engine->changed);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

struct load {
    uv_work_t work;
    struct part *part;
    unsigned number;
    uint32_t *counts;
    int64_t position;
    int rc;
    struct err err;
};

static int load_record(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    struct load *load = arg;
    if (key_len != 4)
        return 0;
    uint32_t number = load_u32(key);
    CHECK(number < NUMBERS_MAX && (value_len == 0 || value_len == 4));
    load->counts[number] = value_len == 0 ? 0 : load_u32(value);
    return 0;
}

static void load_run(uv_work_t *work) {
    struct load *load = work->data;
    load->rc = load->part->engine->journal->ops->load(load->part->engine->journal, load->part->number, load_record, NULL,
                                                      load, &load->position, &load->err);
}

static void load_start(struct part *part);

static void load_done(uv_work_t *work, int status) {
    struct load *load = work->data;
    struct part *part = load->part;
    CHECK(status == 0);
    if (part->owned && load->number == part->loads) {
        if (load->rc == 0) {
            printf("loaded %u from %lld\n", part->number, (long long)load->position);
            memcpy(part->counts, load->counts, NUMBERS_MAX * sizeof *part->counts);
            part->loaded = true;
            part->engine->source->ops->resume(part->engine->source, part->number, load->position);
        } else {
            printf("load failed %d %s\n", load->rc, load->err.text);
            part->reload = true;
        }
    }
    free(load->counts);
    free(load);
}

static void load_start(struct part *part) {
    struct load *load = calloc(1, sizeof *load);
    CHECK(load != NULL);
    load->counts = calloc(NUMBERS_MAX, sizeof *load->counts);
    CHECK(load->counts != NULL);
    load->work.data = load;
    load->part = part;
    load->number = ++part->loads;
    part->loaded = part->reload = part->refused = false;
    CHECK(uv_queue_work(&part->engine->loop, &load->work, load_run, load_done) == 0);
}

static void on_assigned(void *arg, uint32_t partition) {
    struct engine *engine = arg;
    printf("assigned %u\n", partition);
    engine->parts[partition].owned = true;
    load_start(&engine->parts[partition]);
}

static void on_revoked(void *arg, uint32_t partition, bool lost) {
    struct engine *engine = arg;
    printf("revoked %u %s\n", partition, lost ? "lost" : "");
    pthread_mutex_lock(&engine->lock);
    while (engine->committing && !engine->done)
        pthread_cond_wait(&engine->changed, &engine->lock);
    engine->drop = true;
    pthread_mutex_unlock(&engine->lock);
    engine->parts[partition].owned = engine->parts[partition].loaded = false;
}

static bool on_message(void *arg, uint32_t partition, int64_t position, const uint8_t *data, size_t len) {
    struct engine *engine = arg;
    struct part *part = &engine->parts[partition];
    uint8_t value[4];
    CHECK(part->owned);
    if (engine->committing || engine->drop || !part->loaded) {
        part->refused = part->loaded;
        return false;
    }
    if (len > 6 && memcmp(data, "mark:", 5) == 0) {
        CHECK(batch_put(engine->batch, partition, data + 5, len - 5, data, len) == 0);
    } else if (len > 7 && memcmp(data, "erase:", 6) == 0) {
        CHECK(batch_put(engine->batch, partition, data + 6, len - 6, NULL, 0) == 0);
    } else if (len == 4) {
        CHECK(load_u32(data) < NUMBERS_MAX);
        store_u32(value, ++part->counts[load_u32(data)]);
        CHECK(batch_put(engine->batch, partition, data, 4, value, 4) == 0);
    } else {
        printf("foreign message of %zu bytes\n", len);
    }
    batch_set_position(engine->batch, partition, position + 1);
    return true;
}

static void on_failed(void *arg, const struct err *err) {
    struct engine *engine = arg;
    printf("failed %s\n", err->text);
    uv_stop(&engine->loop);
}

static void reload_all(struct engine *engine) {
    for (uint32_t p = 0; p < engine->partitions; p++)
        if (engine->parts[p].owned)
            load_start(&engine->parts[p]);
}

static void commit_finish(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool done = engine->committing && engine->done, drop = engine->drop;
    int rc = engine->rc;
    if (done)
        engine->committing = engine->done = false;
    if (done || !engine->committing)
        engine->drop = false;
    pthread_mutex_unlock(&engine->lock);
    if (!done) {
        if (drop) {
            batch_clear(engine->batch);
            reload_all(engine);
        }
        return;
    }
    if (rc == 0) {
        engine->committed += batch_count(engine->batch);
        printf("committed %llu\n", (unsigned long long)engine->committed);
        for (uint32_t p = 0; p < engine->partitions; p++)
            if (engine->parts[p].owned && batch_position(engine->batch, p) >= 0)
                engine->source->ops->committed(engine->source, p, batch_position(engine->batch, p));
    }
    batch_clear(engine->batch);
    if (rc != 0 || drop) {
        reload_all(engine);
        return;
    }
    for (uint32_t p = 0; p < engine->partitions; p++) {
        struct part *part = &engine->parts[p];
        if (!part->refused)
            continue;
        part->refused = false;
        engine->source->ops->resume(engine->source, p, -2);
    }
}

static void on_timer(uv_timer_t *timer) {
    struct engine *engine = timer->data;
    commit_finish(engine);
    for (uint32_t p = 0; p < engine->partitions; p++)
        if (engine->parts[p].owned && engine->parts[p].reload)
            load_start(&engine->parts[p]);
    pthread_mutex_lock(&engine->lock);
    if (!engine->committing && !batch_empty(engine->batch)) {
        engine->committing = true;
        pthread_cond_broadcast(&engine->changed);
    }
    pthread_mutex_unlock(&engine->lock);
}

static void on_input(uv_poll_t *poll, int status, int events) {
    struct engine *engine = poll->data;
    char line[64];
    (void)status;
    (void)events;
    ssize_t n = read(STDIN_FILENO, line, sizeof line - 1);
    if (n <= 0) {
        uv_poll_stop(poll);
        uv_stop(&engine->loop);
        return;
    }
    line[n] = '\0';
    if (strncmp(line, "stop-before-commit", 18) == 0)
        atomic_store(&stop_before_commit, true);
    else if (strncmp(line, "stop-before-offsets", 19) == 0)
        atomic_store(&stop_before_offsets, true);
    else if (strncmp(line, "reload", 6) == 0) {
        pthread_mutex_lock(&engine->lock);
        engine->drop = true;
        pthread_mutex_unlock(&engine->lock);
    }
}

static int run(const struct config *config) {
    static struct engine engine;
    struct err err = {0};
    const struct source_hooks hooks = {on_assigned, on_revoked, on_message, on_failed, &engine};
    engine.partitions = (uint32_t)config->kafka_partitions;
    CHECK(engine.partitions <= PARTITIONS_MAX && uv_loop_init(&engine.loop) == 0);
    CHECK(pthread_mutex_init(&engine.lock, NULL) == 0 && pthread_cond_init(&engine.changed, NULL) == 0);
    CHECK(batch_create(&engine.batch, engine.partitions) == 0);
    for (uint32_t p = 0; p < engine.partitions; p++)
        engine.parts[p] = (struct part){.engine = &engine, .number = p,
                                        .counts = calloc(NUMBERS_MAX, sizeof *engine.parts[p].counts)};
    int rc = kafka_session_create(&engine.source, &engine.journal, config, &err);
    CHECK(rc == 0);
    engine.timer.data = engine.input.data = &engine;
    CHECK(uv_timer_init(&engine.loop, &engine.timer) == 0 && uv_poll_init(&engine.loop, &engine.input, STDIN_FILENO) == 0);
    CHECK(uv_timer_start(&engine.timer, on_timer, COMMIT_EVERY_MS, COMMIT_EVERY_MS) == 0);
    CHECK(uv_poll_start(&engine.input, UV_READABLE, on_input) == 0);
    CHECK(pthread_create(&engine.thread, NULL, commit_thread, &engine) == 0);
    CHECK(engine.source->ops->start(engine.source, &engine.loop, &hooks, &err) == 0);
    uv_run(&engine.loop, UV_RUN_DEFAULT);
    engine.source->ops->stop(engine.source);
    uv_close((uv_handle_t *)&engine.timer, NULL);
    uv_close((uv_handle_t *)&engine.input, NULL);
    uv_run(&engine.loop, UV_RUN_DEFAULT);
    pthread_mutex_lock(&engine.lock);
    engine.leave = true;
    pthread_cond_broadcast(&engine.changed);
    pthread_mutex_unlock(&engine.lock);
    CHECK(pthread_join(engine.thread, NULL) == 0);
    engine.journal->ops->close(engine.journal);
    CHECK(uv_loop_close(&engine.loop) == 0);
    for (uint32_t p = 0; p < engine.partitions; p++)
        free(engine.parts[p].counts);
    batch_free(engine.batch);
    puts("ended");
    return 0;
}

// ---- The other commands ----

static int ensure(const struct config *config, const char *topic) {
    struct err err = {0};
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    int rc = kafka_conf(&conf, config, "driver", &err);
    CHECK(rc == 0);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    CHECK(rk != NULL);
    enum kafka_topic which = strcmp(topic, "events") == 0  ? KAFKA_EVENTS
                             : strcmp(topic, "state") == 0 ? KAFKA_STATE
                                                           : KAFKA_RELEASES;
    rc = kafka_topic_ensure(rk, config, which, 10000, &err);
    printf("%d %s\n", rc, rc == 0 ? "" : err.text);
    rd_kafka_destroy(rk);
    return 0;
}

static int produce(const struct config *config, uint32_t first, uint32_t count) {
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    CHECK(kafka_conf(&conf, config, "driver", NULL) == 0);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    CHECK(rk != NULL);
    for (uint32_t number = first; number < first + count; number++) {
        uint8_t value[4];
        store_u32(value, number);
        rd_kafka_resp_err_t code;
        while ((code = rd_kafka_producev(
                    rk, RD_KAFKA_V_TOPIC(config->kafka_topic_events),
                    RD_KAFKA_V_PARTITION((int32_t)(number % config->kafka_partitions)), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                    RD_KAFKA_V_VALUE(value, sizeof value), RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
            rd_kafka_poll(rk, 100);
        CHECK(code == RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    CHECK(rd_kafka_flush(rk, 30000) == RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_destroy(rk);
    return 0;
}

static int delete_all(const struct config *config, int32_t partition) {
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    CHECK(kafka_conf(&conf, config, "driver", NULL) == 0);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    CHECK(rk != NULL && list != NULL);
    rd_kafka_topic_partition_list_add(list, config->kafka_topic_events, partition)->offset = RD_KAFKA_OFFSET_END;
    rd_kafka_DeleteRecords_t *request = rd_kafka_DeleteRecords_new(list);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DeleteRecords(rk, &request, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 30000);
    CHECK(event != NULL && rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_DeleteRecords_destroy(request);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(rk);
    return 0;
}

static int read_state(const struct config *config) {
    struct journal *journal = NULL;
    struct err err;
    unsigned once = 0, more = 0;
    CHECK(journal_kafka_open_readonly(&journal, config, &err) == 0);
    for (uint32_t p = 0; p < config->kafka_partitions; p++) {
        struct load load = {.counts = calloc(NUMBERS_MAX, sizeof *load.counts), .position = 0};
        CHECK(load.counts != NULL);
        int rc = journal->ops->load(journal, p, load_record, NULL, &load, &load.position, &err);
        if (rc != 0)
            printf("load failed %d %s\n", rc, err.text);
        CHECK(rc != 0 || load.position == -1);
        for (uint32_t n = 0; n < NUMBERS_MAX; n++) {
            once += load.counts[n] == 1;
            more += load.counts[n] > 1;
        }
        free(load.counts);
    }
    journal->ops->close(journal);
    printf("once %u more %u\n", once, more);
    return 0;
}

int main(int argc, char **argv) {
    log_open("kafka_driver", LOG_INFO);
    setlinebuf(stdout);
    CHECK(argc >= 4);
    struct config config = {
        .kafka_brokers = argv[1],
        .kafka_partitions = strtoul(argv[2], NULL, 10),
        .kafka_properties = "",
        .kafka_topic_events = "openveil.events",
        .kafka_topic_state = "openveil.state",
        .consent_log_topic = "openveil.consent.log",
        .kafka_topic_releases = "openveil.releases",
        .kafka_group = "openveil-aggregator",
        .aggregator_state_dir = "driver",
    };
    const char *command = argv[3];
    if (strcmp(command, "ensure") == 0)
        return ensure(&config, argv[4]);
    if (strcmp(command, "produce") == 0)
        return produce(&config, (uint32_t)strtoul(argv[4], NULL, 10), (uint32_t)strtoul(argv[5], NULL, 10));
    if (strcmp(command, "delete") == 0)
        return delete_all(&config, (int32_t)strtol(argv[4], NULL, 10));
    if (strcmp(command, "read") == 0)
        return read_state(&config);
    if (argc > 4)
        config.aggregator_state_dir = argv[4];
    return run(&config);
}
