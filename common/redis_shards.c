#include "common/redis_shards.h"

#include "common/check.h"
#include "common/consent.h"
#include "common/redis_reply.h"

#include <inttypes.h>
#include <stdlib.h>
#include <uv.h>

#define SCOUT_MS 1000
#define SCOUT_TIMEOUT_MS_MIN 100
#define CLUSTER_SLOTS 16384

enum topology { LISTED, SENTINELS, CLUSTER };

struct shard {
    struct redis_shards *shards;
    unsigned index;
    struct redis_link *link; // NULL: the place is free
    char address[REDIS_ADDRESS_SIZE];
    char place[32]; // LISTED: "2/3"
    bool up;
    bool fits;    // LISTED: nothing in it contradicts its place
    bool placing; // it fits, and waits for the others
    size_t n_foreign; // answers awaited about partitions that must not be here
};

struct redis_shards {
    uv_loop_t *loop;
    struct redis_shards_hooks hooks;
    enum topology topology;
    bool writes;
    bool freed;
    uint32_t partitions;
    uint8_t *owners; // by partition
    struct shard shard[REDIS_SHARDS_MAX];
    unsigned n_listed;
    struct redis_target target; // of the shards; its texts are those below
    char *username;
    char *password_file;
    char *master;
    struct redis_link *scout; // asks Sentinels, or a node for the cluster's layout
    bool scout_up;
    bool asking;
    uv_timer_t timer;
};

// ---- is it the right server? ----------------------------------------------------------------------------------------
static void shard_ask(struct shard *shard, const struct redis_arg *args, size_t n, redis_reply_fn fn) {
    if (redis_link_send(shard->link, args, n, fn, shard) != 0)
        redis_link_drop(shard->link, "out of memory for Redis");
}

static void shard_up(struct shard *shard) {
    CHECK(!shard->up);
    shard->up = true;
    shard->shards->hooks.up(shard->shards->hooks.arg, shard->index);
}

static void unexpected(struct shard *shard, const redisReply *reply, const char *command) {
    redis_link_drop(shard->link, "Redis at %s answers %s with %.200s", shard->address, command,
                    reply->type == REDIS_REPLY_ERROR ? reply->str : "something else");
}

static void on_role(void *arg, const redisReply *reply) {
    struct shard *shard = arg;
    if (reply == NULL)
        return;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 1)
        unexpected(shard, reply, "ROLE");
    else if (!reply_is_text(reply->element[0], "master"))
        redis_link_drop(shard->link, "Redis at %s is not the primary, though the Sentinels say so", shard->address);
    else
        shard_up(shard);
}

static void place_ask(struct shard *shard);

static void on_placed(void *arg, const redisReply *reply) {
    struct shard *shard = arg;
    if (reply == NULL)
        return;
    if (reply->type != REDIS_REPLY_INTEGER)
        unexpected(shard, reply, "HSETNX");
    else if (reply->integer == 1)
        shard_up(shard);
    else
        place_ask(shard); // another program was faster
}

static void place_write(struct shard *shard) {
    const struct redis_arg args[] = {redis_text("HSETNX"), redis_text("ov:place"), redis_text("number"),
                                     redis_text(shard->place)};
    if (shard->shards->writes && shard->shards->n_listed > 1)
        shard_ask(shard, args, ARRAY_LEN(args), on_placed);
    else
        shard_up(shard);
}

// At first use a place is only taken once all servers of the list fit theirs: a wrong list leaves no trace.
static void place_fits(struct shard *shard) {
    struct redis_shards *shards = shard->shards;
    shard->fits = true;
    for (unsigned i = 0; i < shards->n_listed; i++) {
        if (!shards->shard[i].fits)
            return;
    }
    for (unsigned i = 0; i < shards->n_listed; i++) {
        if (shards->shard[i].placing)
            place_write(&shards->shard[i]);
        shards->shard[i].placing = false;
    }
}

static void place_take(struct shard *shard) {
    shard->placing = true;
    place_fits(shard);
}

