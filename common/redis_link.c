#include "common/redis_link.h"

#include "common/config.h"
#include "common/files.h"
#include "common/hmac.h"
#include "common/redis_wire.h"

#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <uv.h>

#define BACKOFF_MS_MIN 50u
#define BACKOFF_MS_MAX 1000u
#define INPUT_SIZE 65536
#define TICKS_TO_TIMEOUT 4u
#define WHY_SIZE 400
#define REDIS_ADDRESSES_SIZE 1024

// One attempt at a connection; outlives its link's interest in it until libuv has closed the handle.
struct conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct redis_link *link; // NULL once dropped
    uv_connect_t connect;
    uv_write_t write;
    struct redis_output filling;
    struct redis_output leaving;
    bool writing;
    redisReader *reader;
    struct redis_pending pending;
    size_t n_unsent; // of these, commands that have not left yet
    char input[INPUT_SIZE];
};

struct resolve {
    uv_getaddrinfo_t request;
    struct redis_link *link; // NULL once nobody waits
};

enum link_state { LINK_WAITING, LINK_RESOLVING, LINK_CONNECTING, LINK_GREETING, LINK_UP };

struct redis_link {
    uv_loop_t *loop;
    struct redis_link_hooks hooks;
    enum link_state state;
    struct conn *conn;
    struct resolve *resolve;
    uv_timer_t timer;
    uv_prepare_t flush;
    unsigned open_handles;
    bool freed;
    char addresses[REDIS_ADDRESSES_SIZE];
    const char *rest; // of `addresses`, not yet tried
    char address[REDIS_ADDRESS_SIZE]; // the one that is tried or connected
    char host[256];
    uint16_t port; // 0: `address` is the path of a socket
    char *username;
    char *password;
    uint64_t timeout_ms;
    unsigned idle_ticks; // since something last moved on the connection
    uint64_t backoff_ms;
    unsigned attempts;
};

static void link_down(struct redis_link *link, const char *format, ...) PRINTF_LIKE(2, 3);
static void on_timer(uv_timer_t *timer);

// ---- one connection -------------------------------------------------------------------------------------------------
static void conn_closed(uv_handle_t *handle) {
    struct conn *conn = handle->data;
    CHECK(conn->link == NULL && conn->pending.n == 0);
    if (conn->reader != NULL)
        redisReaderFree(conn->reader);
    free(conn->filling.bytes);
    free(conn->leaving.bytes);
    free(conn->pending.ring);
    free(conn);
}

static void conn_abandon(struct conn *conn) {
    conn->link = NULL;
    uv_close(&conn->uv.handle, conn_closed);
    while (conn->pending.n > 0) {
        struct redis_answer pending = redis_pending_pop(&conn->pending);
        pending.fn(pending.arg, NULL);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)suggested;
    struct conn *conn = handle->data;
    *buf = uv_buf_init(conn->input, sizeof conn->input);
}

// Hands on every whole reply; stops as soon as a reply function dropped the connection.
static void conn_replies(struct conn *conn) {
    struct redis_link *link = conn->link;
    for (;;) {
        void *object = NULL;
        if (redisReaderGetReply(conn->reader, &object) != REDIS_OK) {
            link_down(link, "Redis at %s sent bytes that are not its protocol: %s", link->address,
                      conn->reader->errstr);
            return;
        }
        if (object == NULL)
            break;
        const redisReply *reply = object;
        if (conn->pending.n == conn->n_unsent) {
            link_down(link, "Redis at %s sent an answer nobody asked for%s%.200s", link->address,
                      reply->type == REDIS_REPLY_ERROR ? ": " : "", reply->type == REDIS_REPLY_ERROR ? reply->str : "");
            freeReplyObject(object);
            return;
        }
        struct redis_answer pending = redis_pending_pop(&conn->pending);
        link->idle_ticks = 0;
        pending.fn(pending.arg, reply);
        freeReplyObject(object);
        if (conn->link == NULL)
            return;
    }
    if (conn->reader->len - conn->reader->pos > REDIS_UNPARSED_MAX)
        link_down(link, "Redis at %s sends an answer that is too long", link->address);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct conn *conn = stream->data;
    if (conn->link == NULL || n == 0)
        return;
    struct redis_link *link = conn->link;
    if (n < 0) {
        link_down(link, "the connection to Redis at %s ended: %s", link->address, uv_strerror((int)n));
    } else if (redisReaderFeed(conn->reader, buf->base, (size_t)n) != REDIS_OK) {
        link_down(link, "out of memory for an answer of Redis");
    } else {
        conn_replies(conn);
    }
}

