#include "common/service.h"

#include "common/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

enum { LOOK_MS = 1000, LOOK_BEFORE_READY_MS = 100, WATCHDOG_PARTS = 4, STATUS_SIZE = 512 };

struct service {
    uv_timer_t timer;
    struct service_hooks hooks;
    uint64_t watchdog_us; // 0: nobody watches
    bool ready_told;
    bool stopping;
    char status[STATUS_SIZE]; // as told
};

static int socket_place(struct service_sockets *sockets, const char *const *names, size_t n_names, int fd,
                        const char *name, struct err *err) {
    size_t at = 0;
    while (at < n_names && strcmp(names[at], name) != 0)
        at++;
    if (at == n_names)
        return err_set(err, ERR_INVALID, "a socket was handed over under a name that is not known here; known are "
                       "FileDescriptorName=%s and %s", names[0], names[n_names - 1]);
    if (sd_is_socket_inet(fd, AF_UNSPEC, SOCK_STREAM, 1, 0) <= 0)
        return err_set(err, ERR_INVALID, "what was handed over as %s is not a listening TCP socket", names[at]);
    if (sockets->of[at].n == SERVICE_SOCKETS_MAX)
        return err_set(err, ERR_LIMIT, "more than %d sockets were handed over as %s", SERVICE_SOCKETS_MAX, names[at]);
    sockets->of[at].fds[sockets->of[at].n++] = fd;
    return 0;
}

int service_sockets_take(struct service_sockets *sockets, const char *const *names, size_t n_names, struct err *err) {
    char **given = NULL;
    CHECK(n_names > 0 && n_names <= SERVICE_NAMES_MAX);
    *sockets = (struct service_sockets){0};
    int n = sd_listen_fds_with_names(1, &given), rc = 0;
    if (n < 0)
        return err_set(err, ERR_INVALID, "cannot use the sockets handed over (LISTEN_FDS): %s", strerror(-n));
    for (int i = 0; i < n && rc == 0; i++)
        rc = socket_place(sockets, names, n_names, SD_LISTEN_FDS_START + i, given[i], err);
    for (int i = 0; i < n; i++)
        free(given[i]);
    free(given);
    return rc;
}

static void status_tell(struct service *service, const char *text) {
    if (strcmp(service->status, text) == 0)
        return;
    snprintf(service->status, sizeof service->status, "%s", text);
    (void)sd_notifyf(0, "STATUS=%s", service->status);
}

static void on_look(uv_timer_t *timer) {
    struct service *service = timer->data;
    char why[STATUS_SIZE] = "not ready";
    bool ready = service->hooks.ready(service->hooks.arg, why, sizeof why);
    status_tell(service, ready ? "ready" : why);
    if (ready && !service->ready_told) {
        uint64_t ms = service->watchdog_us / 1000 / WATCHDOG_PARTS;
        ms = ms == 0 || ms > LOOK_MS ? LOOK_MS : ms;
        service->ready_told = true;
        (void)sd_notify(0, "READY=1");
        CHECK(uv_timer_start(&service->timer, on_look, ms, ms) == 0);
    }
    if (service->watchdog_us > 0 && (service->hooks.alive == NULL || service->hooks.alive(service->hooks.arg)))
        (void)sd_notify(0, "WATCHDOG=1");
}

int service_start(struct service **out, struct uv_loop_s *loop, const struct service_hooks *hooks, struct err *err) {
    CHECK(hooks->ready != NULL);
    *out = NULL;
    if (getenv("NOTIFY_SOCKET") == NULL)
        return 0;
    struct service *service = calloc(1, sizeof *service);
    if (service == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the service manager's news");
    service->hooks = *hooks;
    if (sd_watchdog_enabled(0, &service->watchdog_us) <= 0)
        service->watchdog_us = 0;
    CHECK(uv_timer_init(loop, &service->timer) == 0);
    service->timer.data = service;
    CHECK(uv_timer_start(&service->timer, on_look, 0, LOOK_BEFORE_READY_MS) == 0);
    *out = service;
    return 0;
}

// A manager that still waits for READY=1 would take the one that ends a reload for it.
void service_reloading(struct service *service) {
    struct timespec now;
    if (service == NULL || !service->ready_told || service->stopping)
        return;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
                     (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
}

void service_reloaded(struct service *service) {
    if (service != NULL && service->ready_told && !service->stopping)
        (void)sd_notify(0, "READY=1");
}

void service_stopping(struct service *service) {
    if (service == NULL || service->stopping)
        return;
    service->stopping = true;
    (void)sd_notify(0, "STOPPING=1\nSTATUS=stopping");
}

static void on_closed(uv_handle_t *handle) {
    free(handle->data);
}

void service_stop(struct service *service) {
    if (service == NULL)
        return;
    service_stopping(service);
    uv_close((uv_handle_t *)&service->timer, on_closed);
}