static void on_foreign(void *arg, const redisReply *reply) {
    struct shard *shard = arg;
    if (reply == NULL)
        return;
    CHECK(shard->n_foreign > 0);
    if (!reply_is_array(reply, 1))
        unexpected(shard, reply, "HMGET");
    else if (reply->element[0]->type != REDIS_REPLY_NIL)
        redis_link_drop(shard->link, "Redis at %s holds partitions that lie elsewhere by [redis] address: the list was changed; "
                        "it cannot be once consent is stored", shard->address);
    else if (--shard->n_foreign == 0)
        place_take(shard);
}

// Its first use as one of several: it must not hold what belongs to the others.
static void foreign_ask(struct shard *shard) {
    const struct redis_shards *shards = shard->shards;
    shard->n_foreign = 0;
    for (uint32_t partition = 0; partition < shards->partitions; partition++)
        shard->n_foreign += shards->owners[partition] != shard->index;
    if (shard->n_foreign == 0) {
        place_take(shard);
        return;
    }
    struct redis_link *link = shard->link;
    for (uint32_t partition = 0; partition < shards->partitions; partition++) {
        char key[CONSENT_KEY_SIZE];
        consent_key(key, partition, "meta");
        const struct redis_arg args[] = {redis_text("HMGET"), redis_text(key), redis_text("epoch")};
        if (shards->owners[partition] == shard->index)
            continue;
        if (redis_link_send(link, args, ARRAY_LEN(args), on_foreign, shard) != 0) {
            redis_link_drop(shard->link, "out of memory for Redis");
            return;
        }
    }
}

static void place_known(struct shard *shard) {
    shard_up(shard);
    if (shard->up)
        place_fits(shard);
}

static void on_place(void *arg, const redisReply *reply) {
    struct shard *shard = arg;
    if (reply == NULL)
        return;
    if (!reply_is_array(reply, 1))
        unexpected(shard, reply, "HMGET");
    else if (reply->element[0]->type == REDIS_REPLY_NIL)
        foreign_ask(shard);
    else if (reply_is_text(reply->element[0], shard->place))
        place_known(shard);
    else
        redis_link_drop(shard->link, "Redis at %s is number %.20s of [redis] address by what was written into it, and %s by the "
                        "list now: the list cannot be changed once consent is stored", shard->address,
                        reply->element[0]->type == REDIS_REPLY_STRING ? reply->element[0]->str : "?", shard->place);
}

static void place_ask(struct shard *shard) {
    const struct redis_arg args[] = {redis_text("HMGET"), redis_text("ov:place"), redis_text("number")};
    shard_ask(shard, args, ARRAY_LEN(args), on_place);
}

// ---- the links ------------------------------------------------------------------------------------------------------
static void scout_ask(struct redis_shards *shards);

static void on_link_up(void *arg) {
    struct shard *shard = arg;
    const struct redis_arg role[] = {redis_text("ROLE")};
    if (shard->shards->topology == SENTINELS)
        shard_ask(shard, role, ARRAY_LEN(role), on_role);
    else if (shard->shards->topology == LISTED)
        place_ask(shard);
    else
        shard_up(shard);
}

static void on_link_down(void *arg, const char *why) {
    struct shard *shard = arg;
    struct redis_shards *shards = shard->shards;
    shard->up = shard->fits = shard->placing = false;
    if (shards->freed)
        return;
    shards->hooks.down(shards->hooks.arg, shard->index, why);
    scout_ask(shards);
}

static int shard_create(struct redis_shards *shards, unsigned index, const char *address, struct err *err) {
    struct shard *shard = &shards->shard[index];
    const struct redis_link_hooks hooks = {.up = on_link_up, .down = on_link_down, .arg = shard};
    struct redis_target target = shards->target;
    CHECK(shard->link == NULL);
    *shard = (struct shard){.shards = shards, .index = index};
    snprintf(shard->address, sizeof shard->address, "%s", address);
    target.addresses = shard->address;
    return redis_link_create(&shard->link, shards->loop, &target, &hooks, err);
}

static void shard_free(struct shard *shard, const char *why) {
    struct redis_shards *shards = shard->shards;
    if (shard->link == NULL)
        return;
    struct redis_link *link = shard->link;
    shard->up = false;
    if (!shards->freed)
        shards->hooks.down(shards->hooks.arg, shard->index, why);
    redis_link_free(link);
    shard->link = NULL;
}

