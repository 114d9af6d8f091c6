// The blocking face of the consent client: a loop of its own that runs until the answer is in.
#include "common/consent_store.h"

#include "common/consent_notice.h"
#include "common/hmac.h"
#include "common/token.h"

#include <inttypes.h>
#include <string.h>
#include <uv.h>

#define CHANGES_A_CALL 500u
#define CALLS_IN_FLIGHT 8u
#define CONTACTS_A_LOOKUP 65536u
#define ENTRIES_A_READ 2000u

struct consent_store {
    uv_loop_t loop;
    struct consent_client *client;
    struct clock clock;
    uint32_t partitions;
    bool has_known;
    uint32_t known_partition;
    struct consent_stamp known;
    size_t n_pending;
    int status; // of what was asked last: the first failure
};

static void on_done(void *arg, int status, const struct consent_stamp *stamp) {
    struct consent_store *store = arg;
    (void)stamp;
    CHECK(store->n_pending > 0);
    store->n_pending--;
    if (store->status == 0)
        store->status = status;
}

// Runs the loop until at most `n_pending` calls are open.
static void store_wait(struct consent_store *store, size_t n_pending) {
    while (store->n_pending > n_pending) {
        int active = uv_run(&store->loop, UV_RUN_ONCE);
        CHECK(active != 0 || store->n_pending == 0);
    }
}

static int store_failure(struct consent_store *store, int status, struct err *err) {
    const char *problem = consent_client_problem(store->client);
    if (status == ERR_NOMEM || status == ERR_LIMIT)
        return err_set(err, status, "out of memory for the consent store");
    return err_set(err, status, "%s", problem[0] == '\0' ? "Redis does not answer" : problem);
}

// Counts a call that was just made, or remembers why it could not be.
static void store_made(struct consent_store *store, int rc) {
    if (rc == 0)
        store->n_pending++;
    else if (store->status == 0)
        store->status = rc;
}

static int store_settle(struct consent_store *store, struct err *err) {
    store_wait(store, 0);
    return store->status == 0 ? 0 : store_failure(store, store->status, err);
}

int consent_store_open(struct consent_store **out, const struct config *config, struct err *err) {
    struct consent_store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for the consent store");
    store->clock = config->clock;
    store->partitions = (uint32_t)config->kafka_partitions;
    int rc = uv_loop_init(&store->loop);
    if (rc != 0) {
        free(store);
        return err_set(err, ERR_IO, "cannot make an event loop: %s", uv_strerror(rc));
    }
    rc = consent_client_create(&store->client, &store->loop, config, err);
    if (rc != 0) {
        consent_store_close(store);
        return rc;
    }
    consent_client_quiet(store->client);
    int64_t until_ms = clock_monotonic_ms() + (int64_t)config->redis_timeout_ms;
    while (!consent_client_connected(store->client) && clock_monotonic_ms() < until_ms)
        uv_run(&store->loop, UV_RUN_ONCE);
    if (!consent_client_partly_connected(store->client)) {
        rc = store_failure(store, ERR_UNREACHABLE, err);
        consent_store_close(store);
        return rc;
    }
    *out = store;
    return 0;
}

void consent_store_close(struct consent_store *store) {
    if (store == NULL)
        return;
    consent_client_free(store->client);
    uv_run(&store->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&store->loop);
    CHECK(rc == 0);
    free(store);
}

typedef int (*changes_fn)(struct consent_client *client, uint32_t partition, struct consent_change *changes, size_t n,
                          uint32_t today, consent_done_fn done, void *arg);

static int store_change(struct consent_store *store, struct consent_change *changes, size_t n, changes_fn change,
                        struct err *err) {
    uint32_t today = clock_today(&store->clock);
    store->status = 0;
    for (size_t i = 0; i < n; i++) {
        changes[i].result = ERR_UNREACHABLE;
        changes[i].reason[0] = '\0';
    }
    for (size_t at = 0; at < n && store->status == 0;) {
        uint32_t partition = partition_of(changes[at].tenant, store->partitions);
        size_t end = at + 1;
        while (end < n && end - at < CHANGES_A_CALL &&
               partition_of(changes[end].tenant, store->partitions) == partition)
            end++;
        store_made(store, change(store->client, partition, changes + at, end - at, today, on_done, store));
        store_wait(store, CALLS_IN_FLIGHT - 1);
        at = end;
    }
    return store_settle(store, err);
}

int consent_store_apply(struct consent_store *store, struct consent_change *changes, size_t n, struct err *err) {
    return store_change(store, changes, n, consent_client_apply, err);
}

int consent_store_enter(struct consent_store *store, struct consent_change *changes, size_t n, struct err *err) {
    return store_change(store, changes, n, consent_client_enter, err);
}

