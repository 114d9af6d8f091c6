// The senders: `[tenants] dir` holds one JSON file `<id>.json` each, replaced atomically. What shapes counting (streams,
// exemption basis, days of inactivity) is a list of versions, each with the day from which it holds; a version for a day
// already begun is refused once the tenant exists. Threads: a loaded table is read-only; reload makes a new one.
#ifndef OPENVEIL_TENANT_H
#define OPENVEIL_TENANT_H

#include "common/dir_watch.h"
#include "common/err.h"
#include "common/token.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TENANT_STREAMS_MAX 32
#define STREAM_LIFE_DAYS_MIN 28 // a stream keeps number and name for at least so long
#define STREAM_NAME_MAX 63
#define EXEMPTION_BASIS_MAX 500
#define TENANTS_MAX 100000
#define TENANT_VERSIONS_MAX 1000

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
    bool own_contact_key;             // the tenant brought a contact key of its own: <id>.contact.key beside its file
    uint8_t contact_key[KEY_SIZE];    // that key; zeros in a tenant of a table, whose readers never need it
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
// What its file says, from memory; `name` stands for the file in messages. An own contact key is not read.
int tenant_parse(struct tenant *tenant, uint32_t id, const char *name, const char *text, size_t len, struct err *err)
    MUST_CHECK;
void tenant_free(struct tenant *tenant);
// Writes a tenant's file; ERR_EXISTS where `create` and it exists.
int tenant_store(const struct tenant *tenant, const char *dir, bool create, struct err *err) MUST_CHECK;
// Its rules, as load and store apply them: names, order, bounds, streams that live STREAM_LIFE_DAYS_MIN days or more, and
// days of inactivity that change once in 12 months.
int tenant_check(const struct tenant *tenant, struct err *err) MUST_CHECK;

// What its file holds, for output; NULL where memory is short.
struct json_t;
struct json_t *tenant_json(const struct tenant *tenant);

// The contact key of a tenant from tenant_load: its own, or the one derived from the contact master. ERR_NOT_FOUND
// where `keys` hold no contact master.
struct keys;
int tenant_contact_key(const struct tenant *tenant, const struct keys *keys, uint8_t key[KEY_SIZE], struct err *err)
    MUST_CHECK;

// The version in force on `day`; NULL before the tenant's first day.
const struct tenant_version *tenant_version_on(const struct tenant *tenant, uint32_t day);
static inline uint32_t tenant_first_day(const struct tenant *tenant) {
    return tenant->versions[0].from_day;
}
const struct stream *tenant_stream(const struct tenant_version *version, uint16_t number); // NULL where unknown

#endif
