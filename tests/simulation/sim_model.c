// What events, markers and erasures come to.
#include "model.h"

struct model model;

void model_begin(void) {
    memset(&model, 0, sizeof model);
}

// ---- finding --------------------------------------------------------------------------------------------------------

int model_tenant_index(uint32_t tenant) {
    for (int t = 0; t < SIM_TENANTS; t++)
        if (sim.tenants[t].id == tenant)
            return t;
    return -1;
}

int model_contact_index(uint32_t tenant_index, uint64_t pseudonym) {
    for (int c = 0; c < SIM_CONTACTS; c++)
        if (sim.tenants[tenant_index].pseudonyms[c] == pseudonym)
            return c;
    sim_fail("a contact that nobody has");
}

uint32_t model_day_at(uint32_t day) {
    if (day < sim.base_day || day >= sim.base_day + SIM_DAYS)
        sim_fail("day %u is none of this schedule's", day);
    return day - sim.base_day;
}

struct model_day *model_day(uint32_t partition, uint32_t day) {
    return &model.days[partition][model_day_at(day)];
}

const struct model_settings *model_settings_on(uint32_t partition, uint32_t day) {
    const struct model_settings *found = NULL;
    for (size_t i = 0; i < model.n_settings[partition]; i++)
        if (model.settings[partition][i].from_day <= day)
            found = &model.settings[partition][i];
    return found;
}

const struct tenant_version *model_version_on(const struct sim_table *table, uint32_t tenant, uint32_t day) {
    const struct tenant_version *found = NULL;
    for (size_t t = 0; t < table->n; t++)
        for (size_t v = 0; table->tenants[t].id == tenant && v < table->tenants[t].n_versions; v++)
            if (table->tenants[t].versions[v].from_day <= day)
                found = &table->tenants[t].versions[v];
    return found;
}

const struct consent_record *model_answer(const struct sim_decision *decision, uint32_t tenant, uint64_t pseudonym) {
    for (const struct sim_answers *answers = decision->answers; answers != NULL; answers = answers->before) {
        for (size_t i = 0; i < answers->n; i++)
            if (answers->queries[i].tenant == tenant && answers->queries[i].pseudonym == pseudonym)
                return &answers->queries[i].record;
        if (decision->kind != DECIDED_LINE)
            break; // only windows are asked for in slices
    }
    sim_fail("partition %u: decided about a contact of tenant %u without asking", decision->partition, tenant);
}

// ---- FORMATS 4 ------------------------------------------------------------------------------------------------------

bool model_allows(const struct consent_record *record, uint8_t class_regime, bool basis, enum purpose purpose,
                  uint32_t day) {
    unsigned class = class_regime >> 4, regime = class_regime & 15;
    bool granted = record->state == CONSENT_GRANTED;
    bool informed = granted || record->state == CONSENT_INFORMED;
    if (regime > 1 || (regime == 0 && !basis) || (class != 1 && purpose == PURPOSE_DELIVERABILITY))
        return false;
    if (class == 3 || regime == 1)
        return granted && record->granted_since < day;
    return informed && record->allowed_since < day;
}

// ---- last opens -----------------------------------------------------------------------------------------------------

uint32_t model_last_open(const struct model_contact *contact, uint32_t until) {
    uint32_t last = DAY_NONE;
    for (size_t i = 0; i < contact->n; i++)
        if (contact->opens[i] <= until && contact->opens[i] > last)
            last = contact->opens[i];
    return last;
}

// The age at the eve of the month of the last open, of the newest one before that month.
uint8_t model_frozen(const struct model_contact *contact) {
    static const uint32_t most[] = {30, 89, 90, 179, 180, 364, 365};
    uint32_t eve = day_month_start(model_last_open(contact, UINT32_MAX)) - 1;
    uint32_t open = model_last_open(contact, eve);
    uint8_t age = 0;
    while (open != DAY_NONE && age < ARRAY_LEN(most) && eve - open > most[age])
        age++;
    return open == DAY_NONE ? AGE_NONE : age;
}

// Whether an open on `day` says anything new, and the contact with it.
static bool open_adds(const struct model_contact *contact, uint32_t day, struct model_contact *with) {
    *with = *contact;
    CHECK(with->n < MODEL_OPENS);
    with->opens[with->n++] = day;
    return contact->n == 0 || model_last_open(with, UINT32_MAX) != model_last_open(contact, UINT32_MAX) ||
           model_frozen(with) != model_frozen(contact);
}

