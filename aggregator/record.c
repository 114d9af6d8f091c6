#include "aggregator/record.h"

#include "common/bytes.h"

#include <string.h>

// ---- keys -----------------------------------------------------------------------------------------------------------

static size_t key_with_u32(uint8_t *key, enum record_kind kind, uint32_t value) {
    key[0] = (uint8_t)kind;
    store_u32(key + 1, value);
    return 5;
}

size_t key_meta(uint8_t *key) {
    key[0] = RECORD_META;
    return 1;
}

size_t key_settings(uint8_t *key, uint32_t from_day) {
    return key_with_u32(key, RECORD_SETTINGS, from_day);
}

size_t key_edge(uint8_t *key, const char *edge) {
    size_t len = strlen(edge);
    CHECK(len >= 1 && len <= EDGE_ID_MAX);
    key[0] = RECORD_EDGE;
    memcpy(key + 1, edge, len);
    return 1 + len;
}

size_t key_day(uint8_t *key, uint32_t day) {
    return key_with_u32(key, RECORD_DAY, day);
}

size_t key_last_open(uint8_t *key, uint32_t tenant, uint64_t pseudonym) {
    size_t len = key_with_u32(key, RECORD_LAST_OPEN, tenant);
    store_u64(key + len, pseudonym);
    return len + 8;
}

size_t key_window(uint8_t *key, uint32_t tenant, uint32_t sent_day, uint64_t pseudonym) {
    size_t len = key_with_u32(key, RECORD_WINDOW, tenant);
    store_u32(key + len, sent_day);
    store_u64(key + len + 4, pseudonym);
    return len + 12;
}

size_t key_tenant(uint8_t *key, uint32_t tenant) {
    return key_with_u32(key, RECORD_TENANT, tenant);
}

static size_t key_of_line(uint8_t *key, enum record_kind record, uint32_t tenant, uint8_t kind, uint32_t period_day) {
    CHECK(kind == RELEASE_DELIVERABILITY || kind == RELEASE_INACTIVITY);
    size_t len = key_with_u32(key, record, tenant);
    key[len] = kind;
    store_u32(key + len + 1, period_day);
    return len + 5;
}

size_t key_release(uint8_t *key, uint32_t tenant, uint8_t kind, uint32_t period_day) {
    return key_of_line(key, RECORD_RELEASE, tenant, kind, period_day);
}

size_t key_announced(uint8_t *key, uint32_t tenant, uint8_t kind, uint32_t period_day) {
    return key_of_line(key, RECORD_ANNOUNCED, tenant, kind, period_day);
}

size_t key_consent(uint8_t *key) {
    key[0] = RECORD_CONSENT;
    return 1;
}

static int key_decode_edge(struct reader *r, struct record_key *out) {
    size_t len = reader_left(r);
    if (len < 1 || len > EDGE_ID_MAX)
        return ERR_CORRUPT;
    const uint8_t *text = read_bytes(r, len);
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return ERR_CORRUPT;
    memcpy(out->edge, text, len);
    return 0;
}

int key_decode(const uint8_t *key, size_t len, struct record_key *out) {
    struct reader r = reader_of(key, len);
    *out = (struct record_key){.kind = (enum record_kind)read_u8(&r)};
    switch (out->kind) {
    case RECORD_META:
    case RECORD_CONSENT:
        break;
    case RECORD_SETTINGS:
    case RECORD_DAY:
        out->day = read_u32(&r);
        break;
    case RECORD_EDGE:
        if (key_decode_edge(&r, out) != 0)
            return ERR_CORRUPT;
        break;
    case RECORD_LAST_OPEN:
        out->tenant = read_u32(&r);
        out->pseudonym = read_u64(&r);
        break;
    case RECORD_WINDOW:
        out->tenant = read_u32(&r);
        out->day = read_u32(&r);
        out->pseudonym = read_u64(&r);
        break;
    case RECORD_TENANT:
        out->tenant = read_u32(&r);
        break;
    case RECORD_RELEASE:
    case RECORD_ANNOUNCED:
        out->tenant = read_u32(&r);
        out->release_kind = read_u8(&r);
        out->day = read_u32(&r);
        if (out->release_kind != RELEASE_DELIVERABILITY && out->release_kind != RELEASE_INACTIVITY)
            return ERR_CORRUPT;
        break;
    default:
        return ERR_CORRUPT;
    }
    return r.bad || reader_left(&r) != 0 ? ERR_CORRUPT : 0;
}

// ---- values ---------------------------------------------------------------------------------------------------------

static size_t written(const struct writer *w, const uint8_t *out) {
    CHECK(!w->bad);
    return (size_t)(w->at - out);
}

static int read_whole(const struct reader *r) {
    return r->bad || reader_left(r) != 0 ? ERR_CORRUPT : 0;
}

