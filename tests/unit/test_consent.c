// The decision of FORMATS 4 against a table written out by hand, the record codec, and the bucket keys.
#include "common/consent.h"

#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// FORMATS 4, word for word: by class and by column, what may be counted. D deliverability, I inactivity.
struct cell {
    bool deliverability;
    bool inactivity;
};
static const struct cell informed_regime_0[4] = {
    [CLASS_TRANSACTIONAL] = {true, true}, [CLASS_REQUESTED] = {false, true}, [CLASS_PROSPECTING] = {false, false}};
static const struct cell granted_regime_0_or_1[4] = {
    [CLASS_TRANSACTIONAL] = {true, true}, [CLASS_REQUESTED] = {false, true}, [CLASS_PROSPECTING] = {false, true}};

// The expectation, by the table's columns instead of by the code's rows. `needed` tells which day the row looks at.
static bool expected(uint8_t state, int message_class, int regime, bool has_basis, int purpose, const uint32_t **needed,
                     const uint32_t *allowed_since, const uint32_t *granted_since) {
    const struct cell *column = NULL;
    if (regime == 0 && !has_basis)
        return false;
    if (state == CONSENT_INFORMED && regime == 0)
        column = informed_regime_0;
    if (state == CONSENT_GRANTED && (regime == 0 || regime == 1))
        column = granted_regime_0_or_1;
    if (column == NULL)
        return false;
    // The exemption holds while informed or granted; consent, and prospecting always, only since granted.
    *needed = regime == 0 && message_class != CLASS_PROSPECTING ? allowed_since : granted_since;
    return purpose == PURPOSE_DELIVERABILITY ? column[message_class].deliverability : column[message_class].inactivity;
}

static unsigned check_days(const struct consent_record *record, int message_class, int regime, bool has_basis,
                           int purpose) {
    const uint32_t *needed = NULL;
    bool row = expected(record->state, message_class, regime, has_basis, purpose, &needed, &record->allowed_since,
                        &record->granted_since);
    row = row && !record->unreadable && *needed != DAY_NONE;
    uint32_t needs = consent_needs(record, (enum message_class)message_class, (enum regime)regime, has_basis,
                                   (enum purpose)purpose);
    assert_int_equal(needs, row ? *needed : DAY_NONE);
    unsigned allowed = 0;
    for (uint32_t day = 95; day <= 112; day++) {
        bool allows = consent_allows(record, (enum message_class)message_class, (enum regime)regime, has_basis,
                                     (enum purpose)purpose, day);
        assert_int_equal(allows, row && day > *needed);
        allowed += allows;
    }
    return allowed;
}

static void every_combination(void **unused) {
    (void)unused;
    const uint32_t days[] = {DAY_NONE, 100, 105, 110};
    unsigned allowed = 0;
    for (unsigned i = 0; i < CONSENT_STATES * 2 * 2 * 3 * 3 * 2 * 16; i++) {
        unsigned rest = i;
        struct consent_record record = {.state = (uint8_t)(rest % CONSENT_STATES), .since = 110, .notice = "v1"};
        rest /= CONSENT_STATES;
        record.unreadable = rest % 2;
        rest /= 2;
        bool has_basis = rest % 2;
        rest /= 2;
        int message_class = CLASS_TRANSACTIONAL + (int)(rest % 3);
        rest /= 3;
        int regime = (int)(rest % 3);
        rest /= 3;
        int purpose = (int)(rest % 2);
        rest /= 2;
        record.allowed_since = days[rest % 4];
        record.granted_since = days[rest / 4];
        allowed += check_days(&record, message_class, regime, has_basis, purpose);
    }
    assert_true(allowed > 0);
}

static void unknown_numbers_deny(void **unused) {
    (void)unused;
    struct consent_record record = {.state = CONSENT_GRANTED, .since = 5, .allowed_since = 5, .granted_since = 5};
    assert_true(consent_allows(&record, CLASS_TRANSACTIONAL, REGIME_CONSENT, false, PURPOSE_INACTIVITY, 6));
    for (int message_class = 0; message_class < 16; message_class++) {
        for (int regime = 0; regime < 16; regime++) {
            bool known = message_class >= 1 && message_class <= 3 && regime <= 1;
            assert_int_equal(consent_allows(&record, (enum message_class)message_class, (enum regime)regime, true,
                                            PURPOSE_INACTIVITY, 6),
                             known);
        }
    }
}

