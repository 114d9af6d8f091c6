// One connection: bytes in, requests parsed in place, outcomes into the worker's spool port, answers out once their group
// is durable. Only an answer that a slow client does not take at once costs memory. What a request shows (agent, address,
// token) is overwritten as soon as it is decided.
// Order: pixel requests of one connection that come in one loop iteration wait together, at most pipeline_max; anything
// else of that connection waits in its buffer until they are answered. Every connection is in exactly one list: one for
// each thing it may be waited for, oldest first, so that time-outs cost nothing until they strike.
// The structs are open to connection_set.c alone. The worker's thread only.
#ifndef OPENVEIL_CONNECTION_H
#define OPENVEIL_CONNECTION_H

#include "ingest/connection_set.h"
#include "ingest/reply.h"

#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/uio.h>

// What one read may bring, and what one connection may have unparsed. Buffers lie in one mapping that takes memory only
// where bytes were written, so most connections cost none.
enum { BUFFER_BYTES = 32768, BUFFER_KEPT_BYTES = 4096, ANSWERS_MAX = 1024, EVENTS_MAX = 512 };
_Static_assert(BUFFER_BYTES > REQUEST_HEAD_MAX && BUFFER_BYTES > PROXY_HEADER_MAX, "a whole head must fit");

#define CONNECTION_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

// What a connection is waited for. All but the durable outcome have a time-out. Closed ones wait for the turn's end: until
// then an event that came with theirs may still name their slot.
enum list { LIST_IDLE, LIST_HEAD, LIST_WRITE, LIST_LINGER, LIST_DURABLE, LIST_CLOSED, LISTS };

struct connection {
    int fd;
    struct connection_set *set;
    TAILQ_ENTRY(connection) link;
    uint64_t deadline_ms; // on the loop's clock
    uint64_t ticket;      // of the newest waiting outcome
    uint64_t iteration;   // in which the waiting outcomes were added
    char *rest;           // what a slow client has not taken yet
    size_t rest_len;
    size_t rest_sent;
    struct request_scan scan;
    uint32_t n_held;    // unparsed bytes in the buffer
    uint32_t n_dirty;   // bytes of the buffer that may hold anything
    uint32_t n_waiting; // outcomes that are not durable yet
    uint8_t list;
    uint8_t style;       // enum reply_style of the waiting answers; the last one may be REPLY_CLOSE instead
    bool close_after;    // the last waiting answer is the connection's last
    bool blocked;        // the next request has to wait for those before it
    bool readable;       // the socket may have more: epoll tells that once
    bool hung_up;        // ... and its end is among it
    bool ended;          // the client has sent all it will
    bool proxy_expected; // a PROXY protocol header comes first
    bool proxied;        // ... and said this address
    uint8_t proxy_address[ADDRESS_SIZE];
};
TAILQ_HEAD(connection_list, connection);

struct connection_set {
    struct connection_setup setup;
    struct snapshot *keys;
    struct snapshot *classes;
    struct connection *slots;
    char *buffers; // BUFFER_BYTES a slot
    struct connection_list unused;
    size_t n_touched; // slots that were ever used
    size_t n_open;
    uint64_t iteration;
    uint64_t wall_iteration; // in which wall_ms was read: one look at the clock will do
    int64_t wall_ms;
    uint64_t n_outcomes; // ever
    bool to_submit;
    bool draining;
    uint64_t timeout_ms[LIST_DURABLE];
    struct connection_list lists[LISTS];
    struct edge_tally tally;
    struct reply_heads heads;
    int epoll;
    struct epoll_event events[EVENTS_MAX];
    struct iovec answers[ANSWERS_MAX];
    char input[BUFFER_BYTES];
};

// A fresh slot, in LIST_IDLE, whose socket is open and watched: says what is expected first.
void connection_start(struct connection *c);
// What epoll found at its socket.
void connection_event(struct connection *c, uint32_t events);
// All waiting answers in one write; their outcomes are durable.
void connection_answer(struct connection *c);
// Closes the socket and wipes its bytes; the slot returns to the set at the end of the turn.
void connection_close(struct connection *c);

#endif
