#include "common/consent.h"

#include "common/bytes.h"
#include "common/clock.h"

#include <inttypes.h>
#include <string.h>

const char *const consent_state_names[CONSENT_STATES] = {"unknown", "informed", "granted",
                                                         "refused", "withdrawn", "objected"};

int consent_state_parse(const char *name) {
    CHECK(name != NULL);
    for (int state = CONSENT_INFORMED; state < CONSENT_STATES; state++) {
        if (strcmp(name, consent_state_names[state]) == 0)
            return state;
    }
    return -1;
}

bool consent_state_leaves(uint8_t state) {
    return state == CONSENT_REFUSED || state == CONSENT_WITHDRAWN || state == CONSENT_OBJECTED;
}

static bool notice_bytes_valid(const uint8_t *notice, size_t len) {
    if (len < 1 || len > NOTICE_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (notice[i] < 0x20 || notice[i] > 0x7e)
            return false;
    }
    return true;
}

bool notice_valid(const char *notice) {
    CHECK(notice != NULL);
    return notice_bytes_valid((const uint8_t *)notice, strnlen(notice, NOTICE_MAX + 1));
}

// Which of a record's two days a row of the table looks at.
enum row { ROW_NOTHING, ROW_ALLOWED, ROW_GRANTED };

static enum row row_of(enum message_class message_class, enum regime regime, bool has_basis, enum purpose purpose) {
    if (regime != REGIME_CONSENT && !(regime == REGIME_EXEMPTION && has_basis))
        return ROW_NOTHING;
    switch (message_class) {
    case CLASS_TRANSACTIONAL:
        return regime == REGIME_EXEMPTION ? ROW_ALLOWED : ROW_GRANTED;
    case CLASS_REQUESTED:
        if (purpose != PURPOSE_INACTIVITY)
            return ROW_NOTHING;
        return regime == REGIME_EXEMPTION ? ROW_ALLOWED : ROW_GRANTED;
    case CLASS_PROSPECTING:
        return purpose == PURPOSE_INACTIVITY ? ROW_GRANTED : ROW_NOTHING;
    }
    return ROW_NOTHING;
}

uint32_t consent_needs(const struct consent_record *record, enum message_class message_class, enum regime regime,
                       bool has_basis, enum purpose purpose) {
    CHECK(purpose == PURPOSE_DELIVERABILITY || purpose == PURPOSE_INACTIVITY);
    if (record->unreadable || (record->excludes & 1u << purpose) != 0)
        return DAY_NONE;
    bool granted = record->state == CONSENT_GRANTED;
    switch (row_of(message_class, regime, has_basis, purpose)) {
    case ROW_ALLOWED:
        return granted || record->state == CONSENT_INFORMED ? record->allowed_since : DAY_NONE;
    case ROW_GRANTED:
        return granted ? record->granted_since : DAY_NONE;
    case ROW_NOTHING:
        break;
    }
    return DAY_NONE;
}

bool consent_allows(const struct consent_record *record, enum message_class message_class, enum regime regime,
                    bool has_basis, enum purpose purpose, uint32_t day) {
    uint32_t needs = consent_needs(record, message_class, regime, has_basis, purpose);
    return needs != DAY_NONE && needs < day;
}

// What the rules of change can produce; anything else was not written by them.
static bool record_valid(const struct consent_record *record) {
    if (record->state <= CONSENT_UNKNOWN || record->state >= CONSENT_STATES || record->since == DAY_NONE)
        return false;
    if (consent_state_leaves(record->state))
        return record->allowed_since == DAY_NONE && record->granted_since == DAY_NONE;
    if (record->allowed_since == DAY_NONE || record->allowed_since > record->since)
        return false;
    if (record->state == CONSENT_INFORMED)
        return record->granted_since == DAY_NONE;
    return record->granted_since >= record->allowed_since && record->granted_since <= record->since;
}

// The days that a state begins with.
static uint32_t plain_allowed(const struct consent_record *record) {
    return consent_state_leaves(record->state) ? DAY_NONE : record->since;
}

static uint32_t plain_granted(const struct consent_record *record) {
    return record->state == CONSENT_GRANTED ? record->since : DAY_NONE;
}

static bool days_plain(const struct consent_record *record) {
    return record->allowed_since == plain_allowed(record) && record->granted_since == plain_granted(record);
}

#define DAYS_FOLLOW 8u

