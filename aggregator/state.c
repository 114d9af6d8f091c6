#include "aggregator/state.h"

#include <string.h>

struct edge_entry {
    struct edge_summary summary;
    uint8_t *value; // the encoded record: decoded it is large
    size_t value_len;
};
struct day_entry {
    uint32_t day;
    struct day_record record;
};
struct window_entry {
    uint32_t sent_day;
    struct window *window;
};
// A released line, as the budget needs it.
struct spent_entry {
    uint32_t period_day;
    uint8_t kind;
    struct fraction spent;
};
struct tenant_state {
    uint32_t id;
    bool has_record;
    struct tenant_record record;
    size_t n_windows, windows_room;
    struct window_entry *windows;
    size_t n_spent, spent_room;
    struct spent_entry *spent;
};

struct state {
    bool has_meta, rehearsal, has_stamp;
    uint32_t partitions;
    struct consent_stamp stamp;
    size_t n_settings, settings_room;
    struct settings *settings; // ascending from_day
    size_t n_edges, edges_room;
    struct edge_entry *edges; // ascending names
    size_t n_days, days_room;
    struct day_entry *days; // ascending
    size_t n_tenants, tenant_slots;
    struct tenant_state **tenants; // open addressing; tenants are never removed
    struct last_open_table *last_open;
    struct last_open_limit own_limit;
};

int state_create_within(struct state **out, struct last_open_limit *shared, uint64_t contacts_max) {
    struct state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return ERR_NOMEM;
    state->own_limit.contacts_max = contacts_max;
    int rc = last_open_table_create(&state->last_open, shared == NULL ? &state->own_limit : shared);
    if (rc == 0)
        *out = state;
    else
        free(state);
    return rc;
}

static void tenant_state_free(struct tenant_state *tenant) {
    if (tenant == NULL)
        return;
    for (size_t i = 0; i < tenant->n_windows; i++)
        window_free(tenant->windows[i].window);
    free(tenant->windows);
    free(tenant->spent);
    free(tenant);
}

void state_free(struct state *state) {
    if (state == NULL)
        return;
    for (size_t i = 0; i < state->n_settings; i++)
        settings_free(&state->settings[i]);
    for (size_t i = 0; i < state->n_edges; i++)
        free(state->edges[i].value);
    for (size_t i = 0; i < state->tenant_slots; i++)
        tenant_state_free(state->tenants[i]);
    last_open_table_free(state->last_open);
    free(state->settings);
    free(state->edges);
    free(state->days);
    free(state->tenants);
    free(state);
}

// Room for one more element of `size` bytes in a growing array.
static int array_reserve(void *array, size_t n, size_t *room, size_t size) {
    void **elements = array;
    if (n < *room)
        return 0;
    size_t larger = *room == 0 ? 8 : *room * 2;
    void *moved = realloc(*elements, larger * size);
    if (moved == NULL)
        return ERR_NOMEM;
    *elements = moved;
    *room = larger;
    return 0;
}

// ---- settings, edges, days ------------------------------------------------------------------------------------------

static int apply_settings(struct state *state, uint32_t from_day, const uint8_t *value, size_t value_len) {
    size_t at = 0;
    while (at < state->n_settings && state->settings[at].from_day < from_day)
        at++;
    bool exists = at < state->n_settings && state->settings[at].from_day == from_day;
    struct settings settings = {0};
    int rc = value_len == 0 ? 0 : settings_decode(value, value_len, &settings);
    if (rc != 0)
        return rc;
    settings.from_day = from_day;
    if (exists)
        settings_free(&state->settings[at]);
    if (value_len == 0) {
        if (exists) {
            state->n_settings--;
            memmove(&state->settings[at], &state->settings[at + 1],
                    (state->n_settings - at) * sizeof *state->settings);
        }
        return 0;
    }
    if (!exists) {
        rc = array_reserve(&state->settings, state->n_settings, &state->settings_room, sizeof *state->settings);
        if (rc != 0) {
            settings_free(&settings);
            return rc;
        }
        memmove(&state->settings[at + 1], &state->settings[at], (state->n_settings - at) * sizeof *state->settings);
        state->n_settings++;
    }
    state->settings[at] = settings;
    return 0;
}

