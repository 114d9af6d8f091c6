#include "ingest/connection.h"

#include "common/check.h"
#include "common/hmac.h"
#include "ingest/pixel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READS_MAX = 32 }; // of one connection, before others have their turn

static void connection_resume(struct connection *c);

static char *buffer_of(const struct connection *c) {
    return c->set->buffers + (size_t)(c - c->set->slots) * BUFFER_BYTES;
}

static void connection_move(struct connection *c, enum list list) {
    struct connection_set *set = c->set;
    TAILQ_REMOVE(&set->lists[c->list], c, link);
    TAILQ_INSERT_TAIL(&set->lists[list], c, link);
    c->list = (uint8_t)list;
    if (list != LIST_DURABLE)
        c->deadline_ms = uv_now(set->setup.loop) + set->timeout_ms[list];
}

static void buffer_clear(struct connection *c) {
    bytes_wipe(buffer_of(c), c->n_dirty);
    if (c->n_dirty > BUFFER_KEPT_BYTES)
        (void)madvise(buffer_of(c), BUFFER_BYTES, MADV_DONTNEED); // refused where pages are larger than a buffer
    c->n_held = c->n_dirty = 0;
}

void connection_close(struct connection *c) {
    struct connection_set *set = c->set;
    if (c->list == LIST_CLOSED)
        return;
    TAILQ_REMOVE(&set->lists[c->list], c, link);
    TAILQ_INSERT_TAIL(&set->lists[LIST_CLOSED], c, link);
    c->list = LIST_CLOSED;
    buffer_clear(c);
    bytes_wipe(c->proxy_address, sizeof c->proxy_address);
    c->n_waiting = 0;
    free(c->rest);
    c->rest = NULL;
    close(c->fd);
}

static bool connection_is_open(const struct connection *c) {
    return c->list != LIST_CLOSED && c->list != LIST_LINGER;
}

// After the last answer. Closing while the client still sends would reset the connection and could destroy the answer
// on its way (RFC 9112 9.6), so what is still to come is read and thrown away for a while.
static void connection_finish(struct connection *c, bool more_may_come) {
    if (!more_may_come || c->ended || shutdown(c->fd, SHUT_WR) != 0) {
        connection_close(c);
        return;
    }
    buffer_clear(c);
    connection_move(c, LIST_LINGER);
}

// What the client did not take at once, from a copy, within write_timeout_ms; `sent` bytes of `bufs` are on their way.
static void write_later(struct connection *c, const struct iovec *bufs, size_t n, size_t sent, size_t total) {
    size_t copied = 0, skip = sent;
    c->rest = malloc(total - sent);
    if (c->rest == NULL) {
        connection_close(c);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        size_t skipped = skip < bufs[i].iov_len ? skip : bufs[i].iov_len;
        memcpy(c->rest + copied, (const char *)bufs[i].iov_base + skipped, bufs[i].iov_len - skipped);
        copied += bufs[i].iov_len - skipped;
        skip -= skipped;
    }
    CHECK(copied == total - sent && skip == 0);
    c->rest_len = copied;
    c->rest_sent = 0;
    connection_move(c, LIST_WRITE);
}

// Only what the socket does not take makes epoll tell of room again, so all of the rest is tried.
static void write_rest(struct connection *c) {
    while (c->rest_sent < c->rest_len) {
        ssize_t sent = send(c->fd, c->rest + c->rest_sent, c->rest_len - c->rest_sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0 && errno != EINTR) {
            connection_close(c);
            return;
        }
        c->rest_sent += sent > 0 ? (size_t)sent : 0;
    }
    free(c->rest);
    c->rest = NULL;
    if (c->close_after)
        connection_finish(c, true);
    else
        connection_resume(c);
}

