// openveil-ingest, the pixel edge: set-up, run, tear-down in reverse. The life of one pixel: listener.c accepts and hands
// over, connection.c reads, http_request.c parses, pixel.c decides, spool_*.c makes it durable, connection.c answers.
#include "common/admin.h"
#include "common/check.h"
#include "common/cli.h"
#include "common/log.h"
#include "common/service.h"
#include "ingest/drop_list.h"
#include "ingest/forwarder.h"
#include "ingest/listener.h"
#include "ingest/reload.h"
#include "ingest/worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/timex.h>
#include <unistd.h>
#include <uv.h>

enum { WORKERS_MAX = 64, DRAIN_LOOK_MS = 20, CLOCK_LOOK_MS = 5000, FORWARD_FLUSH_MS = 10000 };

static const char about[] =
    "The pixel edge: answers image requests and records opens, in a spool that an aggregator or Kafka takes them from.\n"
    "SIGHUP loads keys, tenants, fetch classes and the log level again; SIGTERM drains and stops.";

enum { SOCKETS_PIXEL, SOCKETS_ADMIN };
static const char *const socket_names[] = {[SOCKETS_PIXEL] = "pixel", [SOCKETS_ADMIN] = "admin"};

enum phase { PHASE_RUNNING, PHASE_UNREADY, PHASE_DRAINING };

struct edge {
    struct config config;
    uv_loop_t loop;
    struct cidr_set trusted;
    struct edge_metrics metrics;
    struct reload *reload;
    struct drop_list *drops; // NULL where it is switched off
    struct spool *spool;
    struct worker *workers[WORKERS_MAX];
    size_t n_workers;
    struct forwarder *forwarder; // NULL on a single node
    struct service_sockets sockets;
    struct listener *listeners[SERVICE_SOCKETS_MAX];
    size_t n_listeners;
    struct admin *admin;
    struct service *service;
    uv_async_t spool_failed;
    uv_async_t forwarder_failed;
    uv_signal_t signals[3];
    uv_timer_t drain;
    bool loop_ready;
    bool handles_ready;
    bool spool_started;
    enum phase phase;
    int64_t drain_until_ms; // monotonic
    int64_t clock_looked_ms;
    bool clock_synced;
    bool forwarder_failure_told;
    int exit_code;
};

static bool kernel_clock_synced(void) {
    struct timex state = {.modes = 0};
    return adjtimex(&state) != TIME_ERROR && (state.status & STA_UNSYNC) == 0;
}

static bool clock_ok(struct edge *edge) {
    int64_t now = clock_monotonic_ms();
    if (!edge->config.ingest_require_synced_clock || edge->config.rehearsal)
        return true;
    if (edge->clock_looked_ms == 0 || now - edge->clock_looked_ms >= CLOCK_LOOK_MS) {
        edge->clock_synced = kernel_clock_synced();
        edge->clock_looked_ms = now;
    }
    return edge->clock_synced;
}

// A stopped forwarder is told once.
static bool forwarder_ok(struct edge *edge) {
    struct err err;
    if (edge->forwarder == NULL || !forwarder_failed(edge->forwarder, &err))
        return true;
    if (!edge->forwarder_failure_told)
        log_error("forwarding to Kafka has stopped, opens stay in the spool: %s", err.text);
    edge->forwarder_failure_told = true;
    return false;
}

static bool edge_ready(void *arg, char *why, size_t size) {
    struct edge *edge = arg;
    const char *reason = NULL;
    (void)forwarder_ok(edge);
    if (edge->phase != PHASE_RUNNING)
        reason = "draining";
    else if (spool_state(edge->spool) == SPOOL_FULL)
        reason = "the spool is full: pixels get 503";
    else if (spool_state(edge->spool) != SPOOL_OK)
        reason = "the spool's disk failed";
    else if (spool_nearly_full(edge->spool))
        reason = "the spool is nearly full";
    else if (edge->forwarder != NULL && !forwarder_registered(edge->forwarder))
        reason = "Kafka has not acknowledged this edge's registration yet";
    else if (!clock_ok(edge))
        reason = "the kernel's clock is not synchronised (see [ingest] require_synced_clock)";
    if (reason != NULL)
        snprintf(why, size, "%s", reason);
    return reason == NULL;
}

