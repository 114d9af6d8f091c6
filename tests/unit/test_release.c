// Lines byte for byte, the grid, the threshold on the noisy number, the month's budget, and publishing.
#include "aggregator/release.h"

#include "common/files.h"
#include "tests/noise_vectors.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define DAY 20779 // 2026-11-22

static const uint8_t rules[2][RULES_HASH_SIZE] = {{0x0a, 0xff}, {0xb0}};

static struct settings settings_of(void) {
    return (struct settings){.epsilon = {1, 4}, .threshold = 40, .horizon_days = 1};
}

static struct tenant_version version_of(size_t n_streams) {
    struct tenant_version version = {.from_day = 20000, .inactive_days = 180, .n_streams = n_streams};
    for (size_t i = 0; i < n_streams; i++) {
        version.streams[i].number = (uint16_t)(3 + 5 * i);
        snprintf(version.streams[i].name, sizeof version.streams[i].name, i == 0 ? "receipts" : "stream-%zu", i);
    }
    return version;
}

static struct release_frame frame_of(enum release_kind kind, const struct settings *settings,
                                     const struct tenant_version *version) {
    return (struct release_frame){.tenant = 7,
                                  .kind = kind,
                                  .period_day = DAY,
                                  .complete = true,
                                  .settings = settings,
                                  .version = version,
                                  .n_rules = 1,
                                  .rules = rules};
}

// The second row of the reference's table has epsilon 1/4: its draws are known.
static const struct noise_vector *const quarter = &noise_vectors[1];

static char *line_with_known_noise(const struct release_frame *frame, uint64_t *counts, size_t n_cells) {
    struct noise_stream *stream;
    char *line = NULL;
    size_t len = 0;
    assert_int_equal(noise_stream_create_seeded(&stream, quarter->seed), 0);
    struct noise_source source = noise_stream_source(stream);
    assert_int_equal(release_line(frame, &source, counts, n_cells, &line, &len), 0);
    noise_stream_free(stream);
    assert_int_equal(strlen(line), len);
    for (size_t i = 0; i < n_cells; i++)
        assert_int_equal(counts[i], 0); // wiped
    return line;
}

#define RULES_0 "0aff000000000000000000000000000000000000000000000000000000000000"
#define RULES_1 "b000000000000000000000000000000000000000000000000000000000000000"

static void inactivity_line_byte_for_byte(void **state) {
    (void)state;
    struct settings settings = settings_of();
    struct release_frame frame = frame_of(RELEASE_INACTIVITY, &settings, NULL);
    assert_int_equal(day_parse("2026-11-01", &frame.period_day), 0);
    frame.rehearsal = true;
    frame.complete = false;
    frame.n_rules = 2;
    const int64_t *draws = quarter->draws;
    // Noisy numbers: 40 (the threshold is released), 39 (withheld), large, below zero or small, 39.
    uint64_t counts[INACTIVITY_CELLS] = {(uint64_t)(40 - draws[0]), (uint64_t)(39 - draws[1]), 5000000, 0,
                                         (uint64_t)(39 - draws[4])};
    char expected[600];
    snprintf(expected, sizeof expected,
             "{\"schema\":\"openveil.release.v1\",\"kind\":\"inactivity\",\"tenant\":7,\"period\":\"2026-11\","
             "\"complete\":false,\"rehearsal\":true,\"mechanism\":\"discrete-laplace\",\"epsilon\":\"1/4\","
             "\"threshold\":40,\"rules\":[\"" RULES_0 "\",\"" RULES_1 "\"],\"cells\":["
             "{\"days_since_open\":\"0-30\",\"contacts\":40},{\"days_since_open\":\"31-90\",\"contacts\":null},"
             "{\"days_since_open\":\"91-180\",\"contacts\":%lld},{\"days_since_open\":\"181-365\",\"contacts\":null},"
             "{\"days_since_open\":\"none-recorded\",\"contacts\":null}]}",
             5000000LL + draws[2]);
    char *line = line_with_known_noise(&frame, counts, INACTIVITY_CELLS);
    assert_string_equal(line, expected);
    free(line);
}