static size_t edge_lower_bound(const struct state *state, const char *edge, bool *found) {
    size_t low = 0, high = state->n_edges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(state->edges[middle].summary.edge, edge) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < state->n_edges && strcmp(state->edges[low].summary.edge, edge) == 0;
    return low;
}

static int edge_insert(struct state *state, size_t at, const char *edge) {
    int rc = array_reserve(&state->edges, state->n_edges, &state->edges_room, sizeof *state->edges);
    if (rc != 0)
        return rc;
    memmove(&state->edges[at + 1], &state->edges[at], (state->n_edges - at) * sizeof *state->edges);
    state->edges[at] = (struct edge_entry){0};
    snprintf(state->edges[at].summary.edge, sizeof state->edges[at].summary.edge, "%s", edge);
    state->n_edges++;
    return 0;
}

static int apply_edge(struct state *state, const char *edge, const uint8_t *value, size_t value_len) {
    bool found;
    size_t at = edge_lower_bound(state, edge, &found);
    if (value_len == 0) {
        if (found) {
            free(state->edges[at].value);
            state->n_edges--;
            memmove(&state->edges[at], &state->edges[at + 1], (state->n_edges - at) * sizeof *state->edges);
        }
        return 0;
    }
    struct edge_record record;
    int rc = edge_decode(value, value_len, &record);
    if (rc != 0)
        return rc;
    uint8_t *copy = malloc(value_len);
    if (copy == NULL)
        return ERR_NOMEM;
    memcpy(copy, value, value_len);
    if (!found && (rc = edge_insert(state, at, edge)) != 0) {
        free(copy);
        return rc;
    }
    struct edge_entry *entry = &state->edges[at];
    free(entry->value);
    entry->value = copy;
    entry->value_len = value_len;
    entry->summary.registered_day = record.registered_day;
    entry->summary.closed_through = record.closed_through;
    entry->summary.incomplete_through = record.incomplete_through;
    entry->summary.incomplete_days = record.incomplete_days;
    entry->summary.retired = record.retired_on != DAY_NONE;
    return 0;
}

static size_t day_lower_bound(const struct state *state, uint32_t day, bool *found) {
    size_t low = 0, high = state->n_days;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (state->days[middle].day < day)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < state->n_days && state->days[low].day == day;
    return low;
}

static int apply_day(struct state *state, uint32_t day, const uint8_t *value, size_t value_len) {
    bool found;
    size_t at = day_lower_bound(state, day, &found);
    if (value_len == 0) {
        if (found) {
            state->n_days--;
            memmove(&state->days[at], &state->days[at + 1], (state->n_days - at) * sizeof *state->days);
        }
        return 0;
    }
    struct day_entry entry = {.day = day};
    int rc = day_decode(value, value_len, &entry.record);
    if (rc != 0)
        return rc;
    if (!found) {
        if ((rc = array_reserve(&state->days, state->n_days, &state->days_room, sizeof *state->days)) != 0)
            return rc;
        memmove(&state->days[at + 1], &state->days[at], (state->n_days - at) * sizeof *state->days);
        state->n_days++;
    }
    state->days[at] = entry;
    return 0;
}

// ---- tenants --------------------------------------------------------------------------------------------------------

static size_t tenant_slot(struct tenant_state *const *slots, size_t n_slots, uint32_t tenant) {
    size_t at = (size_t)((uint64_t)tenant * 0x9e3779b97f4a7c15 >> 32) & (n_slots - 1);
    while (slots[at] != NULL && slots[at]->id != tenant)
        at = (at + 1) & (n_slots - 1);
    return at;
}

