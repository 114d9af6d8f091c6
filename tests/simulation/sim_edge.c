// Edges, with the ledger that real ones have (ingest/ledger.c): segments, epochs, close markers, a spool that survives
// crashes unless it is lost, and a forwarder that sends in order, in each partition at its own pace, and again what was
// not acknowledged. Beside them whoever else writes to the events topic.
#include "sim.h"

static struct message_codec *codec;
static uint8_t out[MESSAGE_BYTES_MAX];

static struct sim_message *message_new(const struct message_head *head, int edge) {
    struct sim_message *message = sim_alloc(sizeof *message);
    message->head = *head;
    message->edge = edge;
    return message;
}

static struct sim_message *message_encoded(struct sim_message *message, int64_t len) {
    if (len <= 0)
        sim_fail("a message cannot be encoded: %d", (int)len);
    message->len = (size_t)len;
    message->bytes = sim_copy(out, message->len);
    return message;
}

static void rules_hash_of(unsigned rules, uint8_t hash[RULES_HASH_SIZE]) {
    memset(hash, (int)(rules + 1), RULES_HASH_SIZE);
}

static struct sim_message *block_new(const struct message_head *head, int edge, struct event *events, size_t n,
                                     unsigned rules) {
    struct sim_message *message = message_new(head, edge);
    uint8_t hash[RULES_HASH_SIZE];
    rules_hash_of(rules, hash);
    if (codec == NULL)
        CHECK(message_codec_create(&codec) == 0);
    int64_t len = message_encode_block(codec, head, hash, events, n, out);
    message->events = sim_copy(events, n * sizeof *events);
    message->n_events = n;
    message->rules = rules;
    return message_encoded(message, len);
}

// ---- an edge --------------------------------------------------------------------------------------------------------

static uint32_t edge_today(const struct sim_edge *edge) {
    return day_of_ms(sim.now_ms + edge->skew_ms);
}

void edges_begin(void) {
    for (unsigned e = 0; e < sim.n_edges; e++) {
        struct sim_edge *edge = &sim.edges[e];
        snprintf(edge->id, sizeof edge->id, "edge-%u", e);
        edge->empty = true;
        edge->skew_ms = (int64_t)sim_below(3000) - 1500;
        edge->ledger = sim_alloc(sizeof *edge->ledger);
    }
}

static struct message_head head_of(const struct sim_edge *edge, enum message_kind kind, uint32_t day) {
    struct message_head head = {.kind = kind,
                                .epoch = edge->epoch,
                                .segment = edge->next,
                                .epoch_first = edge->epoch_first,
                                .partitions = (uint16_t)sim.n_partitions,
                                .day = day};
    snprintf(head.edge, sizeof head.edge, "%s", edge->id);
    return head;
}

static struct sim_segment *segment_add(struct sim_edge *edge) {
    edge->sealed = sim_room(edge->sealed, edge->n_sealed, &edge->sealed_room, sizeof *edge->sealed);
    struct sim_segment *segment = &edge->sealed[edge->n_sealed++];
    *segment = (struct sim_segment){.number = edge->next++};
    return segment;
}

static void edge_register(struct sim_edge *edge) {
    struct message_head head = head_of(edge, MESSAGE_REGISTER, edge_today(edge));
    static const struct tally nothing;
    ledger_begin(edge->ledger, head.day);
    CHECK(ledger_add(edge->ledger, head.partitions, head.epoch, head.segment, &nothing) == 0);
    struct sim_segment *segment = segment_add(edge);
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        head.partition = (uint16_t)p;
        struct sim_message *message = message_new(&head, (int)(edge - sim.edges));
        segment->messages[p] = message_encoded(message, message_encode_register(&head, out));
    }
    edge->empty = false;
}

static void edge_close_next(struct sim_edge *edge, uint32_t today) {
    struct ledger *ledger = edge->ledger;
    struct ledger_closing closing = ledger_next_close(ledger, today);
    struct message_head head = head_of(edge, MESSAGE_CLOSE, closing.day);
    struct sim_segment *segment = segment_add(edge);
    const struct segment_range *ranges = sim_copy(ledger->ranges, ledger->n_ranges * sizeof *ranges);
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        head.partition = (uint16_t)p;
        struct sim_message *message = message_new(&head, (int)(edge - sim.edges));
        message->close = (struct close_body){.from_day = closing.from_day,
                                             .counts = ledger->counts,
                                             .recorded_here = ledger->recorded_by_partition[p],
                                             .n_ranges = ledger->n_ranges,
                                             .ranges = ranges};
        segment->messages[p] = message_encoded(message, message_encode_close(&head, &message->close, out));
    }
    ledger_close(ledger, closing);
}

