// Records of the aggregator's state: a selector, then a key (selector 0) or a value. Codecs are canonical: what decodes is
// exactly what encoding it again gives.
#include "tests/fuzz/fuzz.h"

#include "aggregator/record.h"

#include <string.h>

static uint8_t again[RECORD_VALUE_MAX];

static size_t key_of(const struct record_key *key) {
    switch (key->kind) {
    case RECORD_META:
        return key_meta(again);
    case RECORD_SETTINGS:
        return key_settings(again, key->day);
    case RECORD_EDGE:
        return key_edge(again, key->edge);
    case RECORD_DAY:
        return key_day(again, key->day);
    case RECORD_LAST_OPEN:
        return key_last_open(again, key->tenant, key->pseudonym);
    case RECORD_WINDOW:
        return key_window(again, key->tenant, key->day, key->pseudonym);
    case RECORD_TENANT:
        return key_tenant(again, key->tenant);
    case RECORD_RELEASE:
        return key_release(again, key->tenant, key->release_kind, key->day);
    case RECORD_ANNOUNCED:
        return key_announced(again, key->tenant, key->release_kind, key->day);
    default:
        CHECK(key->kind == RECORD_CONSENT);
        return key_consent(again);
    }
}

// Each returns the length of what it encoded again, or 0 where the bytes are no such record.
static size_t key_again(const uint8_t *data, size_t len) {
    struct record_key key;
    return key_decode(data, len, &key) == 0 ? key_of(&key) : 0;
}

static size_t meta_again(const uint8_t *data, size_t len) {
    bool rehearsal;
    uint32_t partitions;
    return meta_decode(data, len, &rehearsal, &partitions) == 0 ? meta_encode(rehearsal, partitions, again) : 0;
}

static size_t settings_again(const uint8_t *data, size_t len) {
    struct settings settings;
    if (settings_decode(data, len, &settings) != 0)
        return 0;
    size_t n = settings_encode(&settings, again);
    settings_free(&settings);
    return n;
}

static size_t edge_again(const uint8_t *data, size_t len) {
    struct edge_record edge;
    return edge_decode(data, len, &edge) == 0 ? edge_encode(&edge, again) : 0;
}

static size_t day_again(const uint8_t *data, size_t len) {
    struct day_record day;
    return day_decode(data, len, &day) == 0 ? day_encode(&day, again) : 0;
}

static size_t last_open_again(const uint8_t *data, size_t len) {
    struct last_open last_open;
    if (last_open_decode(data, len, &last_open) != 0)
        return 0;
    struct last_open raised = last_open;
    CHECK(last_open_age_on(last_open, UINT16_MAX + 400u) == AGE_NONE);
    CHECK(!last_open_raise(&raised, true, last_open.day));
    return last_open_encode(last_open, again);
}

static size_t window_again(const uint8_t *data, size_t len) {
    struct window_cell cell;
    return window_decode(data, len, &cell) == 0 ? window_encode(cell, again) : 0;
}

static size_t tenant_again(const uint8_t *data, size_t len) {
    struct tenant_record tenant;
    return tenant_decode(data, len, &tenant) == 0 ? tenant_encode(&tenant, again) : 0;
}

static size_t release_again(const uint8_t *data, size_t len) {
    struct release_record release;
    return release_decode(data, len, &release) == 0 ? release_encode(&release, again) : 0;
}

static size_t stamp_again(const uint8_t *data, size_t len) {
    struct consent_stamp stamp;
    return stamp_decode(data, len, &stamp) == 0 ? stamp_encode(&stamp, again) : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static size_t (*const codecs[])(const uint8_t *, size_t) = {
        key_again,       meta_again,   settings_again, edge_again,    day_again,
        last_open_again, window_again, tenant_again,   release_again, stamp_again};
    if (size < 1 || size > RECORD_VALUE_MAX)
        return 0;
    size_t n = codecs[data[0] % ARRAY_LEN(codecs)](data + 1, size - 1);
    CHECK(n == 0 || (n == size - 1 && memcmp(again, data + 1, n) == 0));
    return 0;
}
