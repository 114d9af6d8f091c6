// The admin address over real sockets, and the text of the metrics.
#include "common/admin.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

static struct metric metrics[] = {
    {"openveil_requests", "", "Requests answered.", METRIC_COUNTER_STEPPED, 1299},
    {"openveil_drops", "reason=\"bad_token\"", "Drops by reason.", METRIC_COUNTER_STEPPED, 99},
    {"openveil_drops", "reason=\"scanner\"", "Drops by reason.", METRIC_COUNTER_STEPPED, 200},
    {"openveil_bytes", "", "Bytes.", METRIC_COUNTER, 7},
    {"openveil_connections", "", "Open connections.", METRIC_GAUGE, 3},
};

static const char expected_metrics[] =
    "# TYPE openveil_requests counter\n# HELP openveil_requests Requests answered.\nopenveil_requests_total 1200\n"
    "# TYPE openveil_drops counter\n# HELP openveil_drops Drops by reason.\n"
    "openveil_drops_total{reason=\"bad_token\"} 0\nopenveil_drops_total{reason=\"scanner\"} 200\n"
    "# TYPE openveil_bytes counter\n# HELP openveil_bytes Bytes.\nopenveil_bytes_total 7\n"
    "# TYPE openveil_connections gauge\n# HELP openveil_connections Open connections.\nopenveil_connections 3\n"
    "# EOF\n";

static void metrics_are_openmetrics(void **state) {
    (void)state;
    char text[2048];
    size_t len = metrics_format(metrics, ARRAY_LEN(metrics), text, sizeof text);
    assert_string_equal(text, expected_metrics);
    assert_int_equal(len, sizeof expected_metrics - 1);
    assert_int_equal(metrics_format(metrics, ARRAY_LEN(metrics), text, len), 0);
    assert_int_equal(metrics_format(metrics, ARRAY_LEN(metrics), text, len + 1), len);
    assert_int_equal(metrics_format(metrics, ARRAY_LEN(metrics), text, 0), 0);
    assert_int_equal(metrics_format(metrics, 0, text, sizeof text), 6);
}

// A server in a thread of its own, stopped through an async handle.
struct server {
    uv_loop_t loop;
    uv_async_t stop;
    struct admin *admin;
    pthread_t thread;
    uint16_t port;
    _Atomic bool is_ready;
    _Atomic unsigned refreshed;
    uv_prepare_t turn;
    _Atomic unsigned turns; // of the loop
};

static bool hook_ready(void *arg, char *why, size_t size) {
    struct server *server = arg;
    snprintf(why, size, "the spool is being read (50 %%)");
    return server->is_ready;
}

static void hook_refresh(void *arg) {
    struct server *server = arg;
    server->refreshed++;
}

static void count_turn(uv_prepare_t *turn) {
    struct server *server = turn->data;
    server->turns++;
}

static void stop_now(uv_async_t *stop) {
    struct server *server = stop->data;
    uv_close((uv_handle_t *)&server->turn, NULL);
    admin_stop(server->admin);
    uv_close((uv_handle_t *)stop, NULL);
}

static void *serve(void *arg) {
    struct server *server = arg;
    uv_run(&server->loop, UV_RUN_DEFAULT);
    return NULL;
}

static struct admin_hooks hooks_of(struct server *server) {
    return (struct admin_hooks){hook_ready, hook_refresh, server, metrics, ARRAY_LEN(metrics)};
}

static int start(void **state) {
    struct server *server = calloc(1, sizeof *server);
    struct err err;
    struct admin_hooks hooks = hooks_of(server);
    assert_int_equal(uv_loop_init(&server->loop), 0);
    assert_int_equal(uv_async_init(&server->loop, &server->stop, stop_now), 0);
    server->stop.data = server->turn.data = server;
    assert_int_equal(uv_prepare_init(&server->loop, &server->turn), 0);
    assert_int_equal(uv_prepare_start(&server->turn, count_turn), 0);
    assert_int_equal(admin_start(&server->admin, &server->loop, -1, "127.0.0.1:0", &hooks, &err), 0);
    server->port = admin_port(server->admin);
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
    *state = server;
    return 0;
}

static int stop(void **state) {
    struct server *server = *state;
    assert_int_equal(uv_async_send(&server->stop), 0);
    assert_int_equal(pthread_join(server->thread, NULL), 0);
    assert_int_equal(uv_loop_close(&server->loop), 0); // every handle is closed and freed
    free(server);
    return 0;
}

static int connect_to(const struct server *server) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(server->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval patience = {.tv_sec = 15};
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static char reply[16384];

static const char *read_reply(int fd) {
    size_t used = 0;
    ssize_t n;
    while ((n = recv(fd, reply + used, sizeof reply - 1 - used, 0)) > 0)
        used += (size_t)n;
    assert_int_equal(n, 0);
    reply[used] = '\0';
    close(fd);
    return reply;
}

static const char *ask(const struct server *server, const char *request) {
    int fd = connect_to(server);
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (int)strlen(request));
    return read_reply(fd);
}