size_t meta_encode(bool rehearsal, uint32_t partitions, uint8_t *out) {
    CHECK(partitions > 0 && partitions <= UINT16_MAX);
    struct writer w = writer_of(out, RECORD_VALUE_MAX);
    write_u8(&w, RECORD_VERSION);
    write_u8(&w, rehearsal ? 1 : 0);
    write_u16(&w, (uint16_t)partitions);
    return written(&w, out);
}

int meta_decode(const uint8_t *value, size_t len, bool *rehearsal, uint32_t *partitions) {
    struct reader r = reader_of(value, len);
    uint8_t version = read_u8(&r);
    uint8_t mode = read_u8(&r);
    *rehearsal = mode == 1;
    *partitions = read_u16(&r);
    if (version != RECORD_VERSION || mode > 1 || *partitions == 0)
        return ERR_CORRUPT;
    return read_whole(&r);
}

size_t settings_encode(const struct settings *settings, uint8_t *out) {
    struct writer w = writer_of(out, RECORD_VALUE_MAX);
    write_u32(&w, settings->epsilon.numerator);
    write_u32(&w, settings->epsilon.denominator);
    write_u32(&w, settings->threshold);
    write_u8(&w, (uint8_t)settings->horizon_days);
    for (unsigned i = PROVIDERS_BUILTIN; i < PROVIDERS_MAX; i++) {
        const char *name = settings->provider_names[i];
        if (name == NULL)
            continue;
        size_t len = strlen(name);
        CHECK(len >= 1 && len <= UINT8_MAX);
        write_u8(&w, (uint8_t)i);
        write_u8(&w, (uint8_t)len);
        write_bytes(&w, name, len);
    }
    return written(&w, out);
}

void settings_free(struct settings *settings) {
    for (unsigned i = 0; i < PROVIDERS_MAX; i++)
        free(settings->provider_names[i]);
    *settings = (struct settings){0};
}

static bool name_is_plain(const uint8_t *name, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (name[i] <= ' ' || name[i] > '~' || name[i] == '"' || name[i] == '\\')
            return false;
    return len > 0;
}

// One configured provider name; numbers ascend.
static int settings_decode_name(struct reader *r, struct settings *settings, unsigned *least) {
    unsigned number = read_u8(r);
    size_t len = read_u8(r);
    const uint8_t *name = read_bytes(r, len);
    if (name == NULL || number < *least || !name_is_plain(name, len))
        return ERR_CORRUPT;
    *least = number + 1;
    settings->provider_names[number] = strndup((const char *)name, len);
    return settings->provider_names[number] == NULL ? ERR_NOMEM : 0;
}

int settings_decode(const uint8_t *value, size_t len, struct settings *settings) {
    struct reader r = reader_of(value, len);
    *settings = (struct settings){0};
    settings->epsilon.numerator = read_u32(&r);
    settings->epsilon.denominator = read_u32(&r);
    settings->threshold = read_u32(&r);
    settings->horizon_days = read_u8(&r);
    if (r.bad || settings->epsilon.numerator == 0 || settings->epsilon.numerator > settings->epsilon.denominator ||
        settings->horizon_days > HORIZON_DAYS_MAX)
        return ERR_CORRUPT;
    unsigned least = PROVIDERS_BUILTIN;
    while (reader_left(&r) > 0) {
        int rc = settings_decode_name(&r, settings, &least);
        if (rc != 0) {
            settings_free(settings);
            return rc;
        }
    }
    return 0;
}

size_t edge_encode(const struct edge_record *edge, uint8_t *out) {
    CHECK(edge->n_epochs <= EDGE_EPOCHS_MAX);
    struct writer w = writer_of(out, RECORD_VALUE_MAX);
    write_u32(&w, edge->registered_day);
    write_u32(&w, edge->closed_through);
    write_u32(&w, edge->incomplete_through);
    write_u64(&w, edge->incomplete_days);
    write_u32(&w, edge->retired_on);
    write_u64(&w, edge->registered_epoch);
    write_u64(&w, edge->forgotten_first);
    write_u64(&w, edge->forgotten_next);
    write_u8(&w, edge->renumbered ? 1 : 0);
    write_u8(&w, (uint8_t)edge->n_epochs);
    for (size_t i = 0; i < edge->n_epochs; i++) {
        const struct edge_epoch *epoch = &edge->epochs[i];
        CHECK(epoch->n_gaps <= EDGE_GAPS_MAX);
        write_u64(&w, epoch->epoch);
        write_u64(&w, epoch->first);
        write_u64(&w, epoch->next);
        write_u8(&w, (uint8_t)epoch->n_gaps);
        for (size_t g = 0; g < epoch->n_gaps; g++) {
            write_u64(&w, epoch->gaps[g].first);
            write_u64(&w, epoch->gaps[g].last);
        }
    }
    return written(&w, out);
}

