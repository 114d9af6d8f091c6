// The single-node source: order, refusal and resumption, what is deleted and when, damage, and directories that come late.
#include "aggregator/source_spool.h"

#include "common/files.h"
#include "common/log.h"
#include "common/segment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

enum { PARTITIONS = 3, SEEN_MAX = 100, IMPORTS = 1000000 };

static char dir[] = "/tmp/openveil-source-XXXXXX";
static char spool_dir[PATH_SIZE], state_dir[PATH_SIZE], inbox[PATH_SIZE];
static struct config config;

// What a test was given: segment numbers (imports from IMPORTS on) and positions.
struct engine {
    struct source *source;
    uv_loop_t loop;
    uv_timer_t limit;
    unsigned assigned;
    unsigned failed;
    struct err err;
    int64_t resume_at;
    bool refuse[PARTITIONS];
    unsigned refused;
    size_t n[PARTITIONS];
    uint64_t seen[PARTITIONS][SEEN_MAX];
    int64_t positions[PARTITIONS][SEEN_MAX];
};

static int set_up(void **state) {
    (void)state;
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(path_join(spool_dir, dir, "spool", NULL), 0);
    assert_int_equal(path_join(state_dir, dir, "state", NULL), 0);
    assert_int_equal(path_join(inbox, state_dir, "inbox", NULL), 0);
    config = (struct config){.aggregator_state_dir = state_dir, .spool_dir = spool_dir, .kafka_partitions = PARTITIONS};
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void on_assigned(void *arg, uint32_t partition) {
    struct engine *engine = arg;
    assert_int_equal(partition, engine->assigned);
    engine->assigned++;
    engine->source->ops->resume(engine->source, partition, engine->resume_at);
}

static void on_revoked(void *arg, uint32_t partition, bool lost) {
    (void)arg, (void)partition, (void)lost;
    fail();
}

static bool on_message(void *arg, uint32_t partition, int64_t position, const uint8_t *data, size_t len) {
    struct engine *engine = arg;
    struct message_head head;
    const uint8_t *body;
    size_t body_len;
    assert_int_equal(message_decode_head(data, len, &head, &body, &body_len), 0);
    assert_int_equal(head.partition, partition);
    if (engine->refuse[partition]) {
        engine->refused++;
        return false;
    }
    size_t n = engine->n[partition]++;
    assert_in_range(n, 0, SEEN_MAX - 1);
    engine->seen[partition][n] = head.segment;
    engine->positions[partition][n] = position;
    return true;
}

static void on_failed(void *arg, const struct err *err) {
    struct engine *engine = arg;
    engine->failed++;
    engine->err = *err;
}

static void on_limit(uv_timer_t *timer) {
    uv_stop(timer->loop);
}

static void run(struct engine *engine, uint64_t ms) {
    assert_int_equal(uv_timer_start(&engine->limit, on_limit, ms, 0), 0);
    uv_run(&engine->loop, UV_RUN_DEFAULT);
}

static void begin(struct engine *engine, int64_t resume_at) {
    const struct source_hooks hooks = {on_assigned, on_revoked, on_message, on_failed, engine};
    memset(engine, 0, sizeof *engine);
    engine->resume_at = resume_at;
    assert_int_equal(uv_loop_init(&engine->loop), 0);
    assert_int_equal(uv_timer_init(&engine->loop, &engine->limit), 0);
    assert_int_equal(source_spool_create(&engine->source, &config, &engine->err), 0);
    if (engine->source->ops->start(engine->source, &engine->loop, &hooks, &engine->err) != 0)
        engine->failed++;
    else
        run(engine, 20);
}

static void end(struct engine *engine) {
    engine->source->ops->stop(engine->source);
    uv_close((uv_handle_t *)&engine->limit, NULL);
    uv_run(&engine->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&engine->loop), 0);
}

static int64_t end_of(struct engine *engine, uint32_t partition) {
    int64_t position = -5;
    assert_int_equal(engine->source->ops->end(engine->source, partition, &position), 0);
    return position;
}

