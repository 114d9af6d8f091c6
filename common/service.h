// What the service manager is told (sd_notify) and the listening sockets that it hands over (LISTEN_FDS), by libsystemd.
// Without a manager, or with one that asks for nothing, all of it does nothing. Main thread only.
#ifndef OPENVEIL_SERVICE_H
#define OPENVEIL_SERVICE_H

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>

struct uv_loop_s;

// ---- Sockets ----

enum { SERVICE_SOCKETS_MAX = 8, SERVICE_NAMES_MAX = 2 };

// What was handed over under each of the known names.
struct service_sockets {
    struct {
        int fds[SERVICE_SOCKETS_MAX];
        size_t n;
    } of[SERVICE_NAMES_MAX];
};

// Takes the sockets that were handed to this process, each to its place among `names`. ERR_INVALID for one that has
// another name or is no listening TCP socket. To be called once; the descriptors are the caller's.
int service_sockets_take(struct service_sockets *sockets, const char *const *names, size_t n_names,
                         struct err *err) MUST_CHECK;

// ---- Notifications ----

struct service;
struct service_hooks {
    // As for the admin address: true when ready, otherwise the reason in a line of `why`.
    bool (*ready)(void *arg, char *why, size_t size);
    // Whether the other threads have taken a turn since the last call. NULL: there are none but the loop's.
    bool (*alive)(void *arg);
    void *arg;
};

// Tells READY=1 once, when ready for the first time; STATUS= whenever it changes; WATCHDOG=1 while everything is alive,
// where the manager wants it. `hooks` are copied. *service is NULL where nobody listens; all calls take that.
int service_start(struct service **service, struct uv_loop_s *loop, const struct service_hooks *hooks,
                  struct err *err) MUST_CHECK;
void service_reloading(struct service *service); // before a reload
void service_reloaded(struct service *service);  // after it, whatever came of it
void service_stopping(struct service *service);  // the end has begun
void service_stop(struct service *service);      // frees it once the loop has closed its handle

#endif
