// Released lines are read back as they were published; anything else in their place is named.
#include "aggregator/release_files.h"

#include "common/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define TENANT 7
#define NOVEMBER 20758 // 2026-11-01
static char dir[] = "/tmp/openveil-lines-XXXXXX";

static void publish(enum release_kind kind, uint32_t period_day, bool budget_spent) {
    struct settings settings = {.epsilon = {1, 4}, .threshold = 40};
    struct tenant_version version = {.n_streams = 1, .streams = {{.number = 3, .name = "receipts"}}};
    struct release_frame frame = {.tenant = TENANT,
                                  .kind = kind,
                                  .period_day = period_day,
                                  .complete = true,
                                  .budget_spent = budget_spent,
                                  .settings = &settings,
                                  .version = &version};
    uint64_t counts[28] = {100};
    size_t n_cells, len;
    struct noise_stream *stream;
    char *line;
    struct err err;
    assert_int_equal(release_cell_count(&frame, &n_cells), 0);
    assert_int_equal(noise_stream_create(&stream), 0);
    struct noise_source source = noise_stream_source(stream);
    assert_int_equal(release_line(&frame, &source, counts, n_cells, &line, &len), 0);
    noise_stream_free(stream);
    struct release_record record = {
        .tenant = TENANT, .kind = (uint8_t)kind, .period_day = period_day, .line = (uint8_t *)line, .line_len = len};
    assert_int_equal(release_publish(dir, &record, &err), 0);
    free(line);
}

static void write_file(const char *name, const char *text) {
    char path[PATH_SIZE];
    struct err err;
    snprintf(path, sizeof path, "%s/%d/%s", dir, TENANT, name);
    assert_int_equal(file_replace(path, 0644, text, strlen(text), &err), 0);
}

static void remove_file(const char *name) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%d/%s", dir, TENANT, name);
    assert_int_equal(unlink(path), 0);
}

static void lines_come_back_in_order(void **state) {
    (void)state;
    struct release_files files;
    struct err err;
    assert_int_equal(release_files_load(&files, dir, TENANT, 0, &err), 0);
    assert_int_equal(files.n, 0); // no directory
    publish(RELEASE_DELIVERABILITY, NOVEMBER + 29, false);
    publish(RELEASE_INACTIVITY, NOVEMBER, false);
    publish(RELEASE_DELIVERABILITY, NOVEMBER, true);
    publish(RELEASE_DELIVERABILITY, NOVEMBER - 1, false);
    write_file("deliverability-2026-11-02.json.tmp.12", "{}");
    write_file("deliverability-2026-11.json", "{}");
    write_file("inactivity-2026-11-01.json", "{}");
    write_file("deliverability-2026-02-30.json", "{}");
    write_file("other-2026-11-01.json", "{}");
    assert_int_equal(release_files_load(&files, dir, TENANT, 0, &err), 0);
    assert_int_equal(files.n, 4);
    const uint32_t days[] = {NOVEMBER - 1, NOVEMBER, NOVEMBER, NOVEMBER + 29};
    const enum release_kind kinds[] = {RELEASE_DELIVERABILITY, RELEASE_DELIVERABILITY, RELEASE_INACTIVITY,
                                       RELEASE_DELIVERABILITY};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(files.files[i].period_day, days[i]);
        assert_int_equal(files.files[i].kind, kinds[i]);
        assert_true(files.files[i].complete);
        assert_int_equal(files.files[i].budget_spent, i == 1);
        assert_int_equal(files.files[i].epsilon.numerator, i == 1 ? 0 : 1);
        assert_int_equal(files.files[i].epsilon.denominator, i == 1 ? 1 : 4);
        assert_int_equal(files.files[i].threshold, 40);
        assert_int_equal(strncmp(files.files[i].line, "{\"schema\":\"openveil.release.v1\"", 31), 0);
        assert_int_equal(files.files[i].line[strlen(files.files[i].line) - 1], '}');
    }
    assert_string_equal(files.files[2].period, "2026-11");
    release_files_free(&files);
    assert_int_equal(release_files_load(&files, dir, TENANT, RELEASE_INACTIVITY, &err), 0);
    assert_int_equal(files.n, 1);
    release_files_free(&files);
}

