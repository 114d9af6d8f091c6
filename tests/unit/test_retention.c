// What is kept for how long: limits, and what is found in the directories of edge and aggregator.
#include "aggregator/retention.h"

#include "common/files.h"
#include "common/segment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <cmocka.h>

#define TODAY 20780
static char dir[] = "/tmp/openveil-retention-XXXXXX";
static char spool[PATH_SIZE], state_dir[PATH_SIZE], releases[PATH_SIZE];
static struct config config;

static int set_up(void **state) {
    (void)state;
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(path_join(spool, dir, "spool", NULL), 0);
    assert_int_equal(path_join(state_dir, dir, "state", NULL), 0);
    assert_int_equal(path_join(releases, dir, "releases", NULL), 0);
    const struct clock machine = clock_real();
    config = (struct config){.spool_dir = spool, .aggregator_state_dir = state_dir, .release_dir = releases};
    config.clock = clock_rehearsed(clock_now_ms(&machine) / 1000, TODAY, 86400);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void write_file(const char *parent, const char *name, const void *data, size_t len, int age_days) {
    char path[PATH_SIZE];
    struct timeval times[2];
    assert_int_equal(dir_create(parent, 0700, NULL), 0);
    assert_int_equal(path_join(path, parent, name, NULL), 0);
    assert_int_equal(file_replace(path, 0600, data, len, NULL), 0);
    assert_int_equal(gettimeofday(&times[0], NULL), 0);
    times[0].tv_sec -= age_days * 86400 + 60;
    times[1] = times[0];
    assert_int_equal(utimes(path, times), 0);
}

static void write_sealed(uint64_t number, enum message_kind kind, uint32_t day) {
    struct segment_head head = {.kind = kind, .edge = "edge-1", .epoch = 9, .segment = number, .partitions = 1, .day = day};
    struct message_head message = {.kind = MESSAGE_BLOCK, .edge = "edge-1", .epoch = 9, .partitions = 1, .day = day};
    static uint8_t body[MESSAGE_BYTES_MAX], out[SEGMENT_HEADER_BYTES_MAX * 2];
    uint8_t rules[RULES_HASH_SIZE] = {0};
    char name[SEGMENT_NAME_SIZE];
    struct message_codec *codec;
    struct ledger *ledger = calloc(1, sizeof *ledger);
    assert_non_null(ledger);
    ledger->day = ledger->closed_from = day;
    assert_int_equal(message_codec_create(&codec), 0);
    int64_t len = message_encode_block(codec, &message, rules, NULL, 0, body);
    assert_true(len > 0);
    uint32_t message_len = (uint32_t)len;
    len = sealed_encode(&head, ledger, &message_len, body, message_len, out, sizeof out);
    assert_true(len > 0);
    sealed_name(number, name);
    write_file(spool, name, out, (size_t)len, 100);
    message_codec_free(codec);
    free(ledger);
}

static const struct retention_row *read_row(enum retention_store store) {
    static struct retention retention;
    struct err err;
    retention = (struct retention){0};
    if (retention_read_files(&retention, &config, &err) != 0)
        fail_msg("%s", err.text);
    return &retention.rows[store];
}

static void expect(enum retention_store store, uint64_t n, uint32_t age, bool over) {
    const struct retention_row *row = read_row(store);
    assert_int_equal(row->n, n);
    assert_int_equal(row->age, age);
    assert_int_equal(row->n_over > 0, over);
}

static void the_worst_item_stands_for_its_store(void **state) {
    (void)state;
    struct retention retention = {0};
    assert_false(retention_over(&retention));
    retention_add(&retention, RETENTION_WINDOWS, 0, 90, 3);
    retention_add(&retention, RETENTION_WINDOWS, 5, 3, 3);
    retention_add(&retention, RETENTION_WINDOWS, 2, 4, 8);
    const struct retention_row *row = &retention.rows[RETENTION_WINDOWS];
    assert_true(row->n == 7 && row->n_over == 0 && row->age == 3 && row->limit == 3);
    assert_false(retention_over(&retention));
    retention_add(&retention, RETENTION_WINDOWS, 1, 9, 8);
    assert_true(row->n == 8 && row->n_over == 1 && row->age == 9 && row->limit == 8);
    assert_true(retention_over(&retention));
    struct retention lines = {0};
    retention_add(&lines, RETENTION_RELEASES, 1, 4000, RETENTION_NO_LIMIT);
    retention_add(&lines, RETENTION_RELEASES, 1, 5000, RETENTION_NO_LIMIT);
    assert_int_equal(lines.rows[RETENTION_RELEASES].age, 5000);
    assert_false(retention_over(&lines));
    // Sent on day 0, opens of day 1 count, a deadline of 24 hours ends with day 2, the release follows on day 3.
    assert_int_equal(retention_window_limit(1, 24), 3);
    assert_int_equal(retention_window_limit(0, 0), 1);
    assert_int_equal(retention_window_limit(6, 25), 9);
}

static void nothing_there_is_nothing_kept(void **state) {
    (void)state;
    for (enum retention_store store = 0; store < RETENTION_STORES; store++)
        assert_int_equal(read_row(store)->n, 0);
}

static void the_spool_is_as_old_as_its_oldest_day(void **state) {
    (void)state;
    write_sealed(7, MESSAGE_BLOCK, TODAY);
    expect(RETENTION_SPOOL, 1, 0, false);
    write_sealed(6, MESSAGE_BLOCK, TODAY - 3);
    expect(RETENTION_SPOOL, 2, 3, false);
    write_sealed(5, MESSAGE_BLOCK, TODAY - 4);
    expect(RETENTION_SPOOL, 3, 4, true);
    // What can't be read is as old as its file.
    write_file(spool, "sealed-0000000000000001.seg", "x", 1, 8);
    expect(RETENTION_SPOOL, 4, 8, true);
}

// The newest sealed segment stays until the next; a close marker holds no open.
static void a_spool_at_rest_holds_nothing(void **state) {
    (void)state;
    write_sealed(9, MESSAGE_CLOSE, TODAY - 90);
    expect(RETENTION_SPOOL, 0, 0, false);
    write_sealed(9, MESSAGE_BLOCK, TODAY - 90);
    expect(RETENTION_SPOOL, 1, 90, true);
}

static void open_segments_count_too(void **state) {
    (void)state;
    struct segment_head head = {.kind = MESSAGE_BLOCK, .edge = "edge-1", .epoch = 9, .segment = 3, .partitions = 1,
                                .day = TODAY - 5};
    struct ledger *ledger = calloc(1, sizeof *ledger);
    uint8_t *out = malloc(SEGMENT_HEADER_BYTES_MAX);
    char name[SEGMENT_NAME_SIZE];
    assert_true(ledger != NULL && out != NULL);
    ledger->day = ledger->closed_from = head.day;
    int64_t len = raw_header_encode(&head, ledger, out);
    assert_true(len > 0);
    raw_name(3, name);
    write_file(spool, name, out, (size_t)len, 0);
    expect(RETENTION_SPOOL, 1, 5, true);
    free(ledger);
    free(out);
}

static void files_age_by_their_last_change(void **state) {
    (void)state;
    char inbox[PATH_SIZE], corner[PATH_SIZE], journal[PATH_SIZE];
    assert_int_equal(path_join(inbox, state_dir, "inbox", NULL), 0);
    assert_int_equal(path_join(journal, state_dir, "journal", NULL), 0);
    write_file(inbox, "a.msg", "x", 1, 2);
    write_file(inbox, "b.part", "x", 1, 50);
    expect(RETENTION_INBOX, 1, 2, false);
    write_file(inbox, "c.msg", "x", 1, 4);
    expect(RETENTION_INBOX, 2, 4, true);
    const char *const parents[] = {spool, state_dir, inbox};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(path_join(corner, parents[i], "corrupt", NULL), 0);
        write_file(corner, "kept", "x", 1, i == 2 ? 30 : 1);
        expect(RETENTION_ASIDE, i + 1, i == 2 ? 30 : 1, i == 2);
    }
    write_file(journal, "log-0000000000000001.ovj", "x", 1, 0);
    write_file(journal, "lock", "", 0, 0);
    expect(RETENTION_JOURNAL, 1, 0, false);
}

static void released_lines_have_no_limit(void **state) {
    (void)state;
    char tenant[PATH_SIZE];
    assert_int_equal(path_join(tenant, releases, "7", NULL), 0);
    write_file(tenant, "deliverability-1999-12-31.json", "{}\n", 3, 0);
    write_file(tenant, "inactivity-2026-10.json", "{}\n", 3, 0);
    write_file(tenant, "note.txt", "x", 1, 0);
    expect(RETENTION_RELEASES, 2, TODAY - 10956, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_worst_item_stands_for_its_store),
        cmocka_unit_test_setup_teardown(nothing_there_is_nothing_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_spool_is_as_old_as_its_oldest_day, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_spool_at_rest_holds_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(open_segments_count_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_age_by_their_last_change, set_up, tear_down),
        cmocka_unit_test_setup_teardown(released_lines_have_no_limit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
