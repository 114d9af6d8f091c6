// Compares what was committed with the model: the records of every batch when it is committed, everything at the end.
#include "model.h"

#include "aggregator/audit.h"
#include "aggregator/edges.h"
#include "aggregator/state.h"

static void check_last_open(uint32_t partition, const struct record_key *key, const uint8_t *value, size_t len) {
    int t = model_tenant_index(key->tenant);
    int c = model_contact_index((uint32_t)t, key->pseudonym);
    const struct model_contact *contact = &model.tenants[t].contacts[c];
    struct last_open last_open;
    if ((len == 0) != (contact->n == 0))
        sim_fail("partition %u: a last open is %s", partition, len == 0 ? "lost" : "made up");
    if (len == 0)
        return;
    CHECK(last_open_decode(value, len, &last_open) == 0);
    if (last_open.day != model_last_open(contact, UINT32_MAX) || last_open.frozen_age != model_frozen(contact))
        sim_fail("partition %u: a last open is of day %u (%u), not %u (%u)", partition, last_open.day,
                 last_open.frozen_age, model_last_open(contact, UINT32_MAX), model_frozen(contact));
}

static void check_window(uint32_t partition, const struct record_key *key, const uint8_t *value, size_t len) {
    int t = model_tenant_index(key->tenant);
    int c = model_contact_index((uint32_t)t, key->pseudonym);
    const struct model_cell *cell = &model.tenants[t].cells[key->day - sim.base_day][c];
    struct window_cell there;
    if ((len == 0) == cell->used)
        sim_fail("partition %u: a contact is wrongly %s a window", partition, len == 0 ? "out of" : "in");
    if (len == 0)
        return;
    CHECK(window_decode(value, len, &there) == 0);
    if (there.stream != cell->cell.stream || there.provider != cell->cell.provider || there.fetch != cell->cell.fetch ||
        there.class_regime != cell->cell.class_regime)
        sim_fail("partition %u: a contact is in another cell of its window", partition);
}

static void check_day(uint32_t partition, uint32_t number, const struct day_record *record) {
    const struct model_day *day = model_day(partition, number);
    uint64_t sum = record->counted + record->repeated;
    bool same = record->received == day->received && record->counted == day->counted &&
                record->repeated == day->repeated && record->flags == day->flags &&
                record->recorded_here == day->recorded_here && record->n_edges_closed == day->n_edges_closed &&
                memcmp(&record->edges, &day->edges, sizeof day->edges) == 0;
    for (unsigned i = 0; i < AGG_DROPS; i++) {
        same = same && record->drops[i] == day->drops[i];
        sum += record->drops[i];
    }
    if (sum != record->received)
        sim_fail("partition %u: day %u does not add up", partition, number);
    if (!same)
        sim_fail("partition %u: day %u has flags %u, received %llu, counted %llu, repeated %llu, edges' %llu of %u;\n"
                 "and should have flags %u, received %llu, counted %llu, repeated %llu, edges' %llu of %u",
                 partition, number, record->flags, (unsigned long long)record->received,
                 (unsigned long long)record->counted, (unsigned long long)record->repeated,
                 (unsigned long long)record->recorded_here, record->n_edges_closed, day->flags,
                 (unsigned long long)day->received, (unsigned long long)day->counted, (unsigned long long)day->repeated,
                 (unsigned long long)day->recorded_here, day->n_edges_closed);
}

static void check_tenant(const struct record_key *key, const uint8_t *value, size_t len) {
    const struct model_tenant *tenant = &model.tenants[model_tenant_index(key->tenant)];
    struct tenant_record record;
    CHECK(tenant_decode(value, len, &record) == 0);
    if (record.first_measured != tenant->first_measured || record.next_window != tenant->next_window ||
        record.next_month != tenant->next_month || record.measured_since != tenant->measured_since)
        sim_fail("tenant %u: measured from %u, next window %u, next month %u, since %u; should be %u, %u, %u, %u",
                 key->tenant, record.first_measured, record.next_window, record.next_month, record.measured_since,
                 tenant->first_measured, tenant->next_window, tenant->next_month, tenant->measured_since);
}

