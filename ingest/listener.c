#include "ingest/listener.h"

#include "common/check.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

enum { BACKLOG = 4096, ACCEPTS_A_TURN = 256 };

struct listener {
    uv_poll_t poll;
    int fd;
    int spare_fd; // given up for a moment where descriptors run out, so that a connection can be taken and closed
    struct listener_setup setup;
};

static void give_to_worker(struct listener *listener, int fd) {
    const struct listener_setup *setup = &listener->setup;
    struct worker *least = setup->workers[0];
    size_t least_open = worker_connections(least);
    for (size_t i = 1; i < setup->n_workers; i++) {
        size_t open = worker_connections(setup->workers[i]);
        if (open < least_open) {
            least = setup->workers[i];
            least_open = open;
        }
    }
    if (worker_hand_over(least, fd))
        return;
    close(fd);
    metric_add(&setup->metrics->table[EDGE_METRIC_REFUSED], 1);
}

static bool shed_one(struct listener *listener) {
    if (listener->spare_fd < 0)
        return false;
    close(listener->spare_fd);
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    metric_add(&listener->setup.metrics->table[EDGE_METRIC_REFUSED], 1);
    listener->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0;
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    struct listener *listener = poll->data;
    (void)events;
    if (status != 0)
        return;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            give_to_worker(listener, fd);
        else if ((errno == EMFILE || errno == ENFILE) && shed_one(listener))
            continue;
        else if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

static int socket_for(const struct addrinfo *info) {
    const int on = 1;
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int listen_on(struct listener *listener, const char *address, struct err *err) {
    char host[256], service[8];
    uint16_t port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    if (address_parse(address, host, &port) != 0)
        return err_set(err, ERR_INVALID, "[ingest] listen must be HOST:PORT or [IPV6]:PORT, not %s", address);
    snprintf(service, sizeof service, "%u", port);
    int result = getaddrinfo(host, service, &hints, &found);
    if (result != 0)
        return err_set(err, ERR_IO, "cannot resolve the host of [ingest] listen = %s: %s", address,
                       gai_strerror(result));
    listener->fd = socket_for(found);
    int saved = errno;
    freeaddrinfo(found);
    errno = saved;
    if (listener->fd < 0 && errno == EADDRINUSE)
        return err_set(err, ERR_IO, "cannot listen on %s: it is taken; stop its owner or change [ingest] listen",
                       address);
    if (listener->fd < 0)
        return err_errno(err, ERR_IO, "cannot listen on [ingest] listen = %s", address);
    return 0;
}

int listener_start(struct listener **out, const struct listener_setup *setup, int inherited, const char *address,
                   struct err *err) {
    CHECK(setup->n_workers > 0);
    struct listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the listener");
    listener->fd = inherited;
    listener->setup = *setup;
    listener->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int result = inherited >= 0 ? 0 : listen_on(listener, address, err);
    if (result == 0 && uv_poll_init(setup->loop, &listener->poll, listener->fd) != 0)
        result = err_set(err, ERR_IO, "cannot watch the socket of [ingest] listen");
    if (result != 0) {
        if (listener->fd >= 0)
            close(listener->fd);
        if (listener->spare_fd >= 0)
            close(listener->spare_fd);
        free(listener);
        return result;
    }
    listener->poll.data = listener;
    CHECK(uv_poll_start(&listener->poll, UV_READABLE, on_readable) == 0);
    *out = listener;
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    free(handle->data);
}

void listener_stop(struct listener *listener) {
    if (listener == NULL)
        return;
    uv_close((uv_handle_t *)&listener->poll, on_closed);
    close(listener->fd);
    if (listener->spare_fd >= 0)
        close(listener->spare_fd);
}