static void commit(struct engine *engine, uint32_t partition) {
    CHECK(engine->n[partition] > 0);
    engine->source->ops->committed(engine->source, partition, engine->positions[partition][engine->n[partition] - 1] + 1);
}

static void assert_seen(const struct engine *engine, uint32_t partition, size_t n, const uint64_t *segments) {
    assert_int_equal(engine->n[partition], n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(engine->seen[partition][i], segments[i]);
        if (i > 0)
            assert_true(engine->positions[partition][i] > engine->positions[partition][i - 1]);
    }
}
#define SEGMENTS(...) (sizeof((uint64_t[]){__VA_ARGS__}) / 8), (uint64_t[]){__VA_ARGS__}

static void path_of(uint64_t segment, char path[PATH_SIZE]) {
    char name[SEGMENT_NAME_SIZE];
    sealed_name(segment, name);
    assert_int_equal(path_join(path, spool_dir, name, NULL), 0);
}

static bool there(uint64_t segment) {
    char path[PATH_SIZE];
    path_of(segment, path);
    return access(path, F_OK) == 0;
}

static size_t message(uint64_t segment, uint32_t partition, uint32_t partitions, uint8_t *out) {
    struct message_head head = {.kind = MESSAGE_REGISTER, .rehearsal = config.rehearsal, .edge = "edge", .epoch = 1,
                                .segment = segment, .epoch_first = 1, .partition = (uint16_t)partition,
                                .partitions = (uint16_t)partitions, .day = 20779};
    int64_t len = message_encode_register(&head, out);
    assert_true(len > 0);
    return (size_t)len;
}

static void seal(uint64_t segment, uint32_t partitions) {
    static struct ledger ledger;
    static uint8_t messages[65536], file[1 << 20];
    uint32_t lens[LEDGER_PARTITIONS_MAX];
    char path[PATH_SIZE];
    size_t at = 0;
    for (uint32_t i = 0; i < partitions; i++) {
        lens[i] = (uint32_t)message(segment, i, partitions, messages + at);
        at += lens[i];
    }
    struct segment_head head = {.kind = MESSAGE_REGISTER, .rehearsal = config.rehearsal, .edge = "edge", .epoch = 1,
                                .segment = segment, .epoch_first = 1, .partitions = (uint16_t)partitions, .day = 20779};
    ledger.day = ledger.closed_from = 20779;
    int64_t len = sealed_encode(&head, &ledger, lens, messages, at, file, sizeof file);
    assert_true(len > 0);
    path_of(segment, path);
    assert_int_equal(dir_mark(spool_dir, config.rehearsal, NULL), 0);
    assert_int_equal(file_replace(path, 0600, file, (size_t)len, NULL), 0);
}

static void import(uint64_t number, uint32_t partition, char path[PATH_SIZE]) {
    uint8_t bytes[4096];
    char name[64];
    size_t len = message(IMPORTS + number, partition, PARTITIONS, bytes);
    snprintf(name, sizeof name, "import-%08llu.msg", (unsigned long long)number);
    assert_int_equal(dir_create(inbox, 0700, NULL), 0);
    assert_int_equal(path_join(path, inbox, name, NULL), 0);
    assert_int_equal(file_replace(path, 0600, bytes, len, NULL), 0);
}

static void what_is_there_comes_in_order(void **state) {
    (void)state;
    struct engine engine;
    const uint64_t numbers[] = {0x100, 2, 0xff, 1, 10};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        seal(numbers[i], PARTITIONS);
    begin(&engine, -1);
    assert_int_equal(engine.assigned, PARTITIONS);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        assert_seen(&engine, i, SEGMENTS(1, 2, 10, 0xff, 0x100));
        assert_int_equal(engine.positions[i][0], 0);
        assert_int_equal(end_of(&engine, i), 5);
    }
    seal(0x101, PARTITIONS);
    run(&engine, 500);
    assert_seen(&engine, 2, SEGMENTS(1, 2, 10, 0xff, 0x100, 0x101));
    end(&engine);
}