static void on_written(uv_write_t *request, int status) {
    struct conn *conn = request->data;
    conn->writing = false;
    conn->leaving.used = 0;
    if (conn->link != NULL && status != 0)
        link_down(conn->link, "cannot send to Redis at %s: %s", conn->link->address, uv_strerror(status));
}

// Once a turn: what was queued in it leaves in one write.
static void on_flush(uv_prepare_t *prepare) {
    struct redis_link *link = prepare->data;
    struct conn *conn = link->conn;
    if (conn == NULL || conn->writing || conn->filling.used == 0 || link->state < LINK_GREETING)
        return;
    struct redis_output swap = conn->leaving;
    conn->leaving = conn->filling;
    conn->filling = swap;
    conn->n_unsent = 0;
    uv_buf_t buf = uv_buf_init(conn->leaving.bytes, (unsigned)conn->leaving.used);
    conn->write.data = conn;
    int rc = uv_write(&conn->write, &conn->uv.stream, &buf, 1, on_written);
    if (rc != 0)
        link_down(link, "cannot send to Redis at %s: %s", link->address, uv_strerror(rc));
    else
        conn->writing = true;
}

// ---- connecting -----------------------------------------------------------------------------------------------------
static void tick_start(struct redis_link *link) {
    uint64_t period_ms = link->timeout_ms / TICKS_TO_TIMEOUT;
    link->idle_ticks = 0;
    int rc = uv_timer_start(&link->timer, on_timer, period_ms, period_ms);
    CHECK(rc == 0);
}

static int link_send(struct redis_link *link, const struct redis_arg *args, size_t n_args, redis_reply_fn fn,
                     void *arg) {
    struct conn *conn = link->conn;
    size_t used = conn->filling.used;
    int rc = redis_output_command(&conn->filling, args, n_args);
    if (rc == 0 && (rc = redis_pending_push(&conn->pending, fn, arg)) != 0)
        conn->filling.used = used;
    if (rc == 0)
        conn->n_unsent++;
    if (rc == 0 && !uv_is_active((uv_handle_t *)&link->timer))
        tick_start(link);
    return rc;
}

static void link_up(struct redis_link *link) {
    link->state = LINK_UP;
    link->hooks.up(link->hooks.arg);
}

static void on_auth(void *arg, const redisReply *reply) {
    struct redis_link *link = arg;
    if (reply == NULL)
        return;
    if (reply->type == REDIS_REPLY_STATUS)
        link_up(link);
    else if (reply->type == REDIS_REPLY_ERROR)
        link_down(link, "Redis at %s refuses the password: %.200s", link->address, reply->str);
    else
        link_down(link, "Redis at %s answers AUTH with something else", link->address);
}

static void on_connected(uv_connect_t *request, int status) {
    struct conn *conn = request->data;
    struct redis_link *link = conn->link;
    if (link == NULL)
        return;
    if (status != 0) {
        link_down(link, "cannot connect to Redis at %s: %s", link->address, uv_strerror(status));
        return;
    }
    int rc = link->port == 0 ? 0 : uv_tcp_nodelay(&conn->uv.tcp, 1);
    if (rc == 0)
        rc = uv_read_start(&conn->uv.stream, on_alloc, on_read);
    if (rc != 0) {
        link_down(link, "cannot use the connection to Redis at %s: %s", link->address, uv_strerror(rc));
        return;
    }
    link->state = LINK_GREETING;
    link->idle_ticks = 0;
    if (link->password == NULL) {
        link_up(link);
        return;
    }
    struct redis_arg args[3] = {redis_text("AUTH")};
    size_t n = 1;
    if (link->username[0] != '\0')
        args[n++] = redis_text(link->username);
    args[n++] = redis_text(link->password);
    if (link_send(link, args, n, on_auth, link) != 0)
        link_down(link, "out of memory for Redis");
}

// Makes the connection's object; its handle is open, so it can only go through conn_abandon.
static struct conn *conn_create(struct redis_link *link) {
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL)
        return NULL;
    int rc = link->port == 0 ? uv_pipe_init(link->loop, &conn->uv.pipe, 0) : uv_tcp_init(link->loop, &conn->uv.tcp);
    if (rc != 0) {
        free(conn);
        return NULL;
    }
    conn->link = link;
    conn->uv.handle.data = conn;
    conn->connect.data = conn;
    conn->reader = redis_reader_create();
    if (conn->reader == NULL) {
        conn_abandon(conn);
        return NULL;
    }
    return conn;
}