struct tenant_state *state_tenant(const struct state *state, uint32_t tenant) {
    return state->tenant_slots == 0 ? NULL : state->tenants[tenant_slot(state->tenants, state->tenant_slots, tenant)];
}

static int tenants_grow(struct state *state) {
    size_t n_slots = state->tenant_slots == 0 ? 16 : state->tenant_slots * 2;
    struct tenant_state **slots = calloc(n_slots, sizeof *slots);
    if (slots == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < state->tenant_slots; i++)
        if (state->tenants[i] != NULL)
            slots[tenant_slot(slots, n_slots, state->tenants[i]->id)] = state->tenants[i];
    free(state->tenants);
    state->tenants = slots;
    state->tenant_slots = n_slots;
    return 0;
}

static int tenant_obtain(struct state *state, uint32_t id, struct tenant_state **out) {
    struct tenant_state *tenant = state_tenant(state, id);
    if (tenant == NULL) {
        if ((state->n_tenants + 1) * 4 > state->tenant_slots * 3 && tenants_grow(state) != 0)
            return ERR_NOMEM;
        tenant = calloc(1, sizeof *tenant);
        if (tenant == NULL)
            return ERR_NOMEM;
        tenant->id = id;
        state->tenants[tenant_slot(state->tenants, state->tenant_slots, id)] = tenant;
        state->n_tenants++;
    }
    *out = tenant;
    return 0;
}

// Lines of months that are over for both kinds can't bear on a budget any more.
static void spent_prune(struct tenant_state *tenant) {
    uint32_t next = tenant->record.next_window < tenant->record.next_month ? tenant->record.next_window
                                                                          : tenant->record.next_month;
    uint32_t month = day_month_start(next);
    size_t kept = 0;
    for (size_t i = 0; i < tenant->n_spent; i++)
        if (tenant->spent[i].period_day >= month)
            tenant->spent[kept++] = tenant->spent[i];
    tenant->n_spent = kept;
}

static int apply_tenant(struct state *state, uint32_t id, const uint8_t *value, size_t value_len) {
    struct tenant_state *tenant;
    int rc = tenant_obtain(state, id, &tenant);
    if (rc != 0)
        return rc;
    tenant->has_record = false;
    if (value_len == 0)
        return 0;
    if ((rc = tenant_decode(value, value_len, &tenant->record)) != 0)
        return rc;
    tenant->has_record = true;
    spent_prune(tenant);
    return 0;
}

static size_t window_index(const struct tenant_state *tenant, uint32_t sent_day) {
    size_t at = 0;
    while (at < tenant->n_windows && tenant->windows[at].sent_day != sent_day)
        at++;
    return at;
}

static void window_remove(struct tenant_state *tenant, size_t at) {
    CHECK(at < tenant->n_windows);
    window_free(tenant->windows[at].window);
    tenant->windows[at] = tenant->windows[--tenant->n_windows];
}

static int apply_window(struct state *state, const struct record_key *key, const uint8_t *value, size_t value_len) {
    struct tenant_state *tenant;
    int rc = tenant_obtain(state, key->tenant, &tenant);
    if (rc != 0)
        return rc;
    size_t at = window_index(tenant, key->day);
    if (value_len == 0) {
        if (at == tenant->n_windows)
            return 0;
        window_erase(tenant->windows[at].window, key->pseudonym);
        if (window_count(tenant->windows[at].window) == 0)
            window_remove(tenant, at);
        return 0;
    }
    struct window_cell cell;
    if ((rc = window_decode(value, value_len, &cell)) != 0)
        return rc;
    if (at == tenant->n_windows) {
        struct window *window;
        rc = array_reserve(&tenant->windows, tenant->n_windows, &tenant->windows_room, sizeof *tenant->windows);
        if (rc != 0 || (rc = window_create(&window)) != 0)
            return rc;
        tenant->windows[tenant->n_windows++] = (struct window_entry){.sent_day = key->day, .window = window};
    }
    return window_put(tenant->windows[at].window, key->pseudonym, cell);
}