static void names_and_notices(void **unused) {
    (void)unused;
    for (int state = 1; state < CONSENT_STATES; state++)
        assert_int_equal(consent_state_parse(consent_state_names[state]), state);
    assert_int_equal(consent_state_parse("unknown"), -1);
    assert_int_equal(consent_state_parse("Granted"), -1);
    assert_int_equal(consent_state_parse(""), -1);
    assert_false(consent_state_leaves(CONSENT_UNKNOWN));
    assert_false(consent_state_leaves(CONSENT_INFORMED));
    assert_false(consent_state_leaves(CONSENT_GRANTED));
    assert_true(consent_state_leaves(CONSENT_REFUSED));
    assert_true(consent_state_leaves(CONSENT_WITHDRAWN));
    assert_true(consent_state_leaves(CONSENT_OBJECTED));
    assert_true(notice_valid("-"));
    assert_true(notice_valid("12345678901234567890123456789012"));
    assert_false(notice_valid("123456789012345678901234567890123"));
    assert_false(notice_valid(""));
    assert_false(notice_valid("v\t1"));
    assert_false(notice_valid("v\x7f"));
    assert_false(notice_valid("\xc3\xa9"));
}

static bool same(const struct consent_record *a, const struct consent_record *b) {
    return a->state == b->state && a->unreadable == b->unreadable && a->since == b->since &&
           a->allowed_since == b->allowed_since && a->granted_since == b->granted_since &&
           a->change_id == b->change_id &&
           strcmp(a->notice, b->notice) == 0;
}

static void records_go_there_and_back(void **unused) {
    (void)unused;
    const struct consent_record good[] = {
        {.state = CONSENT_INFORMED, .since = 20000, .allowed_since = 19000, .notice = "2026-04 fr"},
        {.state = CONSENT_INFORMED, .since = 20000, .allowed_since = 20000, .change_id = 1, .notice = "2026-04 fr"},
        {.state = CONSENT_GRANTED, .since = 65535, .allowed_since = 1, .granted_since = 2, .change_id = 255,
         .notice = "v"},
        {.state = CONSENT_GRANTED, .since = 7, .allowed_since = 7, .granted_since = 7, .change_id = 256,
         .notice = "abcdefghijklmnopqrstuvwxyz012345"},
        {.state = CONSENT_GRANTED, .since = 7, .allowed_since = 6, .granted_since = 7, .change_id = UINT64_MAX,
         .notice = "abcdefghijklmnopqrstuvwxyz012345"},
        {.state = CONSENT_REFUSED, .since = 1, .change_id = 1ull << 63, .notice = "-"},
        {.state = CONSENT_WITHDRAWN, .since = 2, .change_id = 0xffffffff, .notice = "-"},
        {.state = CONSENT_OBJECTED, .since = 3, .notice = "-"},
    };
    // The days of a state's beginning cost nothing, and an id as many bytes as it needs.
    const size_t lens[] = {8, 5, 9, 6, 16, 12, 8, 4};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint8_t bytes[CONSENT_RECORD_MAX];
        struct consent_record back;
        size_t len = consent_record_encode(&good[i], bytes);
        assert_int_equal(len, lens[i] + strlen(good[i].notice));
        consent_record_decode(bytes, len, &back);
        assert_true(same(&good[i], &back));
        for (size_t cut = 0; cut <= lens[i]; cut++) {
            consent_record_decode(bytes, cut, &back);
            assert_true(back.unreadable);
        }
    }
    const uint8_t known[] = {1, 2, 0x51, 0x2b, 0x51, 0x2a, 0x51, 0x2b, 'v', '1'};
    struct consent_record record;
    consent_record_decode(known, sizeof known, &record);
    assert_true(same(&record, &(struct consent_record){.state = CONSENT_GRANTED, .since = 20779, .allowed_since = 20778,
                                                       .granted_since = 20779, .notice = "v1"}));
    const uint8_t second[] = {2, 0x2a, 0x51, 0x2b, 0x51, 0x2a, 0x51, 0x2b, 0x01, 0x02, 'v', '1'};
    consent_record_decode(second, sizeof second, &record);
    assert_true(same(&record, &(struct consent_record){.state = CONSENT_GRANTED, .since = 20779, .allowed_since = 20778,
                                                       .granted_since = 20779, .change_id = 0x102, .notice = "v1"}));
}

