#include "common/admin.h"

#include "common/config.h"

#include <llhttp.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define CONNECTIONS_MAX 64
#define REQUEST_BYTES_MAX 8192
#define PATH_BYTES_MAX 64 // longer ones are 404 anyway
#define TIMEOUT_MS 10000
#define METRICS_BYTES_MAX (256u << 10)
#define HEAD_BYTES_MAX 256
#define WHY_BYTES_MAX 512

struct connection {
    uv_tcp_t tcp;
    uv_timer_t timer; // one shot: the whole life of a connection is bounded
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct admin *admin;
    unsigned open_handles; // 0: this place is free
    llhttp_t parser;
    size_t received;
    char path[PATH_BYTES_MAX];
    size_t path_len;
    bool head_complete;
    bool answered;
    char *reply;
    char input[2048];
};

struct admin {
    uv_tcp_t listener;
    struct admin_hooks hooks;
    llhttp_settings_t settings;
    struct connection connections[CONNECTIONS_MAX];
    unsigned n_connections;
    bool waiting; // one connection waits in the listener for a free place
    bool stopping;
    bool listener_closed;
};

static void accept_one(struct admin *admin);

static void admin_free_when_closed(struct admin *admin) {
    if (admin->listener_closed && admin->n_connections == 0)
        free(admin);
}

static void connection_closed(uv_handle_t *handle) {
    struct connection *c = handle->data;
    CHECK(c->open_handles > 0);
    if (--c->open_handles > 0)
        return;
    struct admin *admin = c->admin;
    free(c->reply);
    CHECK(admin->n_connections > 0);
    admin->n_connections--;
    if (admin->waiting && !admin->stopping)
        accept_one(admin);
    admin_free_when_closed(admin);
}

static void connection_close(struct connection *c) {
    uv_handle_t *tcp = (uv_handle_t *)&c->tcp;
    if (uv_is_closing(tcp))
        return;
    uv_close(tcp, connection_closed);
    uv_close((uv_handle_t *)&c->timer, connection_closed);
}

static void timed_out(uv_timer_t *timer) {
    connection_close(timer->data);
}

// Our side is done. The client's end or the time-out closes, so that its last bytes cannot make the answer a reset.
static void shut_down(uv_shutdown_t *request, int status) {
    struct connection *c = request->data;
    if (status != 0)
        connection_close(c);
}

static void written(uv_write_t *request, int status) {
    struct connection *c = request->data;
    c->shutdown.data = c;
    if (status != 0 || uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, shut_down) != 0)
        connection_close(c);
}

// `body` of `len` bytes lies HEAD_BYTES_MAX bytes into c->reply; the head is put right before it.
static void send_reply(struct connection *c, const char *status, const char *type, size_t len) {
    char head[HEAD_BYTES_MAX];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n%s"
                     "Connection: close\r\n\r\n",
                     status, type, len, strncmp(status, "405", 3) == 0 ? "Allow: GET, HEAD\r\n" : "");
    CHECK(n > 0 && (size_t)n < sizeof head);
    char *start = c->reply + HEAD_BYTES_MAX - n;
    memcpy(start, head, (size_t)n);
    bool head_only = c->head_complete && c->parser.method == HTTP_HEAD;
    uv_buf_t buffer = uv_buf_init(start, (unsigned)((size_t)n + (head_only ? 0 : len)));
    c->answered = true;
    c->write.data = c;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &buffer, 1, written) != 0)
        connection_close(c);
}

static void reply_text(struct connection *c, const char *status, const char *text) {
    size_t len = strlen(text);
    c->reply = malloc(HEAD_BYTES_MAX + len + 2);
    if (c->reply == NULL) {
        connection_close(c);
        return;
    }
    snprintf(c->reply + HEAD_BYTES_MAX, len + 2, "%s\n", text);
    send_reply(c, status, "text/plain; charset=utf-8", len + 1);
}

