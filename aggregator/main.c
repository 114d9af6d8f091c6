// openveil-aggregator: set-up, run, tear-down in reverse. The life of an event: a source (source_*.c) hands over
// messages, engine.c queues them, engine_message.c and engine_block.c decide (decide.c) with consent, engine_commit.c
// makes it durable, engine_release.c lets the only thing out that ever leaves.
#include "aggregator/aggregator_metrics.h"
#include "aggregator/consent_follower.h"
#include "aggregator/engine.h"
#include "aggregator/evidence_keeper.h"
#include "common/admin.h"
#include "common/check.h"
#include "common/cli.h"
#include "common/files.h"
#include "common/log.h"
#include "common/service.h"

#include <signal.h>
#include <unistd.h>
#include <uv.h>

static const char about[] =
    "The aggregator: checks consent for every open, keeps the day of the last open, and releases anonymous numbers.\n"
    "SIGTERM commits what was decided and stops. Tenants are read again when their files change.";

struct aggregator {
    struct config config;
    uv_loop_t loop;
    struct journal *journal;
    struct source *source;
    struct consent_client *consent;
    struct engine *engine;
    struct consent_follower *follower;
    struct evidence_keeper *keeper;
    struct admin *admin;
    struct service *service;
    uv_signal_t signals[2];
    bool loop_ready, signals_ready, engine_started;
    int exit_code;
};

static bool aggregator_ready(void *arg, char *why, size_t size) {
    const struct aggregator *aggregator = arg;
    return engine_ready(aggregator->engine, why, size);
}

static void aggregator_refresh(void *arg) {
    struct aggregator *aggregator = arg;
    engine_refresh(aggregator->engine);
    evidence_keeper_refresh(aggregator->keeper);
}

static void on_signal(uv_signal_t *handle, int signum) {
    struct aggregator *aggregator = handle->data;
    (void)signum;
    log_info("stopping");
    service_stopping(aggregator->service);
    uv_stop(&aggregator->loop);
}

static void on_owns(void *arg, uint32_t partition, bool owned) {
    struct aggregator *aggregator = arg;
    evidence_keeper_own(aggregator->keeper, partition, owned);
}

static void on_failed(void *arg, const struct err *err) {
    struct aggregator *aggregator = arg;
    log_error("%s", err->text);
    aggregator->exit_code = EXIT_FAILURE;
    uv_stop(&aggregator->loop);
}

static int signals_start(struct aggregator *aggregator, struct err *err) {
    static const int signums[] = {SIGTERM, SIGINT};
    for (size_t i = 0; i < ARRAY_LEN(signums); i++)
        CHECK(uv_signal_init(&aggregator->loop, &aggregator->signals[i]) == 0);
    aggregator->signals_ready = true;
    for (size_t i = 0; i < ARRAY_LEN(signums); i++) {
        aggregator->signals[i].data = aggregator;
        int rc = uv_signal_start(&aggregator->signals[i], on_signal, signums[i]);
        if (rc != 0)
            return err_set(err, ERR_IO, "cannot handle signals: %s", uv_strerror(rc));
    }
    return 0;
}

static int storage_open(struct aggregator *aggregator, struct err *err) {
    const struct config *config = &aggregator->config;
    int rc = dir_mark(config->aggregator_state_dir, config->rehearsal, err);
    if (rc == 0)
        rc = dir_mark(config->release_dir, config->rehearsal, err);
    if (rc != 0)
        return rc;
    if (config->kafka_brokers[0] != '\0')
        return kafka_session_create(&aggregator->source, &aggregator->journal, config, err);
    rc = journal_local_open(&aggregator->journal, config, err);
    return rc != 0 ? rc : source_spool_create(&aggregator->source, config, err);
}