static void joined_ranges(void **unused) {
    (void)unused;
    const char *ranges = "0-5 90-1000000 2000000-2000001";
    const uint64_t in[] = {1, 5, 91, 1000000, 2000001}, out[] = {0, 6, 90, 1000001, 2000000, 2000002, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(in); i++)
        assert_true(consent_joined(ranges, in[i]));
    for (size_t i = 0; i < ARRAY_LEN(out); i++)
        assert_false(consent_joined(ranges, out[i]));
    assert_false(consent_joined("", 1));
    assert_false(consent_joined("x 0-5", 1));
    assert_false(consent_joined("0", 1));
}

// Each byte of a good record replaced by each value: what still decodes must encode to the same bytes, and what does
// not must deny.
static void damaged_records_never_lie(void **unused) {
    (void)unused;
    const uint8_t good[] = {2, 0x2a, 0, 9, 0, 5, 0, 7, 1, 2, 'v', '1'};
    unsigned unreadable = 0;
    for (size_t at = 1; at < sizeof good; at++) {
        for (unsigned value = 0; value < 256; value++) {
            uint8_t bytes[sizeof good], again[CONSENT_RECORD_MAX];
            memcpy(bytes, good, sizeof good);
            bytes[at] = (uint8_t)value;
            struct consent_record record;
            consent_record_decode(bytes, sizeof bytes, &record);
            if (record.unreadable) {
                unreadable++;
                assert_false(consent_allows(&record, CLASS_TRANSACTIONAL, REGIME_CONSENT, true, PURPOSE_INACTIVITY,
                                            UINT32_MAX));
                continue;
            }
            assert_int_equal(consent_record_encode(&record, again), sizeof bytes);
            assert_memory_equal(again, bytes, sizeof bytes);
        }
    }
    assert_true(unreadable > 255);
    struct consent_record record;
    for (unsigned version = 3; version < 257; version++) {
        uint8_t bytes[sizeof good];
        memcpy(bytes, good, sizeof good);
        bytes[0] = (uint8_t)version;
        consent_record_decode(bytes, sizeof bytes, &record);
        assert_true(record.unreadable);
    }
    uint8_t long_one[10 + NOTICE_MAX + 1];
    memset(long_one, 'n', sizeof long_one);
    memcpy(long_one, good, 10);
    consent_record_decode(long_one, sizeof long_one - 1, &record);
    assert_false(record.unreadable);
    consent_record_decode(long_one, sizeof long_one, &record);
    assert_true(record.unreadable);
}

static void buckets(void **unused) {
    (void)unused;
    const uint64_t pseudonym = 0xd1c0605349147485;
    const struct {
        unsigned bits;
        const char *key;
        size_t field_len;
    } cases[] = {{0, "ov:{3}:c:4294967295:0", 8},      {1, "ov:{3}:c:4294967295:1", 8},
                 {7, "ov:{3}:c:4294967295:68", 8},     {8, "ov:{3}:c:4294967295:d1", 7},
                 {15, "ov:{3}:c:4294967295:68e0", 7},  {16, "ov:{3}:c:4294967295:d1c0", 6},
                 {28, "ov:{3}:c:4294967295:d1c0605", 5}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char key[CONSENT_KEY_SIZE];
        uint8_t field[8];
        static const uint8_t bytes[8] = {0xd1, 0xc0, 0x60, 0x53, 0x49, 0x14, 0x74, 0x85};
        assert_int_equal(consent_bucket_key(key, 3, UINT32_MAX, cases[i].bits, pseudonym), strlen(cases[i].key));
        assert_string_equal(key, cases[i].key);
        assert_int_equal(consent_bucket_field(field, cases[i].bits, pseudonym), cases[i].field_len);
        assert_memory_equal(field, bytes + 8 - cases[i].field_len, cases[i].field_len);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_combination),         cmocka_unit_test(unknown_numbers_deny),
        cmocka_unit_test(names_and_notices),         cmocka_unit_test(records_go_there_and_back),
        cmocka_unit_test(damaged_records_never_lie), cmocka_unit_test(buckets),
        cmocka_unit_test(joined_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