static void link_connect(struct redis_link *link, const struct sockaddr *address) {
    CHECK(link->conn == NULL);
    link->conn = conn_create(link);
    if (link->conn == NULL) {
        link_down(link, "out of memory for a connection to Redis");
        return;
    }
    link->state = LINK_CONNECTING;
    if (link->port == 0) {
        uv_pipe_connect(&link->conn->connect, &link->conn->uv.pipe, link->address, on_connected);
        return;
    }
    int rc = uv_tcp_connect(&link->conn->connect, &link->conn->uv.tcp, address, on_connected);
    if (rc != 0)
        link_down(link, "cannot connect to Redis at %s: %s", link->address, uv_strerror(rc));
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found) {
    struct resolve *resolve = request->data;
    struct redis_link *link = resolve->link;
    free(resolve);
    if (link != NULL) {
        link->resolve = NULL;
        unsigned n = 0;
        for (const struct addrinfo *at = found; at != NULL; at = at->ai_next)
            n++;
        if (status != 0 || n == 0) {
            link_down(link, "cannot find Redis at %s: %s", link->address,
                      status != 0 ? uv_strerror(status) : "the name has no address");
        } else {
            // Another of the name's addresses at each attempt.
            const struct addrinfo *at = found;
            for (unsigned skip = link->attempts++ % n; skip > 0; skip--)
                at = at->ai_next;
            link_connect(link, at->ai_addr);
        }
    }
    uv_freeaddrinfo(found);
}

static void link_resolve(struct redis_link *link) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char service[8];
    snprintf(service, sizeof service, "%u", link->port);
    struct resolve *resolve = calloc(1, sizeof *resolve);
    if (resolve == NULL) {
        link_down(link, "out of memory for a connection to Redis");
        return;
    }
    resolve->link = link;
    resolve->request.data = resolve;
    int rc = uv_getaddrinfo(link->loop, &resolve->request, on_resolved, link->host, service, &hints);
    if (rc != 0) {
        free(resolve);
        link_down(link, "cannot look up Redis at %s: %s", link->address, uv_strerror(rc));
        return;
    }
    link->resolve = resolve;
    link->state = LINK_RESOLVING;
}

// The next of the link's addresses, after the last one the first again; false where it has none yet.
static bool link_next_address(struct redis_link *link) {
    if (!list_next(&link->rest, link->address, sizeof link->address)) {
        link->rest = link->addresses;
        if (!list_next(&link->rest, link->address, sizeof link->address))
            return false;
    }
    link->host[0] = '\0';
    link->port = 0;
    int rc = link->address[0] == '/' ? 0 : address_parse(link->address, link->host, &link->port);
    CHECK(rc == 0); // checked when it was taken
    return true;
}

static void link_begin(struct redis_link *link) {
    struct sockaddr_storage address = {0};
    if (!link_next_address(link))
        return;
    tick_start(link);
    if (link->port == 0)
        link_connect(link, NULL);
    else if (uv_ip4_addr(link->host, link->port, (struct sockaddr_in *)&address) == 0 ||
             uv_ip6_addr(link->host, link->port, (struct sockaddr_in6 *)&address) == 0)
        link_connect(link, (const struct sockaddr *)&address);
    else
        link_resolve(link);
}

// Time-outs count turns of the loop, not time: a loop that was busy elsewhere reads what has come before it gives up.
static void on_timer(uv_timer_t *timer) {
    struct redis_link *link = timer->data;
    if (link->state == LINK_WAITING) {
        link_begin(link);
        return;
    }
    if (link->state == LINK_UP && link->conn->pending.n == 0) {
        int rc = uv_timer_stop(timer);
        CHECK(rc == 0);
        return;
    }
    if (++link->idle_ticks <= TICKS_TO_TIMEOUT)
        return;
    link_down(link, "Redis at %s did not answer within %llu ms", link->address, (unsigned long long)link->timeout_ms);
}

static void resolve_abandon(struct redis_link *link) {
    if (link->resolve == NULL)
        return;
    link->resolve->link = NULL;
    int rc = uv_cancel((uv_req_t *)&link->resolve->request);
    // A look-up already under way cannot be cancelled; its end finds nobody.
    CHECK(rc == 0 || rc == UV_EBUSY);
    link->resolve = NULL;
}

static void link_down_text(struct redis_link *link, const char *format, va_list args) {
    char why[WHY_SIZE];
    vsnprintf(why, sizeof why, format, args);
    struct conn *conn = link->conn;
    link->conn = NULL;
    resolve_abandon(link);
    link->state = LINK_WAITING;
    int rc = uv_timer_start(&link->timer, on_timer, link->backoff_ms, 0);
    CHECK(rc == 0);
    link->backoff_ms = link->backoff_ms * 2 > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : link->backoff_ms * 2;
    link->hooks.down(link->hooks.arg, why);
    if (conn != NULL)
        conn_abandon(conn);
}

static void link_down(struct redis_link *link, const char *format, ...) {
    va_list args;
    va_start(args, format);
    link_down_text(link, format, args);
    va_end(args);
}

