// List cleaning's rules: who is 1, when the answers are given, and the list as it is read and written back.
#include "aggregator/clean.h"

#include "aggregator/clean_list.h"
#include "aggregator/clean_opens.h"
#include "common/token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define TENANT 7
static uint32_t day_of(const char *text) {
    uint32_t day = 0;
    assert_int_equal(day_parse(text, &day), 0);
    return day;
}
#define E_DAY day_of("2026-12-01")

static struct clean_terms terms_of(uint32_t n_days) {
    return (struct clean_terms){.tenant = TENANT,
                                .first_day = E_DAY,
                                .n_days = n_days,
                                .message_class = CLASS_REQUESTED,
                                .regime = REGIME_EXEMPTION,
                                .has_basis = true};
}

static uint8_t key[RECORD_KEY_MAX], value[65536];

static void give_open(struct clean_opens *opens, uint64_t pseudonym, uint32_t day, enum frozen_age age) {
    const struct last_open last_open = {.day = (uint16_t)day, .frozen_age = (uint8_t)age};
    assert_int_equal(clean_opens_take(opens, pseudonym, &last_open), 0);
}

static void give_day(struct state *state, uint32_t day, uint8_t flags) {
    struct day_record record = {.flags = flags};
    assert_int_equal(state_apply(state, key, key_day(key, day), value, day_encode(&record, value)), 0);
}

static void give_tenant(struct state *state, uint32_t first_measured, uint32_t measured_since) {
    struct tenant_record record = {.first_measured = first_measured, .measured_since = measured_since};
    assert_int_equal(state_apply(state, key, key_tenant(key, TENANT), value, tenant_encode(&record, value)), 0);
}

static void answered_on_the_first_ten_days(void **state) {
    (void)state;
    uint32_t first = 0, next = 0;
    assert_int_equal(clean_first_day(day_of("2026-12-01"), &first, &next), 0);
    assert_int_equal(first, E_DAY);
    assert_int_equal(clean_first_day(day_of("2026-12-10"), &first, &next), 0);
    assert_int_equal(first, E_DAY);
    assert_int_equal(clean_first_day(day_of("2026-12-11"), &first, &next), ERR_REFUSED);
    assert_int_equal(next, day_of("2027-01-01"));
    assert_int_equal(clean_first_day(day_of("2026-11-30"), &first, &next), ERR_REFUSED);
    assert_int_equal(next, E_DAY);
}

static void opens_of_the_n_days_and_no_others_count(void **state) {
    (void)state;
    const uint32_t n_days[] = {90, 180, 365};
    for (size_t i = 0; i < ARRAY_LEN(n_days); i++) {
        struct clean_terms terms = terms_of(n_days[i]);
        struct clean_opens *opens;
        assert_int_equal(clean_opens_create(&opens, &terms), 0);
        for (uint32_t back = 0; back <= 400; back++)
            give_open(opens, back, E_DAY - 1 - back, AGE_NONE);
        for (uint32_t back = 0; back <= 400; back++)
            assert_int_equal(clean_opens_has(opens, back), back < n_days[i]);
        assert_false(clean_opens_has(opens, 401));
        // Opens after E: what was frozen on its eve decides.
        for (int age = AGE_0_30; age <= AGE_NONE; age++) {
            give_open(opens, 500, E_DAY + 3, (enum frozen_age)age);
            bool opened = age <= (n_days[i] == 90 ? AGE_31_89 : n_days[i] == 180 ? AGE_91_179 : AGE_181_364);
            assert_int_equal(clean_opens_has(opens, 500), opened);
        }
        clean_opens_free(opens);
    }
    clean_opens_free(NULL);
}

static void the_newest_record_of_a_contact_counts(void **state) {
    (void)state;
    struct clean_terms terms = terms_of(90);
    struct clean_opens *opens;
    const uint64_t pseudonyms[] = {0, 1, UINT64_MAX};
    assert_int_equal(clean_opens_create(&opens, &terms), 0);
    for (size_t i = 0; i < ARRAY_LEN(pseudonyms); i++) {
        give_open(opens, pseudonyms[i], E_DAY - 200, AGE_NONE);
        assert_false(clean_opens_has(opens, pseudonyms[i]));
        give_open(opens, pseudonyms[i], E_DAY - 5, AGE_NONE);
        assert_true(clean_opens_has(opens, pseudonyms[i]));
        assert_int_equal(clean_opens_take(opens, pseudonyms[i], NULL), 0); // erased
        assert_false(clean_opens_has(opens, pseudonyms[i]));
    }
    clean_opens_free(opens);
}