static void edge_refresh(void *arg) {
    struct edge *edge = arg;
    size_t open = 0;
    for (size_t i = 0; i < edge->n_workers; i++)
        open += worker_connections(edge->workers[i]);
    (void)forwarder_ok(edge);
    struct drop_list_facts drops = drop_list_facts(edge->drops);
    metric_set(&edge->metrics.table[EDGE_METRIC_CONNECTIONS], open);
    metric_set(&edge->metrics.table[EDGE_METRIC_SPOOL_BYTES], spool_bytes(edge->spool));
    metric_set(&edge->metrics.table[EDGE_METRIC_BACKLOG],
               edge->forwarder == NULL ? 0 : forwarder_backlog(edge->forwarder));
    metric_set(&edge->metrics.table[EDGE_METRIC_DROP_LIST_IN_USE], drops.in_use);
    // In steps, like everything that one person could move.
    metric_set(&edge->metrics.table[EDGE_METRIC_DROP_LIST_CONTACTS], drops.contacts / 100 * 100);
    metric_set(&edge->metrics.table[EDGE_METRIC_DROP_LIST_AGE], (uint64_t)drops.age_ms / 1000);
}

static bool edge_alive(void *arg) {
    struct edge *edge = arg;
    bool alive = true;
    for (size_t i = 0; i < edge->n_workers; i++)
        alive = worker_alive(edge->workers[i]) && alive;
    return alive;
}

// ---- Ending ----

static void listeners_stop(struct edge *edge) {
    for (size_t i = 0; i < edge->n_listeners; i++)
        listener_stop(edge->listeners[i]);
    edge->n_listeners = 0;
}

static void on_drain_timer(uv_timer_t *timer) {
    struct edge *edge = timer->data;
    int64_t now = clock_monotonic_ms();
    if (edge->phase == PHASE_UNREADY) {
        edge->phase = PHASE_DRAINING;
        edge->drain_until_ms = now + (int64_t)edge->config.ingest_drain_timeout_ms;
        listeners_stop(edge);
        for (size_t i = 0; i < edge->n_workers; i++)
            worker_drain(edge->workers[i]);
    }
    size_t open = 0;
    for (size_t i = 0; i < edge->n_workers; i++)
        open += worker_connections(edge->workers[i]);
    if (open == 0 || now >= edge->drain_until_ms)
        uv_stop(&edge->loop);
    else
        CHECK(uv_timer_start(&edge->drain, on_drain_timer, DRAIN_LOOK_MS, 0) == 0);
}

static void on_signal(uv_signal_t *handle, int signum) {
    struct edge *edge = handle->data;
    if (signum == SIGHUP) {
        service_reloading(edge->service);
        reload_now(edge->reload);
        service_reloaded(edge->service);
    } else if (edge->phase == PHASE_RUNNING) {
        log_info("stopping");
        service_stopping(edge->service);
        edge->phase = PHASE_UNREADY;
        CHECK(uv_timer_start(&edge->drain, on_drain_timer, edge->config.ingest_drain_delay_ms, 0) == 0);
    } else {
        log_info("stopping at once: a second signal");
        uv_stop(&edge->loop);
    }
}

// What was not durable is not answered: the process ends here, and the next start replays what is on disk.
static void on_spool_failed(uv_async_t *async) {
    (void)async;
    log_error("the spool's disk failed; what was not durable has not been answered. Look at the disk, then start again");
    _exit(EXIT_FAILURE);
}

static void tell_spool_failed(void *arg) {
    struct edge *edge = arg;
    CHECK(uv_async_send(&edge->spool_failed) == 0);
}

// An edge whose registration Kafka refuses (another number of partitions, the other mode) was never ready: it ends, so
// that no more opens go to a spool that fits no topic. One that had registered goes on as long as the spool has room.
static void on_forwarder_failed(uv_async_t *async) {
    struct edge *edge = async->data;
    if (forwarder_ok(edge) || forwarder_registered(edge->forwarder))
        return;
    edge->exit_code = EXIT_FAILURE;
    uv_stop(&edge->loop);
}

static void tell_forwarder_failed(void *arg) {
    struct edge *edge = arg;
    CHECK(uv_async_send(&edge->forwarder_failed) == 0);
}

static void tell_sealed(void *arg, uint64_t segment) {
    struct edge *edge = arg;
    (void)segment;
    if (edge->forwarder != NULL)
        forwarder_wake(edge->forwarder);
}

// ---- Beginning ----

