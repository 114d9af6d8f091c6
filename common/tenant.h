// The senders: `[tenants] dir` holds one JSON file `<id>.json` each, replaced atomically. What shapes counting (streams,
// exemption basis, days of inactivity) is a list of versions, each with the day from which it holds; a version for a day
// already begun is refused once the tenant exists. Threads: a loaded table is read-only; reload makes a new one.
#ifndef OPENVEIL_TENANT_H
#define OPENVEIL_TENANT_H

#include "common/err.h"
#include "common/token.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TENANT_STREAMS_MAX 32
#define STREAM_NAME_MAX 63
#define EXEMPTION_BASIS_MAX 500
#define TENANTS_MAX 100000

struct stream {
    uint16_t number;
    char name[STREAM_NAME_MAX + 1]; // letters, digits, dot, dash, underscore
};

struct tenant_version {
    uint32_t from_day;
    uint16_t inactive_days;     // 90, 180 or 365
    char *exemption_basis;      // NULL: none, regime 0 is not accepted
    size_t n_streams;
    struct stream streams[TENANT_STREAMS_MAX]; // ascending numbers
};

struct tenant {
    uint32_t id;
    size_t n_versions;                // at least 1
    struct tenant_version *versions;  // ascending from_day
    bool own_contact_key;             // the tenant brought a contact key of its own
    uint8_t contact_key[KEY_SIZE];
};

struct tenant_table; // opaque: an immutable set of tenants

// All tenants of the directory (an absent directory has none). ERR_INVALID names the bad file.
int tenant_table_load(struct tenant_table **table, const char *dir, struct err *err) MUST_CHECK;
void tenant_table_free(struct tenant_table *table);
size_t tenant_table_count(const struct tenant_table *table);
const struct tenant *tenant_table_at(const struct tenant_table *table, size_t index); // ascending ids
const struct tenant *tenant_table_find(const struct tenant_table *table, uint32_t id); // NULL where unknown
// One tenant from its file, ERR_NOT_FOUND where it has none; freed with tenant_free.
int tenant_load(struct tenant *tenant, const char *dir, uint32_t id, struct err *err) MUST_CHECK;
void tenant_free(struct tenant *tenant);
// Writes a tenant's file; ERR_EXISTS where `create` and it exists.
int tenant_store(const struct tenant *tenant, const char *dir, bool create, struct err *err) MUST_CHECK;

// The version in force on `day`; NULL before the tenant's first day.
const struct tenant_version *tenant_version_on(const struct tenant *tenant, uint32_t day);
static inline uint32_t tenant_first_day(const struct tenant *tenant) {
    return tenant->versions[0].from_day;
}
const struct stream *tenant_stream(const struct tenant_version *version, uint16_t number); // NULL where unknown

// Calls back, from the uv loop, soon after a file in `dir` was created, renamed or removed (inotify, and a look at the
// directory's mtime every second where that is not to be had). Used to reload keys and tenants without a restart.
struct uv_loop_s;
struct dir_watch;
typedef void (*dir_watch_fn)(void *arg);
int dir_watch_start(struct dir_watch **watch, struct uv_loop_s *loop, const char *dir, dir_watch_fn changed, void *arg,
                    struct err *err) MUST_CHECK;
void dir_watch_stop(struct dir_watch *watch); // frees it once the loop has closed its handles

#endif
