// One message: what it is, whether it was seen, and the markers, which need nobody's consent. Blocks and imports go on in
// engine_block.c.
#include "aggregator/edges.h"
#include "aggregator/engine_parts.h"

#include "common/files.h"

#include <inttypes.h>
#include <string.h>

// Files of messages set aside, for a person to look at; further ones are only counted.
#define SET_ASIDE_MAX 100
// An edge's clock may be ahead of ours by so much around midnight.
#define CLOCK_AHEAD_MS 2000

void message_position(struct partition *partition, int64_t position) {
    CHECK(position >= 0);
    partition->position = position + 1;
    batch_set_position(partition->engine->filling, partition->number, position + 1);
    commit_soon(partition->engine);
}

void message_set_aside(struct partition *partition, int64_t position, const uint8_t *data, size_t len,
                       const char *why) {
    struct engine *engine = partition->engine;
    char dir[PATH_SIZE], path[PATH_SIZE], name[64];
    struct err err;
    count_metric(METRIC_SET_ASIDE, 1);
    message_position(partition, position);
    if (engine->n_set_aside >= SET_ASIDE_MAX)
        return;
    engine->n_set_aside++;
    log_error("partition %" PRIu32 ": a message was set aside: %s", partition->number, why);
    snprintf(name, sizeof name, "%" PRIu32 "-%" PRId64 ".message", partition->number, position);
    int rc = path_join(dir, engine->config->aggregator_state_dir, "corrupt", &err);
    if (rc == 0)
        rc = dir_create(dir, 0700, &err);
    if (rc == 0)
        rc = path_join(path, dir, name, &err);
    if (rc == 0)
        rc = file_replace(path, 0600, data, len, &err);
    if (rc != 0)
        log_error("and could not be kept: %s", err.text);
}

static bool edge_put(struct partition *partition, const char *edge, const struct edge_record *record) {
    uint8_t key[RECORD_KEY_MAX];
    return partition_put(partition, key_edge(key, edge), key, edge_encode(record, partition->engine->value));
}

// Marks the message as seen, before anything that it says of days makes it look old, and yields the edge's record.
static bool message_mark(struct partition *partition, const struct message_head *head, struct edge_record *edge) {
    state_edge(partition->state, head->edge, edge);
    uint64_t missing = edge_mark_seen(edge, head);
    if (edge_lives_again(edge, head) && partition_speaks(partition))
        log_warn("edge %s was retired and sends again: days wait for it again", head->edge);
    if (missing > 0 && edge->registered_day != DAY_NONE) {
        count_metric(METRIC_GAPS, missing);
        log_warn("partition %" PRIu32 ": %" PRIu64 " segments of edge %s before %" PRIu64 " are missing",
                 partition->number, missing, head->edge, head->segment);
    }
    return edge_put(partition, head->edge, edge);
}

static void message_finish(struct partition *partition, int64_t position) {
    count_metric(METRIC_MESSAGES, 1);
    message_position(partition, position);
}

void message_done(struct partition *partition, const struct message_head *head, int64_t position) {
    struct edge_record edge;
    if (message_mark(partition, head, &edge))
        message_finish(partition, position);
}

// ---- markers --------------------------------------------------------------------------------------------------------

static void take_register(struct partition *partition, const struct message_head *head, int64_t position) {
    struct edge_record edge;
    char day[DAY_TEXT_SIZE];
    if (!message_mark(partition, head, &edge))
        return;
    bool whole = edge_register(&edge, head);
    if (!edge_put(partition, head->edge, &edge))
        return;
    day_format(head->day, day);
    if (partition_speaks(partition))
        log_info("edge %s takes part from %s on", head->edge, day);
    if (partition_speaks(partition) && !whole)
        log_warn("edge %s had days not closed; its spool was lost, and they stay incomplete", head->edge);
    message_finish(partition, position);
    tenants_ensure(partition);
    partition->check_days = true;
}

static bool close_days(struct partition *partition, const struct message_head *head, const struct close_body *close,
                       uint32_t from_day) {
    for (uint32_t day = from_day; day <= head->day; day++) {
        const struct day_record *known = state_day(partition->state, day);
        struct day_record record = known == NULL ? (struct day_record){0} : *known;
        day_add_close(&record, day, head, close);
        if (!day_put(partition, day, &record))
            return false;
    }
    return true;
}

static void take_close(struct partition *partition, const struct message_head *head, const struct close_body *close,
                       int64_t position) {
    struct edge_record edge;
    char day[DAY_TEXT_SIZE];
    if (!message_mark(partition, head, &edge))
        return;
    struct edge_closing closing = edge_close(&edge, head, close);
    day_format(head->day, day);
    if (!closing.registered)
        log_warn("partition %" PRIu32 ": edge %s closes %s but never registered", partition->number, head->edge, day);
    if (closing.missing)
        log_warn("partition %" PRIu32 ": segments that edge %s lists for %s are missing; the day stays incomplete",
                 partition->number, head->edge, day);
    if (closing.closes && (!edge_put(partition, head->edge, &edge) ||
                           !close_days(partition, head, close, closing.from_day)))
        return;
    message_finish(partition, position);
    days_complete(partition);
    partition->check_days = true;
}

