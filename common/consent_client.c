#include "common/clock.h"
#include "common/consent_job.h"
#include "common/hmac.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <uv.h>

#define CONSENT_LIBRARY_VERSION 4
#define JOBS_ACTIVE_MAX 8u
#define TICKS_TO_EXPIRE 4u
#define PROBLEM_SIZE 400
#define STIRRED_BYTES 32u
#define LOG_AGAIN_MS 60000
#define LOG_PAUSE_MS 1000

extern const char consent_lua[];
extern const size_t consent_lua_len;

struct job_list {
    struct consent_job *head;
    struct consent_job *tail;
    size_t n;
};

// One of the servers that the partitions lie on.
struct server {
    struct consent_client *client;
    struct redis_link *link;
    bool ready; // connected, and the Function library is there
    bool stirred; // the seeds of the salts
};

struct consent_client {
    uv_loop_t *loop;
    struct redis_shards *shards;
    struct server servers[REDIS_SHARDS_MAX];
    uint64_t timeout_ms;
    bool rehearsal;
    bool ready; // every partition's server is
    bool closing;
    bool quiet;
    struct job_list waiting;  // for a connection, or for others to end
    struct job_list finished; // for the loop's next turn
    size_t n_active;
    uv_timer_t expire;  // runs while jobs wait and Redis is away
    uv_timer_t deliver; // runs while jobs are finished
    unsigned open_handles;
    uint32_t partitions;
    struct consent_stamp *seen; // by partition: what was last read of it
    char problem[PROBLEM_SIZE];
    char logged[PROBLEM_SIZE];
    int64_t logged_ms;
};

static void list_push(struct job_list *list, struct consent_job *job) {
    job->next = NULL;
    if (list->tail == NULL)
        list->head = job;
    else
        list->tail->next = job;
    list->tail = job;
    list->n++;
}

static struct consent_job *list_pop(struct job_list *list) {
    struct consent_job *job = list->head;
    if (job == NULL)
        return NULL;
    list->head = job->next;
    if (list->head == NULL)
        list->tail = NULL;
    list->n--;
    return job;
}

static void client_problem(struct consent_client *client, const char *text) {
    snprintf(client->problem, sizeof client->problem, "%s", text);
    int64_t since_ms = clock_monotonic_ms() - client->logged_ms;
    bool same = strcmp(client->problem, client->logged) == 0;
    if (client->quiet || client->closing || (client->logged_ms != 0 && since_ms < (same ? LOG_AGAIN_MS : LOG_PAUSE_MS)))
        return;
    memcpy(client->logged, client->problem, sizeof client->logged);
    client->logged_ms = clock_monotonic_ms();
    log_error("consent: %s", client->problem);
}

// ---- jobs -----------------------------------------------------------------------------------------------------------
static void job_free(struct consent_job *job) {
    free(job->items);
    free(job->layouts);
    free(job->notices);
    free(job->own);
    free(job);
}

static void deliver_all(struct consent_client *client) {
    struct consent_job *job;
    while ((job = list_pop(&client->finished)) != NULL) {
        bool stamped = job->status == 0 && (job->kind == JOB_LOOKUP || job->kind == JOB_SCAN ||
                                            (job->kind == JOB_READ && job->read == READ_STAMP));
        job->done(job->arg, job->status, stamped ? &job->stamp : NULL);
        job_free(job);
    }
}

static void on_deliver(uv_timer_t *timer);

static void job_deliver(struct consent_client *client, struct consent_job *job) {
    list_push(&client->finished, job);
    int rc = client->closing ? 0 : uv_timer_start(&client->deliver, on_deliver, 0, 0);
    CHECK(rc == 0);
}

static void job_begin(struct consent_client *client, struct consent_job *job) {
    const struct consent_stamp *seen = &client->seen[job->partition];
    if (seen->epoch > job->from.epoch)
        job->from = *seen;
    client->n_active++;
    if (job->kind == JOB_LOOKUP || job->kind == JOB_SCAN)
        consent_lookup_begin(job);
    else if (job->kind == JOB_READ)
        consent_read_begin(job);
    else if (job->kind == JOB_AOF)
        consent_aof_begin(job);
    else
        consent_change_begin(job);
}