// ---- the primary that Sentinels name --------------------------------------------------------------------------------
static bool address_print(char address[REDIS_ADDRESS_SIZE], const char *host, const char *port) {
    char parsed[256];
    uint16_t number;
    snprintf(address, REDIS_ADDRESS_SIZE, strchr(host, ':') == NULL ? "%s:%s" : "[%s]:%s", host, port);
    return address_parse(address, parsed, &number) == 0 && number != 0;
}

static void on_primary(void *arg, const redisReply *reply) {
    struct redis_shards *shards = arg;
    struct shard *shard = &shards->shard[0];
    char address[REDIS_ADDRESS_SIZE];
    shards->asking = false;
    if (reply == NULL)
        return;
    if (!reply_is_array(reply, 2) || reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_STRING ||
        !address_print(address, reply->element[0]->str, reply->element[1]->str)) {
        redis_link_drop(shards->scout, "the Sentinel at %s does not know the primary \"%.100s\"%s%.150s",
                        redis_link_host(shards->scout), shards->master, reply->type == REDIS_REPLY_ERROR ? ": " : "",
                        reply->type == REDIS_REPLY_ERROR ? reply->str : "");
        return;
    }
    redis_link_settled(shards->scout);
    if (strcmp(address, shard->address) == 0)
        return;
    snprintf(shard->address, sizeof shard->address, "%s", address);
    int rc = redis_link_aim(shard->link, address);
    CHECK(rc == 0); // it was parsed
}

// ---- the masters of a cluster ---------------------------------------------------------------------------------------
// CRC-16 as Redis Cluster uses it (XMODEM) over the hash tag of the partition's keys.
static uint16_t slot_of(uint32_t partition) {
    char tag[12];
    uint16_t crc = 0;
    snprintf(tag, sizeof tag, "%" PRIu32, partition);
    for (const char *c = tag; *c != '\0'; c++) {
        crc ^= (uint16_t)((uint8_t)*c << 8);
        for (int bit = 0; bit < 8; bit++)
            crc = (uint16_t)((crc & 0x8000u) != 0 ? crc << 1 ^ 0x1021 : crc << 1);
    }
    return crc % CLUSTER_SLOTS;
}

// A range of slots with its master's address; false where the answer has another form.
static bool range_read(const struct redis_shards *shards, const redisReply *range, long long *first, long long *last,
                       char address[REDIS_ADDRESS_SIZE]) {
    if (range->type != REDIS_REPLY_ARRAY || range->elements < 3 || range->element[0]->type != REDIS_REPLY_INTEGER ||
        range->element[1]->type != REDIS_REPLY_INTEGER)
        return false;
    const redisReply *master = range->element[2];
    if (master->type != REDIS_REPLY_ARRAY || master->elements < 2 || master->element[1]->type != REDIS_REPLY_INTEGER)
        return false;
    char port[24];
    // A node that does not know its own address is where it was asked.
    const char *host = master->element[0]->type == REDIS_REPLY_STRING && master->element[0]->len > 0
                           ? master->element[0]->str
                           : redis_link_host(shards->scout);
    snprintf(port, sizeof port, "%lld", master->element[1]->integer);
    *first = range->element[0]->integer;
    *last = range->element[1]->integer;
    return address_print(address, host, port);
}

// The shard at this address, made where there is none yet.
static unsigned shard_at(struct redis_shards *shards, const char *address) {
    unsigned free_place = REDIS_NO_SHARD;
    for (unsigned i = REDIS_SHARDS_MAX; i-- > 0;) {
        if (shards->shard[i].link == NULL)
            free_place = i;
        else if (strcmp(shards->shard[i].address, address) == 0)
            return i;
    }
    if (free_place == REDIS_NO_SHARD || shard_create(shards, free_place, address, NULL) != 0)
        return REDIS_NO_SHARD;
    return free_place;
}

static bool layout_read(struct redis_shards *shards, const redisReply *reply, uint8_t *owners) {
    char address[REDIS_ADDRESS_SIZE];
    memset(owners, REDIS_NO_SHARD, shards->partitions);
    if (reply->type != REDIS_REPLY_ARRAY)
        return false;
    for (size_t i = 0; i < reply->elements; i++) {
        long long first, last;
        if (!range_read(shards, reply->element[i], &first, &last, address))
            return false;
        for (uint32_t partition = 0; partition < shards->partitions; partition++) {
            uint16_t slot = slot_of(partition);
            if (slot >= first && slot <= last)
                owners[partition] = (uint8_t)shard_at(shards, address);
        }
    }
    return true;
}