int consent_store_leads_on(struct consent_store *store, uint32_t partition, const struct consent_stamp *known,
                           struct err *err) {
    store->status = 0;
    store_made(store, consent_client_lookup(store->client, partition, NULL, 0, known, on_done, store));
    return store_settle(store, err);
}

void consent_store_known(struct consent_store *store, uint32_t partition, const struct consent_stamp *known) {
    CHECK(partition < store->partitions);
    store->has_known = true;
    store->known_partition = partition;
    store->known = *known;
}

int consent_store_get_many(struct consent_store *store, uint32_t tenant, const uint64_t *pseudonyms, size_t n,
                           struct consent_record *records, struct err *err) {
    size_t room = n < CONTACTS_A_LOOKUP ? n : CONTACTS_A_LOOKUP;
    struct consent_query *queries = calloc(room == 0 ? 1 : room, sizeof *queries);
    if (queries == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for the consent store");
    uint32_t partition = partition_of(tenant, store->partitions);
    const struct consent_stamp *known = store->has_known && store->known_partition == partition ? &store->known : NULL;
    int rc = 0;
    for (size_t at = 0; at < n && rc == 0; at += room) {
        size_t count = n - at < room ? n - at : room;
        for (size_t i = 0; i < count; i++)
            queries[i] = (struct consent_query){.tenant = tenant, .pseudonym = pseudonyms[at + i]};
        store->status = 0;
        store_made(store, consent_client_lookup(store->client, partition, queries, count, known, on_done, store));
        rc = store_settle(store, err);
        for (size_t i = 0; i < count && rc == 0; i++)
            records[at + i] = queries[i].record;
    }
    free(queries);
    return rc;
}

int consent_store_get(struct consent_store *store, uint32_t tenant, uint64_t pseudonym, struct consent_record *record,
                      struct err *err) {
    return consent_store_get_many(store, tenant, &pseudonym, 1, record, err);
}

int consent_store_size_hint(struct consent_store *store, uint32_t tenant, uint64_t contacts, struct err *err) {
    store->status = 0;
    store_made(store, consent_client_size_hint(store->client, partition_of(tenant, store->partitions), tenant, contacts,
                                               on_done, store));
    return store_settle(store, err);
}

struct scanning {
    struct consent_store *store;
    consent_each_fn each;
    void *arg;
};

static void on_scanned(void *arg, uint64_t pseudonym, const struct consent_record *record) {
    const struct scanning *scanning = arg;
    scanning->each(scanning->arg, pseudonym, record);
}

static void on_scan_done(void *arg, int status, const struct consent_stamp *stamp) {
    const struct scanning *scanning = arg;
    on_done(scanning->store, status, stamp);
}

int consent_store_scan(struct consent_store *store, uint32_t tenant, consent_each_fn each, void *arg,
                       struct err *err) {
    uint32_t partition = partition_of(tenant, store->partitions);
    struct scanning scanning = {.store = store, .each = each, .arg = arg};
    store->status = 0;
    store_made(store, consent_client_scan(store->client, partition, tenant, NULL, on_scanned, on_scan_done, &scanning));
    return store_settle(store, err);
}

// ---- calls about more than one contact ------------------------------------------------------------------------------
static int64_t store_call(struct consent_store *store, uint32_t partition, struct consent_call *call,
                          struct err *err) {
    store->status = 0;
    store_made(store, consent_client_call(store->client, partition, call, clock_today(&store->clock), on_done, store));
    int rc = store_settle(store, err);
    if (rc != 0)
        return rc;
    if (call->result < 0)
        return err_set(err, (int)call->result, "refused: %s", call->reason);
    return call->result;
}

int64_t consent_store_erase_tenant(struct consent_store *store, uint32_t tenant, struct err *err) {
    char id[12];
    snprintf(id, sizeof id, "%" PRIu32, tenant);
    struct consent_call call = {.function = "openveil_erase_tenant", .words = {id}, .n_words = 1};
    return store_call(store, partition_of(tenant, store->partitions), &call, err);
}

// The words of common/consent.lua for what one call does not do, and steps do.
static bool needs_steps(const struct consent_call *call) {
    return call->result == ERR_REFUSED && (strstr(call->reason, "one call moves up to") != NULL ||
                                           strcmp(call->reason, "a longer move is under way") == 0);
}

int64_t consent_store_rebucket(struct consent_store *store, uint32_t tenant, uint32_t bits, struct err *err) {
    char id[12], number[12];
    uint32_t partition = partition_of(tenant, store->partitions);
    snprintf(id, sizeof id, "%" PRIu32, tenant);
    snprintf(number, sizeof number, "%" PRIu32, bits);
    struct consent_call call = {.function = "openveil_rebucket", .words = {id, number}, .n_words = 2};
    int64_t receipt = store_call(store, partition, &call, err);
    if (!needs_steps(&call))
        return receipt;
    call.function = "openveil_rebucket_step";
    do
        receipt = store_call(store, partition, &call, err);
    while (receipt == 0);
    return receipt;
}

int64_t consent_store_join(struct consent_store *store, uint32_t partition, uint64_t shared,
                           const struct consent_stamp *log, struct err *err) {
    char shared_text[24], epoch[24], hash[2 * CONSENT_HASH_SIZE + 1];
    snprintf(shared_text, sizeof shared_text, "%" PRIu64, shared);
    snprintf(epoch, sizeof epoch, "%" PRIu64, log->epoch);
    hex_encode(log->hash, CONSENT_HASH_SIZE, hash);
    struct consent_call call = {.function = "openveil_join", .words = {shared_text, epoch, hash}, .n_words = 3};
    return store_call(store, partition, &call, err);
}

int64_t consent_store_joined(struct consent_store *store, uint32_t partition, struct err *err) {
    struct consent_call call = {.function = "openveil_joined"};
    return store_call(store, partition, &call, err);
}

int consent_store_notice_add(struct consent_store *store, const struct consent_notice *notice, struct err *err) {
    char purposes[12], from[12], hash[2 * SHA256_SIZE + 1];
    snprintf(purposes, sizeof purposes, "%u", notice->purposes);
    snprintf(from, sizeof from, "%" PRIu32, notice->from);
    hex_encode(notice->hash, SHA256_SIZE, hash);
    for (uint32_t partition = 0; partition < store->partitions; partition++) {
        struct consent_call call = {.function = "openveil_notice_add",
                                    .words = {notice->version, purposes, notice->language, from, hash},
                                    .n_words = 5};
        int64_t rc = store_call(store, partition, &call, err);
        if (rc < 0)
            return (int)rc;
    }
    return 0;
}

// ---- reading, and forgetting a contact ------------------------------------------------------------------------------
struct reading {
    struct consent_store *store;
    consent_entry_fn each;
    consent_applied_fn each_applied;
    consent_tenant_fn each_tenant;
    void *arg;
    struct consent_stamp stamp;
    uint64_t epoch; // of the last entry
    size_t n;
};

static void on_stamp(void *arg, int status, const struct consent_stamp *stamp) {
    struct reading *reading = arg;
    if (stamp != NULL)
        reading->stamp = *stamp;
    on_done(reading->store, status, stamp);
}

static void on_entry(void *arg, const struct consent_entry *entry) {
    struct reading *reading = arg;
    reading->epoch = entry->epoch;
    reading->n++;
    reading->each(reading->arg, entry);
}

static void on_who(void *arg, const char *who, uint64_t epoch, int64_t unix_ms) {
    const struct reading *reading = arg;
    reading->each_applied(reading->arg, who, epoch, unix_ms);
}

int consent_store_repair(struct consent_store *store, uint32_t partition, struct consent_stamp *stamp,
                         struct consent_repair *repair, struct err *err) {
    struct reading reading = {.store = store};
    store->status = 0;
    store_made(store, consent_client_stamp(store->client, partition, repair, on_stamp, &reading));
    int rc = store_settle(store, err);
    if (rc == 0)
        *stamp = reading.stamp;
    return rc;
}

int consent_store_stamp(struct consent_store *store, uint32_t partition, struct consent_stamp *stamp,
                        struct err *err) {
    struct consent_repair repair;
    return consent_store_repair(store, partition, stamp, &repair, err);
}

int consent_store_entries(struct consent_store *store, uint32_t partition, uint64_t epoch, consent_entry_fn each,
                          void *arg, struct err *err) {
    struct reading reading = {.store = store, .each = each, .arg = arg, .epoch = epoch};
    int rc = 0;
    do {
        reading.n = 0;
        store->status = 0;
        store_made(store, consent_client_entries(store->client, partition, reading.epoch, ENTRIES_A_READ, on_entry,
                                                 on_stamp, &reading));
        rc = store_settle(store, err);
    } while (rc == 0 && reading.n > 0);
    return rc;
}

int consent_store_applied(struct consent_store *store, uint32_t partition, consent_applied_fn each, void *arg,
                          struct err *err) {
    struct reading reading = {.store = store, .each_applied = each, .arg = arg};
    store->status = 0;
    store_made(store, consent_client_read_applied(store->client, partition, on_who, on_stamp, &reading));
    return store_settle(store, err);
}

struct one {
    struct consent_store *store;
    struct consent_entry entry;
};

static void on_one_entry(void *arg, const struct consent_entry *entry) {
    struct one *one = arg;
    one->entry = *entry;
}

static void on_one_done(void *arg, int status, const struct consent_stamp *stamp) {
    on_done(((struct one *)arg)->store, status, stamp);
}

int consent_store_entry(struct consent_store *store, uint32_t partition, uint64_t epoch, struct consent_entry *entry,
                        struct err *err) {
    struct one one = {.store = store};
    CHECK(epoch > 0);
    store->status = 0;
    store_made(store, consent_client_entries(store->client, partition, epoch - 1, 1, on_one_entry, on_one_done, &one));
    int rc = store_settle(store, err);
    *entry = one.entry;
    return rc != 0 ? rc : one.entry.epoch == epoch ? 0 : ERR_NOT_FOUND;
}

static void on_tenant(void *arg, uint32_t tenant) {
    const struct reading *reading = arg;
    reading->each_tenant(reading->arg, tenant);
}

int consent_store_tenants(struct consent_store *store, uint32_t partition, consent_tenant_fn each, void *arg,
                          struct err *err) {
    struct reading reading = {.store = store, .each_tenant = each, .arg = arg};
    store->status = 0;
    store_made(store, consent_client_tenants(store->client, partition, on_tenant, on_stamp, &reading));
    return store_settle(store, err);
}

// The entries about one contact.
struct traces {
    uint32_t tenant;
    uint64_t pseudonym;
    uint64_t *epochs;
    size_t n;
    size_t room;
    bool failed;
};

static void on_trace(void *arg, const struct consent_entry *entry) {
    struct traces *traces = arg;
    if (entry->tenant != traces->tenant || entry->pseudonym != traces->pseudonym || traces->failed)
        return;
    if (traces->n == traces->room) {
        size_t room = traces->room == 0 ? 64 : 2 * traces->room;
        uint64_t *more = realloc(traces->epochs, room * sizeof *more);
        traces->failed = more == NULL;
        if (traces->failed)
            return;
        traces->epochs = more;
        traces->room = room;
    }
    traces->epochs[traces->n++] = entry->epoch;
}

int64_t consent_store_forget(struct consent_store *store, uint32_t tenant, uint64_t pseudonym, bool keep_left,
                             struct err *err) {
    uint32_t partition = partition_of(tenant, store->partitions);
    struct traces traces = {.tenant = tenant, .pseudonym = pseudonym};
    int64_t rc = consent_store_entries(store, partition, 0, on_trace, &traces, err);
    if (rc == 0 && traces.failed)
        rc = err_set(err, ERR_NOMEM, "out of memory for a contact's changes");
    char id[12], who[17];
    snprintf(id, sizeof id, "%" PRIu32, tenant);
    snprintf(who, sizeof who, "%016" PRIx64, pseudonym);
    size_t at = 0;
    while (rc >= 0) {
        size_t n = traces.n - at < CONSENT_CALL_MORE_MAX ? traces.n - at : CONSENT_CALL_MORE_MAX;
        struct consent_call call = {.function = "openveil_forget", .words = {id, who, keep_left ? "left" : "nothing"},
                                    .n_words = 3, .more = traces.epochs + at, .n_more = n};
        rc = store_call(store, partition, &call, err);
        at += n;
        if (at == traces.n)
            break;
    }
    free(traces.epochs);
    return rc;
}

int64_t consent_store_rewrite(struct consent_store *store, uint32_t partition, uint64_t since, struct err *err) {
    char epoch[24];
    snprintf(epoch, sizeof epoch, "%" PRIu64, since);
    struct consent_call call = {.function = "openveil_rewrite", .words = {epoch}, .n_words = 1};
    return store_call(store, partition, &call, err);
}

int consent_store_rewrite_aof(struct consent_store *store, uint32_t partition, enum consent_aof *aof, struct err *err) {
    store->status = 0;
    store_made(store, consent_client_rewrite_aof(store->client, partition, aof, on_done, store));
    return store_settle(store, err);
}

struct listing {
    struct consent_store *store;
    struct consent_notice *notices;
    size_t n;
};

static void on_notices(void *arg, const struct consent_notice *notices, size_t n) {
    struct listing *listing = arg;
    free(listing->notices); // of a round that was repeated
    listing->notices = calloc(n + 1, sizeof *notices);
    listing->n = listing->notices == NULL ? 0 : n;
    if (listing->n > 0)
        memcpy(listing->notices, notices, n * sizeof *notices);
}

static void on_listed(void *arg, int status, const struct consent_stamp *stamp) {
    struct listing *listing = arg;
    on_done(listing->store, status, stamp);
}

int consent_store_notices(struct consent_store *store, struct consent_notice **notices, size_t *n, struct err *err) {
    struct listing listing = {.store = store};
    store->status = 0;
    store_made(store, consent_client_notices(store->client, 0, on_notices, on_listed, &listing));
    int rc = store_settle(store, err);
    if (rc == 0 && listing.notices == NULL)
        rc = err_set(err, ERR_NOMEM, "out of memory for the notices");
    if (rc != 0) {
        free(listing.notices);
        return rc;
    }
    *notices = listing.notices;
    *n = listing.n;
    return 0;
}