// Against an array, while the set grows and shrinks; few pseudonyms, so that probing meets what was erased.
static void a_set_of_many_opens(void **state) {
    (void)state;
    struct clean_terms terms = terms_of(90);
    struct clean_opens *opens;
    static bool expected[20000];
    uint64_t random = 1;
    assert_int_equal(clean_opens_create(&opens, &terms), 0);
    for (size_t round = 0; round < 400000; round++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint64_t pseudonym = (random >> 33) % ARRAY_LEN(expected);
        bool there = (random >> 13 & 7) < (round < 300000 ? 6 : 1);
        const struct last_open last_open = {.day = (uint16_t)(E_DAY - 5), .frozen_age = AGE_NONE};
        assert_int_equal(clean_opens_take(opens, pseudonym << 40, there ? &last_open : NULL), 0);
        expected[pseudonym] = there;
    }
    for (uint64_t i = 0; i < ARRAY_LEN(expected); i++)
        assert_int_equal(clean_opens_has(opens, i << 40), expected[i]);
    clean_opens_free(opens);
}

static void measured_long_and_completely_enough(void **state) {
    (void)state;
    struct clean_terms terms = terms_of(180);
    struct state *clean;
    struct err err;
    assert_int_equal(state_create(&clean, 1000000), 0);
    assert_int_equal(clean_check(&terms, clean, &err), ERR_REFUSED); // nothing there
    give_tenant(clean, E_DAY - 179, DAY_NONE);
    assert_int_equal(clean_check(&terms, clean, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "measured only since 2026-06-05"));
    give_tenant(clean, E_DAY - 180, DAY_NONE);
    assert_int_equal(clean_check(&terms, clean, &err), ERR_AGAIN);
    assert_non_null(strstr(err.text, "2026-11-30"));
    give_day(clean, E_DAY - 1, DAY_GIVEN_UP); // settled, but neither it nor the others are complete
    assert_int_equal(clean_check(&terms, clean, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "only 0 of the 180 days"));
    // 171 of 180 are 95 %.
    for (uint32_t back = 2; back <= 171; back++)
        give_day(clean, E_DAY - back, DAY_COMPLETE);
    give_day(clean, E_DAY - 181, DAY_COMPLETE); // outside
    give_day(clean, E_DAY, DAY_COMPLETE);
    assert_int_equal(clean_check(&terms, clean, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "only 170 of the 180 days"));
    give_day(clean, E_DAY - 172, DAY_COMPLETE | DAY_GIVEN_UP);
    assert_int_equal(clean_check(&terms, clean, &err), 0);
    state_free(clean);
}

static void declared_days_count_as_complete(void **state) {
    (void)state;
    struct clean_terms terms = terms_of(90);
    struct state *clean;
    struct err err;
    assert_int_equal(state_create(&clean, 1000000), 0);
    give_tenant(clean, E_DAY - 10, E_DAY - 89);
    give_day(clean, E_DAY - 1, DAY_COMPLETE);
    assert_int_equal(clean_check(&terms, clean, &err), ERR_REFUSED); // declared one day too late
    give_tenant(clean, E_DAY - 10, E_DAY - 90);
    for (uint32_t back = 1; back <= 5; back++)
        give_day(clean, E_DAY - back, DAY_COMPLETE);
    assert_int_equal(clean_check(&terms, clean, &err), ERR_REFUSED); // 80 declared + 5
    assert_non_null(strstr(err.text, "only 85 of the 90 days"));
    give_day(clean, E_DAY - 6, DAY_COMPLETE);
    assert_int_equal(clean_check(&terms, clean, &err), 0);
    give_tenant(clean, E_DAY, E_DAY - 90); // measured here from E on: the eve is declared too
    give_day(clean, E_DAY - 1, 0);
    assert_int_equal(clean_check(&terms, clean, &err), 0);
    state_free(clean);
}