// True when all has been taken.
static bool connection_write(struct connection *c, struct iovec *bufs, size_t n) {
    size_t total = 0;
    CHECK(c->rest == NULL && n > 0);
    for (size_t i = 0; i < n; i++)
        total += bufs[i].iov_len;
    const struct msghdr message = {.msg_iov = bufs, .msg_iovlen = n};
    ssize_t sent = n == 1 ? send(c->fd, bufs[0].iov_base, bufs[0].iov_len, MSG_NOSIGNAL)
                          : sendmsg(c->fd, &message, MSG_NOSIGNAL);
    if (sent == (ssize_t)total)
        return true;
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        connection_close(c);
    else
        write_later(c, bufs, n, sent < 0 ? 0 : (size_t)sent, total);
    return false;
}

static void answer_error(struct connection *c, int status) {
    struct connection_set *set = c->set;
    struct reply reply;
    reply_heads_update(&set->heads, &set->setup.config->clock);
    reply_error(&set->heads, status, &reply);
    edge_tally_status(&set->tally, status, 1);
    struct iovec buf = {.iov_base = reply.bytes, .iov_len = reply.len};
    c->close_after = true;
    if (connection_write(c, &buf, 1))
        connection_finish(c, true);
}

static void answer_head(struct connection *c, enum reply_style style) {
    struct connection_set *set = c->set;
    reply_heads_update(&set->heads, &set->setup.config->clock);
    edge_tally_status(&set->tally, 200, 1);
    struct iovec buf = {.iov_base = set->heads.pixel[style].bytes, .iov_len = reply_head_len(&set->heads, style)};
    c->close_after = style == REPLY_CLOSE;
    if (connection_write(c, &buf, 1) && c->close_after)
        connection_finish(c, true);
}

void connection_answer(struct connection *c) {
    struct connection_set *set = c->set;
    unsigned n = c->n_waiting;
    bool more_may_come = c->n_held > 0;
    if (set->draining && !more_may_come)
        c->close_after = true;
    CHECK(n > 0 && n <= ANSWERS_MAX && connection_is_open(c));
    for (unsigned i = 0; i < n; i++) {
        struct reply *reply = &set->heads.pixel[i + 1 == n && c->close_after ? REPLY_CLOSE : c->style];
        set->answers[i] = (struct iovec){.iov_base = reply->bytes, .iov_len = reply->len};
    }
    edge_tally_status(&set->tally, 200, n);
    c->n_waiting = 0;
    c->blocked = false;
    connection_move(c, LIST_IDLE);
    if (!connection_write(c, set->answers, n))
        return;
    if (c->close_after)
        connection_finish(c, more_may_come);
    else
        connection_resume(c);
}

static void request_address(const void *arg, const struct http_request *request, uint8_t address[ADDRESS_SIZE]) {
    const struct connection *c = arg;
    uint8_t peer[ADDRESS_SIZE] = {0};
    if (c->proxied) {
        memcpy(peer, c->proxy_address, sizeof peer);
    } else {
        struct sockaddr_storage name;
        socklen_t len = sizeof name;
        if (getpeername(c->fd, (struct sockaddr *)&name, &len) == 0)
            address_from_socket((const struct sockaddr *)&name, peer);
        bytes_wipe(&name, sizeof name);
    }
    address_of_client(c->set->setup.trusted, peer, request, address);
    bytes_wipe(peer, sizeof peer);
}