static void positions_grow_over_restarts(void **state) {
    (void)state;
    struct engine engine;
    seal(1, PARTITIONS);
    seal(2, PARTITIONS);
    begin(&engine, 700);
    assert_seen(&engine, 0, SEGMENTS(1, 2));
    assert_int_equal(engine.positions[0][0], 700);
    assert_int_equal(end_of(&engine, 0), 702);
    for (uint32_t i = 0; i < PARTITIONS; i++)
        commit(&engine, i);
    run(&engine, 20);
    assert_true(!there(1) && there(2));
    end(&engine);
    begin(&engine, 702);
    assert_seen(&engine, 0, SEGMENTS(2));
    assert_int_equal(engine.positions[0][0], 702);
    end(&engine);
}

static void only_what_all_have_committed_is_deleted(void **state) {
    (void)state;
    struct engine engine;
    for (uint64_t i = 1; i <= 3; i++)
        seal(i, PARTITIONS);
    begin(&engine, -1);
    commit(&engine, 0);
    commit(&engine, 1);
    run(&engine, 20);
    assert_true(there(1) && there(2) && there(3));
    engine.source->ops->committed(engine.source, 2, engine.positions[2][0] + 1);
    run(&engine, 20);
    assert_true(!there(1) && there(2) && there(3));
    commit(&engine, 2);
    run(&engine, 20);
    assert_true(!there(2) && there(3)); // the newest stays: the edge reads its own state from it
    seal(4, PARTITIONS);
    run(&engine, 500);
    assert_true(!there(3) && there(4));
    assert_seen(&engine, 1, SEGMENTS(1, 2, 3, 4));
    end(&engine);
}

static void a_refused_message_comes_again(void **state) {
    (void)state;
    struct engine engine;
    for (uint64_t i = 1; i <= 8; i++)
        seal(i, PARTITIONS);
    begin(&engine, -1);
    for (uint64_t i = 9; i <= 12; i++)
        seal(i, PARTITIONS);
    engine.refuse[1] = true;
    run(&engine, 500);
    assert_int_equal(engine.refused, 1);
    assert_int_equal(engine.n[0], 12);
    assert_int_equal(engine.n[1], 8);
    commit(&engine, 0);
    commit(&engine, 1);
    commit(&engine, 2);
    run(&engine, 20);
    assert_true(!there(8) && there(9));
    engine.source->ops->resume(engine.source, 1, -2);
    run(&engine, 20);
    assert_int_equal(engine.refused, 2);
    engine.refuse[1] = false;
    engine.source->ops->resume(engine.source, 1, -2);
    run(&engine, 20);
    assert_seen(&engine, 1, SEGMENTS(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12));
    assert_int_equal(engine.n[0], 12);
    // An engine that dropped its state begins again after what it had committed.
    engine.source->ops->resume(engine.source, 1, engine.positions[1][7] + 1);
    run(&engine, 20);
    assert_int_equal(engine.n[1], 16);
    assert_int_equal(engine.seen[1][12], 9);
    assert_int_equal(engine.positions[1][12], engine.positions[1][8]);
    end(&engine);
}

static void imports_go_to_their_partition(void **state) {
    (void)state;
    struct engine engine;
    char path[PATH_SIZE], path_2[PATH_SIZE];
    import(1, 2, path);
    seal(1, PARTITIONS);
    begin(&engine, -1);
    assert_seen(&engine, 0, SEGMENTS(1));
    assert_seen(&engine, 2, SEGMENTS(IMPORTS + 1, 1));
    import(2, 1, path_2);
    run(&engine, 500);
    assert_seen(&engine, 1, SEGMENTS(1, IMPORTS + 2));
    assert_int_equal(end_of(&engine, 0), engine.positions[0][0] + 1); // the last file is none of its own
    assert_int_equal(end_of(&engine, 1), engine.positions[1][1] + 1);
    assert_int_equal(access(path_2, F_OK), 0);
    commit(&engine, 1);
    run(&engine, 20);
    assert_int_equal(access(path_2, F_OK), -1);
    assert_int_equal(access(path, F_OK), 0);
    commit(&engine, 2);
    run(&engine, 20);
    assert_int_equal(access(path, F_OK), -1);
    assert_true(there(1));
    end(&engine);
}