void edge_seal(struct sim_edge *edge) {
    if (edge->tally.outcomes == 0)
        return;
    struct message_head head = head_of(edge, MESSAGE_BLOCK, edge->ledger->day);
    struct sim_segment *segment = segment_add(edge);
    struct event *events = sim_alloc((edge->n_events + 1) * sizeof *events);
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        size_t n = 0;
        for (size_t i = 0; i < edge->n_events; i++)
            if (partition_of(edge->events[i].tenant, sim.n_partitions) == p)
                events[n++] = edge->events[i];
        CHECK(n == edge->tally.recorded_by_partition[p]);
        head.partition = (uint16_t)p;
        segment->messages[p] = block_new(&head, (int)(edge - sim.edges), events, n, edge->rules);
    }
    CHECK(ledger_add(edge->ledger, head.partitions, head.epoch, head.segment, &edge->tally) == 0);
    memset(&edge->tally, 0, sizeof edge->tally);
    edge->n_events = 0;
}

void edge_turn_day(struct sim_edge *edge) {
    uint32_t today = edge_today(edge);
    if (!edge->on || edge->ledger->day >= today)
        return;
    edge_seal(edge);
    while (edge->ledger->day < today)
        edge_close_next(edge, today);
    edge->rules = sim_below(SIM_RULES);
}

// What a crash left open is sealed as it was named: under the epoch of the boot before.
void edge_boot(struct sim_edge *edge) {
    uint32_t today = edge_today(edge);
    CHECK(!edge->on);
    sim_trace("%s boots%s", edge->id, edge->empty ? ", with an empty spool" : "");
    edge->on = true;
    edge_seal(edge);
    edge->epoch = sim_random();
    if (edge->empty && edge->next < (uint64_t)today << 32)
        edge->next = (uint64_t)today << 32;
    edge->epoch_first = edge->next;
    if (edge->empty)
        edge_register(edge);
    while (edge->ledger->day < today)
        edge_close_next(edge, today);
    edge_resend(edge);
}

void edge_crash(struct sim_edge *edge) {
    sim_trace("%s crashes", edge->id);
    edge->on = false;
}

void edge_lose_spool(struct sim_edge *edge) {
    sim_trace("%s loses its spool", edge->id);
    CHECK(!edge->on);
    edge->empty = true;
    edge->ready = false;
    edge->n_events = 0;
    memset(&edge->tally, 0, sizeof edge->tally);
    edge->n_sealed = edge->acknowledged = 0;
    memset(edge->sent, 0, sizeof edge->sent);
}

// A segment cannot be read back from disk: nobody sends it any more, whoever has it.
void edge_damage(struct sim_edge *edge) {
    if (edge->n_sealed == 0)
        return;
    struct sim_segment *segment = &edge->sealed[sim_below((uint32_t)edge->n_sealed)];
    if (segment->messages[0]->head.kind == MESSAGE_REGISTER)
        return; // then it would never have been ready
    segment->damaged = true;
    sim_trace("%s: segment %llx is damaged", edge->id, (unsigned long long)segment->number);
}

// ---- requests -------------------------------------------------------------------------------------------------------

static uint8_t random_class_regime(void) {
    static const uint8_t classes[] = {CLASS_TRANSACTIONAL, CLASS_TRANSACTIONAL, CLASS_TRANSACTIONAL, CLASS_TRANSACTIONAL,
                                      CLASS_REQUESTED, CLASS_PROSPECTING};
    static const uint8_t regimes[] = {REGIME_EXEMPTION, REGIME_EXEMPTION, REGIME_EXEMPTION, REGIME_EXEMPTION,
                                      REGIME_EXEMPTION, REGIME_CONSENT,   REGIME_CONSENT,   REGIME_AGGREGATE};
    return (uint8_t)(classes[sim_below(ARRAY_LEN(classes))] << 4 | regimes[sim_below(ARRAY_LEN(regimes))]);
}

static struct event random_event(uint32_t day) {
    static const uint8_t providers[] = {0, 1, 1, 2, 14, 200};
    const struct sim_tenant *tenant = &sim.tenants[sim_below(sim_chance(200) ? SIM_TENANTS : (uint32_t)sim.table->n)];
    uint32_t age = sim_below(10);
    struct event event = {.pseudonym = tenant->pseudonyms[sim_below(SIM_CONTACTS)],
                          .tenant = tenant->id,
                          .sent_day = day - (age < 6 ? 0 : age < 9 ? 1 : sim_below(5)),
                          .stream = (uint16_t)(1 + sim_below(sim_chance(100) ? 3 : 2)),
                          .provider = providers[sim_below(ARRAY_LEN(providers))],
                          .class_regime = random_class_regime(),
                          .fetch = (uint8_t)sim_below(2)};
    if (sim_chance(10))
        event.tenant += 1; // nobody's
    if (sim_chance(10))
        event.sent_day = day + 1;
    return event;
}

void edge_open_mail(struct sim_edge *edge) {
    edge_turn_day(edge);
    if (!edge->ready)
        return;
    edge->tally.outcomes++;
    if (sim_chance(150)) {
        edge->tally.drops[sim_below(EDGE_DROPS)]++;
        return;
    }
    edge->events = sim_room(edge->events, edge->n_events, &edge->events_room, sizeof *edge->events);
    struct event event = random_event(edge->ledger->day);
    edge->events[edge->n_events++] = event;
    edge->tally.events++;
    edge->tally.recorded_by_partition[partition_of(event.tenant, sim.n_partitions)]++;
}