static struct server *server_of(struct consent_client *client, uint32_t partition) {
    unsigned shard = redis_shards_of(client->shards, partition);
    return shard == REDIS_NO_SHARD || !client->servers[shard].ready ? NULL : &client->servers[shard];
}

// Jobs whose server is away stay, in their order.
static void jobs_begin(struct consent_client *client) {
    struct job_list kept = {0};
    struct consent_job *job;
    while (client->n_active < JOBS_ACTIVE_MAX && (job = list_pop(&client->waiting)) != NULL) {
        struct server *server = server_of(client, job->partition);
        if (server == NULL) {
            list_push(&kept, job);
            continue;
        }
        job->link = server->link;
        job_begin(client, job);
    }
    while ((job = list_pop(&client->waiting)) != NULL)
        list_push(&kept, job);
    client->waiting = kept;
}

void consent_client_known(struct consent_client *client, uint32_t partition, const struct consent_stamp *known) {
    CHECK(partition < client->partitions);
    if (known->epoch > client->seen[partition].epoch)
        client->seen[partition] = *known;
}

void job_finish(struct consent_job *job) {
    struct consent_client *client = job->client;
    CHECK(job->outstanding == 0 && client->n_active > 0);
    client->n_active--;
    if (job->status == 0 && (job->kind == JOB_LOOKUP || job->kind == JOB_SCAN))
        consent_client_known(client, job->partition, &job->stamp);
    job_deliver(client, job);
}

static void on_deliver(uv_timer_t *timer) {
    struct consent_client *client = timer->data;
    deliver_all(client);
    jobs_begin(client);
}

const char *job_mode(const struct consent_job *job) {
    return job->client->rehearsal ? "rehearsal" : "production";
}

void job_send(struct consent_job *job, const struct redis_arg *args, size_t n_args, redis_reply_fn fn) {
    if (job->status != 0)
        return;
    job->outstanding++;
    if (redis_link_send(job->link, args, n_args, fn, job) != 0) {
        job->outstanding--;
        job_fail(job, ERR_UNREACHABLE, "a command for Redis does not fit the queue");
    }
}

bool job_answer(struct consent_job *job, const redisReply *reply) {
    CHECK(job->outstanding > 0);
    job->outstanding--;
    if (job->status == 0 && reply == NULL)
        job->status = ERR_UNREACHABLE;
    if (job->status != 0) {
        if (job->outstanding == 0)
            job_finish(job);
        return false;
    }
    if (reply->type == REDIS_REPLY_ERROR && (job->kind == JOB_LOOKUP || job->kind == JOB_SCAN)) {
        job_fail_drop(job, "Redis answers with an error for partition %" PRIu32 ": %.200s", job->partition, reply->str);
        return false;
    }
    return true;
}

void job_fail(struct consent_job *job, int status, const char *format, ...) {
    char why[PROBLEM_SIZE];
    CHECK(status < 0);
    if (job->status != 0)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    client_problem(job->client, why);
    job->status = status;
    if (job->outstanding == 0)
        job_finish(job);
}

void job_fail_drop(struct consent_job *job, const char *format, ...) {
    char why[PROBLEM_SIZE];
    CHECK(job->status == 0);
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    bool last = job->outstanding == 0;
    job->status = ERR_UNREACHABLE;
    redis_link_drop(job->link, "%s", why);
    if (last)
        job_finish(job);
}

// Jobs that waited a time-out's length for a connection; turns of the loop are counted, as in redis_link.c.
static void on_expire(uv_timer_t *timer) {
    struct consent_client *client = timer->data;
    if (client->ready || client->waiting.n == 0) {
        int rc = uv_timer_stop(timer);
        CHECK(rc == 0);
        return;
    }
    size_t n = client->waiting.n;
    for (size_t i = 0; i < n; i++) {
        struct consent_job *job = list_pop(&client->waiting);
        if (server_of(client, job->partition) != NULL || ++job->ticks <= TICKS_TO_EXPIRE) {
            list_push(&client->waiting, job);
            continue;
        }
        job->status = ERR_UNREACHABLE;
        job_deliver(client, job);
    }
}

