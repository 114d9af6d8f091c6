// Redis with the consent records, and the client's answers: half of a look-up's records are read in one step and half
// in another, a scan takes several, and in between records change.
#include "sim.h"

#define SCAN_A_STEP 3

static void stamp_now(struct consent_stamp *stamp) {
    *stamp = (struct consent_stamp){.epoch = sim.consent_epoch};
    memcpy(stamp->hash, &sim.consent_epoch, sizeof sim.consent_epoch);
}

static struct consent_record *record_of(uint32_t tenant, uint64_t pseudonym) {
    for (size_t t = 0; t < SIM_TENANTS; t++)
        for (size_t c = 0; sim.tenants[t].id == tenant && c < SIM_CONTACTS; c++)
            if (sim.tenants[t].pseudonyms[c] == pseudonym)
                return &sim.tenants[t].records[c];
    return NULL;
}

// ---- changes --------------------------------------------------------------------------------------------------------

// As the preference centre's one verb does it.
static void record_change(struct consent_record *record, uint8_t state, uint32_t day) {
    bool allowed = record->state == CONSENT_INFORMED || record->state == CONSENT_GRANTED;
    if (state == CONSENT_INFORMED && record->state != CONSENT_UNKNOWN && record->state != CONSENT_INFORMED)
        return;
    uint32_t allowed_since = allowed ? record->allowed_since : day;
    uint32_t granted_since = record->state == CONSENT_GRANTED ? record->granted_since : day;
    if (consent_state_leaves(state))
        allowed_since = granted_since = DAY_NONE;
    if (state == CONSENT_INFORMED)
        granted_since = DAY_NONE;
    *record = (struct consent_record){
        .state = state, .since = day, .allowed_since = allowed_since, .granted_since = granted_since};
    sim.consent_epoch++;
}

void consent_begin(void) {
    static const uint32_t ages[] = {0, 1, 2, 30, 367, 500, 500, 500, 500, 500};
    sim.consent_epoch = 1;
    for (size_t t = 0; t < SIM_TENANTS; t++)
        for (size_t c = 0; c < SIM_CONTACTS; c++) {
            struct consent_record *record = &sim.tenants[t].records[c];
            uint32_t day = sim.first_day - ages[sim_below(ARRAY_LEN(ages))];
            uint32_t state = sim_below(10);
            if (state < 1)
                continue;
            record_change(record, state < 7 ? CONSENT_INFORMED : CONSENT_GRANTED, day);
            if (sim_chance(100))
                record_change(record, CONSENT_GRANTED, day + sim_below(sim.first_day - day + 1));
            if (sim_chance(100))
                record_change(record, CONSENT_OBJECTED, sim.first_day - sim_below(2));
        }
}

// Most aggregators hear of it at once; what is lost on the way is the sweep's.
static void change_tell(const struct sim_tenant *tenant, uint32_t contact) {
    const struct consent_entry entry = {.epoch = sim.consent_epoch,
                                        .kind = ENTRY_STATE,
                                        .state = tenant->records[contact].state,
                                        .tenant = tenant->id,
                                        .pseudonym = tenant->pseudonyms[contact]};
    for (unsigned i = 0; i < sim.n_slots; i++) {
        struct slot *slot = &sim.slots[i];
        if (!slot->alive || slot->paused || sim_chance(200))
            continue;
        sim.current = slot;
        (void)engine_change(slot->engine, tenant->partition, &entry);
        sim.current = NULL;
    }
}

void consent_change(void) {
    struct sim_tenant *tenant = &sim.tenants[sim_below(SIM_TENANTS)];
    uint32_t c = sim_below(SIM_CONTACTS);
    static const uint8_t states[] = {CONSENT_INFORMED, CONSENT_INFORMED, CONSENT_INFORMED, CONSENT_GRANTED,
                                     CONSENT_GRANTED,  CONSENT_GRANTED,  CONSENT_GRANTED,  CONSENT_REFUSED,
                                     CONSENT_WITHDRAWN, CONSENT_OBJECTED};
    uint8_t state = states[sim_below(ARRAY_LEN(states))];
    uint64_t epoch = sim.consent_epoch;
    record_change(&tenant->records[c], state, sim_today());
    if (sim.consent_epoch != epoch)
        change_tell(tenant, c);
    sim_trace("tenant %u contact %u: %s", tenant->id, c, consent_state_names[tenant->records[c].state]);
}

// ---- the client -----------------------------------------------------------------------------------------------------

