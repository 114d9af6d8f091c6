// Token keys and fetch classes: loaded at start, loaded again when `[keys] dir` or `[tenants] dir` changes or SIGHUP
// comes, and handed to the workers as immutable snapshots. A file that cannot be used is logged and leaves what is in
// force. New fetch classes hold from the next UTC day on, so that a released day names the rules that made it.
// Main loop's thread only.
#ifndef OPENVEIL_RELOAD_H
#define OPENVEIL_RELOAD_H

#include "common/config.h"
#include "ingest/snapshot.h"
#include "ingest/spool.h"
#include "ingest/worker.h"

struct uv_loop_s;
struct reload;

// The first load. `config` must outlive it.
int reload_create(struct reload **reload, const struct config *config, struct err *err) MUST_CHECK;
struct snapshot *reload_keys(const struct reload *reload);    // of a struct pixel_keys; the reload's reference
struct snapshot *reload_classes(const struct reload *reload); // of a struct fetch_classes; likewise
const uint8_t *reload_rules_hash(const struct reload *reload); // RULES_HASH_SIZE bytes
size_t reload_n_keys(const struct reload *reload);

// Begins to watch. `workers` and `spool` must outlive reload_stop.
int reload_watch(struct reload *reload, struct uv_loop_s *loop, struct spool *spool, struct worker **workers,
                 size_t n_workers, struct err *err) MUST_CHECK;
void reload_now(struct reload *reload); // SIGHUP: keys, tenants, fetch classes and the log level
void reload_stop(struct reload *reload);
void reload_free(struct reload *reload); // after the loop has closed its handles

#endif