static void deliverability_line_begins_as_written(void **state) {
    (void)state;
    struct settings settings = settings_of();
    struct tenant_version version = version_of(1);
    struct release_frame frame = frame_of(RELEASE_DELIVERABILITY, &settings, &version);
    uint64_t counts[28] = {0};
    struct window_cell cell = {.stream = 3, .provider = 1, .fetch = FETCH_PERSON};
    counts[release_cell_index(&frame, &cell)] = (uint64_t)(1234 - quarter->draws[2]);
    char *line = line_with_known_noise(&frame, counts, 28);
    const char *expected =
        "{\"schema\":\"openveil.release.v1\",\"kind\":\"deliverability\",\"tenant\":7,\"period\":\"2026-11-22\","
        "\"complete\":true,\"rehearsal\":false,\"mechanism\":\"discrete-laplace\",\"epsilon\":\"1/4\",\"threshold\":40,"
        "\"rules\":[\"" RULES_0 "\"],\"cells\":["
        "{\"stream\":3,\"stream_name\":\"receipts\",\"provider\":\"other\",\"fetch\":\"person\",\"contacts\":null},"
        "{\"stream\":3,\"stream_name\":\"receipts\",\"provider\":\"other\",\"fetch\":\"machine\",\"contacts\":null},"
        "{\"stream\":3,\"stream_name\":\"receipts\",\"provider\":\"gmail\",\"fetch\":\"person\",\"contacts\":1234},"
        "{\"stream\":3,\"stream_name\":\"receipts\",\"provider\":\"gmail\",\"fetch\":\"machine\",\"contacts\":null},";
    assert_memory_equal(line, expected, strlen(expected));
    free(line);
}

static void cells_stand_in_the_order_of_their_index(void **state) {
    (void)state;
    struct settings settings = settings_of();
    settings.epsilon = (struct fraction){1, 1};
    settings.provider_names[20] = (char *)"hosteurope";
    settings.provider_names[255] = (char *)"last.one";
    struct tenant_version version = version_of(3);
    struct release_frame frame = frame_of(RELEASE_DELIVERABILITY, &settings, &version);
    size_t n_cells = 0;
    assert_int_equal(release_cell_count(&frame, &n_cells), 0);
    assert_int_equal(n_cells, 3 * 16 * 2);
    uint64_t counts[96];
    for (size_t i = 0; i < n_cells; i++)
        counts[i] = 1000 * (i + 1);
    char *line = line_with_known_noise(&frame, counts, n_cells);
    json_t *json = json_loads(line, 0, NULL);
    assert_non_null(json);
    json_t *cells = json_object_get(json, "cells");
    assert_int_equal(json_array_size(cells), n_cells);
    for (size_t i = 0; i < n_cells; i++) {
        json_t *cell = json_array_get(cells, i);
        const char *provider = json_string_value(json_object_get(cell, "provider"));
        struct window_cell window = {.stream = (uint16_t)json_integer_value(json_object_get(cell, "stream"))};
        for (unsigned p = 0; p < PROVIDERS_MAX; p++) {
            const char *name = p < PROVIDERS_BUILTIN ? provider_builtin_names[p] : settings.provider_names[p];
            if (name != NULL && strcmp(name, provider) == 0)
                window.provider = (uint8_t)p;
        }
        window.fetch = strcmp(json_string_value(json_object_get(cell, "fetch")), "machine") == 0;
        assert_int_equal(release_cell_index(&frame, &window), i);
        json_int_t contacts = json_integer_value(json_object_get(cell, "contacts"));
        assert_in_range(contacts, 1000 * (i + 1) - 100, 1000 * (i + 1) + 100);
    }
    json_decref(json);
    free(line);
    struct window_cell unknown_stream = {.stream = 4};
    assert_int_equal(release_cell_index(&frame, &unknown_stream), -1);
    struct window_cell unknown_provider = {.stream = 8, .provider = 21, .fetch = FETCH_MACHINE};
    struct window_cell other = {.stream = 8, .provider = PROVIDER_OTHER, .fetch = FETCH_MACHINE};
    assert_int_equal(release_cell_index(&frame, &unknown_provider), release_cell_index(&frame, &other));
}