static void check_edge(uint32_t partition, const struct record_key *key, const uint8_t *value, size_t len) {
    struct edge_record record;
    if (len == 0)
        return; // the sweep forgets an import
    CHECK(edge_decode(value, len, &record) == 0);
    for (unsigned e = 0; e < sim.n_edges; e++) {
        const struct model_edge *edge = &model.edges[partition][e];
        if (strcmp(key->edge, sim.edges[e].id) != 0)
            continue;
        if (record.registered_day != edge->registered_day || record.closed_through != edge->closed_through ||
            record.retired_on != edge->retired_on)
            sim_fail("partition %u: %s closed through %u%s, and should have through %u%s", partition, key->edge,
                     record.closed_through, record.retired_on != DAY_NONE ? " and is retired" : "", edge->closed_through,
                     edge->retired_on != DAY_NONE ? " and be retired" : "");
    }
}

static void check_record(uint32_t partition, const uint8_t *bytes, size_t key_len, const uint8_t *value, size_t len) {
    struct record_key key;
    struct day_record day;
    CHECK(key_decode(bytes, key_len, &key) == 0);
    switch (key.kind) {
    case RECORD_LAST_OPEN:
        check_last_open(partition, &key, value, len);
        break;
    case RECORD_WINDOW:
        check_window(partition, &key, value, len);
        break;
    case RECORD_DAY:
        CHECK(day_decode(value, len, &day) == 0);
        check_day(partition, key.day, &day);
        break;
    case RECORD_TENANT:
        check_tenant(&key, value, len);
        break;
    case RECORD_EDGE:
        check_edge(partition, &key, value, len);
        break;
    case RECORD_META:
    case RECORD_SETTINGS:
    case RECORD_RELEASE:
    case RECORD_ANNOUNCED:
    case RECORD_CONSENT:
        break;
    }
}

void model_check_records(const struct batch *batch) {
    size_t n = batch_count(batch);
    for (size_t i = 0; i < n; i++) {
        struct batch_record record = batch_at(batch, i);
        bool newest = !record.release;
        for (size_t k = i + 1; k < n && newest; k++) {
            struct batch_record later = batch_at(batch, k);
            newest = later.release || later.partition != record.partition || later.key_len != record.key_len ||
                     memcmp(later.key, record.key, record.key_len) != 0;
        }
        if (newest)
            check_record(record.partition, record.key, record.key_len, record.value, record.value_len);
    }
}

// ---- nothing is due -------------------------------------------------------------------------------------------------

static void settled_partition(uint32_t p, uint32_t today) {
    uint32_t earliest = model_earliest(p), settled = earliest - 1;
    if (earliest == DAY_NONE)
        return;
    uint32_t newest = earliest; // flagged; a registration that came later than it speaks of nothing
    for (uint32_t day = earliest; day < today; day++)
        if (model_day(p, day)->flags != 0)
            newest = day;
    for (uint32_t day = earliest; day < today; day++) {
        int64_t deadline_ms = day_start_ms(day + 1) + (int64_t)sim.configs[0].release_deadline_hours * 3600000;
        uint8_t flags = model_day(p, day)->flags;
        if ((flags & DAY_COMPLETE) == 0 && settled == day - 1 && model_whole(p, day, today))
            sim_fail("partition %u: day %u is complete, and nobody saw it", p, day);
        if (flags == 0 && day >= newest && sim.now_ms > deadline_ms + 60000)
            sim_fail("partition %u: day %u is past its deadline, and nobody saw it", p, day);
        if (flags != 0 && settled == day - 1)
            settled = day;
    }
    for (unsigned t = 0; t < SIM_TENANTS; t++) {
        const struct model_tenant *tenant = &model.tenants[t];
        if (sim.tenants[t].partition != p)
            continue;
        if (tenant->first_measured == DAY_NONE) {
            if (model_version_on(sim.table, sim.tenants[t].id, UINT32_MAX) != NULL)
                sim_fail("tenant %u is not measured", sim.tenants[t].id);
            continue;
        }
        const struct model_settings *settings = model_settings_on(p, tenant->next_window);
        if (tenant->next_window + settings->horizon_days <= settled)
            sim_fail("tenant %u: the window of day %u is due and not released", sim.tenants[t].id, tenant->next_window);
        if (day_next_month_start(tenant->next_month) - 1 <= settled)
            sim_fail("tenant %u: the month of day %u is due and not released", sim.tenants[t].id, tenant->next_month);
    }
}