// Takes over a layout: servers that lost or won a partition begin anew, servers without one are left.
static void layout_use(struct redis_shards *shards, const uint8_t *owners) {
    bool used[REDIS_SHARDS_MAX] = {false}, moved[REDIS_SHARDS_MAX] = {false};
    for (uint32_t partition = 0; partition < shards->partitions; partition++) {
        uint8_t from = shards->owners[partition], to = owners[partition];
        if (to != REDIS_NO_SHARD)
            used[to] = true;
        if (from != to && from != REDIS_NO_SHARD)
            moved[from] = true;
        if (from != to && to != REDIS_NO_SHARD)
            moved[to] = true;
    }
    memcpy(shards->owners, owners, shards->partitions);
    for (unsigned i = 0; i < REDIS_SHARDS_MAX; i++) {
        struct shard *shard = &shards->shard[i];
        if (shard->link != NULL && !used[i])
            shard_free(shard, "the node holds no partition any more");
        else if (shard->up && moved[i])
            redis_link_drop(shard->link, "partitions of the Redis Cluster moved");
    }
}

static void on_layout(void *arg, const redisReply *reply) {
    struct redis_shards *shards = arg;
    shards->asking = false;
    if (reply == NULL)
        return;
    uint8_t *owners = malloc(shards->partitions);
    if (owners == NULL || !layout_read(shards, reply, owners)) {
        redis_link_drop(shards->scout, "Redis does not tell the layout of its cluster: %.200s",
                        reply->type == REDIS_REPLY_ERROR ? reply->str : "it answers with something else");
    } else {
        redis_link_settled(shards->scout);
        layout_use(shards, owners);
    }
    free(owners);
}

// ---- the scout ------------------------------------------------------------------------------------------------------
static void scout_ask(struct redis_shards *shards) {
    if (!shards->scout_up || shards->asking)
        return;
    const struct redis_arg primary[] = {redis_text("SENTINEL"), redis_text("GET-MASTER-ADDR-BY-NAME"),
                                        redis_text(shards->master)};
    const struct redis_arg layout[] = {redis_text("CLUSTER"), redis_text("SLOTS")};
    int rc = shards->topology == SENTINELS
                 ? redis_link_send(shards->scout, primary, ARRAY_LEN(primary), on_primary, shards)
                 : redis_link_send(shards->scout, layout, ARRAY_LEN(layout), on_layout, shards);
    shards->asking = rc == 0;
    if (rc != 0)
        redis_link_drop(shards->scout, "out of memory for Redis");
}

static void on_scout_up(void *arg) {
    struct redis_shards *shards = arg;
    shards->scout_up = true;
    scout_ask(shards);
}

static void on_scout_down(void *arg, const char *why) {
    struct redis_shards *shards = arg;
    bool served = true;
    shards->scout_up = false;
    for (uint32_t partition = 0; partition < shards->partitions; partition++) {
        unsigned owner = shards->owners[partition];
        served = served && owner != REDIS_NO_SHARD && shards->shard[owner].up;
    }
    // While everything is served nobody needs to know.
    if (!served && !shards->freed)
        shards->hooks.down(shards->hooks.arg, REDIS_NO_SHARD, why);
}

static void on_timer(uv_timer_t *timer) {
    scout_ask(timer->data);
}

// ---- set-up ---------------------------------------------------------------------------------------------------------
static void shards_release(uv_handle_t *handle) {
    struct redis_shards *shards = handle->data;
    free(shards->owners);
    free(shards->username);
    free(shards->password_file);
    free(shards->master);
    free(shards);
}

static int listed_create(struct redis_shards *shards, const char *addresses, struct err *err) {
    char address[REDIS_ADDRESS_SIZE];
    unsigned n = 0;
    int rc = 0;
    for (const char *rest = addresses; list_next(&rest, address, sizeof address);)
        n++;
    if (n == 0 || n > REDIS_SHARDS_MAX)
        return err_set(err, ERR_INVALID, "[redis] address must name 1 to %u servers", REDIS_SHARDS_MAX);
    shards->n_listed = n;
    for (uint32_t partition = 0; partition < shards->partitions; partition++)
        shards->owners[partition] = (uint8_t)(partition % n);
    const char *rest = addresses;
    for (unsigned i = 0; rc == 0 && list_next(&rest, address, sizeof address); i++) {
        rc = shard_create(shards, i, address, err);
        snprintf(shards->shard[i].place, sizeof shards->shard[i].place, "%u/%u", i + 1, n);
    }
    return rc;
}