static void the_largest_grid_fits_and_a_larger_one_is_refused(void **state) {
    (void)state;
    static char names[PROVIDERS_MAX][64];
    struct settings settings = settings_of();
    struct tenant_version version = version_of(32);
    for (size_t i = 0; i < 32; i++)
        memset(version.streams[i].name, 's', STREAM_NAME_MAX);
    for (unsigned p = PROVIDERS_BUILTIN; p < 64; p++) {
        memset(names[p], 'p', 63);
        settings.provider_names[p] = names[p];
    }
    struct release_frame frame = frame_of(RELEASE_DELIVERABILITY, &settings, &version);
    size_t n_cells;
    assert_int_equal(release_cell_count(&frame, &n_cells), 0);
    assert_int_equal(n_cells, RELEASE_CELLS_MAX);
    uint64_t *counts = calloc(n_cells, sizeof *counts);
    for (size_t i = 0; i < n_cells; i++)
        counts[i] = UINT32_MAX;
    char *line = line_with_known_noise(&frame, counts, n_cells);
    assert_true(strlen(line) < RECORD_VALUE_MAX - 64);
    free(line);
    free(counts);
    settings.provider_names[64] = (char *)"one-more";
    assert_int_equal(release_cell_count(&frame, &n_cells), ERR_LIMIT);
}

static int no_word(void *arg, uint64_t *word) {
    (void)word;
    ++*(unsigned *)arg;
    return ERR_LIMIT;
}

static void a_spent_budget_draws_nothing(void **state) {
    (void)state;
    unsigned asked = 0;
    struct noise_source none = {.word = no_word, .arg = &asked};
    struct settings settings = settings_of();
    struct release_frame frame = frame_of(RELEASE_INACTIVITY, &settings, NULL);
    uint64_t counts[INACTIVITY_CELLS] = {1000, 1000, 1000, 1000, 1000};
    char *line = NULL;
    size_t len;
    assert_int_equal(release_line(&frame, &none, counts, INACTIVITY_CELLS, &line, &len), ERR_LIMIT);
    assert_null(line);
    assert_int_equal(asked, 1);
    frame.budget_spent = true;
    frame.n_rules = 0;
    counts[0] = 1000;
    assert_int_equal(release_line(&frame, &none, counts, INACTIVITY_CELLS, &line, &len), 0);
    assert_int_equal(asked, 1);
    assert_int_equal(counts[0], 0);
    assert_string_equal(line,
                        "{\"schema\":\"openveil.release.v1\",\"kind\":\"inactivity\",\"tenant\":7,"
                        "\"period\":\"2026-11\","
                        "\"complete\":true,\"rehearsal\":false,\"mechanism\":\"discrete-laplace\",\"epsilon\":\"0/1\","
                        "\"threshold\":40,\"reason\":\"budget\",\"rules\":[],\"cells\":["
                        "{\"days_since_open\":\"0-30\",\"contacts\":null},"
                        "{\"days_since_open\":\"31-90\",\"contacts\":null},"
                        "{\"days_since_open\":\"91-180\",\"contacts\":null},"
                        "{\"days_since_open\":\"181-365\",\"contacts\":null},"
                        "{\"days_since_open\":\"none-recorded\",\"contacts\":null}]}");
    free(line);
}

static void smaller_cells_come_first(void **state) {
    (void)state;
    const struct window_cell ascending[] = {
        {.stream = 3, .provider = 1, .fetch = FETCH_PERSON},  {.stream = 3, .provider = 2, .fetch = FETCH_PERSON},
        {.stream = 9, .provider = 0, .fetch = FETCH_PERSON},  {.stream = 1, .provider = 5, .fetch = FETCH_MACHINE},
        {.stream = 3, .provider = 1, .fetch = FETCH_MACHINE},
    };
    for (size_t i = 0; i < ARRAY_LEN(ascending); i++)
        for (size_t j = 0; j < ARRAY_LEN(ascending); j++)
            assert_int_equal(window_cell_less(ascending[i], ascending[j]), i < j);
}