// Decides a pixel request and adds its outcome to the filling group; false where it cannot join now.
static bool outcome_add(struct connection *c, const struct http_request *request) {
    struct connection_set *set = c->set;
    enum reply_style style = request->http_1_0 ? REPLY_KEEP_1_0 : REPLY_KEEP;
    if (c->n_waiting > 0 && c->style != style)
        return false;
    struct pixel_outcome outcome;
    if (set->wall_iteration != set->iteration) {
        set->wall_iteration = set->iteration;
        set->wall_ms = clock_now_ms(&set->setup.config->clock);
    }
    pixel_decide(set->keys->object, set->classes->object, &set->setup.drops, request, request_address, c,
                 set->wall_ms, &outcome);
    uint64_t ticket = outcome.recorded ? spool_add_event(set->setup.port, &outcome.event)
                                       : spool_add_drop(set->setup.port, outcome.drop);
    bytes_wipe(&outcome.event, sizeof outcome.event);
    if (ticket == 0)
        return false;
    CHECK(ticket >= c->ticket);
    set->to_submit = true;
    set->n_outcomes++;
    set->tally.n[EDGE_METRIC_REQUESTS]++;
    if (outcome.recorded)
        set->tally.n[EDGE_METRIC_RECORDED]++;
    else
        edge_tally_drop(&set->tally, outcome.drop);
    if (c->n_waiting++ == 0) {
        connection_move(c, LIST_DURABLE);
        c->iteration = set->iteration;
    }
    c->ticket = ticket;
    c->style = (uint8_t)style;
    c->close_after = !request->keep_alive || set->draining;
    return true;
}

// The request at `data`: bytes used, 0 where there is none yet or it has to wait.
static size_t request_take(struct connection *c, char *data, size_t len) {
    struct connection_set *set = c->set;
    struct http_request request;
    int status;
    enum request_step step = http_request_parse(&c->scan, data, len, &request, &status);
    if (step == REQUEST_MORE)
        return 0;
    c->scan = (struct request_scan){0};
    if (step == REQUEST_READY)
        status = !pixel_path(&request.path)                  ? 404
                 : spool_state(set->setup.spool) != SPOOL_OK ? 503
                                                             : 200;
    if (status == 200 && !request.is_head) {
        if (outcome_add(c, &request)) {
            bytes_wipe(data, request.length);
            return request.length;
        }
        status = 503;
    }
    // Any other answer keeps its place behind those that wait; the request is looked at again then.
    c->blocked = c->n_waiting > 0;
    if (c->blocked)
        return 0;
    size_t used = status == 200 ? request.length : len;
    bool keep = status == 200 && request.keep_alive && !set->draining;
    bool http_1_0 = status == 200 && request.http_1_0;
    bytes_wipe(data, used);
    if (c->list == LIST_HEAD)
        connection_move(c, LIST_IDLE);
    if (status == 200)
        answer_head(c, !keep ? REPLY_CLOSE : http_1_0 ? REPLY_KEEP_1_0 : REPLY_KEEP);
    else
        answer_error(c, status);
    return used;
}

static size_t proxy_header_take(struct connection *c, char *data, size_t len) {
    uint8_t address[ADDRESS_SIZE] = {0};
    static const uint8_t none[ADDRESS_SIZE];
    int64_t used = proxy_header_parse((const uint8_t *)data, len, address);
    if (used < 0)
        connection_close(c);
    if (used <= 0)
        return 0;
    c->proxy_expected = false;
    c->proxied = memcmp(address, none, sizeof none) != 0;
    memcpy(c->proxy_address, address, sizeof address);
    bytes_wipe(data, (size_t)used);
    bytes_wipe(address, sizeof address);
    return (size_t)used;
}

static bool connection_may_take(const struct connection *c) {
    return connection_is_open(c) && c->rest == NULL && !c->blocked && !(c->n_waiting > 0 && c->close_after) &&
           c->n_waiting < c->set->setup.config->ingest_pipeline_max &&
           (c->n_waiting == 0 || c->iteration == c->set->iteration);
}

// Puts the connection where it is waited for, once nothing more can be taken from what it sent.
static void connection_settle(struct connection *c) {
    if (!connection_is_open(c))
        return;
    if (c->ended && c->n_waiting == 0 && c->rest == NULL) {
        connection_close(c);
        return;
    }
    if (c->n_waiting > 0 || c->rest != NULL)
        return;
    enum list list = c->n_held > 0 || c->proxy_expected ? LIST_HEAD : LIST_IDLE;
    if (list != (enum list)c->list || list == LIST_IDLE)
        connection_move(c, list);
}