static void reply_ready(struct connection *c) {
    const struct admin_hooks *hooks = &c->admin->hooks;
    char why[WHY_BYTES_MAX] = "not ready";
    if (hooks->ready(hooks->arg, why, sizeof why)) {
        reply_text(c, "200 OK", "ready");
        return;
    }
    why[sizeof why - 1] = '\0';
    reply_text(c, "503 Service Unavailable", why);
}

static void reply_metrics(struct connection *c) {
    const struct admin_hooks *hooks = &c->admin->hooks;
    if (hooks->refresh != NULL)
        hooks->refresh(hooks->arg);
    c->reply = malloc(HEAD_BYTES_MAX + METRICS_BYTES_MAX);
    if (c->reply == NULL) {
        connection_close(c);
        return;
    }
    size_t len = metrics_format(hooks->metrics, hooks->n_metrics, c->reply + HEAD_BYTES_MAX, METRICS_BYTES_MAX);
    CHECK(len > 0); // the tables are ours and small
    send_reply(c, "200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", len);
}

static bool path_is(const struct connection *c, const char *path) {
    const char *query = memchr(c->path, '?', c->path_len);
    size_t len = query == NULL ? c->path_len : (size_t)(query - c->path);
    return len == strlen(path) && memcmp(c->path, path, len) == 0;
}

static void answer(struct connection *c) {
    CHECK(c->head_complete && !c->answered);
    if (c->parser.method != HTTP_GET && c->parser.method != HTTP_HEAD)
        reply_text(c, "405 Method Not Allowed", "only GET and HEAD");
    else if (path_is(c, "/live"))
        reply_text(c, "200 OK", "alive");
    else if (path_is(c, "/ready"))
        reply_ready(c);
    else if (path_is(c, "/metrics"))
        reply_metrics(c);
    else
        reply_text(c, "404 Not Found", "there are /live, /ready and /metrics");
}

static int on_url(llhttp_t *parser, const char *at, size_t len) {
    struct connection *c = parser->data;
    size_t room = sizeof c->path - c->path_len;
    if (len > room)
        len = room; // a full buffer is no known path
    memcpy(c->path + c->path_len, at, len);
    c->path_len += len;
    return 0;
}

static int on_headers_complete(llhttp_t *parser) {
    struct connection *c = parser->data;
    c->head_complete = true;
    return HPE_PAUSED; // a body, or another request, is nobody's business
}

static void give_input(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    struct connection *c = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(c->input, sizeof c->input);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    struct connection *c = stream->data;
    if (n < 0) {
        connection_close(c);
        return;
    }
    if (n == 0)
        return;
    c->received += (size_t)n;
    if (c->received > 8 * REQUEST_BYTES_MAX) {
        connection_close(c); // still sending after its answer
        return;
    }
    if (c->answered)
        return;
    llhttp_errno_t rc = llhttp_execute(&c->parser, buffer->base, (size_t)n);
    if (c->head_complete)
        answer(c);
    else if (rc != HPE_OK)
        reply_text(c, "400 Bad Request", "not an HTTP request");
    else if (c->received > REQUEST_BYTES_MAX)
        reply_text(c, "431 Request Header Fields Too Large", "at most 8192 bytes");
}

// With every place taken the connection waits in the listener, which libuv leaves alone until somebody accepts.
static void accept_one(struct admin *admin) {
    struct connection *c = admin->connections;
    admin->waiting = admin->n_connections == CONNECTIONS_MAX;
    if (admin->waiting)
        return;
    while (c->open_handles > 0)
        c++;
    CHECK(c < admin->connections + CONNECTIONS_MAX);
    memset(c, 0, sizeof *c);
    c->admin = admin;
    c->tcp.data = c->timer.data = c;
    CHECK(uv_tcp_init(admin->listener.loop, &c->tcp) == 0); // without a socket yet it cannot fail
    CHECK(uv_timer_init(admin->listener.loop, &c->timer) == 0);
    c->open_handles = 2;
    admin->n_connections++;
    llhttp_init(&c->parser, HTTP_REQUEST, &admin->settings);
    c->parser.data = c;
    uv_stream_t *stream = (uv_stream_t *)&c->tcp;
    if (uv_accept((uv_stream_t *)&admin->listener, stream) != 0 ||
        uv_timer_start(&c->timer, timed_out, TIMEOUT_MS, 0) != 0 || uv_read_start(stream, give_input, on_read) != 0)
        connection_close(c);
}