static int edge_decode_epoch(struct reader *r, struct edge_epoch *epoch) {
    epoch->epoch = read_u64(r);
    epoch->first = read_u64(r);
    epoch->next = read_u64(r);
    epoch->n_gaps = read_u8(r);
    if (r->bad || epoch->first > epoch->next || epoch->n_gaps > EDGE_GAPS_MAX)
        return ERR_CORRUPT;
    uint64_t least = epoch->first;
    for (size_t g = 0; g < epoch->n_gaps; g++) {
        uint64_t first = read_u64(r);
        uint64_t last = read_u64(r);
        if (r->bad || first < least || last < first || last >= epoch->next)
            return ERR_CORRUPT;
        epoch->gaps[g] = (struct segment_range){.epoch = epoch->epoch, .first = first, .last = last};
        least = last + 1;
    }
    return 0;
}

int edge_decode(const uint8_t *value, size_t len, struct edge_record *edge) {
    struct reader r = reader_of(value, len);
    *edge = (struct edge_record){0};
    edge->registered_day = read_u32(&r);
    edge->closed_through = read_u32(&r);
    edge->incomplete_through = read_u32(&r);
    edge->incomplete_days = read_u64(&r);
    edge->retired_on = read_u32(&r);
    edge->registered_epoch = read_u64(&r);
    edge->forgotten_first = read_u64(&r);
    edge->forgotten_next = read_u64(&r);
    uint8_t renumbered = read_u8(&r);
    edge->renumbered = renumbered == 1;
    edge->n_epochs = read_u8(&r);
    if (r.bad || renumbered > 1 || edge->n_epochs > EDGE_EPOCHS_MAX || edge->forgotten_first > edge->forgotten_next ||
        (edge->incomplete_days & 1) != (edge->incomplete_through != DAY_NONE))
        return ERR_CORRUPT;
    for (size_t i = 0; i < edge->n_epochs; i++)
        if (edge_decode_epoch(&r, &edge->epochs[i]) != 0)
            return ERR_CORRUPT;
    return read_whole(&r);
}

size_t day_encode(const struct day_record *day, uint8_t *out) {
    CHECK(day->n_rules <= DAY_RULES_MAX);
    struct writer w = writer_of(out, RECORD_VALUE_MAX);
    write_u8(&w, day->flags);
    write_u64(&w, day->received);
    write_u64(&w, day->counted);
    write_u64(&w, day->repeated);
    for (size_t i = 0; i < AGG_DROPS_STORED; i++)
        write_u64(&w, day->drops[i]);
    write_u64(&w, day->edges.requests);
    write_u64(&w, day->edges.recorded);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        write_u64(&w, day->edges.drops[i]);
    write_u64(&w, day->recorded_here);
    write_u32(&w, day->n_edges_closed);
    write_u8(&w, (uint8_t)day->n_rules);
    for (size_t i = 0; i < day->n_rules; i++)
        write_bytes(&w, day->rules[i], RULES_HASH_SIZE);
    return written(&w, out);
}

int day_decode(const uint8_t *value, size_t len, struct day_record *day) {
    struct reader r = reader_of(value, len);
    *day = (struct day_record){.flags = read_u8(&r)};
    day->received = read_u64(&r);
    day->counted = read_u64(&r);
    day->repeated = read_u64(&r);
    for (size_t i = 0; i < AGG_DROPS_STORED; i++)
        day->drops[i] = read_u64(&r);
    day->edges.requests = read_u64(&r);
    day->edges.recorded = read_u64(&r);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        day->edges.drops[i] = read_u64(&r);
    day->recorded_here = read_u64(&r);
    day->n_edges_closed = read_u32(&r);
    day->n_rules = read_u8(&r);
    if (r.bad || day->flags > (DAY_COMPLETE | DAY_GIVEN_UP) || day->n_rules > DAY_RULES_MAX)
        return ERR_CORRUPT;
    for (size_t i = 0; i < day->n_rules; i++) {
        const uint8_t *hash = read_bytes(&r, RULES_HASH_SIZE);
        if (hash == NULL || (i > 0 && memcmp(day->rules[i - 1], hash, RULES_HASH_SIZE) >= 0))
            return ERR_CORRUPT;
        memcpy(day->rules[i], hash, RULES_HASH_SIZE);
    }
    return read_whole(&r);
}

size_t last_open_encode(struct last_open last_open, uint8_t *out) {
    CHECK(last_open.frozen_age <= AGE_NONE);
    store_u16(out, last_open.day);
    out[2] = last_open.frozen_age;
    return 3;
}

int key_decode_last_open(const uint8_t *key, size_t len, uint32_t *tenant, uint64_t *pseudonym) {
    CHECK(key[0] == RECORD_LAST_OPEN);
    if (len != LAST_OPEN_KEY_BYTES)
        return ERR_CORRUPT;
    *tenant = load_u32(key + 1);
    *pseudonym = load_u64(key + 5);
    return 0;
}

