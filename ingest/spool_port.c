// The workers' side of the spool: outcomes are gathered in a buffer of the worker's own and change hands by pointer.
#include "ingest/spool_internal.h"

#include <stdlib.h>
#include <sys/mman.h>

#define BUFFER_BYTES ((size_t)PORT_EVENTS_MAX * GROUP_EVENT_BYTES)

static void port_free(struct spool_port *port) {
    for (size_t i = 0; i < ARRAY_LEN(port->buffers); i++) {
        if (port->buffers[i].events != NULL)
            CHECK(munmap(port->buffers[i].events, BUFFER_BYTES) == 0);
    }
    CHECK(pthread_mutex_destroy(&port->mutex) == 0);
    free(port);
}

void spool_ports_free(struct spool *spool) {
    for (size_t i = 0; i < spool->n_ports; i++)
        port_free(spool->ports[i]);
    spool->n_ports = 0;
}

int spool_port_add(struct spool *spool, spool_wake_fn wake, void *arg, struct spool_port **port) {
    CHECK(!spool->started);
    if (spool->n_ports == SPOOL_PORTS_MAX)
        return ERR_LIMIT;
    struct spool_port *made = calloc(1, sizeof *made);
    if (made == NULL || pthread_mutex_init(&made->mutex, NULL) != 0) {
        free(made);
        return ERR_NOMEM;
    }
    for (size_t i = 0; i < ARRAY_LEN(made->buffers); i++) {
        void *memory = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            port_free(made);
            return ERR_NOMEM;
        }
        made->buffers[i].events = memory;
    }
    made->spool = spool;
    made->wake = wake;
    made->arg = arg;
    made->ticket = 1;
    made->filling = &made->buffers[0];
    made->idle[0] = &made->buffers[1];
    made->idle[1] = &made->buffers[2];
    made->n_idle = 2;
    spool->ports[spool->n_ports++] = made;
    *port = made;
    return 0;
}

uint64_t spool_add_event(struct spool_port *port, const struct event *event) {
    struct port_buffer *filling = port->filling;
    CHECK(event_valid(event));
    if (filling->n_events == PORT_EVENTS_MAX || filling->n_outcomes == PORT_OUTCOMES_MAX ||
        spool_state(port->spool) != SPOOL_OK)
        return 0;
    group_event_store(filling->events + (size_t)filling->n_events * GROUP_EVENT_BYTES, event);
    filling->n_events++;
    filling->n_outcomes++;
    return port->ticket;
}

uint64_t spool_add_drop(struct spool_port *port, enum edge_drop reason) {
    struct port_buffer *filling = port->filling;
    CHECK(reason < EDGE_DROPS);
    if (filling->n_outcomes == PORT_OUTCOMES_MAX || spool_state(port->spool) != SPOOL_OK)
        return 0;
    filling->drops[reason]++;
    filling->n_outcomes++;
    return port->ticket;
}

static bool buffer_append(struct port_buffer *to, struct port_buffer *from) {
    if (to->n_events + from->n_events > PORT_EVENTS_MAX || to->n_outcomes + from->n_outcomes > PORT_OUTCOMES_MAX)
        return false;
    memcpy(to->events + (size_t)to->n_events * GROUP_EVENT_BYTES, from->events,
           (size_t)from->n_events * GROUP_EVENT_BYTES);
    to->n_events += from->n_events;
    to->n_outcomes += from->n_outcomes;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        to->drops[i] += from->drops[i];
    port_buffer_clear(from);
    return true;
}

void spool_submit(struct spool_port *port) {
    bool handed = true;
    if (port->filling->n_outcomes == 0)
        return;
    CHECK(pthread_mutex_lock(&port->mutex) == 0);
    if (port->ready == NULL) {
        CHECK(port->n_idle > 0); // the commit thread never has more than one
        port->ready = port->filling;
        port->filling = port->idle[--port->n_idle];
    } else {
        // The disk is busy: the group that waits for it grows. Where it cannot, its wake-up brings us here again.
        handed = buffer_append(port->ready, port->filling);
    }
    if (handed)
        port->ready->ticket = port->ticket++;
    CHECK(pthread_mutex_unlock(&port->mutex) == 0);
    if (!handed || atomic_exchange(&port->spool->submitted, true))
        return;
    spool_lock(port->spool);
    CHECK(pthread_cond_signal(&port->spool->shared.commit_cond) == 0);
    spool_unlock(port->spool);
}

uint64_t spool_durable(const struct spool_port *port) {
    return atomic_load_explicit(&port->durable, memory_order_acquire);
}