static int ask(struct slot *slot, const struct sim_question *question, const struct consent_stamp *known) {
    if (slot->n_questions == SLOT_QUESTIONS || (!sim.calm && sim_chance(5)))
        return ERR_LIMIT;
    struct consent_stamp now;
    stamp_now(&now);
    if (known != NULL && (known->epoch > now.epoch || known->epoch == 0))
        sim_fail("aggregator %u knows a future of the consent store", slot->number);
    slot->questions[slot->n_questions++] = *question;
    return 0;
}

static int lookup(void *arg, uint32_t partition, struct consent_query *queries, size_t n,
                  const struct consent_stamp *known, consent_done_fn done, void *done_arg) {
    const struct sim_question question = {
        .partition = partition, .queries = queries, .n = n, .done = done, .arg = done_arg};
    CHECK(n > 0);
    return ask(arg, &question, known);
}

static int scan(void *arg, uint32_t partition, uint32_t tenant, const struct consent_stamp *known,
                consent_each_fn each, consent_done_fn done, void *done_arg) {
    struct slot *slot = arg;
    const struct sim_question question = {
        .partition = partition, .tenant = tenant, .scan = ++sim.scans, .each = each, .done = done, .arg = done_arg};
    int rc = ask(slot, &question, known);
    if (rc == 0 && !slot->dead) {
        struct sim_decision *decision = decision_add(slot, DECIDED_SCAN_BEGIN, partition);
        decision->key.tenant = tenant;
        decision->index = question.scan;
    }
    return rc;
}

static bool connected(void *arg) {
    (void)arg;
    return !sim.redis_away;
}

struct consent_ops sim_consent_ops(struct slot *slot) {
    return (struct consent_ops){.lookup = lookup, .scan = scan, .connected = connected, .arg = slot};
}

// True once all is read.
static bool question_read(struct slot *slot, struct sim_question *question) {
    if (question->each == NULL) {
        size_t end = question->at == 0 && question->n > 1 ? question->n / 2 : question->n;
        for (; question->at < end; question->at++) {
            struct consent_query *query = &question->queries[question->at];
            const struct consent_record *record = record_of(query->tenant, query->pseudonym);
            query->record = record == NULL ? (struct consent_record){0} : *record;
        }
        return question->at == question->n;
    }
    for (size_t t = 0; t < SIM_TENANTS; t++) {
        const struct sim_tenant *tenant = &sim.tenants[t];
        if (tenant->id != question->tenant)
            continue;
        for (size_t i = 0; i < SCAN_A_STEP && question->at < SIM_CONTACTS; i++, question->at++) {
            const struct consent_record *record = &tenant->records[question->at];
            if (record->state == CONSENT_UNKNOWN)
                continue;
            struct sim_decision *decision = decision_add(slot, DECIDED_SCAN_CONTACT, question->partition);
            decision->key = (struct record_key){.tenant = tenant->id, .pseudonym = tenant->pseudonyms[question->at]};
            decision->record = *record;
            decision->index = question->scan;
            question->each(question->arg, tenant->pseudonyms[question->at], record);
        }
        return question->at == SIM_CONTACTS;
    }
    return true;
}

static struct sim_question question_remove(struct slot *slot, size_t at) {
    struct sim_question question = slot->questions[at];
    slot->n_questions--;
    memmove(&slot->questions[at], &slot->questions[at + 1], (slot->n_questions - at) * sizeof slot->questions[0]);
    return question;
}

void slot_answer(struct slot *slot, size_t at) {
    struct consent_stamp stamp;
    stamp_now(&stamp);
    if (sim.redis_away || (!sim.calm && sim_chance(10))) {
        struct sim_question question = question_remove(slot, at);
        question.done(question.arg, ERR_UNREACHABLE, &stamp);
        return;
    }
    if (!question_read(slot, &slot->questions[at]))
        return;
    struct sim_question question = question_remove(slot, at);
    if (question.each == NULL) {
        struct sim_answers *answers = sim_alloc(sizeof *answers);
        answers->n = question.n;
        answers->queries = sim_copy(question.queries, question.n * sizeof *question.queries);
        answers->before = slot->parts[question.partition].answers;
        slot->answers = slot->parts[question.partition].answers = answers;
    }
    question.done(question.arg, 0, &stamp);
    slot->answers = NULL;
}

void slot_unanswer(struct slot *slot) {
    struct consent_stamp stamp;
    stamp_now(&stamp);
    while (slot->n_questions > 0) {
        struct sim_question question = question_remove(slot, 0);
        question.done(question.arg, ERR_UNREACHABLE, &stamp);
    }
}
