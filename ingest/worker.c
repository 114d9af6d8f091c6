#include "ingest/worker.h"

#include "common/check.h"
#include "ingest/connection_set.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

// Under load a worker takes a turn only every group_us: it sleeps outside epoll, answers what has become durable, and one
// epoll call then finds all that came meanwhile; being woken for every request would cost more than reading it. Nobody
// need end that sleep. Load is when so many outcomes come in the time of one group.
enum { GROUP_HEAVY = 8 };
#define TIMER_SLACK_NS 1000ul

// Sockets on their way from the listener to the worker; as many as the worker may have, so it cannot overflow.
struct inbox {
    pthread_mutex_t lock;
    int *fds;
    size_t n;
};

struct worker {
    uv_loop_t loop;
    uv_async_t wake;
    uv_prepare_t begin; // of a turn: before epoll is asked
    uv_poll_t events;   // at connections
    uv_check_t end;     // of a turn: what epoll found has been taken
    uv_timer_t tick;
    struct spool *spool;
    struct connection_set *connections;
    size_t connections_max;
    void (*spool_failed)(void *arg);
    void *arg;
    bool failure_told;
    uint64_t group_ns;
    uint64_t period_ns;       // when the current period of group_ns began
    uint64_t period_outcomes; // how many there had been then
    bool heavy;               // the last period was
    _Atomic bool wake_wanted; // by the commit thread, for a group that becomes durable
    bool loop_ready;
    bool started;
    pthread_t thread;
    struct inbox inbox;
    int *taken; // the inbox's sockets, outside its lock
    snapshot_slot next_keys;
    snapshot_slot next_classes;
    _Atomic uint64_t turns; // the worker has taken, ever
    uint64_t turns_seen;    // by worker_alive
    _Atomic bool drain;
    _Atomic bool stop;
    _Atomic size_t n_given;  // by the listener, ever
    _Atomic size_t n_closed; // by the worker, ever
    size_t n_opened;
};

static void inbox_empty(struct worker *worker) {
    struct inbox *inbox = &worker->inbox;
    CHECK(pthread_mutex_lock(&inbox->lock) == 0);
    size_t n = inbox->n;
    for (size_t i = 0; i < n; i++)
        worker->taken[i] = inbox->fds[i];
    inbox->n = 0;
    CHECK(pthread_mutex_unlock(&inbox->lock) == 0);
    for (size_t i = 0; i < n; i++)
        connection_set_open(worker->connections, worker->taken[i]);
    worker->n_opened += n;
}

static void worker_wake(struct worker *worker) {
    CHECK(uv_async_send(&worker->wake) == 0);
}

// Always an exchange, also where the old value does not matter: so whoever comes second sees all that the first one did.
static bool wake_want(struct worker *worker, bool wanted) {
    return atomic_exchange_explicit(&worker->wake_wanted, wanted, memory_order_acq_rel);
}

