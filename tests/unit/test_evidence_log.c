// The log in files: what was made durable stays, what was not is written again, what is erased is gone and verifies.
#include "common/evidence_log.h"

#include "common/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/evidence_fixture.h"

#define CHANGES 600u

struct world {
    char dir[64];
    char path[80];
    struct config config;
    struct evidence_line lines[CHANGES];
};

static int world_make(void **state) {
    struct world *world = calloc(1, sizeof *world);
    assert_non_null(world);
    snprintf(world->dir, sizeof world->dir, "/tmp/openveil-evidence-XXXXXX");
    assert_non_null(mkdtemp(world->dir));
    snprintf(world->path, sizeof world->path, "%s/1.jsonl", world->dir);
    world->config = (struct config){.kafka_partitions = 2, .kafka_brokers = (char *)"", .consent_log_dir = world->dir};
    struct consent_stamp head = {0};
    for (size_t i = 0; i < CHANGES; i++) {
        world->lines[i] = change_make(&head, 7, 1 + i % 5, i % 2 == 0 ? "granted" : "withdrawn", "v1");
        head.epoch = world->lines[i].entry.epoch;
        memcpy(head.hash, world->lines[i].entry.hash, sizeof head.hash);
    }
    *state = world;
    return 0;
}

static int world_free(void **state) {
    struct world *world = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", world->dir);
    int rc = system(command);
    free(world);
    return rc;
}

static struct evidence_log *open_log(const struct world *world, bool writes) {
    struct evidence_log *log;
    assert_int_equal(evidence_log_open(&log, &world->config, writes, NULL), 0);
    return log;
}

static uint64_t head_of(struct evidence_log *log) {
    static struct evidence_chain chain;
    assert_int_equal(evidence_log_head(log, 1, &chain, NULL), 0);
    assert_int_equal(evidence_chain_break(&chain), 0);
    return chain.head.epoch;
}

static void write_some(const struct world *world, struct evidence_log *log, size_t first, size_t end) {
    assert_int_equal(evidence_log_write(log, 1, world->lines + first, end - first, NULL), 0);
    assert_int_equal(evidence_log_sync(log, NULL), 0);
}

struct count {
    uint64_t n, about;
};

static int count_line(void *arg, const struct evidence_line *line) {
    struct count *count = arg;
    count->n++;
    count->about += line->kind == EVIDENCE_CHANGE && line->entry.pseudonym == 3;
    return 0;
}

static struct evidence_chain read_all(struct evidence_log *log, struct count *count) {
    struct evidence_chain chain;
    *count = (struct count){0};
    assert_int_equal(evidence_log_read(log, 1, count_line, count, &chain, NULL), 0);
    return chain;
}

static void what_was_written_is_read_in_order(void **state) {
    const struct world *world = *state;
    struct count count;
    struct evidence_log *log = open_log(world, true);
    assert_int_equal(head_of(log), 0);
    write_some(world, log, 0, 10);
    write_some(world, log, 10, CHANGES);
    struct evidence_chain chain = read_all(log, &count);
    assert_int_equal(count.n, CHANGES);
    assert_int_equal(chain.head.epoch, CHANGES);
    assert_int_equal(evidence_chain_break(&chain), 0);
    evidence_log_close(log);
    // Again, by a reader and by the next owner, who looks at the end alone.
    log = open_log(world, false);
    assert_int_equal(head_of(log), CHANGES);
    evidence_log_close(log);
    log = open_log(world, true);
    assert_int_equal(head_of(log), CHANGES);
    evidence_log_close(log);
}

static void one_process_writes(void **state) {
    const struct world *world = *state;
    struct evidence_log *log = open_log(world, true), *other;
    assert_int_equal(evidence_log_open(&other, &world->config, true, NULL), ERR_EXISTS);
    struct config rehearsal = world->config;
    rehearsal.rehearsal = true;
    evidence_log_close(log);
    assert_int_equal(evidence_log_open(&other, &rehearsal, true, NULL), ERR_REFUSED);
}

// Wherever a crash cut the file: all whole lines are there, and writing goes on behind them.
static void a_torn_end_is_cut_off(void **state) {
    const struct world *world = *state;
    struct count count;
    struct stat st;
    struct evidence_log *log = open_log(world, true);
    assert_int_equal(head_of(log), 0);
    write_some(world, log, 0, 3);
    evidence_log_close(log);
    assert_int_equal(stat(world->path, &st), 0);
    for (off_t size = st.st_size - 1; size > 0; size--) {
        assert_int_equal(truncate(world->path, size), 0);
        log = open_log(world, true);
        uint64_t head = head_of(log);
        assert_true(head < 3);
        write_some(world, log, head, 3);
        struct evidence_chain chain = read_all(log, &count);
        assert_int_equal(chain.head.epoch, 3);
        assert_int_equal(chain.damaged + chain.forks + chain.repeated, 0);
        evidence_log_close(log);
    }
}