static void expire_start(struct consent_client *client) {
    if (client->ready || client->waiting.n == 0 || uv_is_active((uv_handle_t *)&client->expire))
        return;
    uint64_t period_ms = client->timeout_ms / TICKS_TO_EXPIRE;
    int rc = uv_timer_start(&client->expire, on_expire, period_ms, period_ms);
    CHECK(rc == 0);
}

// ---- the connections and the Function library -----------------------------------------------------------------------
static void drop_for(struct server *server, const char *what, const redisReply *reply) {
    redis_link_drop(server->link, "%s: %.200s", what,
                    reply->type == REDIS_REPLY_ERROR ? reply->str : "it answers with something else");
}

static void on_stirred(void *arg, const redisReply *reply) {
    struct server *server = arg;
    if (reply == NULL)
        return;
    if (reply->type == REDIS_REPLY_INTEGER)
        server->stirred = true;
    else
        drop_for(server, "Redis cannot be used now", reply);
}

// Once: kernel randomness for the salts of each of its partitions.
static bool server_stir(struct server *server) {
    struct consent_client *client = server->client;
    uint8_t bytes[STIRRED_BYTES];
    bool sent = true;
    for (uint32_t i = 0; i < client->partitions && sent && !server->stirred; i++) {
        char key[CONSENT_KEY_SIZE], hex[2 * STIRRED_BYTES + 1];
        if (redis_shards_of(client->shards, i) != (unsigned)(server - client->servers))
            continue;
        consent_key(key, i, "meta");
        bytes_random(bytes, sizeof bytes);
        hex_encode(bytes, sizeof bytes, hex);
        const struct redis_arg args[] = {redis_text("FCALL"), redis_text("openveil_stir"), redis_text("1"),
                                         redis_text(key),     redis_text(hex)};
        sent = redis_link_send(server->link, args, ARRAY_LEN(args), on_stirred, server) == 0;
        bytes_wipe(hex, sizeof hex);
    }
    return sent;
}

static void client_look(struct consent_client *client) {
    client->ready = true;
    for (uint32_t partition = 0; partition < client->partitions && client->ready; partition++)
        client->ready = server_of(client, partition) != NULL;
}

static void server_ready(struct server *server) {
    struct consent_client *client = server->client;
    if (!server_stir(server)) {
        redis_link_drop(server->link, "out of memory for Redis");
        return;
    }
    server->ready = true;
    redis_link_settled(server->link);
    client_look(client);
    if (client->ready) {
        if (client->logged_ms != 0 && !client->quiet)
            log_info("consent: Redis answers again");
        client->logged_ms = 0;
        client->problem[0] = client->logged[0] = '\0';
    }
    jobs_begin(client);
}

static void on_loaded(void *arg, const redisReply *reply) {
    struct server *server = arg;
    if (reply == NULL)
        return;
    if (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS)
        server_ready(server);
    else
        drop_for(server, "Redis does not load the Function library openveil", reply);
}

static void library_load(struct server *server) {
    const struct redis_arg args[] = {redis_text("FUNCTION"), redis_text("LOAD"), redis_text("REPLACE"),
                                     {.data = consent_lua, .len = consent_lua_len}};
    if (redis_link_send(server->link, args, ARRAY_LEN(args), on_loaded, server) != 0)
        redis_link_drop(server->link, "out of memory for Redis");
}

static void on_version(void *arg, const redisReply *reply) {
    struct server *server = arg;
    if (reply == NULL)
        return;
    bool missing = reply->type == REDIS_REPLY_ERROR && strstr(reply->str, "Function not found") != NULL;
    bool known = reply->type == REDIS_REPLY_INTEGER;
    if (missing || (known && reply->integer < CONSENT_LIBRARY_VERSION))
        library_load(server);
    else if (known && reply->integer == CONSENT_LIBRARY_VERSION)
        server_ready(server);
    else if (known)
        redis_link_drop(server->link, "the Function library openveil in Redis is newer than this program: update it");
    else
        drop_for(server, "Redis cannot be used now", reply);
}

