// The events topic and its consumer group, and the slot's side of both: what source.h says. Every rebalance revokes all
// and assigns all. A member that is dead or asleep holds a rebalance up until it is thrown out; it learns of that when it
// wakes. On a single node (sim.local) positions are counters of a session, and what is not deleted comes again.
#include "sim.h"

static struct slot *slot_of(struct source *source) {
    return (struct slot *)((uint8_t *)source - offsetof(struct slot, source));
}

void topic_append(uint32_t partition, struct sim_message *message) {
    struct topic *topic = &sim.topics[partition];
    topic->log = sim_room(topic->log, topic->n, &topic->room, sizeof *topic->log);
    topic->log[topic->n++] = (struct log_entry){.message = message, .ms = sim.now_ms};
    sim.n_messages++;
}

// ---- the coordinator ------------------------------------------------------------------------------------------------

static struct group_member *member_find(uint64_t id) {
    for (size_t i = 0; i < sim.group.n_members; i++)
        if (sim.group.members[i].id == id)
            return &sim.group.members[i];
    return NULL;
}

static void group_rebalance(void) {
    if (sim.group.rebalancing)
        return;
    sim.group.rebalancing = true;
    for (size_t i = 0; i < sim.group.n_members; i++)
        sim.group.members[i].ready = false;
}

static void group_join(struct slot *slot) {
    CHECK(sim.group.n_members < SIM_MEMBERS);
    group_rebalance();
    slot->member = ++sim.members;
    sim.group.members[sim.group.n_members++] =
        (struct group_member){.id = slot->member, .slot = slot->number, .ready = true};
}

static void member_remove(size_t at) {
    struct coordinator *group = &sim.group;
    group->n_members--;
    memmove(&group->members[at], &group->members[at + 1], (group->n_members - at) * sizeof group->members[0]);
    group_rebalance();
}

void group_leave(struct slot *slot) {
    struct group_member *member = member_find(slot->member);
    if (member != NULL)
        member_remove((size_t)(member - sim.group.members));
}

bool group_complete(void) {
    struct coordinator *group = &sim.group;
    if (!group->rebalancing)
        return false;
    for (size_t i = 0; i < group->n_members; i++)
        if (!group->members[i].ready)
            return false;
    group->rebalancing = false;
    group->generation++;
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        group->owner[p] = group->n_members == 0 ? -1 : (int)group->members[p * group->n_members / sim.n_partitions].slot;
    for (size_t i = 0; i < group->n_members; i++) {
        struct slot *slot = &sim.slots[group->members[i].slot];
        if (slot->member == group->members[i].id)
            slot->assign_pending = true;
    }
    sim_trace("generation %d of the group, %zu members", (int)group->generation, group->n_members);
    return true;
}

bool group_expire(void) {
    for (size_t i = 0; i < sim.group.n_members; i++) {
        const struct group_member *member = &sim.group.members[i];
        const struct slot *slot = &sim.slots[member->slot];
        if (slot->alive && !slot->paused && slot->member == member->id)
            continue;
        sim_trace("aggregator %u is thrown out of the group", member->slot);
        member_remove(i);
        return true;
    }
    return false;
}

// ---- the slot's side of the group -----------------------------------------------------------------------------------

bool slot_owns(const struct slot *slot, uint32_t partition) {
    return slot->generation != 0 && slot->parts[partition].state != PART_AWAY;
}

static void slot_forget(struct slot *slot, bool lost) {
    sim_trace("aggregator %u: partitions %s", slot->number, lost ? "lost" : "revoked");
    int64_t generation = slot->generation;
    slot->generation = lost ? 0 : generation;
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        if (slot->parts[p].state == PART_AWAY)
            continue;
        slot->hooks.revoked(slot->hooks.arg, p, lost);
        slot->parts[p].state = PART_AWAY;
    }
    slot->generation = 0;
}

static void slot_assign(struct slot *slot) {
    slot->assign_pending = false;
    slot->generation = sim.group.generation;
    sim_trace("aggregator %u: partitions assigned", slot->number);
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        if (sim.group.owner[p] == (int)slot->number)
            slot->parts[p] = (struct part){.state = PART_LOADS, .committed = -1};
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        if (slot->parts[p].state == PART_LOADS)
            slot->hooks.assigned(slot->hooks.arg, p);
}

// One that was thrown out, and does not know it yet, may want what its successor had deleted.
static void slot_out_of_range(struct slot *slot, uint32_t p) {
    const struct err err = {"offset out of range"};
    if (member_find(slot->member) != NULL && slot->generation == sim.group.generation)
        sim_fail("aggregator %u reads partition %u from %zu, which was deleted up to %zu", slot->number, p,
                 slot->parts[p].next, sim.topics[p].first);
    slot->may_fail = true;
    slot->hooks.failed(slot->hooks.arg, &err);
}

