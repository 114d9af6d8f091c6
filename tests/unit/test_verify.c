// Lines as the aggregator writes them keep every promise; a line that breaks one is caught at that one.
#include "aggregator/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define NOVEMBER 20758 // 2026-11-01
#define TENANT 7

static struct tenant_version versions[] = {
    {.from_day = NOVEMBER - 40, .inactive_days = 180, .n_streams = 1, .streams = {{3, "receipts"}}},
    {.from_day = NOVEMBER + 1, .inactive_days = 180, .n_streams = 2, .streams = {{3, "receipts"}, {9, "orders"}}},
};
static const struct tenant tenant = {.id = TENANT, .n_versions = 2, .versions = versions};
static char proximus[] = "proximus";
static struct settings settings[] = {
    {.from_day = NOVEMBER - 50, .epsilon = {1, 4}, .threshold = 40, .horizon_days = 1},
    {.from_day = NOVEMBER + 2, .epsilon = {1, 2}, .threshold = 40, .horizon_days = 1, .provider_names = {[20] = proximus}},
};
static struct verify_terms terms = {.tenant = &tenant, .today = NOVEMBER + 40};

struct file {
    char name[VERIFY_FILE_SIZE];
    char *data;
    size_t len;
};

static struct file file_of(enum release_kind kind, uint32_t period_day, bool withheld) {
    uint8_t rules[2][RULES_HASH_SIZE] = {{1}, {2}};
    uint64_t counts[2 * 15 * 2] = {1000};
    char period[DAY_TEXT_SIZE], *line;
    struct file file;
    size_t n_cells;
    struct release_frame frame = {.tenant = TENANT,
                                  .kind = kind,
                                  .period_day = period_day,
                                  .complete = true,
                                  .rehearsal = terms.rehearsal,
                                  .budget_spent = withheld,
                                  .settings = &settings[period_day >= settings[1].from_day],
                                  .version = tenant_version_on(&tenant, period_day),
                                  .n_rules = 2,
                                  .rules = (const uint8_t(*)[RULES_HASH_SIZE])rules};
    struct noise_stream *stream;
    assert_int_equal(release_cell_count(&frame, &n_cells), 0);
    assert_int_equal(noise_stream_create(&stream), 0);
    struct noise_source source = noise_stream_source(stream);
    assert_int_equal(release_line(&frame, &source, counts, n_cells, &line, &file.len), 0);
    noise_stream_free(stream);
    release_period_format(kind, period_day, period);
    snprintf(file.name, sizeof file.name, "%s-%s.json", release_kind_names[kind], period);
    file.data = realloc(line, file.len + 1);
    assert_non_null(file.data);
    file.data[file.len++] = '\n';
    return file;
}

static struct verify *begin(void) {
    struct verify *verify;
    assert_int_equal(verify_create(&verify, &terms), 0);
    return verify;
}

static void give(struct verify *verify, struct file file) {
    assert_int_equal(verify_file(verify, file.name, file.data, file.len), 0);
    free(file.data);
}

// The promises that are broken, as letters in the order of enum verify_promise: "a" is VERIFY_FILES.
static const char *broken(const struct verify *verify) {
    static char text[VERIFY_PROMISES + 1];
    size_t n = 0;
    for (enum verify_promise promise = 0; promise < VERIFY_PROMISES; promise++)
        if (verify_broken(verify, promise) > 0)
            text[n++] = (char)('a' + promise);
    text[n] = '\0';
    return text;
}

static const char *only(enum verify_promise promise) {
    static char text[2];
    text[0] = (char)('a' + promise);
    return text;
}

static void what_the_aggregator_writes_is_kept(void **state) {
    (void)state;
    struct verify *verify = begin();
    for (uint32_t day = NOVEMBER - 5; day < NOVEMBER + 10; day++)
        give(verify, file_of(RELEASE_DELIVERABILITY, day, day == NOVEMBER + 7));
    give(verify, file_of(RELEASE_INACTIVITY, NOVEMBER, false));
    give(verify, file_of(RELEASE_INACTIVITY, NOVEMBER - 31, false));
    verify_end(verify);
    assert_string_equal(broken(verify), "");
    assert_int_equal(verify_lines(verify), 17);
    assert_true(verify_promise_checked(verify, VERIFY_BUDGET));
    assert_false(verify_promise_checked(verify, VERIFY_COMMITTED));
    verify_free(verify);
    verify = begin();
    verify_end(verify);
    assert_string_equal(broken(verify), "");
    verify_free(verify);
}