static void on_up(void *arg, unsigned shard) {
    struct consent_client *client = arg;
    struct server *server = &client->servers[shard];
    const struct redis_arg args[] = {redis_text("FCALL"), redis_text("openveil_version"), redis_text("0")};
    *server = (struct server){.client = client, .link = redis_shards_link(client->shards, shard)};
    if (redis_link_send(server->link, args, ARRAY_LEN(args), on_version, server) != 0)
        redis_link_drop(server->link, "out of memory for Redis");
}

static void on_down(void *arg, unsigned shard, const char *why) {
    struct consent_client *client = arg;
    if (shard != REDIS_NO_SHARD)
        client->servers[shard].ready = false;
    client_look(client);
    client_problem(client, why);
    expire_start(client);
}

// ---- the public calls -----------------------------------------------------------------------------------------------
int consent_client_create(struct consent_client **out, struct uv_loop_s *loop, const struct config *config,
                          struct err *err) {
    struct consent_client *client = calloc(1, sizeof *client);
    if (client == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for the consent client");
    client->loop = loop;
    client->timeout_ms = config->redis_timeout_ms;
    client->rehearsal = config->rehearsal;
    client->partitions = (uint32_t)config->kafka_partitions;
    CHECK(client->partitions > 0);
    client->seen = calloc(client->partitions, sizeof *client->seen);
    const struct redis_shards_hooks hooks = {.up = on_up, .down = on_down, .arg = client};
    int rc = client->seen == NULL ? err_set(err, ERR_NOMEM, "out of memory for the consent client")
                                  : redis_shards_create(&client->shards, loop, config, true, &hooks, err);
    if (rc != 0) {
        free(client->seen);
        free(client);
        return rc;
    }
    client->expire.data = client;
    client->deliver.data = client;
    // Cannot fail in libuv.
    rc = uv_timer_init(loop, &client->expire) | uv_timer_init(loop, &client->deliver);
    CHECK(rc == 0);
    client->open_handles = 2;
    *out = client;
    return 0;
}

static void on_client_closed(uv_handle_t *handle) {
    struct consent_client *client = handle->data;
    CHECK(client->open_handles > 0);
    if (--client->open_handles > 0)
        return;
    free(client->seen);
    free(client);
}

void consent_client_free(struct consent_client *client) {
    struct consent_job *job;
    if (client == NULL)
        return;
    CHECK(!client->closing);
    client->closing = true;
    client->ready = false;
    redis_shards_free(client->shards);
    CHECK(client->n_active == 0);
    while ((job = list_pop(&client->waiting)) != NULL) {
        job->status = ERR_UNREACHABLE;
        job_deliver(client, job);
    }
    deliver_all(client);
    uv_close((uv_handle_t *)&client->expire, on_client_closed);
    uv_close((uv_handle_t *)&client->deliver, on_client_closed);
}

int job_add(struct consent_client *client, const struct consent_job *model) {
    CHECK(model->partition < client->partitions && model->done != NULL);
    if (client->closing)
        return ERR_UNREACHABLE;
    if (client->waiting.n + client->finished.n + client->n_active >= CONSENT_JOBS_MAX)
        return ERR_LIMIT;
    struct consent_job *job = malloc(sizeof *job);
    if (job == NULL)
        return ERR_NOMEM;
    *job = *model;
    job->client = client;
    int rc = job->kind == JOB_LOOKUP || job->kind == JOB_SCAN ? consent_lookup_prepare(job) : 0;
    if (rc != 0) {
        job_free(job);
        return rc;
    }
    list_push(&client->waiting, job);
    jobs_begin(client);
    expire_start(client);
    return 0;
}

bool consent_client_connected(const struct consent_client *client) {
    return client->ready;
}

bool consent_client_partly_connected(const struct consent_client *client) {
    for (unsigned i = 0; i < REDIS_SHARDS_MAX; i++) {
        if (client->servers[i].ready)
            return true;
    }
    return false;
}

const char *consent_client_problem(const struct consent_client *client) {
    return client->problem;
}

void consent_client_quiet(struct consent_client *client) {
    client->quiet = true;
}
