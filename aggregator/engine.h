// The aggregator's engine: takes messages from a source, decides with consent what they change, commits changes and
// positions together to a journal, releases windows and months. Owner: main (or a test). Everything runs on the uv loop's
// thread; loads, commits and published files use libuv's worker threads. Order of life: engine_create, engine_start,
// uv_run …, engine_stop, uv_run until nothing is left, engine_free.
#ifndef OPENVEIL_ENGINE_H
#define OPENVEIL_ENGINE_H

#include "aggregator/journal.h"
#include "aggregator/noise.h"
#include "aggregator/source.h"
#include "common/consent_store.h"

struct uv_loop_s;
struct engine;

// The consent authority, as consent_client has it, replaceable in tests and simulations.
struct consent_ops {
    int (*lookup)(void *arg, uint32_t partition, struct consent_query *queries, size_t n,
                  const struct consent_stamp *known, consent_done_fn done, void *done_arg);
    int (*scan)(void *arg, uint32_t partition, uint32_t tenant, const struct consent_stamp *known, consent_each_fn each,
                consent_done_fn done, void *done_arg);
    // Up to `epoch` whoever left is erased, durably. NULL: nobody wants to know.
    int (*applied)(void *arg, uint32_t partition, uint64_t epoch, consent_done_fn done, void *done_arg);
    bool (*connected)(void *arg);
    void *arg;
};
struct consent_ops consent_ops_of(struct consent_client *client);

// Where a line's noise comes from; one open and one close a line. Tests may replace it, nothing else.
struct noise_ops {
    int (*open)(void *arg, struct noise_source *source, void **line);
    void (*close)(void *arg, void *line);
    void *arg;
};

struct engine_parts {
    struct uv_loop_s *loop;
    const struct config *config;
    struct source *source;
    struct journal *journal;
    struct consent_ops consent;
    const struct noise_ops *noise; // NULL: the kernel's
    bool follows_changes; // of [redis]; else engine_change tells them, or nobody does
    // A partition's state is loaded here and belongs to this process, or no longer does. May be NULL.
    void (*owns)(void *arg, uint32_t partition, bool owned);
    // The engine can't go on; main logs and exits with 1. Called at most once.
    void (*failed)(void *arg, const struct err *err);
    void *arg;
};

// Reads the tenants. `parts` is copied; what it points to must outlive the engine.
int engine_create(struct engine **engine, const struct engine_parts *parts, struct err *err) MUST_CHECK;
// Starts timers, the watch on the tenants' directory, and the source.
int engine_start(struct engine *engine, struct err *err) MUST_CHECK;
// Takes nothing more, commits what was decided (blocking), stops the source. 0, or the commit's error.
int engine_stop(struct engine *engine, struct err *err) MUST_CHECK;
void engine_free(struct engine *engine);
// A change of consent, in the order of the partition's epochs; false: not now.
bool engine_change(struct engine *engine, uint32_t partition, const struct consent_entry *entry);
// For /ready and /metrics.
bool engine_ready(const struct engine *engine, char *why, size_t size);
void engine_refresh(struct engine *engine);

#endif