// `from` in the line of the period's first day becomes `to`.
static struct verify *changed(enum release_kind kind, const char *from, const char *to) {
    struct file file = file_of(kind, NOVEMBER, false);
    file.data = realloc(file.data, file.len + 1);
    file.data[file.len] = '\0';
    const char *at = strstr(file.data, from);
    assert_non_null(at);
    size_t before = (size_t)(at - file.data), len = file.len - strlen(from) + strlen(to);
    char *data = malloc(len + 1);
    assert_non_null(data);
    memcpy(data, file.data, before);
    memcpy(data + before, to, strlen(to));
    memcpy(data + before + strlen(to), at + strlen(from), file.len - before - strlen(from));
    free(file.data);
    file.data = data;
    file.len = len;
    struct verify *verify = begin();
    give(verify, file);
    verify_end(verify);
    return verify;
}

static void a_broken_line_is_caught(void **state) {
    (void)state;
    static const struct {
        const char *from, *to;
        enum verify_promise promise;
    } cases[] = {
        {"}\n", "}", VERIFY_ONCE},
        {"}\n", "}\n\n", VERIFY_ONCE},
        {"{\"schema\"", "[\"schema\"", VERIFY_MEMBERS},
        {"\"schema\":\"openveil.release.v1\",", "", VERIFY_MEMBERS},
        {"release.v1", "release.v2", VERIFY_MEMBERS},
        {"\"complete\":true", "\"complete\":1", VERIFY_MEMBERS},
        {"\"complete\":true", "\"complete\":true,\"opens\":9", VERIFY_MEMBERS},
        {"\"complete\":true", "\"complete\":true,\"complete\":true", VERIFY_MEMBERS},
        {"\"fetch\":\"machine\"", "\"fetch\":\"machine\",\"hour\":9", VERIFY_MEMBERS},
        {"\"contacts\":null", "\"contacts\":\"few\"", VERIFY_MEMBERS},
        {"\"contacts\":null", "\"contacts\":-3", VERIFY_MEMBERS},
        {"\"contacts\":null", "\"contacts\":41.5", VERIFY_MEMBERS},
        {"\"tenant\":7", "\"tenant\":8", VERIFY_NAMED},
        {"\"kind\":\"deliverability\"", "\"kind\":\"inactivity\"", VERIFY_NAMED},
        {"\"period\":\"2026-11-01\"", "\"period\":\"2026-11-02\"", VERIFY_NAMED},
        {"\"stream\":3", "\"stream\":4", VERIFY_GRID},
        {"\"receipts\"", "\"campaign\"", VERIFY_GRID},
        {"\"gmail\"", "\"outlook\"", VERIFY_GRID},
        {"\"fetch\":\"machine\"", "\"fetch\":\"person\"", VERIFY_GRID},
        {",{\"stream\":3,\"stream_name\":\"receipts\",\"provider\":\"proton\",\"fetch\":\"machine\",\"contacts\":null}", "",
         VERIFY_GRID},
        {"discrete-laplace", "gauss", VERIFY_NOISE},
        {"\"1/4\"", "\"2/8\"", VERIFY_NOISE},
        {"\"1/4\"", "\"5/4\"", VERIFY_NOISE},
        {"\"1/4\"", "\"0/1\"", VERIFY_NOISE},
        {"\"1/4\"", "\"0.25\"", VERIFY_NOISE},
        {"\"threshold\":40,", "\"threshold\":40,\"reason\":\"budget\",", VERIFY_BUDGET},
        {"\"epsilon\":\"1/4\",\"threshold\":40,", "\"epsilon\":\"0/1\",\"threshold\":40,\"reason\":\"budget\",", VERIFY_BUDGET},
        {"\"contacts\":null", "\"contacts\":39", VERIFY_THRESHOLD},
        {"\"contacts\":null", "\"contacts\":0", VERIFY_THRESHOLD},
        {"\"threshold\":40", "\"threshold\":10", VERIFY_THRESHOLD},
        {"\"rules\":[\"01", "\"rules\":[\"02", VERIFY_RULES},
        {"\"rules\":[\"01", "\"rules\":[\"03", VERIFY_RULES},
        {"\"rules\":[\"01", "\"rules\":[\"1", VERIFY_RULES},
        {"\"rules\":[\"01", "\"rules\":[7,\"01", VERIFY_RULES},
        {"\"rules\":[\"01", "\"rules\":[\"0A", VERIFY_RULES},
        {"\"rehearsal\":false", "\"rehearsal\":true", VERIFY_MODE},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct verify *verify = changed(RELEASE_DELIVERABILITY, cases[i].from, cases[i].to);
        if (strcmp(broken(verify), only(cases[i].promise)) != 0)
            fail_msg("\"%s\" for \"%s\" breaks %s", cases[i].to, cases[i].from, broken(verify));
        assert_string_equal(verify_finding(verify, cases[i].promise, 0)->file, "deliverability-2026-11-01.json");
        assert_true(strlen(verify_finding(verify, cases[i].promise, 0)->why) > 10);
        verify_free(verify);
    }
    struct verify *verify = changed(RELEASE_INACTIVITY, "31-90", "31-91");
    assert_string_equal(broken(verify), only(VERIFY_GRID));
    verify_free(verify);
    verify = changed(RELEASE_INACTIVITY, "{\"days_since_open\":\"0-30\"", "{\"stream\":3,\"days_since_open\":\"0-30\"");
    assert_string_equal(broken(verify), only(VERIFY_MEMBERS));
    verify_free(verify);
}