static void every_age_has_a_cell(void **state) {
    (void)state;
    const int cells[] = {0, 1, 1, 2, 2, 3, 3, 4};
    for (int age = AGE_0_30; age <= AGE_NONE; age++)
        assert_int_equal(inactivity_cell_of((enum frozen_age)age), cells[age]);
}

static void the_budget_is_exact(void **state) {
    (void)state;
    struct fraction spent[63];
    for (size_t i = 0; i < ARRAY_LEN(spent); i++)
        spent[i] = (struct fraction){1, 4};
    assert_true(release_budget_fits(NULL, 0, (struct fraction){1, 1}));
    assert_true(release_budget_fits(spent, 31, (struct fraction){1, 4}));
    assert_false(release_budget_fits(spent, 31, (struct fraction){1073741825, 4294967295u})); // 1/4 and 5.8e-11 over
    assert_false(release_budget_fits(spent, 32, (struct fraction){1, 4294967295u}));
    // Denominators without a common divisor: 7 + (p-1)/p leaves exactly 1/p.
    const uint32_t primes[] = {4294967291u, 4294967279u, 4294967231u, 4294967197u,
                               4294967189u, 4294967161u, 4294967143u};
    for (size_t i = 0; i < 7; i++)
        spent[i] = (struct fraction){primes[i] - 1, primes[i]};
    assert_true(release_budget_fits(spent, 7, (struct fraction){1, 1}));
    spent[7] = (struct fraction){4294967110u, 4294967111u};
    // eight times just under 1: room for about 8 / 2^32 is left, of which 7 / 2^32 fits and 9 / 2^32 does not
    assert_true(release_budget_fits(spent, 8, (struct fraction){7, 4294967295u}));
    assert_false(release_budget_fits(spent, 8, (struct fraction){9, 4294967295u}));
    for (size_t i = 0; i < ARRAY_LEN(spent); i++)
        spent[i] = (struct fraction){0, 1};
    assert_true(release_budget_fits(spent, 63, (struct fraction){1, 1}));
}

static void keys_and_files(void **state) {
    (void)state;
    char key[64], dir[] = "/tmp/openveil-release-XXXXXX", path[PATH_SIZE];
    release_key(UINT32_MAX, RELEASE_DELIVERABILITY, DAY, key);
    assert_string_equal(key, "4294967295/deliverability/2026-11-22");
    release_key(7, RELEASE_INACTIVITY, DAY, key);
    assert_string_equal(key, "7/inactivity/2026-11");
    assert_non_null(mkdtemp(dir));
    struct release_record release = {
        .tenant = 7, .kind = RELEASE_DELIVERABILITY, .period_day = DAY, .line = (const uint8_t *)"{}", .line_len = 2};
    struct err err = {""};
    assert_int_equal(release_publish(dir, &release, &err), 0);
    snprintf(path, sizeof path, "%s/7/deliverability-2026-11-22.json", dir);
    char *bytes;
    size_t len;
    assert_int_equal(file_read(path, 100, &bytes, &len, &err), 0);
    assert_string_equal(bytes, "{}\n");
    free(bytes);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(before.st_mode & 07777, 0644);
    assert_int_equal(release_publish(dir, &release, &err), 0);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino); // left alone
    release.line = (const uint8_t *)"[]";
    assert_int_equal(release_publish(dir, &release, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "drawn once"));
    assert_int_equal(file_read(path, 100, &bytes, &len, &err), 0);
    assert_string_equal(bytes, "{}\n");
    free(bytes);
    unlink(path);
    *strrchr(path, '/') = '\0';
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_mode & 07777, 0755);
    rmdir(path);
    assert_int_equal(rmdir(dir), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inactivity_line_byte_for_byte),
        cmocka_unit_test(deliverability_line_begins_as_written),
        cmocka_unit_test(cells_stand_in_the_order_of_their_index),
        cmocka_unit_test(the_largest_grid_fits_and_a_larger_one_is_refused),
        cmocka_unit_test(a_spent_budget_draws_nothing),
        cmocka_unit_test(smaller_cells_come_first),
        cmocka_unit_test(every_age_has_a_cell),
        cmocka_unit_test(the_budget_is_exact),
        cmocka_unit_test(keys_and_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