static void take_retire(struct partition *partition, const struct message_head *head, const char *name,
                        int64_t position) {
    struct edge_record edge;
    if (!message_mark(partition, head, &edge))
        return;
    if (!state_edge(partition->state, name, &edge) || edge.registered_day == DAY_NONE) {
        log_warn("partition %" PRIu32 ": cannot retire edge %s: no such edge", partition->number, name);
    } else {
        edge.retired_on = head->day;
        if (!edge_put(partition, name, &edge))
            return;
        if (partition_speaks(partition))
            log_info("edge %s is retired", name);
    }
    message_finish(partition, position);
    days_complete(partition);
    partition->check_days = true;
}

// ---- dispatch -------------------------------------------------------------------------------------------------------

// Why a well-formed message is none for this partition; NULL: it is.
static const char *message_misfit(const struct partition *partition, const struct message_head *head) {
    const struct engine *engine = partition->engine;
    if (head->rehearsal != engine->config->rehearsal)
        return head->rehearsal ? "it belongs to a rehearsal" : "it belongs to production";
    if (head->partition != partition->number || head->partitions != engine->n_partitions)
        return "it is for another partition or another number of partitions";
    if (head->segment < head->epoch_first)
        return "its segment comes before its epoch";
    if (head->day == DAY_NONE || head->day > UINT16_MAX)
        return "its day cannot be";
    if (head->kind != MESSAGE_BLOCK && head->day > engine_today(engine) + 1)
        return "a marker of a day that has not begun";
    return NULL;
}

// A block of tomorrow that comes within the difference of two clocks waits for our midnight.
static bool message_waits(struct partition *partition, const struct message_head *head) {
    const struct clock *clock = &partition->engine->config->clock;
    if (head->kind != MESSAGE_BLOCK || head->day != engine_today(partition->engine) + 1)
        return false;
    int64_t left_ms = clock_real_ms_until(clock, day_start_ms(head->day));
    if (left_ms > CLOCK_AHEAD_MS)
        return false;
    partition_pause(partition, left_ms);
    return true;
}

static void message_dispatch(struct partition *partition, const struct queued *queued, const struct message_head *head,
                             const uint8_t *body, size_t body_len) {
    struct close_body close;
    char edge[EDGE_ID_MAX + 1];
    int rc = 0;
    switch (head->kind) {
    case MESSAGE_BLOCK:
        blocks_begin(partition, head, body, body_len);
        return;
    case MESSAGE_IMPORT:
        import_begin(partition, head, body, body_len, queued);
        return;
    case MESSAGE_REGISTER:
        take_register(partition, head, queued->position);
        return;
    case MESSAGE_CLOSE:
        rc = message_decode_close(partition->engine->codec, body, body_len, &close);
        if (rc == 0)
            take_close(partition, head, &close, queued->position);
        break;
    case MESSAGE_RETIRE:
        rc = message_decode_retire(body, body_len, edge);
        if (rc == 0)
            take_retire(partition, head, edge, queued->position);
        break;
    default:
        rc = ERR_CORRUPT;
    }
    if (rc != 0)
        message_set_aside(partition, queued->position, queued->data, queued->len, "its body is damaged");
}

bool message_is_seen(struct partition *partition, const struct message_head *head) {
    struct edge_record edge;
    state_edge(partition->state, head->edge, &edge);
    return edge_has_seen(&edge, head);
}

void message_drop(struct partition *partition) {
    struct queued *queued = &partition->queue[partition->queue_first];
    CHECK(partition->queue_count > 0 && partition->queue_bytes >= queued->len);
    partition->queue_bytes -= queued->len;
    free(queued->data);
    *queued = (struct queued){0};
    partition->queue_first = (partition->queue_first + 1) % QUEUE_MESSAGES_MAX;
    partition->queue_count--;
}

bool message_is_block(struct partition *partition, uint32_t today, struct message_head *head, const uint8_t **body,
                      size_t *body_len) {
    if (partition->queue_count == 0)
        return false;
    const struct queued *queued = queue_first(partition);
    return message_decode_head(queued->data, queued->len, head, body, body_len) == 0 &&
           head->kind == MESSAGE_BLOCK && message_misfit(partition, head) == NULL && head->day <= today &&
           !message_is_seen(partition, head);
}

bool message_take(struct partition *partition) {
    const struct queued *queued = queue_first(partition);
    struct message_head head;
    const uint8_t *body;
    size_t body_len;
    CHECK(partition->task == NULL);
    const char *misfit = NULL;
    if (message_decode_head(queued->data, queued->len, &head, &body, &body_len) != 0)
        misfit = "it is damaged";
    else
        misfit = message_misfit(partition, &head);
    if (misfit == NULL && message_waits(partition, &head))
        return false;
    if (misfit != NULL) {
        message_set_aside(partition, queued->position, queued->data, queued->len, misfit);
    } else if (message_is_seen(partition, &head)) {
        count_metric(METRIC_DUPLICATES, 1);
        message_position(partition, queued->position);
    } else {
        message_dispatch(partition, queued, &head, body, body_len);
        if (head.kind == MESSAGE_BLOCK)
            return true; // left the queue there
    }
    message_drop(partition);
    return true;
}
