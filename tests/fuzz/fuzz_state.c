// A journal frame's payload, applied to a partition's state: damaged records are refused, the newest value of each
// contact is what a look-up gives, and when every key is erased nothing is left.
#include "tests/fuzz/fuzz.h"

#include "aggregator/journal_file.h"
#include "aggregator/state.h"

#include <string.h>

#define RECORDS_MAX 128
#define CONTACTS_MAX 64

struct replay {
    struct state *state;
    size_t n;
    struct frame_record records[RECORDS_MAX];
};

static int on_record(void *arg, const struct frame_record *record) {
    struct replay *replay = arg;
    struct frame_record again = frame_record_at(record->at);
    CHECK(again.key == record->key && again.value_len == record->value_len && again.partition == record->partition);
    if (replay->n == RECORDS_MAX)
        return ERR_LIMIT;
    int rc = state_apply(replay->state, record->key, record->key_len, record->value, record->value_len);
    CHECK(rc == 0 || rc == ERR_CORRUPT || rc == ERR_LIMIT);
    if (rc == 0)
        replay->records[replay->n++] = *record;
    return rc;
}

// Here all partitions are one, so only keys count.
static bool is_newest(const struct replay *replay, size_t i) {
    const struct frame_record *record = &replay->records[i];
    for (size_t j = i + 1; j < replay->n; j++)
        if (replay->records[j].key_len == record->key_len &&
            memcmp(replay->records[j].key, record->key, record->key_len) == 0)
            return false;
    return true;
}

static void check_contact(const struct state *state, const struct frame_record *record) {
    struct record_key key;
    struct last_open expected, last_open;
    struct window_cell expected_cell, cell;
    CHECK(key_decode(record->key, record->key_len, &key) == 0);
    if (key.kind == RECORD_LAST_OPEN) {
        bool found = last_open_get(state_last_open(state), key.tenant, key.pseudonym, &last_open);
        CHECK(found == (record->value_len > 0));
        if (found)
            CHECK(last_open_decode(record->value, record->value_len, &expected) == 0 &&
                  last_open.day == expected.day && last_open.frozen_age == expected.frozen_age);
    } else if (key.kind == RECORD_WINDOW) {
        const struct tenant_state *tenant = state_tenant(state, key.tenant);
        CHECK(tenant != NULL);
        const struct window *window = tenant_state_window(tenant, key.day);
        bool found = window != NULL && window_get(window, key.pseudonym, &cell);
        CHECK(found == (record->value_len > 0));
        if (found)
            CHECK(window_decode(record->value, record->value_len, &expected_cell) == 0 &&
                  cell.stream == expected_cell.stream && cell.provider == expected_cell.provider);
    }
}

static void check_lists(const struct state *state) {
    uint32_t before = 0, day;
    for (size_t i = 0; i < state_day_count(state); i++) {
        CHECK(state_day_at(state, i, &day) == state_day(state, day) && (i == 0 || day > before));
        before = day;
    }
    for (size_t i = 0; i < state_edge_count(state); i++) {
        struct edge_record edge;
        CHECK(state_edge(state, state_edge_at(state, i)->edge, &edge));
        CHECK(i == 0 || strcmp(state_edge_at(state, i - 1)->edge, state_edge_at(state, i)->edge) < 0);
    }
    const struct settings *newest = state_settings_newest(state);
    CHECK(newest == NULL || state_settings_on(state, newest->from_day) == newest);
    size_t cursor = 0, n = 0;
    for (struct tenant_state *tenant; (tenant = state_tenant_next(state, &cursor)) != NULL; n++)
        CHECK(state_tenant(state, tenant_state_id(tenant)) == tenant);
    CHECK(n == state_tenant_count(state));
}

static void check_empty(const struct state *state) {
    bool rehearsal;
    uint32_t partitions;
    CHECK(!state_meta(state, &rehearsal, &partitions) && state_stamp(state) == NULL);
    CHECK(state_edge_count(state) == 0 && state_day_count(state) == 0 && state_settings_newest(state) == NULL);
    CHECK(last_open_count(state_last_open(state)) == 0);
    size_t cursor = 0;
    for (struct tenant_state *tenant; (tenant = state_tenant_next(state, &cursor)) != NULL;)
        CHECK(tenant_state_record(tenant) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct replay replay;
    const struct frame_hooks hooks = {.record = on_record, .arg = &replay};
    replay.n = 0;
    CHECK(state_create(&replay.state, CONTACTS_MAX) == 0);
    // What came before a damaged record counts, as it does in a log.
    int rc = frame_walk(data, size, &hooks);
    CHECK(rc <= 0);
    bool whole = rc == 0; // a record that was refused may have left its kind without a value
    for (size_t i = 0; i < replay.n && whole; i++)
        if (is_newest(&replay, i))
            check_contact(replay.state, &replay.records[i]);
    check_lists(replay.state);
    for (size_t i = 0; i < replay.n; i++)
        CHECK(state_apply(replay.state, replay.records[i].key, replay.records[i].key_len, NULL, 0) == 0);
    if (whole)
        check_empty(replay.state);
    state_free(replay.state);
    return 0;
}