// What follows the version; false where only damage explains it.
static bool read_record(struct reader *r, uint8_t version, struct consent_record *record) {
    uint8_t head = read_u8(r);
    size_t id_len = version == 1 ? 0 : head >> 4;
    bool days = version == 1 || (head & DAYS_FOLLOW) != 0;
    record->state = version == 1 ? head : head & (DAYS_FOLLOW - 1);
    record->since = read_u16(r);
    record->allowed_since = days ? read_u16(r) : plain_allowed(record);
    record->granted_since = days ? read_u16(r) : plain_granted(record);
    const uint8_t *id = id_len > sizeof record->change_id ? NULL : read_bytes(r, id_len);
    if (id == NULL || (id_len > 0 && id[0] == 0))
        return false;
    for (size_t i = 0; i < id_len; i++)
        record->change_id = record->change_id << 8 | id[i];
    return version == 1 || days != days_plain(record);
}

void consent_record_decode(const uint8_t *data, size_t len, struct consent_record *record) {
    CHECK(record != NULL);
    *record = (struct consent_record){0};
    struct reader r = reader_of(data, len);
    uint8_t version = read_u8(&r);
    bool good = (version == 1 || version == CONSENT_RECORD_VERSION) && read_record(&r, version, record);
    size_t notice_len = reader_left(&r);
    const uint8_t *notice = read_bytes(&r, notice_len);
    if (!good || r.bad || !record_valid(record) || !notice_bytes_valid(notice, notice_len)) {
        *record = (struct consent_record){.unreadable = true};
        return;
    }
    memcpy(record->notice, notice, notice_len);
}

size_t consent_record_encode(const struct consent_record *record, uint8_t out[CONSENT_RECORD_MAX]) {
    CHECK(!record->unreadable && record_valid(record) && notice_valid(record->notice));
    CHECK(record->since <= UINT16_MAX);
    struct writer w = writer_of(out, CONSENT_RECORD_MAX);
    uint8_t id[8];
    size_t zeros = 0;
    store_u64(id, record->change_id);
    while (zeros < sizeof id && id[zeros] == 0)
        zeros++;
    bool plain = days_plain(record);
    write_u8(&w, CONSENT_RECORD_VERSION);
    write_u8(&w, (uint8_t)((sizeof id - zeros) << 4 | (plain ? 0 : DAYS_FOLLOW) | record->state));
    write_u16(&w, (uint16_t)record->since);
    if (!plain) {
        write_u16(&w, (uint16_t)record->allowed_since);
        write_u16(&w, (uint16_t)record->granted_since);
    }
    write_bytes(&w, id + zeros, sizeof id - zeros);
    write_bytes(&w, record->notice, strlen(record->notice));
    CHECK(!w.bad);
    return (size_t)(w.at - out);
}

bool consent_joined(const char *joined, uint64_t epoch) {
    uint64_t after, up_to;
    int used = 0;
    CHECK(joined != NULL);
    while (sscanf(joined, "%15" SCNu64 "-%15" SCNu64 "%n", &after, &up_to, &used) == 2) {
        if (epoch > after && epoch <= up_to)
            return true;
        joined += used;
    }
    return false;
}

void consent_key(char key[CONSENT_KEY_SIZE], uint32_t partition, const char *name) {
    int len = snprintf(key, CONSENT_KEY_SIZE, "ov:{%" PRIu32 "}:%s", partition, name);
    CHECK(len > 0 && len < CONSENT_KEY_SIZE);
}

size_t consent_bucket_key(char key[CONSENT_KEY_SIZE], uint32_t partition, uint32_t tenant, unsigned bits,
                          uint64_t pseudonym) {
    CHECK(bits <= CONSENT_BITS_MAX);
    unsigned bucket = bits == 0 ? 0 : (unsigned)(pseudonym >> (64 - bits));
    size_t n = 4;
    memcpy(key, "ov:{", n);
    n += write_decimal(key + n, partition);
    memcpy(key + n, "}:c:", 4);
    n += 4;
    n += write_decimal(key + n, tenant);
    key[n++] = ':';
    n += write_hex(key + n, bucket);
    CHECK(n < CONSENT_KEY_SIZE);
    key[n] = '\0';
    return n;
}

size_t consent_bucket_field(uint8_t field[8], unsigned bits, uint64_t pseudonym) {
    CHECK(bits <= CONSENT_BITS_MAX);
    uint8_t bytes[8];
    size_t skip = bits / 8;
    store_u64(bytes, pseudonym);
    memcpy(field, bytes + skip, sizeof bytes - skip);
    return sizeof bytes - skip;
}

bool consent_field_pseudonym(const uint8_t *field, size_t len, unsigned bits, size_t bucket, uint64_t *pseudonym) {
    CHECK(bits <= CONSENT_BITS_MAX);
    if (len != 8 - bits / 8)
        return false;
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++)
        value = value << 8 | field[i];
    if (len < 8)
        value |= (uint64_t)(bucket >> bits % 8) << (8 * len);
    *pseudonym = value;
    return bits == 0 || value >> (64 - bits) == bucket;
}
