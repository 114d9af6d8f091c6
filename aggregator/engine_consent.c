// The consent client behind the engine's small interface.
#include "aggregator/engine.h"

#include <ctype.h>
#include <string.h>
#include <unistd.h>

static int lookup(void *arg, uint32_t partition, struct consent_query *queries, size_t n,
                  const struct consent_stamp *known, consent_done_fn done, void *done_arg) {
    return consent_client_lookup(arg, partition, queries, n, known, done, done_arg);
}

static int scan(void *arg, uint32_t partition, uint32_t tenant, const struct consent_stamp *known,
                consent_each_fn each, consent_done_fn done, void *done_arg) {
    return consent_client_scan(arg, partition, tenant, known, each, done, done_arg);
}

// The host's name, of which Redis takes these characters.
static void who_am_i(char who[CONSENT_WHO_MAX + 1]) {
    char host[65] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0')
        snprintf(host, sizeof host, "unnamed");
    for (char *at = host; *at != '\0'; at++)
        if (!isalnum((unsigned char)*at) && strchr("._-", *at) == NULL)
            *at = '-';
    snprintf(who, CONSENT_WHO_MAX + 1, "aggregator/%s", host);
}

static int applied(void *arg, uint32_t partition, uint64_t epoch, consent_done_fn done, void *done_arg) {
    char who[CONSENT_WHO_MAX + 1];
    who_am_i(who);
    return consent_client_applied(arg, partition, who, epoch, done, done_arg);
}

static bool connected(void *arg) {
    return consent_client_connected(arg);
}

struct consent_ops consent_ops_of(struct consent_client *client) {
    CHECK(client != NULL);
    return (struct consent_ops){
        .lookup = lookup, .scan = scan, .applied = applied, .connected = connected, .arg = client};
}