// ---- events ---------------------------------------------------------------------------------------------------------

static bool cell_less(struct window_cell a, struct window_cell b) {
    uint32_t left = (uint32_t)a.fetch << 24 | (uint32_t)a.stream << 8 | a.provider;
    return left < ((uint32_t)b.fetch << 24 | (uint32_t)b.stream << 8 | b.provider);
}

// FORMATS 5 and 6: the cell that an event has in its window; false with a reason (or OUTCOME_COUNTED: without one).
static bool event_cell(uint32_t partition, const struct sim_decision *decision, const struct event *event, uint32_t day,
                       struct window_cell *cell, int *reason) {
    const struct model_tenant *tenant = &model.tenants[model_tenant_index(event->tenant)];
    const struct model_settings *settings = model_settings_on(partition, event->sent_day);
    const struct tenant_version *version = model_version_on(decision->table, event->tenant, event->sent_day);
    *reason = OUTCOME_COUNTED;
    if (event->class_regime >> 4 != 1 || tenant->first_measured == DAY_NONE || settings == NULL ||
        event->sent_day > day || day - event->sent_day > settings->horizon_days ||
        event->sent_day < tenant->first_measured)
        return false;
    bool known = false;
    for (size_t i = 0; version != NULL && i < version->n_streams; i++)
        known |= version->streams[i].number == event->stream;
    if (!known)
        *reason = AGG_DROP_UNKNOWN_STREAM;
    else if (event->sent_day < tenant->next_window)
        *reason = AGG_DROP_LATE;
    if (*reason != OUTCOME_COUNTED)
        return false;
    bool named = event->provider < PROVIDERS_BUILTIN || (event->provider == 14 && settings->provider_14 != NULL);
    *cell = (struct window_cell){.stream = event->stream,
                                 .provider = named ? event->provider : 0,
                                 .fetch = event->fetch,
                                 .class_regime = event->class_regime};
    return true;
}

static int model_event(uint32_t partition, const struct sim_decision *decision, const struct event *event,
                       uint32_t day) {
    uint32_t today = day_of_ms(decision->began_ms);
    const struct tenant_version *version = model_version_on(decision->table, event->tenant, day);
    struct window_cell cell;
    struct model_contact with;
    int reason;
    if (day > today)
        return AGG_DROP_FUTURE_DAY;
    if (version == NULL)
        return AGG_DROP_UNKNOWN_TENANT;
    bool basis = version->exemption_basis != NULL;
    int t = model_tenant_index(event->tenant);
    int c = model_contact_index((uint32_t)t, event->pseudonym);
    struct model_contact *contact = &model.tenants[t].contacts[c];
    struct model_cell *there = NULL;
    bool sets = event_cell(partition, decision, event, day, &cell, &reason);
    if (sets) {
        there = &model.tenants[t].cells[model_day_at(event->sent_day)][c];
        sets = !there->used || cell_less(cell, there->cell);
    }
    bool raises = open_adds(contact, day, &with);
    if (!sets && !raises)
        return reason == OUTCOME_COUNTED ? OUTCOME_REPEATED : reason;
    const struct consent_record *record = model_answer(decision, event->tenant, event->pseudonym);
    sets = sets && model_allows(record, event->class_regime, basis, PURPOSE_DELIVERABILITY, day);
    raises = raises && model_allows(record, event->class_regime, basis, PURPOSE_INACTIVITY, day);
    if (!sets && !raises)
        return AGG_DROP_NOT_ALLOWED;
    if (sets)
        *there = (struct model_cell){.used = true, .cell = cell};
    if (raises)
        *contact = with;
    return reason;
}

static void model_block(const struct sim_decision *decision, const struct sim_message *message) {
    struct model_day *day = model_day(decision->partition, message->head.day);
    day->exists = true;
    day->rules[message->rules] = true;
    for (size_t i = 0; i < message->n_events; i++) {
        int outcome = model_event(decision->partition, decision, &message->events[i], message->head.day);
        day->received++;
        day->counted += outcome == OUTCOME_COUNTED;
        day->repeated += outcome == OUTCOME_REPEATED;
        if (outcome < AGG_DROPS)
            day->drops[outcome]++;
        sim.n_outcomes[outcome]++;
        if (outcome == AGG_DROP_FUTURE_DAY && message->edge >= 0)
            sim_fail("partition %u: an edge's clock is a little ahead, and its block was refused", decision->partition);
    }
}