static int apply_release(struct state *state, const struct record_key *key, const uint8_t *value, size_t value_len) {
    struct tenant_state *tenant;
    struct release_record release = {0};
    int rc = value_len == 0 ? 0 : release_decode(value, value_len, &release);
    if (rc != 0 || (rc = tenant_obtain(state, key->tenant, &tenant)) != 0)
        return rc;
    size_t at = 0;
    while (at < tenant->n_spent &&
           (tenant->spent[at].kind != key->release_kind || tenant->spent[at].period_day != key->day))
        at++;
    if (value_len == 0) {
        if (at < tenant->n_spent)
            tenant->spent[at] = tenant->spent[--tenant->n_spent];
        return 0;
    }
    if (at == tenant->n_spent) {
        if ((rc = array_reserve(&tenant->spent, tenant->n_spent, &tenant->spent_room, sizeof *tenant->spent)) != 0)
            return rc;
        tenant->n_spent++;
    }
    tenant->spent[at] =
        (struct spent_entry){.period_day = key->day, .kind = key->release_kind, .spent = release.spent};
    return 0;
}

// ---- the one path of changes ----------------------------------------------------------------------------------------

static int apply_last_open(struct state *state, const struct record_key *key, const uint8_t *value, size_t value_len) {
    struct last_open last_open;
    if (value_len == 0)
        return last_open_erase(state->last_open, key->tenant, key->pseudonym);
    int rc = last_open_decode(value, value_len, &last_open);
    return rc != 0 ? rc : last_open_put(state->last_open, key->tenant, key->pseudonym, last_open);
}

int state_apply(struct state *state, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    struct record_key at;
    int rc = key_decode(key, key_len, &at);
    if (rc != 0)
        return rc;
    switch (at.kind) {
    case RECORD_META:
        state->has_meta = value_len > 0;
        return value_len == 0 ? 0 : meta_decode(value, value_len, &state->rehearsal, &state->partitions);
    case RECORD_SETTINGS:
        return apply_settings(state, at.day, value, value_len);
    case RECORD_EDGE:
        return apply_edge(state, at.edge, value, value_len);
    case RECORD_DAY:
        return apply_day(state, at.day, value, value_len);
    case RECORD_LAST_OPEN:
        return apply_last_open(state, &at, value, value_len);
    case RECORD_WINDOW:
        return apply_window(state, &at, value, value_len);
    case RECORD_TENANT:
        return apply_tenant(state, at.tenant, value, value_len);
    case RECORD_RELEASE:
        return apply_release(state, &at, value, value_len);
    case RECORD_CONSENT:
        state->has_stamp = value_len > 0;
        return value_len == 0 ? 0 : stamp_decode(value, value_len, &state->stamp);
    case RECORD_ANNOUNCED:
        break; // announced.h keeps those
    }
    return rc;
}

int state_change(struct state *state, struct batch *batch, uint32_t partition, const uint8_t *key, size_t key_len,
                 const uint8_t *value, size_t value_len) {
    int rc = state_apply(state, key, key_len, value, value_len);
    CHECK(rc != ERR_CORRUPT); // what we encoded ourselves decodes
    return rc != 0 ? rc : batch_put(batch, partition, key, key_len, value, value_len);
}

int state_window_drop(struct state *state, struct batch *batch, uint32_t partition, uint32_t tenant_id,
                      uint32_t sent_day) {
    struct tenant_state *tenant = state_tenant(state, tenant_id);
    size_t at = tenant == NULL ? 0 : window_index(tenant, sent_day);
    if (tenant == NULL || at == tenant->n_windows)
        return 0;
    uint8_t key[RECORD_KEY_MAX];
    uint64_t pseudonym;
    struct window_cell cell;
    size_t cursor = 0;
    while (window_next(tenant->windows[at].window, &cursor, &pseudonym, &cell)) {
        int rc = batch_put(batch, partition, key, key_window(key, tenant_id, sent_day, pseudonym), NULL, 0);
        if (rc != 0)
            return rc;
    }
    window_remove(tenant, at);
    return 0;
}