static void process_prepare(const struct config *config) {
    struct rlimit files;
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur < config->ingest_connections_max + 200)
        log_warn("%llu connections need more open files than the %llu allowed: raise the limit (ulimit -n, LimitNOFILE=)",
                 (unsigned long long)config->ingest_connections_max, (unsigned long long)files.rlim_cur);
}

static size_t workers_wanted(const struct config *config) {
    cpu_set_t cpus;
    if (config->ingest_workers != 0)
        return config->ingest_workers;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return 1;
    size_t n = (size_t)CPU_COUNT(&cpus);
    return n > WORKERS_MAX ? WORKERS_MAX : n;
}

static int workers_create(struct edge *edge, struct err *err) {
    size_t n = workers_wanted(&edge->config);
    CHECK(n >= 1 && n <= WORKERS_MAX);
    int result = drop_list_start(&edge->drops, &edge->config, n, err);
    if (result != 0)
        return result;
    struct worker_setup setup = {
        .config = &edge->config,
        .spool = edge->spool,
        .trusted = &edge->trusted,
        .metrics = &edge->metrics,
        .connections_max = (edge->config.ingest_connections_max + n - 1) / n,
        .keys = reload_keys(edge->reload),
        .classes = reload_classes(edge->reload),
        .spool_failed = tell_spool_failed,
        .arg = edge,
    };
    for (size_t i = 0; i < n; i++) {
        setup.drops = drop_list_view(edge->drops, i);
        result = worker_create(&edge->workers[i], &setup, err);
        if (result != 0)
            return result;
        edge->n_workers = i + 1;
    }
    return 0;
}

static int spool_and_workers_start(struct edge *edge, struct err *err) {
    const struct config *config = &edge->config;
    int result = spool_open(&edge->spool, config, reload_rules_hash(edge->reload), err);
    if (result == 0)
        result = workers_create(edge, err);
    if (result != 0)
        return result;
    spool_on_sealed(edge->spool, tell_sealed, edge);
    if (config->kafka_brokers[0] != '\0')
        result = forwarder_start(&edge->forwarder, config, edge->spool, tell_forwarder_failed, edge, err);
    if (result == 0)
        result = spool_start(edge->spool, err);
    edge->spool_started = result == 0;
    for (size_t i = 0; i < edge->n_workers && result == 0; i++)
        result = worker_start(edge->workers[i], err);
    return result;
}

static int handles_start(struct edge *edge, struct err *err) {
    static const int signums[] = {SIGTERM, SIGINT, SIGHUP};
    int result = uv_async_init(&edge->loop, &edge->spool_failed, on_spool_failed);
    if (result != 0)
        return err_set(err, ERR_IO, "cannot make an event loop's wake-up: %s", uv_strerror(result));
    CHECK(uv_async_init(&edge->loop, &edge->forwarder_failed, on_forwarder_failed) == 0);
    edge->forwarder_failed.data = edge;
    CHECK(uv_timer_init(&edge->loop, &edge->drain) == 0);
    edge->drain.data = edge;
    for (size_t i = 0; i < ARRAY_LEN(signums); i++)
        CHECK(uv_signal_init(&edge->loop, &edge->signals[i]) == 0);
    edge->handles_ready = true;
    for (size_t i = 0; i < ARRAY_LEN(signums); i++) {
        edge->signals[i].data = edge;
        result = uv_signal_start(&edge->signals[i], on_signal, signums[i]);
        if (result != 0)
            return err_set(err, ERR_IO, "cannot handle signals: %s", uv_strerror(result));
    }
    return 0;
}

static int listeners_start(struct edge *edge, struct err *err) {
    const struct listener_setup setup = {
        .loop = &edge->loop, .workers = edge->workers, .n_workers = edge->n_workers, .metrics = &edge->metrics};
    const int *fds = edge->sockets.of[SOCKETS_PIXEL].fds;
    size_t n = edge->sockets.of[SOCKETS_PIXEL].n;
    int result = 0;
    for (size_t i = 0; i < (n == 0 ? 1 : n) && result == 0; i++) {
        result = listener_start(&edge->listeners[i], &setup, n == 0 ? -1 : fds[i], edge->config.ingest_listen, err);
        if (result == 0)
            edge->n_listeners++;
    }
    return result;
}

