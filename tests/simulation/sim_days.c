// Edges and days: who takes part, what is closed, lost and complete.
#include "model.h"

uint32_t model_earliest(uint32_t partition) {
    uint32_t earliest = DAY_NONE;
    for (unsigned e = 0; e < sim.n_edges; e++) {
        const struct model_edge *edge = &model.edges[partition][e];
        if (edge->registered && (earliest == DAY_NONE || edge->registered_day < earliest))
            earliest = edge->registered_day;
    }
    return earliest;
}

// Every edge registered on or before it has closed it, or was retired and the day is over, and all of it is there.
bool model_whole(uint32_t partition, uint32_t day, uint32_t today) {
    bool any = false;
    for (unsigned e = 0; e < sim.n_edges; e++) {
        const struct model_edge *edge = &model.edges[partition][e];
        if (!edge->registered || edge->registered_day > day)
            continue;
        any = true;
        if ((edge->lost >> model_day_at(day) & 1) != 0)
            return false;
        if (edge->closed_through < day && !(edge->retired_on != DAY_NONE && day < today))
            return false;
    }
    return any;
}

static void edge_lost(struct model_edge *edge, uint32_t first, uint32_t last) {
    for (uint32_t day = first; day <= last; day++)
        edge->lost |= 1ull << model_day_at(day);
}

void model_register(struct model_edge *edge, uint32_t day) {
    if (!edge->registered) {
        edge->registered = true;
        edge->registered_day = day;
        edge->closed_through = day - 1;
        return;
    }
    // Only an empty spool registers: what was not closed is lost, unless the operator had ended it.
    if (edge->retired_on == DAY_NONE && edge->closed_through < day)
        edge_lost(edge, edge->closed_through + 1, day);
    edge->retired_on = DAY_NONE;
    edge->broken = true;
    if (edge->closed_through < day - 1)
        edge->closed_through = day - 1;
}

void model_retire(struct model_edge *edge, uint32_t day) {
    if (!edge->registered)
        return;
    edge->retired_on = day;
    edge->broken = true;
}

// An operator who retires an edge says that nothing more comes of that day on; what does come proves him wrong.
void model_sends(struct model_edge *edge, uint32_t day) {
    if (edge->retired_on != DAY_NONE && day >= edge->retired_on)
        edge->retired_on = DAY_NONE;
}

static bool segment_is_in(uint32_t partition, int edge, uint64_t epoch, uint64_t number) {
    const struct topic *topic = &sim.topics[partition];
    for (size_t i = 0; i < topic->n; i++) {
        const struct sim_message *message = topic->log[i].message;
        if (message->edge == edge && message->head.epoch == epoch && message->head.segment == number)
            return message->processed;
    }
    return false;
}

// A segment that comes for the first time when its day is closed and a later boot has closed a day cannot be told from one
// that was there.
bool model_knows(uint32_t partition, const struct sim_message *message) {
    struct model_edge *edge = &model.edges[partition][message->edge];
    for (size_t i = 0; i < edge->n_epochs; i++)
        if (edge->epochs[i].epoch == message->head.epoch)
            return true;
    if (edge->registered && message->head.day <= edge->closed_through)
        return false;
    CHECK(edge->n_epochs < MODEL_EPOCHS);
    edge->epochs[edge->n_epochs].epoch = message->head.epoch;
    edge->epochs[edge->n_epochs++].first = message->head.epoch_first;
    return true;
}

// A later boot does not send of a day that this one closed.
static void epochs_end(struct model_edge *edge, const struct message_head *head) {
    size_t kept = 0;
    bool after = false; // of two spools of one day the numbers are the same
    for (size_t i = 0; i < edge->n_epochs; i++) {
        after = after || edge->epochs[i].epoch == head->epoch;
        if (edge->epochs[i].first > head->epoch_first || (edge->epochs[i].first == head->epoch_first && after))
            edge->epochs[kept++] = edge->epochs[i];
    }
    edge->n_epochs = kept;
}

void model_close(uint32_t partition, const struct sim_message *message) {
    struct model_edge *edge = &model.edges[partition][message->edge];
    const struct close_body *close = &message->close;
    uint32_t day = message->head.day;
    if (!edge->registered || day <= edge->closed_through)
        return;
    uint32_t from = close->from_day;
    if (from > edge->closed_through + 1)
        edge_lost(edge, edge->closed_through + 1, from - 1);
    if (from <= edge->closed_through)
        from = edge->closed_through + 1;
    for (size_t i = 0; i < close->n_ranges; i++)
        for (uint64_t number = close->ranges[i].first; number <= close->ranges[i].last; number++)
            if (!segment_is_in(partition, message->edge, close->ranges[i].epoch, number))
                edge_lost(edge, day, day);
    edge->closed_through = day;
    epochs_end(edge, &message->head);
    for (uint32_t d = from; d <= day; d++) {
        model_day(partition, d)->exists = true;
        model_day(partition, d)->n_edges_closed++;
        edge->closed |= 1ull << model_day_at(d);
    }
    struct model_day *record = model_day(partition, day);
    record->edges.requests += close->counts.requests;
    record->edges.recorded += close->counts.recorded;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        record->edges.drops[i] += close->counts.drops[i];
    record->recorded_here += close->recorded_here;
}

// FORMATS 6: complete, or its deadline has passed and all that was there by then is in.
void model_decide_day(const struct sim_decision *decision) {
    uint32_t p = decision->partition, number = decision->key.day;
    struct model_day *day = model_day(p, number);
    const struct topic *topic = &sim.topics[p];
    uint8_t fresh = decision->value[0] & (uint8_t)~day->flags;
    bool whole = model_whole(p, number, day_of_ms(decision->now_ms));
    day->flags |= fresh;
    day->exists = true;
    if ((fresh & DAY_COMPLETE) != 0 && !whole)
        sim_fail("partition %u: day %u is called complete and is not", p, number);
    if ((fresh & DAY_GIVEN_UP) == 0)
        return;
    int64_t deadline_ms = day_start_ms(number + 1) + (int64_t)decision->config->release_deadline_hours * 3600000;
    if (whole || decision->now_ms < deadline_ms)
        sim_fail("partition %u: day %u is given up %s", p, number, whole ? "and is complete" : "before its deadline");
    for (size_t i = topic->first; i < topic->n; i++)
        if (topic->log[i].ms < deadline_ms && !topic->log[i].done)
            sim_fail("partition %u: day %u is given up with a backlog", p, number);
}