static void slot_deliver(struct slot *slot, uint32_t p) {
    struct part *part = &slot->parts[p];
    if (part->next < sim.topics[p].first) {
        slot_out_of_range(slot, p);
        return;
    }
    const struct sim_message *message = sim.topics[p].log[part->next].message;
    size_t at = part->next;
    part->state = PART_HELD; // the hook may resume
    bool taken = slot->hooks.message(slot->hooks.arg, p, part->base + (int64_t)at, message->bytes, message->len);
    if (taken && part->state == PART_HELD && part->next == at) {
        part->state = PART_RUNS;
        part->next++;
    }
}

bool slot_kafka(struct slot *slot, enum kafka_step step, uint32_t p, bool run) {
    const struct group_member *member = member_find(slot->member);
    struct part *part = &slot->parts[p];
    bool can = false;
    if (slot->member == 0)
        return false;
    switch (step) {
    case KAFKA_REVOKE:
        can = p == 0 && member != NULL && sim.group.rebalancing && !member->ready;
        break;
    case KAFKA_ASSIGN:
        can = p == 0 && member != NULL && slot->assign_pending && !sim.group.rebalancing;
        break;
    case KAFKA_LOST:
        can = p == 0 && member == NULL;
        break;
    case KAFKA_DELIVER:
        can = part->state == PART_RUNS && part->next < sim.topics[p].n;
        break;
    case KAFKA_DELETE:
        can = part->state != PART_AWAY && part->committed - part->base > (int64_t)sim.topics[p].first;
        break;
    case KAFKA_STEPS:
        break;
    }
    if (!can || !run)
        return can;
    if (step == KAFKA_REVOKE) {
        slot_forget(slot, false);
        slot->assign_pending = false;
        member_find(slot->member)->ready = true;
    } else if (step == KAFKA_ASSIGN) {
        slot_assign(slot);
    } else if (step == KAFKA_LOST) {
        slot_forget(slot, true);
        slot->assign_pending = false;
        group_join(slot);
    } else if (step == KAFKA_DELIVER) {
        slot_deliver(slot, p);
    } else {
        sim.topics[p].first = (size_t)(part->committed - part->base);
    }
    return true;
}

// ---- source.h -------------------------------------------------------------------------------------------------------

static int source_start(struct source *source, struct uv_loop_s *loop, const struct source_hooks *hooks,
                        struct err *err) {
    struct slot *slot = slot_of(source);
    (void)loop;
    (void)err;
    slot->hooks = *hooks;
    group_join(slot);
    return 0;
}

static void source_resume(struct source *source, uint32_t p, int64_t position) {
    struct slot *slot = slot_of(source);
    struct part *part = &slot->parts[p];
    const struct topic *topic = &sim.topics[p];
    if (part->state == PART_AWAY)
        return;
    if (sim.local && !part->based) {
        part->based = true;
        part->base = (position < 0 ? 0 : position) - (int64_t)topic->first;
        part->next = topic->first;
    } else if (position != -2) {
        part->next = position < part->base ? topic->first : (size_t)(position - part->base);
    }
    if ((sim.local || position == -1) && part->next < topic->first)
        part->next = topic->first;
    part->state = PART_RUNS;
}

static int source_end(struct source *source, uint32_t p, int64_t *end) {
    const struct slot *slot = slot_of(source);
    if (slot->dead || (!sim.calm && sim_chance(100)))
        return ERR_UNREACHABLE;
    *end = slot->parts[p].base + (int64_t)sim.topics[p].n;
    return 0;
}

static void source_committed(struct source *source, uint32_t p, int64_t position) {
    struct slot *slot = slot_of(source);
    struct part *part = &slot->parts[p];
    if (slot->dead)
        return;
    if (position > sim.topics[p].position)
        sim_fail("aggregator %u lets messages go that are not committed", slot->number);
    if (position > part->committed)
        part->committed = position;
}

static void source_stop(struct source *source) {
    struct slot *slot = slot_of(source);
    if (!slot->dead && slot->generation != 0)
        slot_forget(slot, false);
}

void source_prepare(struct slot *slot) {
    static const struct source_ops ops = {.start = source_start,
                                          .resume = source_resume,
                                          .end = source_end,
                                          .committed = source_committed,
                                          .stop = source_stop};
    slot->source.ops = &ops;
}