// ---- the forwarder --------------------------------------------------------------------------------------------------

bool edge_forward(struct sim_edge *edge, uint32_t p) {
    while (edge->sent[p] < edge->n_sealed && edge->sealed[edge->sent[p]].damaged)
        edge->sent[p]++;
    if (!edge->on || edge->sent[p] == edge->n_sealed)
        return false;
    topic_append(p, edge->sealed[edge->sent[p]++].messages[p]);
    bool everywhere = true;
    for (uint32_t i = 0; i < sim.n_partitions; i++)
        everywhere = everywhere && edge->sent[i] > 0;
    edge->ready = edge->ready || everywhere;
    return true;
}

static void edge_acknowledge(struct sim_edge *edge) {
    size_t least = edge->sent[0];
    for (uint32_t p = 1; p < sim.n_partitions; p++)
        if (edge->sent[p] < least)
            least = edge->sent[p];
    if (least > edge->acknowledged)
        edge->acknowledged += 1 + sim_below((uint32_t)(least - edge->acknowledged));
}

// A new producer begins with the oldest segment that is not deleted, and what could not be read before may be there again.
void edge_resend(struct sim_edge *edge) {
    edge_acknowledge(edge);
    for (size_t i = edge->acknowledged; i < edge->n_sealed; i++)
        edge->sealed[i].damaged = edge->sealed[i].damaged && sim_chance(500);
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        if (!sim.local)
            edge->sent[p] = edge->acknowledged;
}

// ---- the others -----------------------------------------------------------------------------------------------------

static struct message_head head_other(const char *name, enum message_kind kind, uint32_t day) {
    struct message_head head = {.kind = kind,
                                .epoch = sim_random(),
                                .segment = 1,
                                .epoch_first = 1,
                                .partitions = (uint16_t)sim.n_partitions,
                                .day = day};
    snprintf(head.edge, sizeof head.edge, "%s-%u", name, sim.others++);
    return head;
}

static void waiting_add(struct sim_message *message) {
    sim.waiting = sim_room(sim.waiting, sim.n_waiting, &sim.waiting_room, sizeof *sim.waiting);
    sim.waiting[sim.n_waiting++] = (struct sim_waiting){.partition = message->head.partition, .message = message};
}

bool waiting_send(void) {
    if (sim.n_waiting == 0)
        return false;
    uint32_t at = sim_below((uint32_t)sim.n_waiting);
    topic_append(sim.waiting[at].partition, sim.waiting[at].message);
    sim.waiting[at] = sim.waiting[--sim.n_waiting];
    return true;
}

void send_retirement(unsigned edge) {
    struct message_head head = head_other("retire", MESSAGE_RETIRE, sim_today());
    sim_trace("%s is retired", sim.edges[edge].id);
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        head.partition = (uint16_t)p;
        struct sim_message *message = message_new(&head, -1);
        message->retires = (int)edge;
        waiting_add(message_encoded(message, message_encode_retire(&head, sim.edges[edge].id, out)));
    }
}

void send_import(void) {
    const struct sim_tenant *tenant = &sim.tenants[sim_below(SIM_TENANTS)];
    struct message_head head = head_other("import", MESSAGE_IMPORT, sim_today());
    struct import_row *rows = sim_alloc(SIM_CONTACTS * sizeof *rows);
    size_t n = 0;
    for (size_t c = 0; c < SIM_CONTACTS; c++)
        if (sim_chance(400))
            rows[n++] = (struct import_row){tenant->pseudonyms[c], sim_today() + 1 - sim_below(sim_chance(500) ? 9 : 405)};
    head.partition = (uint16_t)tenant->partition;
    struct sim_message *message = message_new(&head, -1);
    message->import = (struct import_body){.tenant = tenant->id,
                                           .measured_since = sim_chance(500) ? sim_today() - 100 : DAY_NONE,
                                           .n_rows = n,
                                           .rows = rows};
    waiting_add(message_encoded(message, message_encode_import(&head, &message->import, out)));
}

// Blocks of somebody who never registered, or of a day to come; and what is no message of ours.
void send_nonsense(void) {
    struct event events[3];
    struct message_head head = head_other("ghost", MESSAGE_BLOCK, sim_today() + (sim_chance(300) ? 2 + sim_below(2) : 0));
    size_t n = 0;
    head.partition = (uint16_t)sim_below(sim.n_partitions);
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        events[n] = random_event(head.day);
        n += partition_of(events[n].tenant, sim.n_partitions) == head.partition;
    }
    uint32_t luck = sim_below(10);
    if (luck == 0)
        head.rehearsal = true;
    if (luck == 1)
        head.partitions++;
    struct sim_message *message = block_new(&head, -1, events, n, sim_below(SIM_RULES));
    message->damaged = luck <= 2;
    if (luck == 2)
        message->bytes[sim_below((uint32_t)message->len)] ^= 0x10;
    waiting_add(message);
}

void send_again(void) {
    uint32_t p = sim_below(sim.n_partitions);
    const struct topic *topic = &sim.topics[p];
    if (topic->n > 0)
        topic_append(p, topic->log[sim_below((uint32_t)topic->n)].message);
}