// A day brought in counts as an open of requested mail.
static void model_import(const struct sim_decision *decision, const struct import_body *import) {
    const struct tenant_version *first = model_version_on(decision->table, import->tenant, UINT32_MAX);
    int t = model_tenant_index(import->tenant);
    uint32_t today = day_of_ms(decision->now_ms);
    if (first == NULL)
        return;
    for (size_t i = 0; i < import->n_rows; i++) {
        uint32_t day = import->rows[i].day;
        const struct tenant_version *version = model_version_on(decision->table, import->tenant, day);
        bool basis = (version == NULL ? first : version)->exemption_basis != NULL;
        struct model_contact with;
        int c = model_contact_index((uint32_t)t, import->rows[i].pseudonym);
        const struct consent_record *record =
            model_answer(decision, import->tenant, import->rows[i].pseudonym);
        bool allowed = model_allows(record, 2 << 4 | 0, basis, PURPOSE_INACTIVITY, day) ||
                       model_allows(record, 2 << 4 | 1, basis, PURPOSE_INACTIVITY, day);
        if (day <= today && today - day <= 400 && allowed && open_adds(&model.tenants[t].contacts[c], day, &with))
            model.tenants[t].contacts[c] = with;
    }
    if (import->measured_since != DAY_NONE) {
        model.tenants[t].exists = true;
        model.tenants[t].measured_since = import->measured_since;
    }
}

// ---- messages -------------------------------------------------------------------------------------------------------

static void model_message(const struct sim_decision *decision) {
    struct topic *topic = &sim.topics[decision->partition];
    if (decision->index < 0 || (size_t)decision->index >= topic->n)
        sim_fail("partition %u: a message was decided that is not there", decision->partition);
    struct log_entry *entry = &topic->log[decision->index];
    struct sim_message *message = entry->message;
    entry->done = true;
    sim_trace("partition %u: message %d of %s decided", decision->partition, (int)decision->index, message->head.edge);
    sim.n_duplicates += message->processed;
    if (message->processed || message->damaged)
        return;
    message->forgotten = message->edge >= 0 && !model_knows(decision->partition, message);
    if (message->forgotten)
        return;
    message->processed = true;
    if (message->edge >= 0 && message->head.kind != MESSAGE_REGISTER)
        model_sends(&model.edges[decision->partition][message->edge], message->head.day);
    switch (message->head.kind) {
    case MESSAGE_BLOCK:
        model_block(decision, message);
        break;
    case MESSAGE_REGISTER:
        model_register(&model.edges[decision->partition][message->edge], message->head.day);
        break;
    case MESSAGE_CLOSE:
        model_close(decision->partition, message);
        break;
    case MESSAGE_IMPORT:
        model_import(decision, &message->import);
        break;
    case MESSAGE_RETIRE:
        model_retire(&model.edges[decision->partition][message->retires], message->head.day);
        break;
    }
}

// ---- what else is decided -------------------------------------------------------------------------------------------

// Nothing allows to keep it any more, or it is too old.
static void model_erase(const struct sim_decision *decision) {
    int t = model_tenant_index(decision->key.tenant);
    int c = model_contact_index((uint32_t)t, decision->key.pseudonym);
    struct model_contact *contact = &model.tenants[t].contacts[c];
    uint32_t today = day_of_ms(decision->now_ms);
    if (model_last_open(contact, UINT32_MAX) + 400 >= today) {
        const struct consent_record *record =
            model_answer(decision, decision->key.tenant, decision->key.pseudonym);
        const struct tenant_version *version = model_version_on(decision->table, decision->key.tenant, today);
        // Who left and came back may keep what was opened since then.
        bool basis = version != NULL && version->exemption_basis != NULL, may_stay = false;
        for (uint8_t regime = 0; regime < 2; regime++)
            may_stay |= model_allows(record, (uint8_t)(CLASS_REQUESTED << 4 | regime), basis, PURPOSE_INACTIVITY,
                                     model_last_open(contact, UINT32_MAX));
        if (may_stay || (version == NULL && record->state != CONSENT_UNKNOWN && !consent_state_leaves(record->state)))
            sim_fail("a last open of tenant %u is erased that may be kept", decision->key.tenant);
    }
    contact->n = 0;
    for (size_t day = 0; day < SIM_DAYS; day++)
        model.tenants[t].cells[day][c] = (struct model_cell){0};
}