// Takes all it can from `data`, which is the worker's input or the connection's buffer, and keeps what is left.
static void connection_process(struct connection *c, char *data, size_t len) {
    size_t at = 0;
    while (at < len && connection_may_take(c)) {
        size_t used = c->proxy_expected ? proxy_header_take(c, data + at, len - at) : request_take(c, data + at, len - at);
        if (used == 0)
            break;
        at += used;
    }
    CHECK(at <= len);
    size_t left = len - at;
    if (!connection_is_open(c)) {
        if (data == c->set->input)
            bytes_wipe(data + at, left);
        return;
    }
    char *buffer = buffer_of(c);
    if (left > 0 && data + at != buffer) {
        memmove(buffer, data + at, left);
        // The copies left behind: those behind the bytes that are kept, where both lie in one buffer.
        if (data == buffer)
            bytes_wipe(buffer + left, at);
        else
            bytes_wipe(data + at, left);
    }
    c->n_held = (uint32_t)left;
    if (c->n_dirty < c->n_held)
        c->n_dirty = c->n_held;
    if (left == 0)
        buffer_clear(c);
    connection_settle(c);
}

// `n` bytes have come to where connection_read put them.
static void bytes_take(struct connection *c, char *at, size_t n) {
    if (c->list == LIST_LINGER) {
        bytes_wipe(at, n);
        return;
    }
    if (c->n_held == 0) {
        connection_process(c, at, n);
        return;
    }
    CHECK(at == buffer_of(c) + c->n_held);
    c->n_held += (uint32_t)n;
    c->n_dirty = c->n_dirty < c->n_held ? c->n_held : c->n_dirty;
    connection_process(c, buffer_of(c), c->n_held);
}

// Reads all that has come, as far as there is room. A read that brings less than it could has found the end of it, but for
// the client's own end.
static void connection_read(struct connection *c) {
    for (int i = 0; c->readable && c->list != LIST_CLOSED && !c->ended && c->n_held < BUFFER_BYTES; i++) {
        if (i == READS_MAX) {
            struct epoll_event again = {.events = CONNECTION_EVENTS, .data.ptr = c};
            if (epoll_ctl(c->set->epoll, EPOLL_CTL_MOD, c->fd, &again) != 0)
                connection_close(c);
            return;
        }
        char *at = c->n_held > 0 ? buffer_of(c) + c->n_held : c->set->input;
        size_t room = BUFFER_BYTES - c->n_held;
        ssize_t n = recv(c->fd, at, room, 0);
        if (n > 0) {
            c->readable = (size_t)n == room || c->hung_up;
            bytes_take(c, at, (size_t)n);
        } else if (n < 0 && errno == EAGAIN) {
            c->readable = false;
        } else if (n == 0 && connection_is_open(c)) {
            c->ended = true; // what was asked before is still answered
            connection_settle(c);
        } else if (n == 0 || errno != EINTR) {
            connection_close(c);
        }
    }
}

static void connection_resume(struct connection *c) {
    if (c->n_held > 0)
        connection_process(c, buffer_of(c), c->n_held);
    else
        connection_settle(c);
    connection_read(c);
}

void connection_event(struct connection *c, uint32_t events) {
    if (c->list == LIST_CLOSED)
        return;
    if ((events & ~(uint32_t)EPOLLOUT) != 0)
        c->readable = true;
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        c->hung_up = true;
    if (c->rest != NULL && (events & ~(uint32_t)EPOLLIN) != 0)
        write_rest(c);
    connection_read(c);
}

void connection_start(struct connection *c) {
    struct connection_set *set = c->set;
    CHECK(c->list == LIST_IDLE && c->n_held == 0);
    if (set->setup.config->ingest_proxy_protocol) {
        uint8_t address[ADDRESS_SIZE];
        request_address(c, &(struct http_request){0}, address);
        c->proxy_expected = cidr_set_has(set->setup.trusted, address);
        bytes_wipe(address, sizeof address);
    }
    const int on = 1;
    if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        connection_close(c);
    else
        connection_settle(c);
}