static void damaged_files_are_set_aside(void **state) {
    (void)state;
    struct engine engine;
    char path[PATH_SIZE], aside[PATH_SIZE], *bytes;
    size_t len;
    for (uint64_t i = 1; i <= 4; i++)
        seal(i, PARTITIONS);
    for (uint64_t i = 2; i <= 4; i += 2) {
        path_of(i, path);
        assert_int_equal(file_read(path, 1 << 20, &bytes, &len, NULL), 0);
        bytes[20] ^= 1;
        assert_int_equal(file_replace(path, 0600, bytes, i == 2 ? len : 0, NULL), 0);
        free(bytes);
    }
    assert_int_equal(dir_create(inbox, 0700, NULL), 0);
    assert_int_equal(path_join(path, inbox, "import-x.msg", NULL), 0);
    assert_int_equal(file_create(path, 0600, "x", 1, NULL), 0);
    begin(&engine, -1);
    assert_seen(&engine, 0, SEGMENTS(1, 3));
    assert_int_equal(end_of(&engine, 0), engine.positions[0][1] + 1);
    assert_int_equal(source_spool_corrupt(engine.source), 3);
    assert_true(!there(2) && !there(4));
    assert_int_equal(path_join(aside, spool_dir, "corrupt", NULL), 0);
    assert_int_equal(path_join(path, aside, "sealed-0000000000000002.seg", NULL), 0);
    assert_int_equal(access(path, F_OK), 0);
    seal(5, PARTITIONS);
    run(&engine, 500);
    assert_seen(&engine, 0, SEGMENTS(1, 3, 5));
    assert_int_equal(engine.failed, 0);
    end(&engine);
}

static void an_edge_may_come_late_and_begin_anew(void **state) {
    (void)state;
    struct engine engine;
    int64_t position;
    begin(&engine, -1);
    assert_int_equal(engine.assigned, PARTITIONS);
    assert_int_equal(engine.source->ops->end(engine.source, 0, &position), ERR_UNREACHABLE);
    seal(7, PARTITIONS);
    seal(8, PARTITIONS);
    run(&engine, 2500);
    assert_seen(&engine, 0, SEGMENTS(7, 8));
    // Its disk was replaced: numbers that are lower than any seen.
    char path[PATH_SIZE];
    for (uint64_t i = 7; i <= 8; i++) {
        path_of(i, path);
        assert_int_equal(unlink(path), 0);
    }
    seal(1, PARTITIONS);
    run(&engine, 500);
    seal(7, PARTITIONS);
    run(&engine, 500);
    assert_seen(&engine, 0, SEGMENTS(7, 8, 1, 7));
    end(&engine);
}

static void other_modes_and_partitions_fail(void **state) {
    (void)state;
    struct engine engine;
    seal(1, PARTITIONS + 1);
    begin(&engine, -1);
    assert_int_equal(engine.failed, 1);
    assert_non_null(strstr(engine.err.text, "partitions"));
    assert_int_equal(engine.n[0], 0);
    end(&engine);
    config.rehearsal = true;
    begin(&engine, -1);
    assert_int_equal(engine.failed, 1);
    assert_non_null(strstr(engine.err.text, "production"));
    end(&engine);
}

int main(void) {
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_there_comes_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(positions_grow_over_restarts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_what_all_have_committed_is_deleted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refused_message_comes_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(imports_go_to_their_partition, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files_are_set_aside, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_edge_may_come_late_and_begin_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_modes_and_partitions_fail, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