static int scout_create(struct redis_shards *shards, const struct config *config, struct err *err) {
    const struct redis_link_hooks hooks = {.up = on_scout_up, .down = on_scout_down, .arg = shards};
    struct redis_target target = shards->target;
    // One that hangs leaves time for the next one before a caller gives up.
    target.timeout_ms = target.timeout_ms / 4 > SCOUT_TIMEOUT_MS_MIN ? target.timeout_ms / 4 : SCOUT_TIMEOUT_MS_MIN;
    target.addresses = config->redis_address;
    if (shards->topology == SENTINELS) {
        target.addresses = config->redis_sentinels;
        target.username = "";
        target.password_file = config->redis_sentinel_password_file;
    }
    int rc = redis_link_create(&shards->scout, shards->loop, &target, &hooks, err);
    if (rc != 0 || shards->topology == CLUSTER)
        return rc;
    memset(shards->owners, 0, shards->partitions);
    return shard_create(shards, 0, "", err);
}

int redis_shards_create(struct redis_shards **out, struct uv_loop_s *loop, const struct config *config, bool writes,
                        const struct redis_shards_hooks *hooks, struct err *err) {
    CHECK(hooks->up != NULL && hooks->down != NULL && config->kafka_partitions > 0);
    struct redis_shards *shards = calloc(1, sizeof *shards);
    if (shards == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for Redis");
    int rc = uv_timer_init(loop, &shards->timer);
    CHECK(rc == 0); // cannot fail in libuv
    shards->timer.data = shards;
    shards->loop = loop;
    shards->hooks = *hooks;
    shards->writes = writes;
    shards->partitions = (uint32_t)config->kafka_partitions;
    shards->topology = config->redis_sentinels[0] != '\0' ? SENTINELS : config->redis_cluster ? CLUSTER : LISTED;
    shards->owners = malloc(shards->partitions);
    shards->username = strdup(config->redis_username);
    shards->password_file = strdup(config->redis_password_file);
    shards->master = strdup(config->redis_master);
    shards->target = (struct redis_target){.username = shards->username, .password_file = shards->password_file,
                                           .timeout_ms = config->redis_timeout_ms};
    if (shards->owners == NULL || shards->username == NULL || shards->password_file == NULL || shards->master == NULL) {
        redis_shards_free(shards);
        return err_set(err, ERR_NOMEM, "out of memory for Redis");
    }
    memset(shards->owners, REDIS_NO_SHARD, shards->partitions);
    rc = shards->topology == LISTED ? listed_create(shards, config->redis_address, err)
                                    : scout_create(shards, config, err);
    if (rc != 0) {
        redis_shards_free(shards);
        return rc;
    }
    if (shards->topology != LISTED) {
        rc = uv_timer_start(&shards->timer, on_timer, SCOUT_MS, SCOUT_MS);
        CHECK(rc == 0);
    }
    *out = shards;
    return 0;
}

void redis_shards_free(struct redis_shards *shards) {
    if (shards == NULL)
        return;
    CHECK(!shards->freed);
    shards->freed = true;
    for (unsigned i = 0; i < REDIS_SHARDS_MAX; i++)
        shard_free(&shards->shard[i], "closed");
    redis_link_free(shards->scout);
    uv_close((uv_handle_t *)&shards->timer, shards_release);
}

unsigned redis_shards_of(const struct redis_shards *shards, uint32_t partition) {
    CHECK(partition < shards->partitions);
    return shards->owners[partition];
}

struct redis_link *redis_shards_link(const struct redis_shards *shards, unsigned shard) {
    CHECK(shard < REDIS_SHARDS_MAX && shards->shard[shard].link != NULL);
    return shards->shard[shard].link;
}

bool redis_shards_split_keys(const struct redis_shards *shards) {
    return shards->topology == CLUSTER;
}
