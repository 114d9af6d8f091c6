#include "ingest/connection_set.h"

#include "common/check.h"
#include "common/hmac.h"
#include "ingest/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LINGER_MS = 2000, TICK_MS_MAX = 500, EVENT_ROUNDS = 16 };

static struct connection *slot_take(struct connection_set *set) {
    struct connection *c = TAILQ_FIRST(&set->unused);
    if (c != NULL)
        TAILQ_REMOVE(&set->unused, c, link);
    else if (set->n_touched < set->setup.n_max)
        c = &set->slots[set->n_touched++];
    if (c != NULL)
        memset(c, 0, sizeof *c);
    return c;
}

void connection_set_open(struct connection_set *set, int fd) {
    struct connection *c = set->draining ? NULL : slot_take(set);
    if (c == NULL) {
        close(fd);
        return;
    }
    c->set = set;
    c->fd = fd;
    set->n_open++;
    c->list = LIST_IDLE;
    TAILQ_INSERT_TAIL(&set->lists[LIST_IDLE], c, link);
    struct epoll_event event = {.events = CONNECTION_EVENTS, .data.ptr = c};
    if (epoll_ctl(set->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
        connection_start(c);
    else
        connection_close(c);
}

int connection_set_fd(const struct connection_set *set) {
    return set->epoll;
}

void connection_set_events(struct connection_set *set) {
    int n = EVENTS_MAX;
    for (int round = 0; round < EVENT_ROUNDS && n == EVENTS_MAX; round++) {
        n = epoll_wait(set->epoll, set->events, EVENTS_MAX, 0);
        CHECK(n >= 0 || errno == EINTR);
        for (int i = 0; i < n; i++)
            connection_event(set->events[i].data.ptr, set->events[i].events);
    }
}

static void slots_return(struct connection_set *set) {
    struct connection *c;
    while ((c = TAILQ_FIRST(&set->lists[LIST_CLOSED])) != NULL) {
        CHECK(set->n_open > 0 && c->rest == NULL);
        TAILQ_REMOVE(&set->lists[LIST_CLOSED], c, link);
        TAILQ_INSERT_HEAD(&set->unused, c, link);
        set->n_open--;
    }
}

bool connection_set_waits(const struct connection_set *set) {
    return !TAILQ_EMPTY(&set->lists[LIST_DURABLE]);
}

uint64_t connection_set_outcomes(const struct connection_set *set) {
    return set->n_outcomes;
}

void connection_set_flush(struct connection_set *set) {
    struct connection_list *waiting = &set->lists[LIST_DURABLE];
    uint64_t durable = spool_durable(set->setup.port);
    struct connection *c = TAILQ_FIRST(waiting);
    set->to_submit = true;
    if (c == NULL || c->ticket > durable)
        return;
    reply_heads_update(&set->heads, &set->setup.config->clock);
    for (; c != NULL && c->ticket <= durable; c = TAILQ_FIRST(waiting))
        connection_answer(c);
}

void connection_set_submit(struct connection_set *set) {
    if (set->to_submit)
        spool_submit(set->setup.port);
    set->to_submit = false;
    set->iteration++;
    slots_return(set);
    edge_metrics_add(set->setup.metrics, &set->tally);
}

void connection_set_expire(struct connection_set *set) {
    uint64_t now = uv_now(set->setup.loop);
    for (int list = 0; list < LIST_DURABLE; list++) {
        struct connection *c;
        while ((c = TAILQ_FIRST(&set->lists[list])) != NULL && c->deadline_ms <= now) {
            if (list == LIST_HEAD || list == LIST_WRITE)
                set->tally.n[EDGE_METRIC_TIMEOUTS]++;
            connection_close(c);
        }
    }
}

uint64_t connection_set_tick_ms(const struct connection_set *set) {
    uint64_t tick = TICK_MS_MAX;
    for (int list = 0; list < LIST_DURABLE; list++)
        if (set->timeout_ms[list] / 2 < tick)
            tick = set->timeout_ms[list] / 2;
    CHECK(tick > 0);
    return tick;
}

static void list_close(struct connection_set *set, enum list list) {
    struct connection *c;
    while ((c = TAILQ_FIRST(&set->lists[list])) != NULL)
        connection_close(c);
}

void connection_set_drain(struct connection_set *set) {
    set->draining = true;
    list_close(set, LIST_IDLE);
}

void connection_set_close(struct connection_set *set) {
    set->draining = true;
    for (int list = 0; list < LIST_CLOSED; list++)
        list_close(set, (enum list)list);
}

size_t connection_set_count(const struct connection_set *set) {
    return set->n_open;
}

void connection_set_keys(struct connection_set *set, struct snapshot *keys) {
    snapshot_drop(set->keys);
    set->keys = keys;
}

void connection_set_classes(struct connection_set *set, struct snapshot *classes) {
    snapshot_drop(set->classes);
    set->classes = classes;
}

int connection_set_create(struct connection_set **out, const struct connection_setup *setup, struct snapshot *keys,
                          struct snapshot *classes, struct err *err) {
    const struct config *config = setup->config;
    struct connection_set *set = calloc(1, sizeof *set);
    CHECK(setup->n_max > 0 && config->ingest_pipeline_max <= ANSWERS_MAX);
    if (set == NULL)
        return err_set(err, ERR_NOMEM, "no memory for connections");
    set->setup = *setup;
    set->timeout_ms[LIST_IDLE] = config->ingest_idle_timeout_ms;
    set->timeout_ms[LIST_HEAD] = config->ingest_header_timeout_ms;
    set->timeout_ms[LIST_WRITE] = config->ingest_write_timeout_ms;
    set->timeout_ms[LIST_LINGER] = LINGER_MS;
    TAILQ_INIT(&set->unused);
    for (int list = 0; list < LISTS; list++)
        TAILQ_INIT(&set->lists[list]);
    reply_heads_init(&set->heads);
    set->iteration = 1;
    set->epoll = epoll_create1(EPOLL_CLOEXEC);
    set->slots = calloc(setup->n_max, sizeof *set->slots);
    set->buffers = mmap(NULL, setup->n_max * BUFFER_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (set->slots == NULL || set->buffers == MAP_FAILED || set->epoll < 0) {
        set->buffers = set->buffers == MAP_FAILED ? NULL : set->buffers;
        connection_set_free(set);
        return err_set(err, ERR_NOMEM, "no memory for %zu connections; lower [ingest] connections_max", setup->n_max);
    }
    set->keys = keys;
    set->classes = classes;
    *out = set;
    return 0;
}

void connection_set_free(struct connection_set *set) {
    if (set == NULL)
        return;
    CHECK(set->n_open == 0);
    if (set->buffers != NULL)
        CHECK(munmap(set->buffers, set->setup.n_max * BUFFER_BYTES) == 0);
    if (set->epoll >= 0)
        close(set->epoll);
    bytes_wipe(set->input, sizeof set->input);
    snapshot_drop(set->keys);
    snapshot_drop(set->classes);
    free(set->slots);
    free(set);
}