static void sleep_until(uint64_t ns) {
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

static void pace(struct worker *worker) {
    uint64_t now = uv_hrtime(), end = worker->period_ns + worker->group_ns;
    if (worker->heavy && now < end && !atomic_load(&worker->stop)) {
        sleep_until(end);
        now = uv_hrtime();
    }
    if (now < end)
        return;
    uint64_t outcomes = connection_set_outcomes(worker->connections);
    worker->heavy = (outcomes - worker->period_outcomes) * worker->group_ns >= GROUP_HEAVY * (now - worker->period_ns);
    worker->period_ns = now;
    worker->period_outcomes = outcomes;
}

static void on_begin(uv_prepare_t *prepare) {
    struct worker *worker = prepare->data;
    pace(worker);
    // Before looking at what is durable: what becomes so after the look wakes us.
    wake_want(worker, true);
    connection_set_flush(worker->connections);
    connection_set_submit(worker->connections);
    if (!connection_set_waits(worker->connections))
        wake_want(worker, false);
}

static void on_wake(uv_async_t *async) {
    struct worker *worker = async->data;
    struct snapshot *snapshot;
    if ((snapshot = snapshot_take(&worker->next_keys)) != NULL)
        connection_set_keys(worker->connections, snapshot);
    if ((snapshot = snapshot_take(&worker->next_classes)) != NULL)
        connection_set_classes(worker->connections, snapshot);
    inbox_empty(worker);
    if (atomic_load(&worker->stop))
        connection_set_close(worker->connections);
    else if (atomic_load(&worker->drain))
        connection_set_drain(worker->connections);
    if (spool_state(worker->spool) == SPOOL_FAILED && !worker->failure_told) {
        worker->failure_told = true;
        worker->spool_failed(worker->arg);
    }
}

static void on_events(uv_poll_t *poll, int status, int events) {
    struct worker *worker = poll->data;
    CHECK(status == 0);
    (void)events;
    connection_set_events(worker->connections);
}

static void on_tick(uv_timer_t *timer) {
    struct worker *worker = timer->data;
    connection_set_expire(worker->connections);
}

static void on_end(uv_check_t *check) {
    struct worker *worker = check->data;
    wake_want(worker, false); // we are about to look ourselves
    connection_set_submit(worker->connections);
    atomic_fetch_add_explicit(&worker->turns, 1, memory_order_relaxed);
    size_t open = connection_set_count(worker->connections);
    CHECK(open <= worker->n_opened);
    atomic_store_explicit(&worker->n_closed, worker->n_opened - open, memory_order_relaxed);
    bool ticking = uv_is_active((uv_handle_t *)&worker->tick);
    uint64_t tick_ms = connection_set_tick_ms(worker->connections);
    if (open > 0 && !ticking)
        CHECK(uv_timer_start(&worker->tick, on_tick, tick_ms, tick_ms) == 0);
    else if (open == 0 && ticking)
        CHECK(uv_timer_stop(&worker->tick) == 0);
    if (open == 0 && atomic_load(&worker->stop))
        uv_stop(&worker->loop);
}

static int loop_create(struct worker *worker, struct err *err) {
    int result = uv_loop_init(&worker->loop);
    if (result != 0)
        return err_set(err, ERR_IO, "cannot make an event loop: %s", uv_strerror(result));
    worker->loop_ready = true;
    result = uv_async_init(&worker->loop, &worker->wake, on_wake);
    if (result != 0)
        return err_set(err, ERR_IO, "cannot make an event loop's wake-up: %s", uv_strerror(result));
    CHECK(uv_prepare_init(&worker->loop, &worker->begin) == 0 && uv_prepare_start(&worker->begin, on_begin) == 0);
    CHECK(uv_check_init(&worker->loop, &worker->end) == 0 && uv_check_start(&worker->end, on_end) == 0);
    CHECK(uv_timer_init(&worker->loop, &worker->tick) == 0);
    worker->wake.data = worker->begin.data = worker->end.data = worker->tick.data = worker;
    return 0;
}

// The commit thread, where a group is durable; also the packer, where the spool's state has changed.
static void on_spool(void *arg) {
    struct worker *worker = arg;
    if (wake_want(worker, false) || spool_state(worker->spool) != SPOOL_OK)
        worker_wake(worker);
}

int worker_create(struct worker **out, const struct worker_setup *setup, struct err *err) {
    struct worker *worker = calloc(1, sizeof *worker);
    CHECK(setup->connections_max > 0 && setup->spool_failed != NULL);
    if (worker == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a worker");
    worker->spool = setup->spool;
    worker->connections_max = setup->connections_max;
    worker->group_ns = setup->config->spool_group_us * 1000;
    worker->spool_failed = setup->spool_failed;
    worker->arg = setup->arg;
    worker->inbox.fds = calloc(setup->connections_max, sizeof(int));
    worker->taken = calloc(setup->connections_max, sizeof(int));
    CHECK(pthread_mutex_init(&worker->inbox.lock, NULL) == 0);
    int result = ERR_NOMEM;
    if (worker->inbox.fds == NULL || worker->taken == NULL) {
        result = err_set(err, ERR_NOMEM, "no memory for a worker");
        goto fail;
    }
    if ((result = loop_create(worker, err)) != 0)
        goto fail;
    struct connection_setup connections = {
        .loop = &worker->loop,
        .config = setup->config,
        .spool = setup->spool,
        .trusted = setup->trusted,
        .metrics = setup->metrics,
        .drops = setup->drops,
        .n_max = setup->connections_max,
    };
    if ((result = spool_port_add(setup->spool, on_spool, worker, &connections.port)) != 0) {
        (void)err_set(err, result, "no memory for a worker's part of the spool");
        goto fail;
    }
    snapshot_keep(setup->keys);
    snapshot_keep(setup->classes);
    result = connection_set_create(&worker->connections, &connections, setup->keys, setup->classes, err);
    if (result != 0) {
        snapshot_drop(setup->keys);
        snapshot_drop(setup->classes);
        goto fail;
    }
    result = uv_poll_init(&worker->loop, &worker->events, connection_set_fd(worker->connections));
    if (result != 0) {
        result = err_set(err, ERR_IO, "cannot watch connections: %s", uv_strerror(result));
        goto fail;
    }
    worker->events.data = worker;
    CHECK(uv_poll_start(&worker->events, UV_READABLE, on_events) == 0);
    *out = worker;
    return 0;
fail:
    worker_free(worker);
    return result;
}

static void *worker_main(void *arg) {
    struct worker *worker = arg;
    CHECK(prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS) == 0);
    (void)uv_run(&worker->loop, UV_RUN_DEFAULT);
    CHECK(atomic_load(&worker->stop));
    return NULL;
}

int worker_start(struct worker *worker, struct err *err) {
    CHECK(!worker->started);
    if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
        return err_set(err, ERR_IO, "cannot start a worker thread");
    worker->started = true;
    (void)pthread_setname_np(worker->thread, "worker");
    return 0;
}

void worker_set_keys(struct worker *worker, struct snapshot *keys) {
    snapshot_put(&worker->next_keys, snapshot_keep(keys));
    worker_wake(worker);
}

void worker_set_classes(struct worker *worker, struct snapshot *classes) {
    snapshot_put(&worker->next_classes, snapshot_keep(classes));
    worker_wake(worker);
}

void worker_drain(struct worker *worker) {
    atomic_store(&worker->drain, true);
    worker_wake(worker);
}

bool worker_alive(struct worker *worker) {
    uint64_t turns = atomic_load_explicit(&worker->turns, memory_order_relaxed);
    bool alive = turns != worker->turns_seen;
    worker->turns_seen = turns;
    worker_wake(worker);
    return alive;
}

size_t worker_connections(const struct worker *worker) {
    // In this order, so that what closes in between cannot make the difference negative.
    size_t closed = atomic_load_explicit(&worker->n_closed, memory_order_acquire);
    return atomic_load_explicit(&worker->n_given, memory_order_relaxed) - closed;
}

bool worker_hand_over(struct worker *worker, int fd) {
    struct inbox *inbox = &worker->inbox;
    if (worker_connections(worker) >= worker->connections_max)
        return false;
    CHECK(pthread_mutex_lock(&inbox->lock) == 0);
    CHECK(inbox->n < worker->connections_max);
    inbox->fds[inbox->n++] = fd;
    CHECK(pthread_mutex_unlock(&inbox->lock) == 0);
    atomic_fetch_add_explicit(&worker->n_given, 1, memory_order_relaxed);
    worker_wake(worker);
    return true;
}

void worker_stop(struct worker *worker) {
    if (worker == NULL || !worker->started)
        return;
    atomic_store(&worker->stop, true);
    worker_wake(worker);
    CHECK(pthread_join(worker->thread, NULL) == 0);
    worker->started = false;
    CHECK(connection_set_count(worker->connections) == 0);
}

void worker_free(struct worker *worker) {
    if (worker == NULL)
        return;
    CHECK(!worker->started);
    if (worker->loop_ready) {
        if (worker->wake.data != NULL) {
            uv_close((uv_handle_t *)&worker->wake, NULL);
            uv_close((uv_handle_t *)&worker->begin, NULL);
            uv_close((uv_handle_t *)&worker->end, NULL);
            if (worker->events.data != NULL)
                uv_close((uv_handle_t *)&worker->events, NULL);
            uv_close((uv_handle_t *)&worker->tick, NULL);
        }
        (void)uv_run(&worker->loop, UV_RUN_DEFAULT);
        CHECK(uv_loop_close(&worker->loop) == 0);
    }
    for (size_t i = 0; i < worker->inbox.n; i++)
        close(worker->inbox.fds[i]);
    connection_set_free(worker->connections);
    snapshot_drop(snapshot_take(&worker->next_keys));
    snapshot_drop(snapshot_take(&worker->next_classes));
    CHECK(pthread_mutex_destroy(&worker->inbox.lock) == 0);
    free(worker->inbox.fds);
    free(worker->taken);
    free(worker);
}