static int doors_open(struct edge *edge, struct err *err) {
    const struct admin_hooks hooks = {
        .ready = edge_ready,
        .refresh = edge_refresh,
        .arg = edge,
        .metrics = edge->metrics.table,
        .n_metrics = EDGE_METRICS,
    };
    const struct service_hooks news = {.ready = edge_ready, .alive = edge_alive, .arg = edge};
    size_t n_admin = edge->sockets.of[SOCKETS_ADMIN].n;
    if (n_admin > 1)
        return err_set(err, ERR_INVALID, "more than one admin socket was handed over");
    int result = admin_start(&edge->admin, &edge->loop, n_admin == 0 ? -1 : edge->sockets.of[SOCKETS_ADMIN].fds[0],
                             edge->config.ingest_admin_listen, &hooks, err);
    if (result == 0)
        result = listeners_start(edge, err);
    return result == 0 ? service_start(&edge->service, &edge->loop, &news, err) : result;
}

static int edge_start(struct edge *edge, struct err *err) {
    const struct config *config = &edge->config;
    edge_metrics_init(&edge->metrics);
    int result = service_sockets_take(&edge->sockets, socket_names, ARRAY_LEN(socket_names), err);
    if (result == 0)
        result = cidr_set_parse(&edge->trusted, config->ingest_trusted_cidrs, err);
    if (result == 0 && uv_loop_init(&edge->loop) != 0)
        result = err_set(err, ERR_IO, "cannot make an event loop");
    edge->loop_ready = result == 0;
    if (result == 0)
        result = handles_start(edge, err);
    if (result == 0)
        result = reload_create(&edge->reload, config, err);
    if (result == 0)
        result = spool_and_workers_start(edge, err);
    if (result == 0)
        result = reload_watch(edge->reload, &edge->loop, edge->spool, edge->workers, edge->n_workers, err);
    if (result == 0)
        result = doors_open(edge, err);
    return result;
}

// Everything that was started, in reverse; returns the exit code.
static int edge_stop(struct edge *edge, int exit_code) {
    struct err err;
    service_stop(edge->service);
    listeners_stop(edge);
    admin_stop(edge->admin);
    reload_stop(edge->reload);
    for (size_t i = 0; i < edge->n_workers; i++)
        worker_stop(edge->workers[i]);
    if (edge->spool_started && spool_stop(edge->spool, &err) != 0) {
        log_error("%s", err.text);
        exit_code = EXIT_FAILURE;
    }
    forwarder_stop(edge->forwarder, exit_code == 0 ? FORWARD_FLUSH_MS : 0);
    for (size_t i = 0; i < edge->n_workers; i++)
        worker_free(edge->workers[i]);
    drop_list_stop(edge->drops);
    spool_free(edge->spool);
    if (edge->handles_ready) {
        uv_close((uv_handle_t *)&edge->spool_failed, NULL);
        uv_close((uv_handle_t *)&edge->forwarder_failed, NULL);
        uv_close((uv_handle_t *)&edge->drain, NULL);
        for (size_t i = 0; i < ARRAY_LEN(edge->signals); i++)
            uv_close((uv_handle_t *)&edge->signals[i], NULL);
    }
    if (edge->loop_ready) {
        (void)uv_run(&edge->loop, UV_RUN_DEFAULT);
        CHECK(uv_loop_close(&edge->loop) == 0);
    }
    reload_free(edge->reload);
    config_free(&edge->config);
    return exit_code;
}

int main(int argc, char **argv) {
    static struct edge edge;
    struct err err;
    int code = cli_daemon(argc, argv, "openveil-ingest", about, &edge.config);
    if (code >= 0)
        return code;
    process_prepare(&edge.config);
    if (edge_start(&edge, &err) != 0) {
        log_error("%s", err.text);
        return edge_stop(&edge, EXIT_FAILURE);
    }
    bool pixel_given = edge.sockets.of[SOCKETS_PIXEL].n > 0, admin_given = edge.sockets.of[SOCKETS_ADMIN].n > 0;
    log_info("pixels at %s, admin at %s, %zu workers, %zu token keys%s",
             pixel_given ? "the sockets handed over" : edge.config.ingest_listen,
             admin_given ? "the socket handed over" : edge.config.ingest_admin_listen, edge.n_workers, reload_n_keys(edge.reload),
             edge.config.rehearsal ? "; this is a rehearsal" : "");
    (void)uv_run(&edge.loop, UV_RUN_DEFAULT);
    code = edge_stop(&edge, edge.exit_code);
    log_info("stopped");
    return code;
}
