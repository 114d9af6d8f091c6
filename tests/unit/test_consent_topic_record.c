#include "common/consent_topic_record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define TODAY 20779 // 2026-11-22

static int parse(const char *text, struct consent_topic_record *record, char *reason) {
    // On the heap and to the byte, so that reading beyond it is noticed.
    size_t len = strlen(text);
    char *copy = malloc(len + 1);
    assert_non_null(copy);
    memcpy(copy, text, len);
    char *exact = realloc(copy, len == 0 ? 1 : len);
    int rc = consent_topic_record_parse(exact, len, TODAY, record, reason);
    free(exact);
    return rc;
}

#define HEAD "{\"tenant\":4294967295,\"pseudonym\":\"d1c0605349147485\",\"state\":\"granted\",\"since\":\"2026-11-22\","

static void a_whole_record(void **state) {
    struct consent_topic_record record;
    char reason[CONSENT_TOPIC_REASON_SIZE];
    (void)state;
    assert_int_equal(parse(HEAD "\"notice\":\"v1\"}", &record, reason), 0);
    assert_int_equal(record.change.tenant, UINT32_MAX);
    assert_true(record.change.pseudonym == 0xd1c0605349147485);
    assert_int_equal(record.change.state, CONSENT_GRANTED);
    assert_int_equal(record.change.since, TODAY);
    assert_string_equal(record.change.notice, "v1");
    assert_false(record.change.has_change_id);
    assert_string_equal(record.contact, "");
    assert_int_equal(parse("{\"tenant\":7,\"contact\":\"zo\\u00e9@exemple.fr\",\"state\":\"objected\",\"since\":\"2026-11-23\"}",
                           &record, reason), 0);
    assert_string_equal(record.contact, "zoé@exemple.fr");
    assert_string_equal(record.change.notice, "-");
}

static void change_ids_of_64_bits(void **state) {
    const struct {
        const char *id;
        bool good;
        uint64_t value;
    } ids[] = {
        {"0", true, 0},
        {"\t12 ", true, 12},
        {"9223372036854775808", true, 1ull << 63},
        {"18446744073709551615", true, UINT64_MAX},
        {"\"18446744073709551615\"", true, UINT64_MAX},
        {"18446744073709551616", false, 0},
        {"99999999999999999999999", false, 0},
        {"-1", false, 0},
        {"1.0", false, 0},
        {"1e3", false, 0},
        {"007", false, 0},
        {"\"\"", false, 0},
        {"null", false, 0},
        {"true", false, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        struct consent_topic_record record;
        char text[400], reason[CONSENT_TOPIC_REASON_SIZE];
        snprintf(text, sizeof text, HEAD "\"notice\":\"v1\",\"change_id\" : %s}", ids[i].id);
        assert_int_equal(parse(text, &record, reason), ids[i].good ? 0 : ERR_INVALID);
        if (ids[i].good)
            assert_true(record.change.has_change_id && record.change.change_id == ids[i].value);
        else
            assert_non_null(strstr(reason, "change_id"));
        snprintf(text, sizeof text, "{\"change_id\":%s,%s\"notice\":\"v1\"}", ids[i].id, &HEAD[1]);
        assert_int_equal(parse(text, &record, reason), ids[i].good ? 0 : ERR_INVALID);
    }
}

static void a_notice_that_looks_like_a_key(void **state) {
    struct consent_topic_record record;
    char reason[CONSENT_TOPIC_REASON_SIZE];
    (void)state;
    assert_int_equal(parse(HEAD "\"notice\":\"\\\"change_id\\\":1\"}", &record, reason), 0);
    assert_string_equal(record.change.notice, "\"change_id\":1");
    assert_false(record.change.has_change_id);
}

// Cut anywhere and changed anywhere it is a record or it is not, and the reason holds nothing of it.
static void cut_and_changed(void **state) {
    const char whole[] = "{\"tenant\":7,\"contact\":\"secret@example.org\",\"state\":\"granted\",\"since\":\"2026-11-22\","
                         "\"notice\":\"v1\",\"change_id\":18446744073709551615}";
    (void)state;
    for (size_t i = 0; i < sizeof whole - 1; i++) {
        struct consent_topic_record record;
        char text[sizeof whole], reason[CONSENT_TOPIC_REASON_SIZE] = "";
        memcpy(text, whole, sizeof whole);
        text[i] = '\0';
        assert_int_equal(parse(text, &record, reason), ERR_INVALID);
        assert_null(strstr(reason, "secret"));
        for (int c = 1; c < 256; c++) {
            memcpy(text, whole, sizeof whole);
            text[i] = (char)c;
            reason[0] = '\0';
            if (parse(text, &record, reason) != 0)
                assert_true(reason[0] != '\0' && strstr(reason, "secret") == NULL);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_record),
        cmocka_unit_test(change_ids_of_64_bits),
        cmocka_unit_test(a_notice_that_looks_like_a_key),
        cmocka_unit_test(cut_and_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
