// The state topic (or the local journal): transactions with what journal.h says of fencing, and every way in which a
// commit can end. Under the batch's own functions it also notes what an engine decides, at the moment it does.
#include "sim.h"

#include "common/bytes.h"

static struct slot *slot_of(struct journal *journal) {
    return (struct slot *)((uint8_t *)journal - offsetof(struct slot, journal));
}

// ---- what is decided ------------------------------------------------------------------------------------------------

struct sim_decision *decision_add(struct slot *slot, enum decision_kind kind, uint32_t partition) {
    slot->decisions =
        sim_room(slot->decisions, slot->n_decisions, &slot->decisions_room, sizeof *slot->decisions);
    struct sim_decision *decision = &slot->decisions[slot->n_decisions++];
    *decision = (struct sim_decision){.kind = kind,
                                      .partition = partition,
                                      .now_ms = sim.now_ms,
                                      .began_ms = slot->parts[partition].began_ms,
                                      .table = slot->table,
                                      .config = slot->config,
                                      .answers = slot->answers};
    return decision;
}

int __real_batch_put(struct batch *batch, uint32_t partition, const void *key, size_t key_len, const void *value,
                     size_t value_len);
int __wrap_batch_put(struct batch *batch, uint32_t partition, const void *key, size_t key_len, const void *value,
                     size_t value_len);
void __real_batch_set_position(struct batch *batch, uint32_t partition, int64_t position);
void __wrap_batch_set_position(struct batch *batch, uint32_t partition, int64_t position);
void __real_batch_clear(struct batch *batch);
void __wrap_batch_clear(struct batch *batch);
int __real_message_decode_block(struct message_codec *codec, const struct message_head *head, const uint8_t *body,
                                size_t body_len, uint8_t rules_hash[RULES_HASH_SIZE], const struct event **events,
                                size_t *n_events);
int __wrap_message_decode_block(struct message_codec *codec, const struct message_head *head, const uint8_t *body,
                                size_t body_len, uint8_t rules_hash[RULES_HASH_SIZE], const struct event **events,
                                size_t *n_events);

static int kind_of_record(const uint8_t *key, const uint8_t *value, size_t value_len) {
    switch (key[0]) {
    case RECORD_RELEASE:
        return DECIDED_LINE;
    case RECORD_TENANT:
        return DECIDED_TENANT;
    case RECORD_SETTINGS:
        return DECIDED_SETTINGS;
    case RECORD_LAST_OPEN:
        return value_len == 0 ? DECIDED_ERASURE : -1;
    case RECORD_DAY:
        return value_len > 0 && value[0] != 0 ? DECIDED_DAY : -1;
    default:
        return -1;
    }
}

int __wrap_batch_put(struct batch *batch, uint32_t partition, const void *key, size_t key_len, const void *value,
                     size_t value_len) {
    struct slot *slot = sim.current;
    int kind = slot == NULL || slot->dead ? -1 : kind_of_record(key, value, value_len);
    if (kind >= 0) {
        struct sim_decision *decision = decision_add(slot, (enum decision_kind)kind, partition);
        decision->batch = batch;
        CHECK(key_decode(key, key_len, &decision->key) == 0);
        decision->len = value_len;
        decision->value = sim_copy(value, value_len);
        if (kind == DECIDED_LINE)
            decision->answers = slot->parts[partition].answers;
    }
    return __real_batch_put(batch, partition, key, key_len, value, value_len);
}

void __wrap_batch_set_position(struct batch *batch, uint32_t partition, int64_t position) {
    struct slot *slot = sim.current;
    if (slot != NULL && !slot->dead) {
        struct sim_decision *decision = decision_add(slot, DECIDED_MESSAGE, partition);
        decision->batch = batch;
        decision->index = position - 1 - slot->parts[partition].base;
    }
    __real_batch_set_position(batch, partition, position);
}

