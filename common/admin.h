// The admin address: a small HTTP server for /live, /ready and /metrics on a uv loop. Owned by the loop's thread.
#ifndef OPENVEIL_ADMIN_H
#define OPENVEIL_ADMIN_H

#include "common/err.h"
#include "common/metrics.h"

#include <stdbool.h>
#include <stdint.h>

struct uv_loop_s;
struct admin;
struct admin_hooks {
    // True when ready; otherwise writes the reason (and progress) in a line of `why`.
    bool (*ready)(void *arg, char *why, size_t size);
    // Brings gauges up to date before /metrics; may be NULL.
    void (*refresh)(void *arg);
    void *arg;
    struct metric *metrics;
    size_t n_metrics;
};
// Binds and listens on "host:port"; ERR_IO with the fix where the port is taken. With `inherited` >= 0 that listening socket
// is taken over instead. `hooks` are copied. Also after an error the loop must run once more before it can be closed.
int admin_start(struct admin **admin, struct uv_loop_s *loop, int inherited, const char *address,
                const struct admin_hooks *hooks, struct err *err) MUST_CHECK;
// The port it listens on, for an address with port 0.
uint16_t admin_port(const struct admin *admin);
void admin_stop(struct admin *admin); // frees it once the loop has closed its handles

#endif