// Every byte of a line may be anything: something is said, and nothing breaks.
static void any_bytes_are_safe(void **state) {
    (void)state;
    struct file good = file_of(RELEASE_DELIVERABILITY, NOVEMBER, false);
    struct verify *verify = begin();
    for (size_t at = 0; at < good.len; at++) {
        char kept = good.data[at];
        good.data[at] = (char)(kept ^ (1 << at % 8));
        assert_int_equal(verify_file(verify, good.name, good.data, good.len), 0);
        good.data[at] = kept;
        if (at < 600)
            assert_int_equal(verify_file(verify, good.name, good.data, at), 0);
    }
    assert_true(verify_broken(verify, VERIFY_MEMBERS) > 600);
    assert_non_null(verify_finding(verify, VERIFY_MEMBERS, VERIFY_KEPT_MAX - 1));
    assert_null(verify_finding(verify, VERIFY_MEMBERS, VERIFY_KEPT_MAX));
    verify_free(verify);
    free(good.data);
}

static void strays_gaps_and_early_lines_are_caught(void **state) {
    (void)state;
    struct verify *verify = begin();
    static const char *const strays[] = {"contacts.csv", "deliverability-2026-11-31.json", "deliverability-2026-11.json",
                                         "inactivity-2026-11-01.json", "x\n\xff", ""};
    for (size_t i = 0; i < ARRAY_LEN(strays); i++)
        assert_int_equal(verify_file(verify, strays[i], "", 0), 0);
    verify_unreadable(verify, "deliverability-2026-11-02.json", "cannot be read");
    verify_end(verify);
    assert_string_equal(broken(verify), only(VERIFY_FILES));
    assert_int_equal(verify_broken(verify, VERIFY_FILES), ARRAY_LEN(strays) + 1);
    assert_string_equal(verify_finding(verify, VERIFY_FILES, 4)->file, "x??");
    assert_int_equal(verify_lines(verify), 0);
    verify_free(verify);

    verify = begin();
    give(verify, file_of(RELEASE_DELIVERABILITY, NOVEMBER + 5, false));
    give(verify, file_of(RELEASE_DELIVERABILITY, NOVEMBER + 2, false));
    give(verify, file_of(RELEASE_DELIVERABILITY, NOVEMBER + 3, false));
    give(verify, file_of(RELEASE_INACTIVITY, NOVEMBER, false));
    verify_end(verify);
    assert_string_equal(broken(verify), only(VERIFY_GAPLESS));
    assert_int_equal(verify_broken(verify, VERIFY_GAPLESS), 1);
    assert_string_equal(verify_finding(verify, VERIFY_GAPLESS, 0)->file, "deliverability-2026-11-05.json");
    verify_free(verify);

    terms.today = NOVEMBER + 29; // November is not over
    verify = begin();
    give(verify, file_of(RELEASE_INACTIVITY, NOVEMBER, false));
    give(verify, file_of(RELEASE_DELIVERABILITY, NOVEMBER + 28, false));
    verify_end(verify);
    assert_string_equal(broken(verify), only(VERIFY_OVER));
    assert_int_equal(verify_broken(verify, VERIFY_OVER), 1);
    verify_free(verify);
    terms.today = NOVEMBER + 40;
}