static void only_the_whole_time_allowed_is_measured(void **state) {
    (void)state;
    struct clean_terms terms = terms_of(90);
    struct consent_record record = {.state = CONSENT_INFORMED, .since = E_DAY - 91, .allowed_since = E_DAY - 91};
    assert_true(clean_measured(&terms, &record));
    record.allowed_since = E_DAY - 90; // not earlier than the first of the days
    assert_false(clean_measured(&terms, &record));
    record = (struct consent_record){
        .state = CONSENT_GRANTED, .since = E_DAY + 1, .allowed_since = E_DAY - 300, .granted_since = E_DAY + 1};
    assert_true(clean_measured(&terms, &record));
    terms.regime = REGIME_CONSENT; // needs granted for as long
    assert_false(clean_measured(&terms, &record));
    record.granted_since = E_DAY - 91;
    assert_true(clean_measured(&terms, &record));
    terms.has_basis = false;
    assert_true(clean_measured(&terms, &record));
    terms.regime = REGIME_EXEMPTION;
    assert_false(clean_measured(&terms, &record));
    terms = terms_of(90);
    const uint8_t denying[] = {CONSENT_UNKNOWN, CONSENT_REFUSED, CONSENT_WITHDRAWN, CONSENT_OBJECTED};
    for (size_t i = 0; i < ARRAY_LEN(denying); i++) {
        record = (struct consent_record){.state = denying[i], .since = E_DAY + 2};
        assert_false(clean_measured(&terms, &record));
    }
    record = (struct consent_record){.state = CONSENT_INFORMED, .since = 1, .allowed_since = 1};
    terms.message_class = CLASS_PROSPECTING; // informed is not enough there
    assert_false(clean_measured(&terms, &record));
}

static void a_basis_must_hold_all_the_time(void **state) {
    (void)state;
    struct tenant_version versions[] = {
        {.from_day = 100, .exemption_basis = NULL},
        {.from_day = 200, .exemption_basis = (char *)"a"},
        {.from_day = 300, .exemption_basis = (char *)"b"},
        {.from_day = 400, .exemption_basis = NULL},
    };
    struct tenant tenant = {.id = TENANT, .n_versions = ARRAY_LEN(versions), .versions = versions};
    assert_true(clean_has_basis(&tenant, 200, 399));
    assert_false(clean_has_basis(&tenant, 199, 399));
    assert_false(clean_has_basis(&tenant, 200, 400));
    assert_true(clean_has_basis(&tenant, 350, 350));
    assert_false(clean_has_basis(&tenant, 450, 500));
    assert_false(clean_has_basis(&tenant, 10, 50)); // before the tenant's time
    tenant.versions++;
    tenant.n_versions = 2;
    assert_true(clean_has_basis(&tenant, 50, 500)); // the days before its first version say nothing
}

// ---- the list ------------------------------------------------------------------------------------------------------
static int add(struct clean_list *list, const char *text, struct err *err) {
    return clean_list_add(list, text, strlen(text), err);
}

static int print_line(void *arg, const char *field, size_t len, bool inactive, struct err *err) {
    (void)err;
    fprintf(arg, "%.*s=%d\n", (int)len, field, inactive);
    return 0;
}

static char *printed(struct clean_list *list) {
    struct err err;
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_int_equal(clean_list_each(list, print_line, out, &err), 0);
    fclose(out);
    return text;
}

static void lists_come_back_in_order(void **state) {
    (void)state;
    struct clean_list *list;
    struct err err;
    uint8_t secret[KEY_SIZE], master[KEY_SIZE];
    for (size_t i = 0; i < KEY_SIZE; i++)
        master[i] = (uint8_t)(0x20 + i);
    contact_key_derive(master, TENANT, secret);
    struct hmac_key contact_key;
    hmac_key_init(&contact_key, secret, sizeof secret);
    assert_int_equal(clean_list_create(&list, &contact_key, TENANT), 0);
    assert_int_equal(add(list, "contact-1", &err), 0);
    assert_int_equal(add(list, "zo\xc3\xa9@exemple.fr\t4", &err), 0);
    assert_int_equal(add(list, "contact-1\t5", &err), 0);
    assert_int_equal(add(list, "with space \t0000000012", &err), 0);
    assert_int_equal(clean_list_count(list), 4);
    const struct clean_asked *asked;
    size_t n;
    assert_int_equal(clean_list_slice(list, &asked, &n, &err), 1);
    assert_int_equal(n, 3); // too few mails were delivered to the second
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(asked[i].pseudonym == 0xd1c0605349147485u, asked[i].line != 3); // FORMATS 2
        assert_int_not_equal(asked[i].line, 1);
    }
    assert_int_equal(clean_list_slice(list, &asked, &n, &err), 0);
    clean_list_set(list, 2);
    clean_list_set(list, 2);
    assert_int_equal(clean_list_ones(list), 1);
    assert_false(clean_list_share_above(list, 25));
    assert_true(clean_list_share_above(list, 24));
    char *text = printed(list);
    assert_string_equal(text, "contact-1=0\nzo\xc3\xa9@exemple.fr=0\ncontact-1=1\nwith space =0\n");
    free(text);
    clean_list_free(list);
}