void model_settled(void) {
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        const struct topic *topic = &sim.topics[p];
        for (size_t i = topic->first; i < topic->n; i++)
            if (!topic->log[i].done)
                sim_fail("partition %u: message %zu of %zu is left", p, i, topic->n);
        settled_partition(p, sim_today());
    }
}

// ---- everything -----------------------------------------------------------------------------------------------------

static struct state *state_of(uint32_t p) {
    struct state *state;
    CHECK(state_create(&state, 100000) == 0);
    for (size_t i = 0; i < sim.topics[p].n_records; i++) {
        const struct sim_record *record = &sim.topics[p].records[i];
        if (state_apply(state, record->bytes, record->key_len, record->bytes + record->key_len, record->value_len) != 0)
            sim_fail("partition %u: a record of the state cannot be applied", p);
    }
    return state;
}

// Every message that ever reached the topic counts once, and is known.
static void finished_messages(uint32_t p, const struct state *state) {
    struct edge_record *edge = malloc(sizeof *edge);
    CHECK(edge != NULL);
    for (size_t i = 0; i < sim.topics[p].n; i++) {
        const struct sim_message *message = sim.topics[p].log[i].message;
        if (!message->processed && !message->damaged && !message->forgotten)
            sim_fail("partition %u: message %zu was never taken in", p, i);
        if (message->edge >= 0 && state_edge(state, message->head.edge, edge) && !edge_has_seen(edge, &message->head))
            sim_fail("partition %u: message %zu would be taken in again", p, i);
    }
    free(edge);
}

static void finished_tenant(uint32_t p, const struct state *state, unsigned t) {
    const struct model_tenant *tenant = &model.tenants[t];
    const struct tenant_state *known = state_tenant(state, sim.tenants[t].id);
    for (size_t c = 0; c < SIM_CONTACTS; c++) {
        struct last_open last_open;
        bool there = last_open_get(state_last_open(state), sim.tenants[t].id, sim.tenants[t].pseudonyms[c], &last_open);
        const struct model_contact *contact = &tenant->contacts[c];
        const struct consent_record *record = &sim.tenants[t].records[c];
        const struct tenant_version *version = model_version_on(sim.table, sim.tenants[t].id, sim_today());
        if (there && version != NULL && record->state != CONSENT_GRANTED &&
            (record->state != CONSENT_INFORMED || version->exemption_basis == NULL))
            sim_fail("partition %u: a last open is kept that nothing allows", p);
        if (there != (contact->n > 0) ||
            (there && (last_open.day != model_last_open(contact, UINT32_MAX) || last_open.frozen_age != model_frozen(contact))))
            sim_fail("partition %u: a last open is not what it should be", p);
        for (uint32_t day = sim.base_day; known != NULL && day < sim.base_day + SIM_DAYS; day++) {
            const struct window *window = tenant_state_window(known, day);
            struct window_cell cell;
            if ((window != NULL && window_get(window, sim.tenants[t].pseudonyms[c], &cell)) !=
                tenant->cells[day - sim.base_day][c].used)
                sim_fail("partition %u: the window of day %u is not what it should be", p, day);
        }
    }
    if (tenant->exists != (known != NULL && tenant_state_record(known) != NULL))
        sim_fail("partition %u: a tenant is not what it should be", p);
}