static void on_connection(uv_stream_t *listener, int status) {
    struct admin *admin = listener->data;
    if (status == 0 && !admin->stopping)
        accept_one(admin);
}

static void listener_closed(uv_handle_t *handle) {
    struct admin *admin = handle->data;
    admin->listener_closed = true;
    admin_free_when_closed(admin);
}

static int listen_inherited(struct admin *admin, int fd, struct err *err) {
    int rc = uv_tcp_open(&admin->listener, fd);
    if (rc != 0)
        close(fd);
    else
        rc = uv_listen((uv_stream_t *)&admin->listener, CONNECTIONS_MAX, on_connection);
    return rc == 0 ? 0 : err_set(err, ERR_IO, "cannot listen on the admin socket handed over: %s", uv_strerror(rc));
}

static int listen_on(struct admin *admin, const char *address, struct err *err) {
    char host[256], service[8];
    uint16_t port;
    if (address_parse(address, host, &port) != 0)
        return err_set(err, ERR_INVALID, "admin_listen must be HOST:PORT or [IPV6]:PORT, not %s", address);
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    uv_getaddrinfo_t request;
    int rc = uv_getaddrinfo(admin->listener.loop, &request, NULL, host, service, &hints);
    if (rc != 0)
        return err_set(err, ERR_IO, "cannot resolve the host of admin_listen = %s: %s", address, uv_strerror(rc));
    rc = uv_tcp_bind(&admin->listener, request.addrinfo->ai_addr, 0);
    uv_freeaddrinfo(request.addrinfo);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&admin->listener, CONNECTIONS_MAX, on_connection);
    if (rc == UV_EADDRINUSE)
        return err_set(err, ERR_IO,
                       "cannot listen on %s: it is taken; stop its owner or change admin_listen", address);
    if (rc != 0)
        return err_set(err, ERR_IO, "cannot listen on admin_listen = %s: %s", address, uv_strerror(rc));
    return 0;
}

int admin_start(struct admin **out, struct uv_loop_s *loop, int inherited, const char *address,
                const struct admin_hooks *hooks, struct err *err) {
    CHECK(hooks->ready != NULL);
    *out = NULL;
    struct admin *admin = calloc(1, sizeof *admin);
    if (admin == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for the admin address");
    admin->hooks = *hooks;
    llhttp_settings_init(&admin->settings);
    admin->settings.on_url = on_url;
    admin->settings.on_headers_complete = on_headers_complete;
    admin->listener.data = admin;
    CHECK(uv_tcp_init(loop, &admin->listener) == 0);
    int rc = inherited >= 0 ? listen_inherited(admin, inherited, err) : listen_on(admin, address, err);
    if (rc != 0) {
        admin_stop(admin);
        return rc;
    }
    *out = admin;
    return 0;
}

uint16_t admin_port(const struct admin *admin) {
    struct sockaddr_storage name;
    int len = sizeof name;
    CHECK(uv_tcp_getsockname(&admin->listener, (struct sockaddr *)&name, &len) == 0);
    if (name.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&name)->sin6_port);
    return ntohs(((struct sockaddr_in *)&name)->sin_port);
}

void admin_stop(struct admin *admin) {
    if (admin == NULL || admin->stopping)
        return;
    admin->stopping = true;
    uv_close((uv_handle_t *)&admin->listener, listener_closed);
    for (size_t i = 0; i < CONNECTIONS_MAX; i++)
        if (admin->connections[i].open_handles > 0)
            connection_close(&admin->connections[i]);
}