static void bad_lines_are_named(void **state) {
    (void)state;
    struct clean_list *list;
    struct err err;
    struct hmac_key contact_key;
    hmac_key_init(&contact_key, "k", 1);
    static const char *const bad[] = {"",           "\t7",     "a\t",  "a\tx",          "a\t-1", "a\t1\t2",
                                      "a\t5\r",     "a\r",     "\xff", "a\t12345678901", "a\t 5"};
    assert_int_equal(clean_list_create(&list, &contact_key, TENANT), 0);
    assert_int_equal(add(list, "fine", &err), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(add(list, bad[i], &err), ERR_INVALID);
        assert_non_null(strstr(err.text, "line 2: "));
    }
    char longest[CONTACT_ID_MAX + 2];
    memset(longest, 'x', sizeof longest);
    assert_int_equal(clean_list_add(list, longest, CONTACT_ID_MAX + 1, &err), ERR_INVALID);
    assert_int_equal(clean_list_add(list, longest, CONTACT_ID_MAX, &err), 0);
    assert_int_equal(clean_list_count(list), 2);
    clean_list_free(list);
    assert_int_equal(clean_list_create(&list, NULL, TENANT), 0);
    assert_int_equal(add(list, "d1c0605349147485\t9", &err), 0);
    static const char *const bad_hex[] = {"d1c060534914748", "d1c06053491474855", "d1c060534914748g", "contact-1"};
    for (size_t i = 0; i < ARRAY_LEN(bad_hex); i++)
        assert_int_equal(add(list, bad_hex[i], &err), ERR_INVALID);
    clean_list_free(list);
    clean_list_free(NULL);
}

// More than memory holds: temporary files, slices, and every line once, with its own pseudonym and its own answer.
static void long_lists_go_through_files(void **state) {
    (void)state;
    const uint32_t n_lines = 2500000;
    struct clean_list *list;
    struct err err;
    const struct clean_asked *asked;
    size_t n, seen = 0, slices = 0;
    char text[32];
    assert_int_equal(clean_list_create(&list, NULL, TENANT), 0);
    for (uint32_t i = 0; i < n_lines; i++) {
        uint64_t pseudonym = i < 1500000 ? i * 0x9e3779b97f4a7c15u : i % 3; // one run longer than a slice
        snprintf(text, sizeof text, "%016llx", (unsigned long long)pseudonym);
        assert_int_equal(clean_list_add(list, text, 16, &err), 0);
    }
    while (clean_list_slice(list, &asked, &n, &err) == 1) {
        assert_in_range(n, 1, CLEAN_SLICE_MAX);
        for (size_t i = 0; i < n; i++) {
            uint32_t line = asked[i].line;
            uint64_t pseudonym = line < 1500000 ? line * 0x9e3779b97f4a7c15u : line % 3;
            if (asked[i].pseudonym != pseudonym || (i > 0 && asked[i - 1].pseudonym > asked[i].pseudonym))
                fail();
            if (line % 7 == 3)
                clean_list_set(list, line);
        }
        seen += n;
        slices++;
    }
    assert_int_equal(seen, n_lines);
    assert_in_range(slices, 3, 6);
    assert_int_equal(clean_list_ones(list), (n_lines + 3) / 7);
    char *all = printed(list), *at = all;
    for (uint32_t i = 0; i < n_lines; i++, at += 19) {
        uint64_t pseudonym = i < 1500000 ? i * 0x9e3779b97f4a7c15u : i % 3;
        snprintf(text, sizeof text, "%016llx=%d\n", (unsigned long long)pseudonym, i % 7 == 3);
        if (strncmp(at, text, 19) != 0)
            fail();
    }
    assert_int_equal(*at, '\0');
    free(all);
    clean_list_free(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answered_on_the_first_ten_days),
        cmocka_unit_test(opens_of_the_n_days_and_no_others_count),
        cmocka_unit_test(the_newest_record_of_a_contact_counts),
        cmocka_unit_test(a_set_of_many_opens),
        cmocka_unit_test(measured_long_and_completely_enough),
        cmocka_unit_test(declared_days_count_as_complete),
        cmocka_unit_test(only_the_whole_time_allowed_is_measured),
        cmocka_unit_test(a_basis_must_hold_all_the_time),
        cmocka_unit_test(lists_come_back_in_order),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(long_lists_go_through_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