static void one_line_is_found(void **state) {
    (void)state;
    struct release_file file;
    struct err err;
    assert_int_equal(release_file_find(&file, dir, TENANT, RELEASE_DELIVERABILITY, NOVEMBER + 29, &err), 0);
    assert_int_equal(file.epsilon.denominator, 4);
    assert_string_equal(file.period, "2026-11-30");
    assert_int_equal(strncmp(file.line, "{\"schema\":", 10), 0);
    release_file_free(&file);
    assert_int_equal(release_file_find(&file, dir, TENANT, RELEASE_INACTIVITY, NOVEMBER, &err), 0);
    release_file_free(&file);
    assert_int_equal(release_file_find(&file, dir, TENANT, RELEASE_DELIVERABILITY, NOVEMBER + 28, &err), ERR_NOT_FOUND);
    assert_int_equal(release_file_find(&file, dir, TENANT + 1, RELEASE_DELIVERABILITY, NOVEMBER, &err), ERR_NOT_FOUND);
    // Another tenant's line, put there by somebody.
    write_file("deliverability-2026-11-29.json",
               "{\"schema\":\"openveil.release.v1\",\"kind\":\"deliverability\",\"tenant\":8,\"period\":\"2026-11-29\","
               "\"complete\":true,\"epsilon\":\"1/4\",\"threshold\":40,\"cells\":[]}");
    assert_int_equal(release_file_find(&file, dir, TENANT, RELEASE_DELIVERABILITY, NOVEMBER + 28, &err), ERR_CORRUPT);
    assert_null(file.line);
    remove_file("deliverability-2026-11-29.json");
}

static void what_is_no_line_is_named(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        // The period of another day.
        "{\"schema\":\"openveil.release.v1\",\"kind\":\"deliverability\",\"tenant\":7,\"period\":\"2026-11-04\","
        "\"complete\":true,\"epsilon\":\"1/4\",\"threshold\":40,\"cells\":[]}",
        "{\"schema\":\"openveil.release.v1\",\"kind\":\"deliverability\",\"tenant\":7,\"period\":\"2026-11-03\","
        "\"complete\":true,\"epsilon\":\"2/8\",\"threshold\":40,\"cells\":[]}",
        "{\"schema\":\"openveil.release.v2\",\"kind\":\"deliverability\",\"tenant\":7,\"period\":\"2026-11-03\","
        "\"complete\":true,\"epsilon\":\"1/4\",\"threshold\":40,\"cells\":[]}",
        "{\"schema\":\"openveil.release.v1\",\"kind\":\"deliverability\",\"tenant\":7,\"period\":\"2026-11-03\","
        "\"complete\":true,\"epsilon\":\"1/4\",\"threshold\":40,\"cells\":{}}",
    };
    struct release_files files;
    struct err err;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        write_file("deliverability-2026-11-03.json", bad[i]);
        assert_int_equal(release_files_load(&files, dir, TENANT, 0, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.text, "deliverability-2026-11-03.json"));
        assert_int_equal(files.n, 0);
    }
    remove_file("deliverability-2026-11-03.json");
    assert_int_equal(release_kind_parse("inactivity"), RELEASE_INACTIVITY);
    assert_int_equal(release_kind_parse("inactivit"), -1);
    static const char *const left[] = {
        "deliverability-2026-11-02.json.tmp.12", "deliverability-2026-11.json", "inactivity-2026-11-01.json",
        "deliverability-2026-02-30.json",        "other-2026-11-01.json",       "deliverability-2026-11-30.json",
        "deliverability-2026-11-01.json",        "inactivity-2026-11.json",     "deliverability-2026-10-31.json"};
    for (size_t i = 0; i < ARRAY_LEN(left); i++)
        remove_file(left[i]);
}

static int set_up(void **state) {
    (void)state;
    return mkdtemp(dir) == NULL;
}

static int tear_down(void **state) {
    char path[PATH_SIZE];
    (void)state;
    snprintf(path, sizeof path, "%s/%d", dir, TENANT);
    rmdir(path);
    return rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_come_back_in_order),
        cmocka_unit_test(one_line_is_found),
        cmocka_unit_test(what_is_no_line_is_named),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