// Zeros and rubbish that a power cut left are passed over; what they hid is written again.
static void damage_at_the_end_is_made_good(void **state) {
    const struct world *world = *state;
    static const char zeros[5000];
    struct count count;
    struct evidence_log *log = open_log(world, true);
    assert_int_equal(head_of(log), 0);
    write_some(world, log, 0, 4);
    evidence_log_close(log);
    int fd = open(world->path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, zeros, sizeof zeros), sizeof zeros);
    assert_int_equal(write(fd, "\n{\"e\":5,\"at\"\n", 13), 13);
    close(fd);
    log = open_log(world, true);
    assert_int_equal(head_of(log), 4);
    write_some(world, log, 4, 8);
    struct evidence_chain chain = read_all(log, &count);
    assert_int_equal(chain.head.epoch, 8);
    assert_int_equal(chain.damaged, 2);
    assert_int_equal(evidence_chain_break(&chain), 0);
    evidence_log_close(log);
}

static void a_full_disk_loses_nothing_durable(void **state) {
    const struct world *world = *state;
    struct count count;
    struct rlimit before;
    struct evidence_log *log = open_log(world, true);
    assert_int_equal(head_of(log), 0);
    write_some(world, log, 0, 20);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit full = {.rlim_cur = 8000, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
    assert_int_equal(evidence_log_write(log, 1, world->lines + 20, 200, NULL), ERR_IO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(head_of(log), 20);
    write_some(world, log, 20, 40);
    struct evidence_chain chain = read_all(log, &count);
    assert_int_equal(chain.head.epoch, 40);
    assert_int_equal(chain.damaged + chain.forks, 0);
    evidence_log_close(log);
}

static void one_contact_is_erased_in_place(void **state) {
    const struct world *world = *state;
    const uint64_t pseudonym = 3;
    struct count count;
    uint64_t n;
    struct stat before, after;
    struct evidence_log *log = open_log(world, true), *eraser = open_log(world, false);
    assert_int_equal(head_of(log), 0);
    write_some(world, log, 0, 100);
    assert_int_equal(stat(world->path, &before), 0);
    (void)read_all(log, &count);
    assert_int_equal(count.about, 20);
    assert_int_equal(evidence_log_erase(eraser, 1, 7, &pseudonym, &n, NULL), 0);
    assert_int_equal(n, 20);
    assert_int_equal(stat(world->path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    write_some(world, log, 100, 101); // the writer has not noticed
    struct evidence_chain chain = read_all(log, &count);
    assert_int_equal(count.about, 0);
    assert_int_equal(chain.erased, 20);
    assert_int_equal(chain.head.epoch, 101);
    assert_int_equal(evidence_chain_break(&chain), 0);
    char *text;
    size_t len;
    assert_int_equal(file_read(world->path, 1 << 20, &text, &len, NULL), 0);
    assert_null(strstr(text, "\"p\":\"0000000000000003\""));
    free(text);
    assert_int_equal(evidence_log_erase(eraser, 1, 7, &pseudonym, &n, NULL), 0);
    assert_int_equal(n, 0);
    assert_int_equal(evidence_log_erase(eraser, 1, 8, NULL, &n, NULL), 0);
    assert_int_equal(n, 0);
    assert_int_equal(evidence_log_erase(eraser, 1, 7, NULL, &n, NULL), 0);
    assert_int_equal(n, 81);
    evidence_log_close(eraser);
    evidence_log_close(log);
}

// A long list of records behind which the window for the head finds nothing else.
static void a_baseline_is_found_from_its_end(void **state) {
    const struct world *world = *state;
    struct count count;
    struct evidence_line baseline = {.kind = EVIDENCE_BASELINE, .entry.epoch = 50, .entry.hash = {9}};
    struct evidence_line end = {.kind = EVIDENCE_BASELINE_END, .entry = baseline.entry, .n_records = 3000};
    struct evidence_line *records = calloc(3000, sizeof *records);
    for (size_t i = 0; i < 3000; i++) {
        records[i].kind = EVIDENCE_RECORD;
        records[i].entry = (struct consent_entry){.epoch = 50, .tenant = 7, .pseudonym = i, .state = 2, .notice = "v1"};
    }
    struct evidence_log *log = open_log(world, true);
    struct evidence_chain chain;
    assert_int_equal(head_of(log), 0);
    assert_int_equal(evidence_log_write(log, 1, &baseline, 1, NULL), 0);
    assert_int_equal(evidence_log_write(log, 1, records, 3000, NULL), 0);
    assert_int_equal(evidence_log_sync(log, NULL), 0);
    assert_int_equal(evidence_log_head(log, 1, &chain, NULL), 0);
    assert_true(chain.in_baseline);
    assert_int_equal(evidence_log_write(log, 1, &end, 1, NULL), 0);
    assert_int_equal(evidence_log_sync(log, NULL), 0);
    assert_int_equal(head_of(log), 50);
    chain = read_all(log, &count);
    assert_false(chain.in_baseline);
    assert_int_equal(count.n, 3002);
    free(records);
    evidence_log_close(log);
}

int main(void) {
#define IN_WORLD_TEST(test) cmocka_unit_test_setup_teardown(test, world_make, world_free)
    const struct CMUnitTest tests[] = {
        IN_WORLD_TEST(what_was_written_is_read_in_order), IN_WORLD_TEST(one_process_writes),
        IN_WORLD_TEST(a_torn_end_is_cut_off),             IN_WORLD_TEST(damage_at_the_end_is_made_good),
        IN_WORLD_TEST(a_full_disk_loses_nothing_durable), IN_WORLD_TEST(one_contact_is_erased_in_place),
        IN_WORLD_TEST(a_baseline_is_found_from_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