// ---- questions ------------------------------------------------------------------------------------------------------

bool state_meta(const struct state *state, bool *rehearsal, uint32_t *partitions) {
    *rehearsal = state->rehearsal;
    *partitions = state->partitions;
    return state->has_meta;
}

const struct consent_stamp *state_stamp(const struct state *state) {
    return state->has_stamp ? &state->stamp : NULL;
}

const struct settings *state_settings_on(const struct state *state, uint32_t day) {
    for (size_t i = state->n_settings; i-- > 0;)
        if (state->settings[i].from_day <= day)
            return &state->settings[i];
    return NULL;
}

const struct settings *state_settings_newest(const struct state *state) {
    return state->n_settings == 0 ? NULL : &state->settings[state->n_settings - 1];
}

size_t state_edge_count(const struct state *state) {
    return state->n_edges;
}

const struct edge_summary *state_edge_at(const struct state *state, size_t index) {
    CHECK(index < state->n_edges);
    return &state->edges[index].summary;
}

bool state_edge(const struct state *state, const char *edge, struct edge_record *out) {
    bool found;
    size_t at = edge_lower_bound(state, edge, &found);
    if (!found)
        *out = (struct edge_record){0};
    else
        CHECK(edge_decode(state->edges[at].value, state->edges[at].value_len, out) == 0);
    return found;
}

size_t state_day_count(const struct state *state) {
    return state->n_days;
}

const struct day_record *state_day_at(const struct state *state, size_t index, uint32_t *day) {
    CHECK(index < state->n_days);
    *day = state->days[index].day;
    return &state->days[index].record;
}

const struct day_record *state_day(const struct state *state, uint32_t day) {
    bool found;
    size_t at = day_lower_bound(state, day, &found);
    return found ? &state->days[at].record : NULL;
}

struct last_open_table *state_last_open(const struct state *state) {
    return state->last_open;
}

struct tenant_state *state_tenant_next(const struct state *state, size_t *cursor) {
    while (*cursor < state->tenant_slots) {
        struct tenant_state *tenant = state->tenants[(*cursor)++];
        if (tenant != NULL)
            return tenant;
    }
    return NULL;
}

size_t state_tenant_count(const struct state *state) {
    return state->n_tenants;
}

uint32_t tenant_state_id(const struct tenant_state *tenant) {
    return tenant->id;
}

const struct tenant_record *tenant_state_record(const struct tenant_state *tenant) {
    return tenant->has_record ? &tenant->record : NULL;
}

const struct window *tenant_state_window(const struct tenant_state *tenant, uint32_t sent_day) {
    size_t at = window_index(tenant, sent_day);
    return at == tenant->n_windows ? NULL : tenant->windows[at].window;
}

size_t tenant_state_window_count(const struct tenant_state *tenant) {
    return tenant->n_windows;
}

const struct window *tenant_state_window_at(const struct tenant_state *tenant, size_t index, uint32_t *sent_day) {
    CHECK(index < tenant->n_windows);
    *sent_day = tenant->windows[index].sent_day;
    return tenant->windows[index].window;
}

size_t tenant_state_spent(const struct tenant_state *tenant, uint32_t month, struct fraction *spent, size_t max) {
    size_t n = 0;
    uint32_t end = day_next_month_start(month);
    for (size_t i = 0; i < tenant->n_spent && n < max; i++)
        if (tenant->spent[i].period_day >= month && tenant->spent[i].period_day < end)
            spent[n++] = tenant->spent[i].spent;
    return n;
}

bool tenant_state_released(const struct tenant_state *tenant, enum release_kind kind, uint32_t period_day) {
    for (size_t i = 0; i < tenant->n_spent; i++)
        if (tenant->spent[i].kind == kind && tenant->spent[i].period_day == period_day)
            return true;
    return false;
}
