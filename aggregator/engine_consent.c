// The consent client behind the engine's small interface.
#include "aggregator/engine.h"

static int lookup(void *arg, uint32_t partition, struct consent_query *queries, size_t n,
                  const struct consent_stamp *known, consent_done_fn done, void *done_arg) {
    return consent_client_lookup(arg, partition, queries, n, known, done, done_arg);
}

static int scan(void *arg, uint32_t partition, uint32_t tenant, const struct consent_stamp *known,
                consent_each_fn each, consent_done_fn done, void *done_arg) {
    return consent_client_scan(arg, partition, tenant, known, each, done, done_arg);
}

static bool connected(void *arg) {
    return consent_client_connected(arg);
}

struct consent_ops consent_ops_of(struct consent_client *client) {
    CHECK(client != NULL);
    return (struct consent_ops){.lookup = lookup, .scan = scan, .connected = connected, .arg = client};
}