// A tenant's first day here: its own, the first edge's, and not one that is over already.
static void model_measure(const struct sim_decision *decision) {
    int t = model_tenant_index(decision->key.tenant);
    struct tenant_record record;
    CHECK(tenant_decode(decision->value, decision->len, &record) == 0);
    struct model_tenant *tenant = &model.tenants[t];
    if (record.first_measured == DAY_NONE || tenant->first_measured != DAY_NONE)
        return;
    uint32_t first = model_earliest(decision->partition);
    if (first == DAY_NONE)
        sim_fail("tenant %u is measured before there is an edge", decision->key.tenant);
    for (uint32_t day = sim.base_day; day < sim.base_day + SIM_DAYS; day++)
        if (model_day(decision->partition, day)->flags != 0 && day + 1 > first)
            first = day + 1;
    for (size_t i = 0; i < decision->table->n; i++)
        if (decision->table->tenants[i].id == decision->key.tenant &&
            decision->table->tenants[i].versions[0].from_day > first)
            first = decision->table->tenants[i].versions[0].from_day;
    if (record.first_measured != first)
        sim_fail("tenant %u is measured from day %u on, not %u", decision->key.tenant, record.first_measured, first);
    tenant->exists = true;
    tenant->first_measured = tenant->next_window = first;
    tenant->next_month = day_month_start(first);
}

// DESIGN 2: changed settings hold from a day that has not begun.
static void model_settings(const struct sim_decision *decision) {
    size_t *n = &model.n_settings[decision->partition];
    struct model_settings *settings = model.settings[decision->partition];
    uint32_t from = decision->key.day;
    if (from != (*n == 0 ? 0 : day_of_ms(decision->now_ms) + 1))
        sim_fail("settings hold from day %u on", from);
    if (*n > 0 && settings[*n - 1].from_day == from)
        (*n)--;
    CHECK(*n < MODEL_SETTINGS);
    settings[(*n)++] = (struct model_settings){.from_day = from,
                                               .epsilon = decision->config->release_epsilon,
                                               .threshold = (uint32_t)decision->config->release_threshold,
                                               .horizon_days = (uint32_t)decision->config->release_horizon_days,
                                               .provider_14 = decision->config->provider_names[14]};
}

static void model_decision(struct slot *slot, const struct sim_decision *decision) {
    switch (decision->kind) {
    case DECIDED_MESSAGE:
        model_message(decision);
        break;
    case DECIDED_LINE:
        model_line(slot, decision);
        break;
    case DECIDED_ERASURE:
        model_erase(decision);
        break;
    case DECIDED_DAY:
        model_decide_day(decision);
        break;
    case DECIDED_TENANT:
        model_measure(decision);
        break;
    case DECIDED_SETTINGS:
        model_settings(decision);
        break;
    case DECIDED_SCAN_BEGIN:
        slot->scan_tenant = decision->key.tenant;
        slot->scan = decision->index;
        memset(slot->scan_counts, 0, sizeof slot->scan_counts);
        break;
    case DECIDED_SCAN_CONTACT:
        if (decision->index == slot->scan) // and not one that was abandoned
            model_scan_contact(slot, decision);
        break;
    }
}

void model_commit(struct slot *slot, const struct batch *batch) {
    size_t end = 0;
    for (size_t i = 0; i < slot->n_decisions; i++)
        if (slot->decisions[i].batch == batch)
            end = i + 1;
    for (size_t i = 0; i < end; i++) {
        const struct sim_decision *decision = &slot->decisions[i];
        if (decision->batch != NULL && decision->batch != batch)
            sim_fail("aggregator %u commits out of order", slot->number);
        model_decision(slot, decision);
    }
    slot->n_decisions -= end;
    if (end > 0)
        memmove(slot->decisions, slot->decisions + end, slot->n_decisions * sizeof *slot->decisions);
    model_check_records(batch);
}