// ---- set-up ---------------------------------------------------------------------------------------------------------
static int password_read(struct redis_link *link, const char *path, struct err *err) {
    size_t len = 0;
    int rc = file_read(path, 4096, &link->password, &len, err);
    if (rc != 0)
        return rc;
    link->password[strcspn(link->password, "\r\n")] = '\0';
    if (link->password[0] == '\0')
        return err_set(err, ERR_INVALID, "%s: the first line must be the password of Redis", path);
    return 0;
}

static int addresses_set(struct redis_link *link, const char *addresses) {
    char address[REDIS_ADDRESS_SIZE], host[256];
    uint16_t port;
    const char *rest = addresses;
    if (strlen(addresses) >= sizeof link->addresses)
        return ERR_INVALID;
    while (list_next(&rest, address, sizeof address)) {
        if (address[0] != '/' && (address_parse(address, host, &port) != 0 || port == 0))
            return ERR_INVALID;
    }
    strcpy(link->addresses, addresses);
    link->rest = link->addresses;
    return 0;
}

static int link_configure(struct redis_link *link, const struct redis_target *target, struct err *err) {
    link->timeout_ms = target->timeout_ms;
    link->backoff_ms = BACKOFF_MS_MIN;
    link->username = strdup(target->username);
    if (link->username == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for Redis");
    if (addresses_set(link, target->addresses) != 0)
        return err_set(err, ERR_INVALID, "[redis] addresses must be host:port or the path of a socket");
    if (target->password_file[0] != '\0')
        return password_read(link, target->password_file, err);
    if (link->username[0] != '\0')
        return err_set(err, ERR_INVALID, "[redis] username needs password_file");
    return 0;
}

static void link_release(struct redis_link *link) {
    if (link->password != NULL)
        bytes_wipe(link->password, strlen(link->password));
    free(link->password);
    free(link->username);
    free(link);
}

static void on_handle_closed(uv_handle_t *handle) {
    struct redis_link *link = handle->data;
    CHECK(link->freed && link->open_handles > 0);
    if (--link->open_handles == 0)
        link_release(link);
}

int redis_link_create(struct redis_link **out, struct uv_loop_s *loop, const struct redis_target *target,
                      const struct redis_link_hooks *hooks, struct err *err) {
    CHECK(hooks->up != NULL && hooks->down != NULL);
    struct redis_link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for Redis");
    link->loop = loop;
    link->hooks = *hooks;
    link->timer.data = link;
    link->flush.data = link;
    int rc = link_configure(link, target, err);
    if (rc != 0) {
        link_release(link);
        return rc;
    }
    // libuv documents these four as failing only for a missing callback.
    rc = uv_timer_init(loop, &link->timer) | uv_prepare_init(loop, &link->flush) |
         uv_prepare_start(&link->flush, on_flush) | uv_timer_start(&link->timer, on_timer, 0, 0);
    CHECK(rc == 0);
    uv_unref((uv_handle_t *)&link->flush);
    link->open_handles = 2;
    *out = link;
    return 0;
}

static void ignore_down(void *arg, const char *why) {
    (void)arg;
    (void)why;
}

void redis_link_free(struct redis_link *link) {
    if (link == NULL)
        return;
    CHECK(!link->freed);
    link->hooks.down = ignore_down;
    link_down(link, "closed");
    link->freed = true;
    uv_close((uv_handle_t *)&link->timer, on_handle_closed);
    uv_close((uv_handle_t *)&link->flush, on_handle_closed);
}

int redis_link_send(struct redis_link *link, const struct redis_arg *args, size_t n_args, redis_reply_fn fn,
                    void *arg) {
    CHECK(n_args > 0 && fn != NULL);
    if (link->state != LINK_UP)
        return ERR_UNREACHABLE;
    return link_send(link, args, n_args, fn, arg);
}

void redis_link_drop(struct redis_link *link, const char *format, ...) {
    if (link->conn == NULL)
        return;
    va_list args;
    va_start(args, format);
    link_down_text(link, format, args);
    va_end(args);
}

int redis_link_aim(struct redis_link *link, const char *address) {
    int rc = addresses_set(link, address);
    if (rc != 0)
        return rc;
    link->backoff_ms = BACKOFF_MS_MIN;
    if (link->conn != NULL || link->resolve != NULL)
        link_down(link, "Redis is now at %s", link->addresses);
    rc = uv_timer_start(&link->timer, on_timer, 0, 0);
    CHECK(rc == 0);
    return 0;
}

const char *redis_link_host(const struct redis_link *link) {
    return link->host;
}

void redis_link_settled(struct redis_link *link) {
    link->backoff_ms = BACKOFF_MS_MIN;
}