// What is dropped was never decided.
void __wrap_batch_clear(struct batch *batch) {
    struct slot *slot = sim.current;
    size_t kept = 0;
    for (size_t i = 0; slot != NULL && i < slot->n_decisions; i++)
        if (slot->decisions[i].batch != batch)
            slot->decisions[kept++] = slot->decisions[i];
    if (slot != NULL)
        slot->n_decisions = kept;
    __real_batch_clear(batch);
}

int __wrap_message_decode_block(struct message_codec *codec, const struct message_head *head, const uint8_t *body,
                                size_t body_len, uint8_t rules_hash[RULES_HASH_SIZE], const struct event **events,
                                size_t *n_events) {
    // Blocks that stand behind one another are asked for as one, after all of them were decoded.
    sim.current->parts[head->partition].began_ms = sim.now_ms;
    sim.current->parts[head->partition].answers = NULL;
    return __real_message_decode_block(codec, head, body, body_len, rules_hash, events, n_events);
}

// ---- load -----------------------------------------------------------------------------------------------------------

static int journal_load(struct journal *journal, uint32_t partition, journal_record_fn each,
                        journal_progress_fn progress, void *arg, int64_t *position, struct err *err) {
    struct slot *slot = slot_of(journal);
    struct topic *topic = &sim.topics[partition];
    if (slot->dead || (!sim.local && !slot_owns(slot, partition)))
        return err_set(err, ERR_UNREACHABLE, "not ours now");
    if (sim.loads_fail && sim_chance(300))
        return err_set(err, ERR_UNREACHABLE, "the broker is away");
    if (progress(arg, 0, topic->n_records) != 0)
        return err_set(err, ERR_AGAIN, "the load was stopped");
    for (size_t i = 0; i < topic->n_records; i++) {
        const struct sim_record *record = &topic->records[i];
        int rc = each(arg, record->bytes, record->key_len, record->bytes + record->key_len, record->value_len);
        if (rc != 0)
            return rc;
    }
    *position = topic->position;
    if (slot->generation > topic->loaded_generation)
        topic->loaded_generation = slot->generation;
    return 0;
}

// What log compaction may do at any time: of a key only the newest record stays, and of an erased key none.
void topic_compact(struct topic *topic) {
    size_t kept = 0;
    for (size_t i = 0; i < topic->n_records; i++) {
        const struct sim_record *record = &topic->records[i];
        bool newest = true;
        for (size_t k = i + 1; k < topic->n_records && newest; k++)
            newest = topic->records[k].key_len != record->key_len ||
                     memcmp(topic->records[k].bytes, record->bytes, record->key_len) != 0;
        if (newest && record->value_len > 0)
            topic->records[kept++] = *record;
    }
    topic->n_records = kept;
}

// ---- commit ---------------------------------------------------------------------------------------------------------

// A transaction whose offsets were sent before the group moved on may still be committed, until somebody else asks for
// them (DESIGN 6).
static bool still_pending(const struct slot *slot, const struct batch *batch) {
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        if (batch_touches(batch, p) && sim.topics[p].loaded_generation > slot->generation)
            return false;
    return sim_chance(500);
}

static int commit_fence(const struct slot *slot, const struct batch *batch, struct err *err) {
    bool member = false;
    for (size_t i = 0; i < sim.group.n_members; i++)
        member |= sim.group.members[i].id == slot->member;
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        if (batch_touches(batch, p) && !slot_owns(slot, p))
            return err_set(err, ERR_REFUSED, "partition %u is not ours any more", p);
    if ((!member || slot->generation != sim.group.generation) && !still_pending(slot, batch))
        return err_set(err, ERR_REFUSED, "fenced");
    if (sim.group.rebalancing && !sim.calm && sim_chance(100))
        return err_set(err, ERR_REFUSED, "rebalance in progress");
    return 0;
}

