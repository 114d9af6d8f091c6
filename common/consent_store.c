// The blocking face of the consent client: a loop of its own that runs until the answer is in.
#include "common/consent_store.h"

#include "common/token.h"

#include <inttypes.h>
#include <uv.h>

#define CHANGES_A_CALL 500u
#define CALLS_IN_FLIGHT 8u
#define CONTACTS_A_LOOKUP 65536u

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
    if (!consent_client_connected(store->client)) {
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

int consent_store_apply(struct consent_store *store, struct consent_change *changes, size_t n, struct err *err) {
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
        store_made(store,
                   consent_client_apply(store->client, partition, changes + at, end - at, today, on_done, store));
        store_wait(store, CALLS_IN_FLIGHT - 1);
        at = end;
    }
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
