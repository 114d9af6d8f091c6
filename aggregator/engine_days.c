// Days: when one is complete, and when waiting for it ends.
#include "aggregator/edges.h"
#include "aggregator/engine_parts.h"

bool day_put(struct partition *partition, uint32_t day, const struct day_record *record) {
    uint8_t key[RECORD_KEY_MAX];
    return partition_put(partition, key_day(key, day), key, day_encode(record, partition->engine->value));
}

uint32_t edges_earliest(const struct state *state) {
    uint32_t earliest = DAY_NONE;
    for (size_t i = 0; i < state_edge_count(state); i++) {
        uint32_t day = state_edge_at(state, i)->registered_day;
        if (day != DAY_NONE && (earliest == DAY_NONE || day < earliest))
            earliest = day;
    }
    return earliest;
}

// Every edge that takes part in `day` is through with it, at least one does, and nothing of it is lost. A retirement ends
// no day before its midnight: what comes in its place may still register.
static bool day_is_whole(const struct partition *partition, uint32_t day) {
    const struct state *state = partition->state;
    bool is_over = day < engine_today(partition->engine);
    bool any = false;
    for (size_t i = 0; i < state_edge_count(state); i++) {
        const struct edge_summary *edge = state_edge_at(state, i);
        if (edge->registered_day == DAY_NONE || edge->registered_day > day)
            continue;
        any = true;
        if (edge_has_lost(edge->incomplete_through, edge->incomplete_days, day) ||
            !edge_is_through(edge->registered_day, edge->closed_through, edge->retired && is_over, day))
            return false;
    }
    return any;
}

static bool day_flag(struct partition *partition, uint32_t day, uint8_t flag) {
    const struct day_record *known = state_day(partition->state, day);
    struct day_record record = known == NULL ? (struct day_record){0} : *known;
    record.flags |= flag;
    return day_put(partition, day, &record);
}

static bool day_complete(struct partition *partition, uint32_t day) {
    char text[DAY_TEXT_SIZE];
    day_format(day, text);
    if (partition_speaks(partition))
        log_info("%s is complete", text);
    return day_flag(partition, day, DAY_COMPLETE);
}

void days_complete(struct partition *partition) {
    const struct state *state = partition->state;
    for (size_t i = 0; i < state_day_count(state); i++) {
        uint32_t day;
        if ((state_day_at(state, i, &day)->flags & DAY_COMPLETE) == 0 && day_is_whole(partition, day) &&
            !day_complete(partition, day))
            return;
    }
}

bool days_are_complete(const struct state *state, uint32_t first, uint32_t last) {
    for (uint32_t day = first; day <= last; day++) {
        const struct day_record *record = state_day(state, day);
        if (record == NULL || (record->flags & DAY_COMPLETE) == 0)
            return false;
    }
    return true;
}

// Everything that the source had at some moment after `deadline_ms` is taken in: the deadline ends waiting for edges,
// never for our own backlog.
static bool backlog_is_done(struct partition *partition, int64_t deadline_ms) {
    struct source *source = partition->engine->parts.source;
    if (partition->goal_wall_ms < deadline_ms) {
        int64_t end;
        int64_t now_ms = clock_now_ms(&partition->engine->config->clock);
        if (source->ops->end(source, partition->number, &end) != 0)
            return false;
        partition->goal_position = end;
        partition->goal_wall_ms = now_ms;
    }
    int64_t position = partition->position < 0 ? 0 : partition->position;
    return partition->queue_count == 0 && !partition->held_back && position >= partition->goal_position;
}

// True where the day needs no more waiting.
static bool day_is_settled(struct partition *partition, uint32_t day) {
    const struct engine *engine = partition->engine;
    const struct day_record *record = state_day(partition->state, day);
    if (record != NULL && record->flags != 0)
        return true;
    if (day_is_whole(partition, day)) // without a marker: the midnight of a retired edge has none
        return day_complete(partition, day);
    int64_t deadline_ms = day_start_ms(day + 1) + (int64_t)engine->config->release_deadline_hours * 3600 * 1000;
    if (clock_now_ms(&engine->config->clock) < deadline_ms || !backlog_is_done(partition, deadline_ms))
        return false;
    char text[DAY_TEXT_SIZE];
    day_format(day, text);
    if (partition_speaks(partition))
        log_warn("%s passed its deadline incomplete", text);
    return day_flag(partition, day, DAY_GIVEN_UP);
}

void days_settle(struct partition *partition) {
    uint32_t earliest = edges_earliest(partition->state);
    uint32_t today = engine_today(partition->engine);
    if (earliest == DAY_NONE)
        return;
    uint32_t day = today > LAST_OPEN_KEEP_DAYS ? today - LAST_OPEN_KEEP_DAYS : 1;
    if (day < earliest)
        day = earliest;
    if (day <= partition->settled_through)
        day = partition->settled_through + 1;
    while (day <= today && day_is_settled(partition, day))
        partition->settled_through = day++;
}