// Each line is recorded, published to the topic (if there is one) once, and in a file of at least one aggregator.
static void finished_lines(unsigned t) {
    const struct model_tenant *tenant = &model.tenants[t];
    for (size_t i = 0; i < tenant->n_spent; i++) {
        struct release_record release;
        char key[64], path[96];
        unsigned files = 0, messages = 0;
        CHECK(release_decode(tenant->spent[i].line, tenant->spent[i].len, &release) == 0);
        release_key(sim.tenants[t].id, (enum release_kind)tenant->spent[i].kind, tenant->spent[i].period_day, key);
        for (size_t k = 0; k < sim.n_lines; k++)
            messages += sim.lines[k].key_len == strlen(key) && memcmp(sim.lines[k].bytes, key, strlen(key)) == 0 &&
                        sim.lines[k].value_len == release.line_len &&
                        memcmp(sim.lines[k].bytes + strlen(key), release.line, release.line_len) == 0;
        *strrchr(key, '/') = '-';
        for (unsigned s = 0; s < sim.n_slots; s++) {
            snprintf(path, sizeof path, "%s/%s.json", sim.configs[2 * s].release_dir, key);
            const struct sim_file *file = disk_find(path);
            if (file == NULL)
                continue;
            files++;
            if (file->len != release.line_len || memcmp(file->bytes, release.line, file->len) != 0)
                sim_fail("%s is not what was committed", path);
        }
        if (messages != (sim.local ? 0 : 1) || files == 0)
            sim_fail("%s was published %u times to the topic and is in %u directories", key, messages, files);
    }
}

static void finished_audit(uint32_t day, struct state *const *states) {
    struct audit audit = audit_begin(day);
    bool whole = true;
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        audit_add(&audit, states[p]);
        whole = whole && model_whole(p, day, sim_today());
        for (unsigned e = 0; e < sim.n_edges; e++) {
            const struct model_edge *edge = &model.edges[p][e];
            bool closed = edge->registered && (edge->closed >> (day - sim.base_day) & 1) != 0;
            // A spool lost before its registration was everywhere never was one of an edge that is ready.
            whole = whole && edge->registered_day == model.edges[0][e].registered_day &&
                    (!edge->registered || edge->registered_day > day || (closed && !edge->broken));
        }
    }
    audit_end(&audit);
    uint64_t strangers = 0; // blocks of somebody who never registered, and so closes nothing
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        for (size_t i = 0; i < sim.topics[p].n; i++) {
            const struct sim_message *message = sim.topics[p].log[i].message;
            strangers += message->edge < 0 && message->head.day == day && message->n_events > 0;
        }
    if (!whole || strangers > 0)
        return;
    if (!audit.closed || !audit.meets[AUDIT_REQUESTS] || !audit.meets[AUDIT_RECEIVED] || !audit.meets[AUDIT_COUNTED])
        sim_fail("the audit of day %u does not meet: %sclosed, requests %d, received %d, counted %d", day,
                 audit.closed ? "" : "not ", audit.meets[AUDIT_REQUESTS], audit.meets[AUDIT_RECEIVED],
                 audit.meets[AUDIT_COUNTED]);
}

void model_finished(void) {
    struct state *states[SIM_PARTITIONS];
    uint64_t lines = 0;
    model_settled();
    for (uint32_t p = 0; p < sim.n_partitions; p++) {
        states[p] = state_of(p);
        finished_messages(p, states[p]);
        for (uint32_t day = sim.base_day; day < sim.base_day + SIM_DAYS; day++) {
            const struct day_record *record = state_day(states[p], day);
            if (record != NULL)
                check_day(p, day, record);
            else if (model_day(p, day)->exists)
                sim_fail("partition %u: the ledger of day %u is missing", p, day);
        }
    }
    for (unsigned t = 0; t < SIM_TENANTS; t++) {
        finished_tenant(sim.tenants[t].partition, states[sim.tenants[t].partition], t);
        finished_lines(t);
        lines += model.tenants[t].n_spent;
    }
    if (sim.n_lines != (sim.local ? 0 : lines))
        sim_fail("%zu lines in the topic, and %llu were due", sim.n_lines, (unsigned long long)lines);
    for (uint32_t day = sim.first_day; day < sim_today(); day++)
        finished_audit(day, states);
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        state_free(states[p]);
}
