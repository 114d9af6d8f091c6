// Notices: their stored form, and that a state allows no more than its notice names.
#include "common/consent_notice.h"

#include "common/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define HEX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static int parse(const char *version, const char *value, struct consent_notice *notice) {
    return consent_notice_parse(version, strlen(version), value, strlen(value), notice);
}

static void values_go_there_and_back(void **unused) {
    (void)unused;
    struct consent_notice notice;
    char value[NOTICE_VALUE_SIZE];
    assert_int_equal(parse("v 1", "2 de-AT 20000 " HEX, &notice), 0);
    assert_string_equal(notice.version, "v 1");
    assert_int_equal(notice.purposes, 1u << PURPOSE_INACTIVITY);
    assert_string_equal(notice.language, "de-AT");
    assert_int_equal(notice.from, 20000);
    consent_notice_value(&notice, value);
    assert_string_equal(value, "2 de-AT 20000 " HEX);
}

static void damaged_values_are_refused(void **unused) {
    (void)unused;
    static const char *const bad[] = {"",
                                      "0 fr 20000 " HEX,
                                      "4 fr 20000 " HEX,
                                      "11 fr 20000 " HEX,
                                      "3 f_r 20000 " HEX,
                                      "3 fr 65536 " HEX,
                                      "3 fr 200000 " HEX,
                                      "3 fr 20000 " HEX "0",
                                      "3 fr 20000 0" HEX,
                                      "3 fr 20000 zz",
                                      "3 fr 20000",
                                      "3 fr 20000 " HEX " "};
    struct consent_notice notice;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (parse("v1", bad[i], &notice) != ERR_CORRUPT)
            fail_msg("%s", bad[i]);
    }
    assert_int_equal(parse("", "3 fr 20000 " HEX, &notice), ERR_CORRUPT);
    assert_int_equal(consent_notice_parse("a\0b", 3, "3 fr 20000 " HEX, 75, &notice), ERR_CORRUPT);
}

static bool allows(const struct consent_record *record, enum purpose purpose) {
    return consent_allows(record, CLASS_TRANSACTIONAL, REGIME_CONSENT, false, purpose, 20002);
}

static void a_state_allows_what_its_notice_names(void **unused) {
    (void)unused;
    struct consent_notice notices[2] = {{.version = "both", .purposes = PURPOSES_ALL},
                                        {.version = "lists", .purposes = 1u << PURPOSE_INACTIVITY}};
    static const struct {
        const char *notice;
        bool deliverability, inactivity;
    } rows[] = {{"both", true, true}, {"lists", false, true}, {"list", false, false}, {"-", false, false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct consent_record record = {.state = CONSENT_GRANTED, .since = 20001, .allowed_since = 20001,
                                        .granted_since = 20001};
        snprintf(record.notice, sizeof record.notice, "%s", rows[i].notice);
        consent_notices_apply(notices, 0, &record);
        assert_true(allows(&record, PURPOSE_DELIVERABILITY) && allows(&record, PURPOSE_INACTIVITY));
        consent_notices_apply(notices, 2, &record);
        assert_int_equal(allows(&record, PURPOSE_DELIVERABILITY), rows[i].deliverability);
        assert_int_equal(allows(&record, PURPOSE_INACTIVITY), rows[i].inactivity);
    }
}

static void purposes_and_languages(void **unused) {
    (void)unused;
    uint8_t purposes;
    for (uint8_t i = 1; i <= PURPOSES_ALL; i++) {
        assert_int_equal(purposes_parse(purposes_text(i), &purposes), 0);
        assert_int_equal(purposes, i);
    }
    assert_int_equal(purposes_parse("inactivity,deliverability", &purposes), 0);
    assert_int_equal(purposes, PURPOSES_ALL);
    assert_int_equal(purposes_parse("", &purposes), ERR_INVALID);
    assert_int_equal(purposes_parse("inactivity,", &purposes), ERR_INVALID);
    assert_true(language_valid("fr") && language_valid("zh-Hant-TW"));
    assert_false(language_valid("") || language_valid("f r") || language_valid("aaaaaaaaaabbbbbbbbbbccccccccccdddddd"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_go_there_and_back),
        cmocka_unit_test(damaged_values_are_refused),
        cmocka_unit_test(a_state_allows_what_its_notice_names),
        cmocka_unit_test(purposes_and_languages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