static void record_append(struct sim_record **records, size_t *n, size_t *room, const struct batch_record *record) {
    uint8_t *bytes = sim_alloc(record->key_len + record->value_len + 1);
    memcpy(bytes, record->key, record->key_len);
    if (record->value_len > 0)
        memcpy(bytes + record->key_len, record->value, record->value_len);
    *records = sim_room(*records, *n, room, sizeof **records);
    (*records)[(*n)++] =
        (struct sim_record){.key_len = record->key_len, .value_len = record->value_len, .bytes = bytes};
}

static void commit_apply(struct slot *slot, const struct batch *batch) {
    for (size_t i = 0; i < batch_count(batch); i++) {
        struct batch_record record = batch_at(batch, i);
        struct topic *topic = &sim.topics[record.partition];
        if (record.release)
            record_append(&sim.lines, &sim.n_lines, &sim.lines_room, &record);
        else
            record_append(&topic->records, &topic->n_records, &topic->records_room, &record);
    }
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        int64_t position = batch_position(batch, p);
        if (position < 0)
            continue;
        if (position < sim.topics[p].position)
            sim_fail("aggregator %u takes partition %u back", slot->number, p);
        sim.topics[p].position = position;
    }
    sim.n_commits++;
    model_commit(slot, batch);
}

// A reader of the releases topic may see what is never committed: so whatever is sent must be a committed line already.
static bool line_is_committed(const struct batch_record *sent) {
    const struct topic *topic = &sim.topics[sent->partition];
    for (size_t i = 0; i < topic->n_records; i++) {
        const struct sim_record *record = &topic->records[i];
        struct record_key key;
        struct release_record release;
        char text[64];
        if (record->bytes[0] != RECORD_RELEASE)
            continue;
        CHECK(key_decode(record->bytes, record->key_len, &key) == 0);
        CHECK(release_decode(record->bytes + record->key_len, record->value_len, &release) == 0);
        release_key(key.tenant, (enum release_kind)key.release_kind, key.day, text);
        if (strlen(text) == sent->key_len && memcmp(text, sent->key, sent->key_len) == 0)
            return release.line_len == sent->value_len && memcmp(release.line, sent->value, sent->value_len) == 0;
    }
    return false;
}

static void check_sent(const struct slot *slot, const struct batch *batch) {
    for (size_t i = 0; i < batch_count(batch); i++) {
        struct batch_record record = batch_at(batch, i);
        if (record.release && !line_is_committed(&record))
            sim_fail("aggregator %u sends a line that is not committed", slot->number);
    }
}

static int journal_commit(struct journal *journal, const struct batch *batch, struct err *err) {
    struct slot *slot = slot_of(journal);
    CHECK(!batch_empty(batch));
    check_sent(slot, batch);
    if (slot->dead)
        return err_set(err, ERR_AGAIN, "killed");
    int rc = sim.local ? 0 : commit_fence(slot, batch, err);
    if (rc != 0) {
        sim.n_refused++;
        sim_trace("aggregator %u: commit refused: %s", slot->number, err->text);
        return rc;
    }
    uint32_t luck = sim.commits_fail ? sim_below(100) : 100;
    if (luck < 3) {
        slot->may_fail = true;
        return err_set(err, ERR_IO, "the disk or the broker refuses for good");
    }
    if (luck < 12)
        return err_set(err, ERR_AGAIN, "aborted");
    commit_apply(slot, batch);
    sim_trace("aggregator %u commits %zu records%s", slot->number, batch_count(batch), luck < 20 ? ", unheard" : "");
    if (luck < 20 && !sim.local)
        return err_set(err, ERR_AGAIN, "the answer was lost");
    return 0;
}

static void journal_close(struct journal *journal) {
    (void)journal;
}

void journal_prepare(struct slot *slot) {
    static const struct journal_ops local = {.load = journal_load, .commit = journal_commit, .close = journal_close};
    static const struct journal_ops kafka = {
        .sends_lines = true, .load = journal_load, .commit = journal_commit, .close = journal_close};
    slot->journal.ops = sim.local ? &local : &kafka;
}
