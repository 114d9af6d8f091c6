// The local journal: what is committed comes back, from any log and snapshot, after torn ends; damage is named.
#include "aggregator/journal_local.h"

#include "aggregator/journal_file.h"
#include "common/files.h"
#include "common/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PARTITIONS = 3, KEYS = 200 };
#define LOG_ONE "log-0000000000000001.ovj"

static char dir[] = "/tmp/openveil-journal-XXXXXX";
static struct config config;

// What the journal should hold: per partition and key a value, 0 where there is none.
struct model {
    uint32_t values[PARTITIONS][KEYS];
    int64_t positions[PARTITIONS];
};

static int set_up(void **state) {
    (void)state;
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    assert_non_null(mkdtemp(dir));
    config = (struct config){.aggregator_state_dir = dir, .kafka_partitions = PARTITIONS};
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static struct journal *open_journal(void) {
    struct journal *journal = NULL;
    struct err err = {""};
    if (journal_local_open(&journal, &config, &err) != 0)
        fail_msg("%s", err.text);
    return journal;
}

static void model_clear(struct model *model) {
    memset(model, 0, sizeof *model);
    for (size_t i = 0; i < PARTITIONS; i++)
        model->positions[i] = -1;
}

// Keys of different lengths, so that their order is not that of their numbers.
static char keys[KEYS][16];
static size_t key_lens[KEYS];

static void keys_prepare(void) {
    for (unsigned i = 0; i < KEYS; i++)
        key_lens[i] = (size_t)snprintf(keys[i], sizeof keys[i], "%c%.*u", 'A' + (char)(i % 7), (int)(i % 5) + 1, i);
}

static size_t value_of(uint32_t value, uint8_t *out) {
    size_t len = 4 + value % 60;
    memset(out, (int)(value & 255), len);
    memcpy(out, &value, 4);
    return len;
}

static void put(struct batch *batch, struct model *model, uint32_t partition, uint32_t number, uint32_t value) {
    uint8_t bytes[64];
    size_t len = value == 0 ? 0 : value_of(value, bytes);
    assert_int_equal(batch_put(batch, partition, keys[number], key_lens[number], bytes, len), 0);
    model->values[partition][number] = value;
}

static void advance(struct batch *batch, struct model *model, uint32_t partition, int64_t position) {
    batch_set_position(batch, partition, position);
    model->positions[partition] = position;
}

// A commit that depends on `round` alone: some records changed, some erased, a position moved.
static void fill(struct batch *batch, struct model *model, uint32_t round) {
    batch_clear(batch);
    for (uint32_t i = 0; i < 30; i++) {
        uint32_t mixed = (round * 30 + i) * 2654435761u;
        put(batch, model, mixed % PARTITIONS, (mixed >> 8) % KEYS, (mixed >> 4) % 4 == 0 ? 0 : 1 + (mixed >> 3) % 100000);
    }
    advance(batch, model, round % PARTITIONS, round);
}

static int on_record(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    uint32_t *values = arg;
    uint8_t bytes[64];
    for (uint32_t i = 0; i < KEYS; i++) {
        if (key_lens[i] != key_len || memcmp(keys[i], key, key_len) != 0)
            continue;
        values[i] = 0;
        if (value_len == 0)
            return 0;
        assert_in_range(value_len, 4, sizeof bytes);
        memcpy(&values[i], value, 4);
        assert_int_equal(value_of(values[i], bytes), value_len);
        assert_memory_equal(bytes, value, value_len);
        return 0;
    }
    return ERR_CORRUPT;
}

static int load_model(struct journal *journal, struct model *model, struct err *err) {
    model_clear(model);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        int rc = journal->ops->load(journal, i, on_record, NULL, model->values[i], &model->positions[i], err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static void assert_holds(struct journal *journal, const struct model *expected) {
    struct model found;
    struct err err = {""};
    if (load_model(journal, &found, &err) != 0)
        fail_msg("%s", err.text);
    assert_memory_equal(&found, expected, sizeof found);
}

static void commit_rounds(struct journal *journal, struct model *model, uint32_t from, uint32_t to) {
    struct batch *batch;
    struct err err = {""};
    assert_int_equal(batch_create(&batch, PARTITIONS), 0);
    for (uint32_t round = from; round < to; round++) {
        fill(batch, model, round);
        if (journal->ops->commit(journal, batch, &err) != 0)
            fail_msg("%s", err.text);
    }
    batch_free(batch);
}

static void in_journal(const char *name, char path[PATH_SIZE]) {
    char folder[PATH_SIZE];
    assert_int_equal(path_join(folder, dir, "journal", NULL), 0);
    assert_int_equal(path_join(path, folder, name, NULL), 0);
}

static void commits_come_back(void **state) {
    (void)state;
    struct model model;
    struct journal *again;
    struct stat st;
    char path[PATH_SIZE];
    struct err err;
    model_clear(&model);
    assert_int_equal(journal_local_open_readonly(&again, &config, &err), ERR_NOT_FOUND);
    struct journal *journal = open_journal();
    assert_holds(journal, &model);
    commit_rounds(journal, &model, 0, 100);
    assert_holds(journal, &model);
    assert_int_equal(journal_local_open(&again, &config, &err), ERR_EXISTS);
    journal->ops->close(journal);
    in_journal(LOG_ONE, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    in_journal("", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    journal = open_journal();
    assert_holds(journal, &model);
    // Positions count anew in each session of a spool source: the last one committed counts, not the greatest.
    struct batch *batch;
    assert_int_equal(batch_create(&batch, PARTITIONS), 0);
    advance(batch, &model, 0, 0);
    assert_int_equal(journal->ops->commit(journal, batch, &err), 0);
    batch_free(batch);
    commit_rounds(journal, &model, 100, 110);
    journal->ops->close(journal);
    assert_int_equal(journal_local_open_readonly(&again, &config, &err), 0);
    assert_holds(again, &model);
    again->ops->close(again);
}

static uint64_t bytes_read(void) {
    unsigned long long n = 0;
    FILE *io = fopen("/proc/self/io", "r");
    assert_non_null(io);
    assert_int_equal(fscanf(io, "rchar: %llu", &n), 1);
    fclose(io);
    return n;
}

static void a_start_reads_the_logs_once(void **state) {
    (void)state;
    struct model model, found;
    struct stat st;
    struct err err;
    char path[PATH_SIZE];
    model_clear(&model);
    struct journal *journal = open_journal();
    commit_rounds(journal, &model, 0, 2000);
    journal->ops->close(journal);
    in_journal(LOG_ONE, path);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 1000000);
    assert_int_equal(journal_local_open_readonly(&journal, &config, &err), 0);
    uint64_t before = bytes_read();
    assert_holds(journal, &model);
    assert_true(bytes_read() - before < (uint64_t)st.st_size * 3 / 2);
    journal->ops->close(journal);
    // The rest of a start goes on with what was committed when it began, also when others have committed since.
    journal = open_journal();
    model_clear(&found);
    assert_int_equal(journal->ops->load(journal, 1, on_record, NULL, found.values[1], &found.positions[1], &err), 0);
    struct batch *batch;
    assert_int_equal(batch_create(&batch, PARTITIONS), 0);
    put(batch, &model, 1, 5, 77);
    advance(batch, &model, 1, 99999);
    assert_int_equal(journal->ops->commit(journal, batch, &err), 0);
    batch_free(batch);
    for (uint32_t i = 0; i < PARTITIONS; i++)
        assert_int_equal(journal->ops->load(journal, i, on_record, NULL, found.values[i], &found.positions[i], &err), 0);
    assert_memory_equal(&found, &model, sizeof found);
    journal->ops->close(journal);
}

static void other_modes_and_partitions_are_refused(void **state) {
    (void)state;
    struct model model;
    struct journal *journal = open_journal();
    struct err err;
    model_clear(&model);
    commit_rounds(journal, &model, 0, 1);
    journal->ops->close(journal);
    config.rehearsal = true;
    assert_int_equal(journal_local_open(&journal, &config, &err), ERR_REFUSED);
    assert_int_equal(journal_local_open_readonly(&journal, &config, &err), ERR_REFUSED);
    config.rehearsal = false;
    config.kafka_partitions = 2;
    assert_int_equal(journal_local_open(&journal, &config, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "partitions"));
}

static int stop_after_three(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    (void)key, (void)key_len, (void)value, (void)value_len;
    return ++*(int *)arg == 3 ? ERR_CORRUPT : 0;
}

static void a_hook_stops_a_load(void **state) {
    (void)state;
    struct model model;
    struct err err;
    int64_t position;
    int calls = 0;
    struct journal *journal = open_journal();
    model_clear(&model);
    commit_rounds(journal, &model, 0, 1); // all of it in the newest log's last frame
    assert_int_equal(journal->ops->load(journal, 0, stop_after_three, NULL, &calls, &position, &err), ERR_CORRUPT);
    assert_int_equal(calls, 3);
    journal->ops->close(journal);
}

// Every length that a crash can leave of the last frame, then zeros and noise instead of its rest.
static void torn_ends_are_cut_off(void **state) {
    (void)state;
    struct model before, after;
    struct stat st;
    char path[PATH_SIZE], *bytes;
    size_t len;
    struct journal *journal = open_journal();
    model_clear(&before);
    commit_rounds(journal, &before, 0, 3);
    in_journal(LOG_ONE, path);
    assert_int_equal(stat(path, &st), 0);
    size_t whole = (size_t)st.st_size;
    after = before;
    commit_rounds(journal, &after, 3, 4);
    journal->ops->close(journal);
    assert_int_equal(file_read(path, 1 << 20, &bytes, &len, NULL), 0);
    for (size_t keep = whole; keep <= len; keep++) {
        for (int rest = 0; rest < 3; rest++) {
            size_t size = rest == 0 ? keep : len;
            char *torn = malloc(size);
            memcpy(torn, bytes, keep);
            memset(torn + keep, rest == 1 ? 0 : 0x5a, size - keep);
            assert_int_equal(file_replace(path, 0600, torn, size, NULL), 0);
            bool intact = keep == len || memcmp(torn, bytes, len < size ? len : size) == 0;
            intact = intact && size == len;
            free(torn);
            struct journal *reader;
            assert_int_equal(journal_local_open_readonly(&reader, &config, NULL), 0);
            assert_holds(reader, intact ? &after : &before);
            reader->ops->close(reader);
            if (keep % 16 != 0 && !intact) // opening to write syncs: every sixteenth is enough
                continue;
            struct model model = intact ? after : before;
            journal = open_journal();
            assert_holds(journal, &model);
            commit_rounds(journal, &model, 4, 5);
            journal->ops->close(journal);
            journal = open_journal();
            assert_holds(journal, &model);
            journal->ops->close(journal);
        }
    }
    free(bytes);
}

// A changed byte before the last frame is damage, not a crash; in the last frame it cannot be told from one.
static void changed_bytes_never_pass(void **state) {
    (void)state;
    struct model models[4], found;
    struct stat st;
    char path[PATH_SIZE], *bytes;
    size_t len, ends[4];
    struct err err;
    struct journal *journal = open_journal(), *reader;
    in_journal(LOG_ONE, path);
    model_clear(&models[0]);
    ends[0] = JOURNAL_HEAD_BYTES;
    for (uint32_t i = 1; i < 4; i++) {
        models[i] = models[i - 1];
        commit_rounds(journal, &models[i], i, i + 1);
        assert_int_equal(stat(path, &st), 0);
        ends[i] = (size_t)st.st_size;
    }
    journal->ops->close(journal);
    assert_int_equal(file_read(path, 1 << 20, &bytes, &len, NULL), 0);
    for (size_t at = 0; at < len; at++) {
        bytes[at] ^= (char)(1 << at % 8);
        assert_int_equal(file_replace(path, 0600, bytes, len, NULL), 0);
        bytes[at] ^= (char)(1 << at % 8);
        int rc = journal_local_open_readonly(&reader, &config, &err);
        if (at < JOURNAL_HEAD_BYTES) {
            assert_int_equal(rc, ERR_CORRUPT);
        } else {
            assert_int_equal(rc, 0);
            // Whoever only reads must not answer from a part of what was committed either.
            assert_int_equal(load_model(reader, &found, &err), at < ends[2] ? ERR_CORRUPT : 0);
            if (at >= ends[2])
                assert_memory_equal(&found, &models[2], sizeof found);
            else
                assert_non_null(strstr(err.text, LOG_ONE));
            reader->ops->close(reader);
        }
        if (at >= ends[2])
            continue;
        assert_int_equal(journal_local_open(&journal, &config, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.text, LOG_ONE));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, len); // left as it is
    }
    free(bytes);
}

static unsigned count_files(const char *prefix, char name[JOURNAL_NAME_SIZE]) {
    char path[PATH_SIZE];
    unsigned n = 0;
    in_journal("", path);
    DIR *stream = opendir(path);
    assert_non_null(stream);
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        n++;
        snprintf(name, JOURNAL_NAME_SIZE, "%.60s", entry->d_name);
    }
    closedir(stream);
    return n;
}

static void snapshots_replace_logs(void **state) {
    (void)state;
    struct model model;
    char name[JOURNAL_NAME_SIZE], path[PATH_SIZE];
    struct journal *journal = open_journal(), *reader;
    struct err err;
    model_clear(&model);
    journal_local_snapshot_bytes(journal, 20000, 20000);
    for (uint32_t round = 0; round < 300; round++) {
        commit_rounds(journal, &model, round, round + 1);
        journal->ops->idle(journal);
        if (round % 50 == 49) {
            usleep(20000);
            journal->ops->idle(journal);
            assert_holds(journal, &model);
        }
    }
    journal->ops->close(journal);
    assert_int_equal(count_files("snapshot-", name), 1);
    assert_true(strcmp(name, "snapshot-0000000000000004.ovj") >= 0);
    assert_in_range(count_files("log-", path), 1, 3);
    journal = open_journal();
    assert_holds(journal, &model);
    // A leftover of an interrupted snapshot and files that it covers are removed at the next start.
    in_journal("snapshot-00000000000000ff.ovj.tmp", path);
    assert_int_equal(file_create(path, 0600, "x", 1, &err), 0);
    in_journal(LOG_ONE, path);
    assert_int_equal(file_create(path, 0600, "x", 1, &err), 0);
    commit_rounds(journal, &model, 300, 301);
    journal->ops->close(journal);
    journal = open_journal();
    assert_int_equal(access(path, F_OK), -1);
    assert_holds(journal, &model);
    assert_int_equal(count_files("snapshot-", path), 1);
    // Every byte of a snapshot is covered by a checksum.
    journal->ops->close(journal);
    in_journal(name, path);
    size_t len;
    char *bytes;
    assert_int_equal(file_read(path, 1 << 20, &bytes, &len, NULL), 0);
    for (size_t at = 0; at < len; at += 7) {
        struct model found;
        bytes[at] ^= 32;
        assert_int_equal(file_replace(path, 0600, bytes, len, NULL), 0);
        bytes[at] ^= 32;
        int rc = journal_local_open_readonly(&reader, &config, &err);
        if (rc == 0) {
            rc = load_model(reader, &found, &err);
            reader->ops->close(reader);
        }
        assert_int_equal(rc, ERR_CORRUPT);
        assert_non_null(strstr(err.text, "snapshot-"));
    }
    free(bytes);
}

static bool on_disk(const char *text) {
    char folder[PATH_SIZE];
    bool found = false;
    assert_int_equal(path_join(folder, dir, "journal", NULL), 0);
    DIR *stream = opendir(folder);
    assert_non_null(stream);
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        char path[PATH_SIZE], *bytes;
        size_t len;
        if (entry->d_name[0] == '.')
            continue;
        assert_int_equal(path_join(path, folder, entry->d_name, NULL), 0);
        int rc = file_read(path, 1 << 20, &bytes, &len, NULL);
        if (rc == ERR_NOT_FOUND) // just replaced by a snapshot
            continue;
        assert_int_equal(rc, 0);
        found |= memmem(bytes, len, text, strlen(text)) != NULL;
        free(bytes);
    }
    closedir(stream);
    return found;
}

static void commit_one(struct journal *journal, const char *key, const char *value) {
    struct batch *batch;
    assert_int_equal(batch_create(&batch, PARTITIONS), 0);
    assert_int_equal(batch_put(batch, 1, key, strlen(key), value, strlen(value)), 0);
    assert_int_equal(journal->ops->commit(journal, batch, NULL), 0);
    batch_free(batch);
}

// Until its bytes are gone, for five seconds at most.
static void snapshot_by_age(struct journal *journal, const char *text) {
    usleep(5000);
    journal_local_snapshot_age(journal, 0);
    journal->ops->idle(journal);
    journal_local_snapshot_age(journal, INT64_MAX);
    for (int i = 0; i < 500 && on_disk(text); i++) {
        usleep(10000);
        journal->ops->idle(journal);
    }
}

// However little is written: the bytes of what was erased leave the disk with the next snapshot, a day later at most.
static void erased_bytes_leave_the_disk(void **state) {
    (void)state;
    char name[JOURNAL_NAME_SIZE];
    struct journal *journal = open_journal();
    commit_one(journal, "Lcontact-one", "value-one");
    commit_one(journal, "Lcontact-two", "value-two");
    commit_one(journal, "Lcontact-one", "");
    journal->ops->idle(journal);
    assert_int_equal(count_files("snapshot-", name), 0); // a day has not passed
    assert_true(on_disk("contact-one") && on_disk("value-one"));
    snapshot_by_age(journal, "contact-one");
    assert_int_equal(count_files("snapshot-", name), 1);
    assert_false(on_disk("contact-one") || on_disk("value-one"));
    assert_true(on_disk("contact-two") && on_disk("value-two"));
    commit_one(journal, "Lcontact-two", "");
    journal->ops->close(journal);
    journal = open_journal();
    assert_true(on_disk("value-two")); // in the snapshot, which the restart does not make younger
    snapshot_by_age(journal, "contact-two");
    assert_false(on_disk("contact-two") || on_disk("value-two"));
    journal->ops->close(journal);
}

static void a_missing_log_is_named(void **state) {
    (void)state;
    struct model model;
    char name[JOURNAL_NAME_SIZE], path[PATH_SIZE];
    struct journal *journal = open_journal();
    struct err err;
    model_clear(&model);
    journal_local_snapshot_bytes(journal, 5000, 5000);
    commit_rounds(journal, &model, 0, 20);
    journal->ops->idle(journal);
    commit_rounds(journal, &model, 20, 30);
    usleep(50000);
    journal->ops->close(journal);
    assert_int_equal(count_files("snapshot-", name), 1);
    assert_int_equal(count_files("log-", name), 1);
    in_journal(name, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(journal_local_open(&journal, &config, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "lacks a log"));
}

// Readers see one commit's state or a later one's, never less than what was committed before they began.
struct reading {
    struct journal *journal;
    _Atomic int64_t committed;
    _Atomic bool stop;
    unsigned loads;
};

static void *read_on(void *arg) {
    struct reading *reading = arg;
    while (!atomic_load(&reading->stop)) {
        struct model found;
        struct err err = {""};
        int64_t before = atomic_load(&reading->committed);
        if (load_model(reading->journal, &found, &err) != 0) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
        for (int64_t i = 0; i < PARTITIONS; i++)
            if (before - found.positions[i] >= PARTITIONS)
                abort();
        reading->loads++;
    }
    return NULL;
}

static void loads_run_beside_commits_and_snapshots(void **state) {
    (void)state;
    struct model model;
    struct reading inside = {0}, outside = {0};
    pthread_t threads[2];
    char name[JOURNAL_NAME_SIZE];
    struct journal *journal = open_journal();
    journal_local_snapshot_bytes(journal, 30000, 30000);
    model_clear(&model);
    commit_rounds(journal, &model, 0, 3);
    atomic_store(&inside.committed, 2);
    atomic_store(&outside.committed, 2);
    assert_int_equal(journal_local_open_readonly(&outside.journal, &config, NULL), 0);
    inside.journal = journal;
    assert_int_equal(pthread_create(&threads[0], NULL, read_on, &inside), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, read_on, &outside), 0);
    for (uint32_t round = 3; round < 600; round++) {
        commit_rounds(journal, &model, round, round + 1);
        atomic_store(&inside.committed, round);
        atomic_store(&outside.committed, round);
        journal->ops->idle(journal);
    }
    atomic_store(&inside.stop, true);
    atomic_store(&outside.stop, true);
    assert_int_equal(pthread_join(threads[0], NULL), 0);
    assert_int_equal(pthread_join(threads[1], NULL), 0);
    assert_true(inside.loads > 3 && outside.loads > 3);
    assert_holds(journal, &model);
    assert_holds(outside.journal, &model);
    journal->ops->close(journal);
    outside.journal->ops->close(outside.journal);
    assert_int_equal(count_files("snapshot-", name), 1);
    assert_true(strcmp(name, "snapshot-0000000000000004.ovj") >= 0);
}

static void after_a_failed_write_nothing_more_is_committed(void **state) {
    (void)state;
    struct model model, lost;
    struct stat st;
    struct rlimit limit, small;
    struct batch *batch;
    char path[PATH_SIZE];
    struct err err;
    struct journal *journal = open_journal();
    model_clear(&model);
    commit_rounds(journal, &model, 0, 3);
    in_journal(LOG_ONE, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(batch_create(&batch, PARTITIONS), 0);
    lost = model;
    fill(batch, &lost, 3);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = (rlim_t)st.st_size + 100; // the disk is full in the middle of the frame
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = journal->ops->commit(journal, batch, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(rc, ERR_IO);
    assert_int_equal(journal->ops->commit(journal, batch, &err), ERR_IO);
    assert_holds(journal, &model);
    journal->ops->close(journal);
    journal = open_journal();
    assert_holds(journal, &model);
    assert_int_equal(journal->ops->commit(journal, batch, &err), 0);
    assert_holds(journal, &lost);
    journal->ops->close(journal);
    batch_free(batch);
}

int main(void) {
    keys_prepare();
    log_set_level(LOG_ERROR); // of torn ends there are many here
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(commits_come_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_start_reads_the_logs_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_modes_and_partitions_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_hook_stops_a_load, set_up, tear_down),
        cmocka_unit_test_setup_teardown(torn_ends_are_cut_off, set_up, tear_down),
        cmocka_unit_test_setup_teardown(changed_bytes_never_pass, set_up, tear_down),
        cmocka_unit_test_setup_teardown(snapshots_replace_logs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(erased_bytes_leave_the_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_missing_log_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loads_run_beside_commits_and_snapshots, set_up, tear_down),
        cmocka_unit_test_setup_teardown(after_a_failed_write_nothing_more_is_committed, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