int last_open_decode(const uint8_t *value, size_t len, struct last_open *last_open) {
    if (len != 3 || value[2] > AGE_NONE || load_u16(value) == 0)
        return ERR_CORRUPT;
    *last_open = (struct last_open){.day = load_u16(value), .frozen_age = value[2]};
    return 0;
}

size_t window_encode(struct window_cell cell, uint8_t *out) {
    CHECK(cell.fetch < FETCH_SCANNER);
    store_u16(out, cell.stream);
    out[2] = cell.provider;
    out[3] = cell.fetch;
    out[4] = cell.class_regime;
    return 5;
}

int window_decode(const uint8_t *value, size_t len, struct window_cell *cell) {
    if (len != 5 || value[3] >= FETCH_SCANNER)
        return ERR_CORRUPT;
    *cell = (struct window_cell){
        .stream = load_u16(value), .provider = value[2], .fetch = value[3], .class_regime = value[4]};
    return 0;
}

size_t tenant_encode(const struct tenant_record *tenant, uint8_t *out) {
    struct writer w = writer_of(out, RECORD_VALUE_MAX);
    write_u32(&w, tenant->first_measured);
    write_u32(&w, tenant->next_window);
    write_u32(&w, tenant->next_month);
    write_u32(&w, tenant->measured_since);
    return written(&w, out);
}

int tenant_decode(const uint8_t *value, size_t len, struct tenant_record *tenant) {
    struct reader r = reader_of(value, len);
    *tenant = (struct tenant_record){.first_measured = read_u32(&r)};
    tenant->next_window = read_u32(&r);
    tenant->next_month = read_u32(&r);
    tenant->measured_since = read_u32(&r);
    return read_whole(&r);
}

size_t release_encode(const struct release_record *release, uint8_t *out) {
    CHECK(release->line_len > 0 && release->line_len <= RECORD_VALUE_MAX - 8);
    store_u32(out, release->spent.numerator);
    store_u32(out + 4, release->spent.denominator);
    memcpy(out + 8, release->line, release->line_len);
    return 8 + release->line_len;
}

int release_decode(const uint8_t *value, size_t len, struct release_record *release) {
    if (len <= 8 || load_u32(value + 4) == 0)
        return ERR_CORRUPT;
    release->spent = (struct fraction){.numerator = load_u32(value), .denominator = load_u32(value + 4)};
    release->line = value + 8;
    release->line_len = len - 8;
    return 0;
}

size_t stamp_encode(const struct consent_stamp *stamp, uint8_t *out) {
    store_u64(out, stamp->epoch);
    memcpy(out + 8, stamp->hash, CONSENT_HASH_SIZE);
    return 8 + CONSENT_HASH_SIZE;
}

int stamp_decode(const uint8_t *value, size_t len, struct consent_stamp *stamp) {
    if (len != 8 + CONSENT_HASH_SIZE)
        return ERR_CORRUPT;
    stamp->epoch = load_u64(value);
    memcpy(stamp->hash, value + 8, CONSENT_HASH_SIZE);
    return 0;
}

// ---- last open ------------------------------------------------------------------------------------------------------

enum frozen_age age_of_days(uint32_t days) {
    if (days <= 30)
        return AGE_0_30;
    if (days < 90)
        return AGE_31_89;
    if (days == 90)
        return AGE_90;
    if (days < 180)
        return AGE_91_179;
    if (days == 180)
        return AGE_180;
    if (days < 365)
        return AGE_181_364;
    return days == 365 ? AGE_365 : AGE_NONE;
}

enum frozen_age last_open_age_on(struct last_open last_open, uint32_t as_of) {
    CHECK(last_open.frozen_age <= AGE_NONE);
    return last_open.day <= as_of ? age_of_days(as_of - last_open.day) : (enum frozen_age)last_open.frozen_age;
}

bool last_open_raise(struct last_open *last_open, bool exists, uint32_t day) {
    CHECK(day > 0 && day <= UINT16_MAX);
    if (!exists) {
        *last_open = (struct last_open){.day = (uint16_t)day, .frozen_age = AGE_NONE};
        return true;
    }
    uint32_t month = day_month_start(last_open->day);
    if (day > last_open->day) {
        if (day_month_start(day) > month)
            last_open->frozen_age = (uint8_t)age_of_days(day_month_start(day) - 1 - last_open->day);
        last_open->day = (uint16_t)day;
        return true;
    }
    if (day >= month)
        return false;
    enum frozen_age age = age_of_days(month - 1 - day);
    if (age >= (enum frozen_age)last_open->frozen_age)
        return false;
    last_open->frozen_age = (uint8_t)age;
    return true;
}