static bool begins(const char *text, const char *start_of_it) {
    return strncmp(text, start_of_it, strlen(start_of_it)) == 0;
}

static bool ends(const char *text, const char *end) {
    return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

static void paths_and_methods(void **state) {
    struct server *server = *state;
    const char *r = ask(server, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(begins(r, "HTTP/1.1 200 OK\r\n") && ends(r, "\r\n\r\nalive\n"));
    r = ask(server, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(begins(r, "HTTP/1.1 503 ") && ends(r, "\r\n\r\nthe spool is being read (50 %)\n"));
    server->is_ready = true;
    r = ask(server, "GET /ready?x HTTP/1.0\r\n\r\n");
    assert_true(begins(r, "HTTP/1.1 200 OK\r\n") && ends(r, "\r\n\r\nready\n"));
    r = ask(server, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(ends(r, expected_metrics));
    assert_non_null(strstr(r, "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert_int_equal(server->refreshed, 1);
    r = ask(server, "HEAD /live HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(begins(r, "HTTP/1.1 200 OK\r\n") && ends(r, "\r\n\r\n"));
    assert_non_null(strstr(r, "Content-Length: 6\r\n"));
    r = ask(server, "POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert_true(begins(r, "HTTP/1.1 405 "));
    assert_non_null(strstr(r, "Allow: GET, HEAD\r\n"));
    assert_true(begins(ask(server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 404 "));
    assert_true(begins(ask(server, "GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 404 "));
    assert_true(begins(ask(server, "nonsense\r\n\r\n"), "HTTP/1.1 400 "));
}

static void a_request_may_come_in_pieces(void **state) {
    const char *request = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";
    int fd = connect_to(*state);
    for (const char *c = request; *c != '\0'; c++) {
        assert_int_equal(send(fd, c, 1, MSG_NOSIGNAL), 1);
        if (c - request < 5)
            usleep(1000);
    }
    assert_true(ends(read_reply(fd), "alive\n"));
}

static void large_requests_are_refused(void **state) {
    static char request[9000];
    memset(request, 'a', sizeof request - 1);
    memcpy(request, "GET /live HTTP/1.1\r\nX: ", 23);
    assert_true(begins(ask(*state, request), "HTTP/1.1 431 "));
    static char path[600];
    memset(path, '/', sizeof path - 1);
    memcpy(path, "GET ", 4);
    strcpy(path + 400, " HTTP/1.1\r\n\r\n");
    assert_true(begins(ask(*state, path), "HTTP/1.1 404 "));
}

static void the_65th_connection_waits_its_turn(void **state) {
    int idle[64];
    for (size_t i = 0; i < ARRAY_LEN(idle); i++)
        idle[i] = connect_to(*state);
    int fd = connect_to(*state);
    const char *request = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";
    char byte;
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (int)strlen(request));
    usleep(100000);
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    close(idle[0]);
    assert_true(ends(read_reply(fd), "alive\n"));
    // The next ones get the freed place one after the other.
    for (int i = 0; i < 3; i++)
        assert_true(ends(ask(*state, request), "alive\n"));
    for (size_t i = 1; i < ARRAY_LEN(idle); i++)
        close(idle[i]);
}

static void idle_costs_nothing(void **state) {
    struct server *server = *state;
    assert_true(begins(ask(server, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 "));
    usleep(50000);
    unsigned before = server->turns;
    usleep(500000);
    assert_int_equal(server->turns, before);
}

static void bad_addresses_are_explained(void **state) {
    struct server *server = *state;
    struct admin_hooks hooks = hooks_of(server);
    struct admin *admin;
    struct err err;
    uv_loop_t loop;
    char address[32];
    assert_int_equal(uv_loop_init(&loop), 0);
    snprintf(address, sizeof address, "127.0.0.1:%u", server->port);
    assert_int_equal(admin_start(&admin, &loop, -1, address, &hooks, &err), ERR_IO);
    assert_null(admin);
    assert_non_null(strstr(err.text, "is taken"));
    assert_int_equal(admin_start(&admin, &loop, -1, "127.0.0.1", &hooks, &err), ERR_INVALID);
    assert_int_equal(admin_start(&admin, &loop, -1, "198.51.100.1:1", &hooks, &err), ERR_IO);
    admin_stop(NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics_are_openmetrics),
        cmocka_unit_test_setup_teardown(paths_and_methods, start, stop),
        cmocka_unit_test_setup_teardown(a_request_may_come_in_pieces, start, stop),
        cmocka_unit_test_setup_teardown(large_requests_are_refused, start, stop),
        cmocka_unit_test_setup_teardown(the_65th_connection_waits_its_turn, start, stop),
        cmocka_unit_test_setup_teardown(idle_costs_nothing, start, stop),
        cmocka_unit_test_setup_teardown(bad_addresses_are_explained, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
