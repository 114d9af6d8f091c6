// Tenants' files: what is stored comes back, what breaks a rule is refused, and changes are noticed.
#include "common/tenant.h"

#include "common/clock.h"
#include "common/files.h"
#include "common/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

static char dir[] = "/tmp/openveil-tenants-XXXXXX";

static int set_up(void **state) {
    (void)state;
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static uint32_t day_of(const char *text) {
    uint32_t day;
    assert_int_equal(day_parse(text, &day), 0);
    return day;
}

static void two_versions(struct tenant *tenant, struct tenant_version versions[2]) {
    static char basis[] = "délibération 2026-042";
    memset(versions, 0, 2 * sizeof *versions);
    versions[0] = (struct tenant_version){
        .from_day = day_of("2026-06-21"), .inactive_days = 180, .n_streams = 1, .streams = {{3, "receipts"}}};
    versions[1] = (struct tenant_version){.from_day = day_of("2026-07-19"),
                                          .inactive_days = 90,
                                          .exemption_basis = basis,
                                          .n_streams = 2,
                                          .streams = {{0, "a"}, {65535, "news.letter-1_x"}}};
    *tenant = (struct tenant){.id = 7, .n_versions = 2, .versions = versions};
}

static void a_tenant_comes_back(void **state) {
    (void)state;
    struct tenant tenant, back;
    struct tenant_version versions[2];
    struct err err;
    two_versions(&tenant, versions);
    assert_int_equal(tenant_load(&back, dir, 7, &err), ERR_NOT_FOUND);
    assert_int_equal(tenant_store(&tenant, dir, true, &err), 0);
    assert_int_equal(tenant_store(&tenant, dir, true, &err), ERR_EXISTS);
    assert_int_equal(tenant_store(&tenant, dir, false, &err), 0);
    assert_int_equal(tenant_load(&back, dir, 7, &err), 0);
    assert_int_equal(back.id, 7);
    assert_int_equal(back.n_versions, 2);
    assert_int_equal(tenant_first_day(&back), day_of("2026-06-21"));
    assert_null(tenant_version_on(&back, day_of("2026-06-20")));
    const struct tenant_version *version = tenant_version_on(&back, day_of("2026-07-18"));
    assert_int_equal(version->inactive_days, 180);
    assert_null(version->exemption_basis);
    assert_string_equal(tenant_stream(version, 3)->name, "receipts");
    assert_null(tenant_stream(version, 0));
    version = tenant_version_on(&back, day_of("2036-07-19"));
    assert_int_equal(version->inactive_days, 90);
    assert_string_equal(version->exemption_basis, "délibération 2026-042");
    assert_int_equal(tenant_stream(version, 65535)->number, 65535);
    tenant_free(&back);
}

static void the_table_finds_all(void **state) {
    (void)state;
    struct tenant tenant;
    struct tenant_version versions[2];
    struct tenant_table *table;
    struct err err;
    const uint32_t ids[] = {7, 4294967295, 0, 12, 100};
    two_versions(&tenant, versions);
    assert_int_equal(tenant_table_load(&table, "/tmp/openveil-there-is-no-such-directory", &err), 0);
    assert_int_equal(tenant_table_count(table), 0);
    tenant_table_free(table);
    for (size_t i = 0; i < 5; i++) {
        tenant.id = ids[i];
        assert_int_equal(tenant_store(&tenant, dir, true, &err), 0);
    }
    assert_int_equal(tenant_table_load(&table, dir, &err), 0);
    assert_int_equal(tenant_table_count(table), 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(tenant_table_find(table, ids[i])->id, ids[i]);
    for (size_t i = 1; i < 5; i++)
        assert_true(tenant_table_at(table, i - 1)->id < tenant_table_at(table, i)->id);
    assert_null(tenant_table_find(table, 8));
    assert_null(tenant_table_find(table, 4294967294));
    tenant_table_free(table);
    char path[PATH_SIZE];
    const char *bad[] = {"07.json", "x.json", "4294967296.json", "-1.json"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(path_join(path, dir, bad[i], &err), 0);
        assert_int_equal(file_create(path, 0644, "{}", 2, &err), 0);
        assert_int_equal(tenant_table_load(&table, dir, &err), ERR_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
        assert_int_equal(unlink(path), 0);
    }
}

#define GOOD "{\"from\":\"2026-06-21\",\"inactive_days\":180,\"streams\":[{\"number\":3,\"name\":\"r\"}]}"
static void other_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int rc;
    } cases[] = {
        {"{\"tenant\":7,\"versions\":[" GOOD "]}", 0},
        {"{\"tenant\":7,\"versions\":[" GOOD "],\"open_rates\":true}", ERR_INVALID},
        {"{\"tenant\":8,\"versions\":[" GOOD "]}", ERR_INVALID},
        {"{\"tenant\":7,\"tenant\":7,\"versions\":[" GOOD "]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[" GOOD "," GOOD "]}", ERR_INVALID},
        {"{\"tenant\":7}", ERR_INVALID},
        {"[]", ERR_INVALID},
        {"{", ERR_INVALID},
        {"", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-21\",\"inactive_days\":180,\"streams\":[]}]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-31\",\"inactive_days\":180,\"streams\":[{\"number\":3,"
         "\"name\":\"r\"}]}]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-21\",\"inactive_days\":100,\"streams\":[{\"number\":3,"
         "\"name\":\"r\"}]}]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-21\",\"inactive_days\":180,\"streams\":[{\"number\":65536,"
         "\"name\":\"r\"}]}]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-21\",\"inactive_days\":180,\"streams\":[{\"number\":3,"
         "\"name\":\"a b\"}]}]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-21\",\"inactive_days\":180,\"streams\":[{\"number\":3,"
         "\"name\":\"r\"},{\"number\":3,\"name\":\"s\"}]}]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-21\",\"inactive_days\":180,\"exemption_basis\":\"\","
         "\"streams\":[{\"number\":3,\"name\":\"r\"}]}]}", ERR_INVALID},
        {"{\"tenant\":7,\"versions\":[{\"from\":\"2026-06-21\",\"inactive_days\":180,\"exemption_basis\":null,"
         "\"streams\":[{\"number\":3,\"name\":\"r\"}]}]}", ERR_INVALID},
    };
    char path[PATH_SIZE];
    assert_int_equal(path_join(path, dir, "7.json", NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tenant tenant;
        struct tenant_table *table;
        struct err err;
        assert_int_equal(file_replace(path, 0644, cases[i].text, strlen(cases[i].text), NULL), 0);
        assert_int_equal(tenant_load(&tenant, dir, 7, &err), cases[i].rc);
        if (cases[i].rc == 0)
            tenant_free(&tenant);
        else
            assert_non_null(strstr(err.text, "7.json"));
        assert_int_equal(tenant_table_load(&table, dir, &err), cases[i].rc);
        if (cases[i].rc == 0)
            tenant_table_free(table);
    }
}

static void inactive_days_change_once_a_year(void **state) {
    (void)state;
    struct tenant_version versions[3] = {
        {.from_day = day_of("2026-01-01"), .inactive_days = 180, .n_streams = 1, .streams = {{1, "a"}}},
        {.from_day = day_of("2028-02-29"), .inactive_days = 90, .n_streams = 1, .streams = {{1, "a"}}},
        {.from_day = day_of("2029-02-28"), .inactive_days = 365, .n_streams = 1, .streams = {{1, "a"}}},
    };
    struct tenant tenant = {.id = 1, .n_versions = 3, .versions = versions};
    struct err err;
    assert_int_equal(tenant_check(&tenant, &err), ERR_INVALID);
    assert_non_null(strstr(err.text, "2029-03-01"));
    versions[2].from_day = day_of("2029-03-01");
    assert_int_equal(tenant_check(&tenant, &err), 0);
    versions[1].from_day = day_of("2028-03-02");
    assert_int_equal(tenant_check(&tenant, &err), ERR_INVALID);
    versions[2].from_day = day_of("2029-03-02");
    assert_int_equal(tenant_check(&tenant, &err), 0);
}

static void a_stream_lives_28_days(void **state) {
    (void)state;
    struct tenant_version versions[3] = {
        {.from_day = day_of("2026-06-01"), .inactive_days = 180, .n_streams = 1, .streams = {{1, "a"}}},
        {.from_day = day_of("2026-06-10"), .inactive_days = 180, .n_streams = 2, .streams = {{1, "a"}, {2, "b"}}},
        {.from_day = day_of("2026-07-07"), .inactive_days = 180, .n_streams = 1, .streams = {{1, "a"}}},
    };
    struct tenant tenant = {.id = 1, .n_versions = 3, .versions = versions};
    struct err err;
    assert_int_equal(tenant_check(&tenant, &err), ERR_INVALID); // ends a day too early
    assert_non_null(strstr(err.text, "2=b"));
    assert_non_null(strstr(err.text, "2026-07-08"));
    assert_int_equal(tenant_store(&tenant, dir, true, &err), ERR_INVALID);
    versions[2].from_day = day_of("2026-07-08");
    assert_int_equal(tenant_check(&tenant, &err), 0);
    // Renamed, or under another number: another stream, in whose place the old one ended.
    versions[2] = (struct tenant_version){
        .from_day = day_of("2026-07-07"), .inactive_days = 180, .n_streams = 2, .streams = {{1, "a"}, {2, "c"}}};
    assert_int_equal(tenant_check(&tenant, &err), ERR_INVALID);
    versions[2].streams[1] = (struct stream){3, "b"};
    assert_int_equal(tenant_check(&tenant, &err), ERR_INVALID);
    versions[2].streams[1] = (struct stream){2, "b"};
    assert_int_equal(tenant_check(&tenant, &err), 0);
    // The days count from the stream's own beginning, over versions in between.
    versions[2] = (struct tenant_version){
        .from_day = day_of("2026-06-28"), .inactive_days = 180, .n_streams = 1, .streams = {{2, "b"}}};
    assert_int_equal(tenant_check(&tenant, &err), ERR_INVALID);
    assert_non_null(strstr(err.text, "1=a"));
    versions[0].from_day = day_of("2026-05-31");
    assert_int_equal(tenant_check(&tenant, &err), 0);
    // What came back begins anew.
    versions[0] = (struct tenant_version){
        .from_day = day_of("2026-01-01"), .inactive_days = 180, .n_streams = 2, .streams = {{1, "a"}, {2, "b"}}};
    versions[1] = (struct tenant_version){
        .from_day = day_of("2026-02-01"), .inactive_days = 180, .n_streams = 1, .streams = {{1, "a"}}};
    versions[2] = versions[0];
    versions[2].from_day = day_of("2026-03-01");
    struct tenant_version four[4] = {versions[0], versions[1], versions[2], versions[1]};
    tenant = (struct tenant){.id = 1, .n_versions = 4, .versions = four};
    four[3].from_day = day_of("2026-03-28");
    assert_int_equal(tenant_check(&tenant, &err), ERR_INVALID);
    four[3].from_day = day_of("2026-03-29");
    assert_int_equal(tenant_check(&tenant, &err), 0);
}

static void own_contact_key_lies_beside_the_file(void **state) {
    (void)state;
    struct tenant tenant, back;
    struct tenant_version versions[2];
    struct tenant_table *table;
    struct keys keys = {0};
    struct stat st;
    uint8_t key[KEY_SIZE], expected[KEY_SIZE];
    char path[PATH_SIZE];
    struct err err;
    two_versions(&tenant, versions);
    assert_int_equal(tenant_contact_key(&tenant, &keys, key, &err), ERR_NOT_FOUND);
    keys.has_contact = true;
    memset(keys.contact, 5, KEY_SIZE);
    assert_int_equal(tenant_contact_key(&tenant, &keys, key, &err), 0);
    contact_key_derive(keys.contact, 7, expected);
    assert_memory_equal(key, expected, KEY_SIZE);
    tenant.own_contact_key = true;
    memset(tenant.contact_key, 9, KEY_SIZE);
    assert_int_equal(tenant_store(&tenant, dir, true, &err), 0);
    assert_int_equal(path_join(path, dir, "7.contact.key", &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(tenant_load(&back, dir, 7, &err), 0);
    assert_int_equal(tenant_contact_key(&back, &keys, key, &err), 0);
    assert_memory_equal(key, tenant.contact_key, KEY_SIZE);
    tenant_free(&back);
    // The daemons' table is loaded without the key, even where the key is not there to be read.
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tenant_load(&back, dir, 7, &err), ERR_IO);
    assert_int_equal(tenant_table_load(&table, dir, &err), 0);
    assert_true(tenant_table_find(table, 7)->own_contact_key);
    tenant_table_free(table);
}

struct noticed {
    unsigned times;
    uv_timer_t limit;
    uv_loop_t loop;
};

static void on_changed(void *arg) {
    struct noticed *noticed = arg;
    noticed->times++;
    uv_stop(&noticed->loop);
}

static void on_limit(uv_timer_t *timer) {
    uv_stop(timer->loop);
}

static unsigned run_for(struct noticed *noticed, uint64_t ms) {
    noticed->times = 0;
    assert_int_equal(uv_timer_start(&noticed->limit, on_limit, ms, 0), 0);
    uv_run(&noticed->loop, UV_RUN_DEFAULT);
    return noticed->times;
}

static void changes_of_a_directory_are_noticed(void **state) {
    (void)state;
    struct noticed noticed;
    struct dir_watch *watch;
    char late[PATH_SIZE], path[PATH_SIZE];
    assert_int_equal(path_join(late, dir, "late", NULL), 0);
    assert_int_equal(path_join(path, late, "file", NULL), 0);
    assert_int_equal(uv_loop_init(&noticed.loop), 0);
    assert_int_equal(uv_timer_init(&noticed.loop, &noticed.limit), 0);
    assert_int_equal(dir_watch_start(&watch, &noticed.loop, late, on_changed, &noticed, NULL), 0);
    assert_int_equal(run_for(&noticed, 100), 0);
    assert_int_equal(mkdir(late, 0700), 0);
    assert_int_equal(run_for(&noticed, 3000), 1); // found by looking
    assert_int_equal(file_replace(path, 0600, "x", 1, NULL), 0);
    assert_int_equal(run_for(&noticed, 900), 1); // found by inotify, several events as one
    run_for(&noticed, 1200);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(run_for(&noticed, 900), 1);
    assert_int_equal(rmdir(late), 0);
    run_for(&noticed, 1500);
    assert_int_equal(mkdir(late, 0700), 0); // another directory of the same name
    assert_int_equal(run_for(&noticed, 3000), 1);
    dir_watch_stop(watch);
    uv_close((uv_handle_t *)&noticed.limit, NULL);
    uv_run(&noticed.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&noticed.loop), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_tenant_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_table_finds_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_files_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(inactive_days_change_once_a_year, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_lives_28_days, set_up, tear_down),
        cmocka_unit_test_setup_teardown(own_contact_key_lies_beside_the_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(changes_of_a_directory_are_noticed, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