// 31 days at 1/4 are 7 3/4; one more line of the month is 8, and nothing fits after that.
static void a_month_spends_8_at_most(void **state) {
    (void)state;
    struct settings kept = settings[1];
    settings[1] = settings[0];
    settings[1].from_day = NOVEMBER + 1000;
    for (int more = 0; more < 2; more++) {
        struct verify *verify = begin();
        if (more == 1)
            settings[0].epsilon = (struct fraction){1000001, 4000000};
        give(verify, file_of(RELEASE_INACTIVITY, NOVEMBER - 31, false));
        settings[0].epsilon = (struct fraction){1, 4};
        for (uint32_t day = NOVEMBER - 31; day <= NOVEMBER; day++)
            give(verify, file_of(RELEASE_DELIVERABILITY, day, false));
        verify_end(verify);
        assert_string_equal(broken(verify), more == 1 ? only(VERIFY_BUDGET) : "");
        if (more == 1)
            assert_string_equal(verify_finding(verify, VERIFY_BUDGET, 0)->file, "2026-10");
        verify_free(verify);
    }
    settings[1] = kept;
}

static void commit(struct verify_committed *committed, const struct file *file, enum release_kind kind, uint32_t day) {
    *committed = (struct verify_committed){.kind = kind, .period_day = day};
    committed->spent = settings[day >= settings[1].from_day].epsilon;
    sha256(file->data, file->len - 1, committed->hash);
}

static void the_ledger_and_the_files_agree(void **state) {
    (void)state;
    struct verify_committed committed[4];
    struct file files[4];
    for (uint32_t i = 0; i < 4; i++) {
        files[i] = file_of(RELEASE_DELIVERABILITY, NOVEMBER + i, false);
        commit(&committed[i], &files[i], RELEASE_DELIVERABILITY, NOVEMBER + i);
    }
    terms.has_ledger = true;
    terms.n_settings = 2;
    terms.settings = settings;
    terms.committed = committed;
    for (int turn = 0; turn < 6; turn++) {
        const struct verify_committed good = committed[2];
        static const size_t times[] = {0, 1, 1, 1, 1, 0};
        terms.n_committed = turn == 1 ? 3 : 4; // 1: the last was never committed
        if (turn == 2)
            committed[2].hash[31] ^= 1;
        if (turn == 3)
            committed[2].spent = (struct fraction){1, 3};
        if (turn == 5)
            settings[1].threshold = 41;
        for (size_t i = 0; i < 4; i++)
            committed[i].published = false;
        struct verify *verify = begin();
        for (size_t i = 0; i < 4; i++)
            if (turn != 4 || i != 3) // 4: the last is not published
                assert_int_equal(verify_file(verify, files[i].name, files[i].data, files[i].len), 0);
        verify_end(verify);
        assert_int_equal(verify_broken(verify, VERIFY_COMMITTED), times[turn]);
        assert_int_equal(verify_broken(verify, VERIFY_SETTINGS), turn == 5 ? 2 : 0);
        verify_free(verify);
        committed[2] = good;
        settings[1].threshold = 40;
    }
    settings[1].provider_names[20] = NULL;
    struct verify *verify = begin();
    assert_int_equal(verify_file(verify, files[2].name, files[2].data, files[2].len), 0);
    assert_true(verify_broken(verify, VERIFY_SETTINGS) > 0); // a provider too many
    verify_free(verify);
    settings[1].provider_names[20] = proximus;
    for (size_t i = 0; i < 4; i++)
        free(files[i].data);
    terms = (struct verify_terms){.tenant = &tenant, .today = NOVEMBER + 40};
}

static void lines_before_the_tenant_are_caught(void **state) {
    (void)state;
    struct file file = file_of(RELEASE_DELIVERABILITY, NOVEMBER - 40, false);
    struct verify *verify = begin();
    versions[0].from_day++;
    assert_int_equal(verify_file(verify, file.name, file.data, file.len), 0);
    versions[0].from_day--;
    assert_true(verify_broken(verify, VERIFY_OVER) == 1 && verify_broken(verify, VERIFY_GRID) == 1);
    verify_free(verify);
    free(file.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_aggregator_writes_is_kept),
        cmocka_unit_test(a_broken_line_is_caught),
        cmocka_unit_test(any_bytes_are_safe),
        cmocka_unit_test(strays_gaps_and_early_lines_are_caught),
        cmocka_unit_test(a_month_spends_8_at_most),
        cmocka_unit_test(the_ledger_and_the_files_agree),
        cmocka_unit_test(lines_before_the_tenant_are_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