static int aggregator_start(struct aggregator *aggregator, struct err *err) {
    const struct config *config = &aggregator->config;
    int rc = uv_loop_init(&aggregator->loop) == 0 ? 0 : err_set(err, ERR_IO, "cannot make an event loop");
    aggregator->loop_ready = rc == 0;
    if (rc == 0)
        rc = signals_start(aggregator, err);
    if (rc == 0)
        rc = storage_open(aggregator, err);
    if (rc == 0)
        rc = consent_client_create(&aggregator->consent, &aggregator->loop, config, err);
    if (rc == 0)
        rc = evidence_keeper_start(&aggregator->keeper, &aggregator->loop, config, aggregator->consent, err);
    if (rc != 0)
        return rc;
    const struct engine_parts parts = {.loop = &aggregator->loop,
                                       .config = config,
                                       .source = aggregator->source,
                                       .journal = aggregator->journal,
                                       .consent = consent_ops_of(aggregator->consent),
                                       .follows_changes = true,
                                       .owns = on_owns,
                                       .failed = on_failed,
                                       .arg = aggregator};
    rc = engine_create(&aggregator->engine, &parts, err);
    const struct admin_hooks hooks = {.ready = aggregator_ready,
                                      .refresh = aggregator_refresh,
                                      .arg = aggregator,
                                      .metrics = aggregator_metrics,
                                      .n_metrics = AGGREGATOR_METRICS};
    if (rc == 0)
        rc = admin_start(&aggregator->admin, &aggregator->loop, -1, config->aggregator_admin_listen, &hooks, err);
    if (rc == 0) {
        aggregator->engine_started = true;
        rc = engine_start(aggregator->engine, err);
    }
    if (rc == 0)
        rc = consent_follower_start(&aggregator->follower, config, err);
    const struct service_hooks news = {.ready = aggregator_ready, .arg = aggregator};
    return rc != 0 ? rc : service_start(&aggregator->service, &aggregator->loop, &news, err);
}

// Everything that was started, in reverse; returns the exit code.
static int aggregator_stop(struct aggregator *aggregator) {
    struct err err;
    service_stop(aggregator->service);
    consent_follower_stop(aggregator->follower);
    admin_stop(aggregator->admin);
    if (aggregator->engine_started && engine_stop(aggregator->engine, &err) != 0) {
        log_error("%s", err.text);
        aggregator->exit_code = EXIT_FAILURE;
    } else if (!aggregator->engine_started && aggregator->source != NULL) {
        aggregator->source->ops->stop(aggregator->source);
    }
    evidence_keeper_stop(aggregator->keeper);
    consent_client_free(aggregator->consent);
    for (size_t i = 0; aggregator->signals_ready && i < ARRAY_LEN(aggregator->signals); i++)
        uv_close((uv_handle_t *)&aggregator->signals[i], NULL);
    if (aggregator->loop_ready) {
        (void)uv_run(&aggregator->loop, UV_RUN_DEFAULT);
        CHECK(uv_loop_close(&aggregator->loop) == 0);
    }
    engine_free(aggregator->engine);
    evidence_keeper_free(aggregator->keeper);
    if (aggregator->journal != NULL)
        aggregator->journal->ops->close(aggregator->journal);
    config_free(&aggregator->config);
    return aggregator->exit_code;
}

int main(int argc, char **argv) {
    static struct aggregator aggregator;
    struct err err;
    int code = cli_daemon(argc, argv, "openveil-aggregator", about, &aggregator.config);
    if (code >= 0)
        return code;
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    if (aggregator_start(&aggregator, &err) != 0) {
        log_error("%s", err.text);
        aggregator.exit_code = EXIT_FAILURE;
        return aggregator_stop(&aggregator);
    }
    log_info("reads from %s, admin at %s%s",
             aggregator.config.kafka_brokers[0] == '\0' ? aggregator.config.spool_dir : aggregator.config.kafka_brokers,
             aggregator.config.aggregator_admin_listen, aggregator.config.rehearsal ? "; this is a rehearsal" : "");
    (void)uv_run(&aggregator.loop, UV_RUN_DEFAULT);
    code = aggregator_stop(&aggregator);
    log_info("stopped");
    return code;
}
