#include "aggregator/journal_local.h"

#include "aggregator/journal_compact.h"
#include "aggregator/journal_index.h"
#include "aggregator/journal_load.h"
#include "common/bytes.h"
#include "common/files.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SNAPSHOT_RETRY_MS = 60000 };
#define SNAPSHOT_LOW (64u << 20)
#define SNAPSHOT_HIGH (512u << 20)
#define SNAPSHOT_AGE_MS (24LL * 3600 * 1000)
#define BUFFER_KEEP (16u << 20)

struct journal_local {
    struct journal journal;
    char dir[PATH_SIZE];
    uint32_t partitions;
    bool rehearsal;
    bool readonly;
    int lock_fd;
    // The log that commits are appended to: the committing thread's, and idle's between commits.
    int log_fd;
    bool failed; // a write or fsync failed: what is on disk is known again only after a restart
    uint64_t sequence;
    uint8_t *buffer;
    size_t room;
    pthread_mutex_t mutex; // guards the next two, which load reads: how far the log must be whole
    uint64_t generation;
    uint64_t size;
    // What the logs held at the first load, until every partition has had it once; a partition that is loaded again reads
    // the files again.
    pthread_mutex_t index_mutex;
    struct journal_index *index;
    bool *indexed; // by partition: has had it, or is having it
    uint32_t index_left, index_users;
    // Snapshots: idle's.
    uint64_t low, high;
    int64_t age_ms;  // after which a snapshot is due, whatever its size
    int64_t made_ms; // when the oldest bytes were written: the snapshot, or the first log; of the machine's clock
    int64_t compact_ms;
    uint64_t older_bytes; // of logs that no snapshot covers yet, without the newest
    uint64_t snapshot_bytes;
    bool compacting;
    pthread_t thread;
    struct journal_head compact_head;
    uint64_t compact_bytes; // what the running compaction covers
    int64_t retry_ms;
    _Atomic bool stop;
    _Atomic bool done;
    int result; // the thread's, before `done`
    uint64_t result_bytes;
    struct err result_err;
};

// ---- commit ----------------------------------------------------------------------------------------------------------

static size_t payload_bytes(const struct batch *batch) {
    return 4 + batch_bytes(batch) + batch_count(batch) * FRAME_RECORD_BYTES;
}

static size_t payload_write(const struct journal_local *local, const struct batch *batch, uint8_t *out, size_t room) {
    uint32_t n = 0;
    struct writer w = writer_of(out + 4, room - 4);
    for (uint32_t i = 0; i < local->partitions; i++) {
        if (batch_position(batch, i) < 0)
            continue;
        write_u16(&w, (uint16_t)i);
        write_u64(&w, (uint64_t)batch_position(batch, i));
        n++;
    }
    store_u32(out, n);
    for (size_t i = 0; i < batch_count(batch); i++) {
        struct batch_record record = batch_at(batch, i);
        CHECK(!record.release); // files are written from the state's own record
        struct frame_record stored = {.partition = record.partition,
                                      .key_len = record.key_len,
                                      .value_len = record.value_len,
                                      .key = record.key,
                                      .value = record.value};
        uint8_t *space = write_space(&w, FRAME_RECORD_BYTES + record.key_len + record.value_len);
        CHECK(space != NULL);
        frame_record_write(space, &stored);
    }
    CHECK(!w.bad);
    return (size_t)(w.at - out);
}

static int buffer_reserve(struct journal_local *local, size_t room) {
    if (room <= local->room)
        return 0;
    free(local->buffer);
    local->buffer = malloc(room);
    local->room = local->buffer == NULL ? 0 : room;
    return local->buffer == NULL ? ERR_NOMEM : 0;
}

static int local_commit(struct journal *journal, const struct batch *batch, struct err *err) {
    struct journal_local *local = (struct journal_local *)journal;
    CHECK(!local->readonly);
    if (local->failed)
        return err_set(err, ERR_IO, "the journal in %s failed before: restart to go on from what is on disk", local->dir);
    size_t room = FRAME_HEAD_BYTES + payload_bytes(batch) + (size_t)local->partitions * 10 + FRAME_SUM_BYTES;
    if (room > FRAME_BYTES_MAX || buffer_reserve(local, room) != 0) {
        local->failed = true;
        return err_set(err, ERR_IO, "cannot commit %zu bytes to the journal in %s at once", room, local->dir);
    }
    size_t payload = payload_write(local, batch, local->buffer + FRAME_HEAD_BYTES, room - FRAME_HEAD_BYTES - FRAME_SUM_BYTES);
    size_t len = frame_seal(local->buffer, local->sequence, payload);
    if (write_full(local->log_fd, local->buffer, len, (off_t)local->size) != 0 || fdatasync(local->log_fd) != 0) {
        local->failed = true;
        return err_errno(err, ERR_IO, "cannot write to the journal in %s", local->dir);
    }
    local->sequence++;
    CHECK(pthread_mutex_lock(&local->mutex) == 0);
    local->size += len;
    CHECK(pthread_mutex_unlock(&local->mutex) == 0);
    if (local->room > BUFFER_KEEP) {
        free(local->buffer);
        local->buffer = NULL;
        local->room = 0;
    }
    return 0;
}

// ---- load ------------------------------------------------------------------------------------------------------------

static int files_match(const struct journal_local *local, const struct journal_files *files, struct err *err) {
    if (files->head.rehearsal != local->rehearsal)
        return err_set(err, ERR_REFUSED, "the journal in %s belongs to %s: start %s --rehearsal, or use another directory",
                       local->dir, files->head.rehearsal ? "a rehearsal" : "production",
                       files->head.rehearsal ? "with" : "without");
    if (files->head.partitions != local->partitions)
        return err_set(err, ERR_REFUSED, "the journal in %s has %u partitions and [kafka] partitions says %u: it is fixed",
                       local->dir, files->head.partitions, local->partitions);
    return 0;
}

static int index_make(struct journal_local *local, struct journal_load how, struct err *err) {
    struct journal_files files;
    int rc = journal_files_open(&files, local->dir, err);
    if (rc != 0)
        return rc;
    if ((rc = files_match(local, &files, err)) == 0)
        return journal_index_build(&local->index, &files, &how, local->dir, err);
    journal_files_close(&files);
    return rc;
}

// `out` is NULL where the partition has had its part. The first one who asks reads the logs, and all others wait for that.
static int index_take(struct journal_local *local, const struct journal_load *load, struct journal_index **out,
                      struct err *err) {
    int rc = 0;
    CHECK(pthread_mutex_lock(&local->index_mutex) == 0);
    *out = NULL;
    if (!local->indexed[load->partition]) {
        if (local->index == NULL)
            rc = index_make(local, *load, err);
        if (rc == 0) {
            *out = local->index;
            local->indexed[load->partition] = true;
            local->index_left--;
            local->index_users++;
        }
    }
    CHECK(pthread_mutex_unlock(&local->index_mutex) == 0);
    return rc;
}

static void index_give_back(struct journal_local *local) {
    CHECK(pthread_mutex_lock(&local->index_mutex) == 0);
    CHECK(local->index_users > 0);
    if (--local->index_users == 0 && local->index_left == 0) {
        journal_index_free(local->index);
        local->index = NULL;
    }
    CHECK(pthread_mutex_unlock(&local->index_mutex) == 0);
}

static int local_load(struct journal *journal, uint32_t partition, journal_record_fn each, journal_progress_fn progress,
                      void *arg, int64_t *position, struct err *err) {
    struct journal_local *local = (struct journal_local *)journal;
    struct journal_files files;
    struct journal_index *index;
    CHECK(partition < local->partitions);
    CHECK(pthread_mutex_lock(&local->mutex) == 0);
    struct journal_load load = {.partition = partition,
                                .generation = local->generation,
                                .size = local->size,
                                .each = each,
                                .progress = progress,
                                .arg = arg};
    CHECK(pthread_mutex_unlock(&local->mutex) == 0);
    int rc = index_take(local, &load, &index, err);
    if (rc != 0)
        return rc;
    if (index != NULL) {
        rc = journal_index_load(index, &load, local->dir, err);
        index_give_back(local);
    } else if ((rc = journal_files_open(&files, local->dir, err)) == 0) {
        if ((rc = files_match(local, &files, err)) == 0)
            rc = journal_files_load(&load, &files, local->dir, err);
        journal_files_close(&files);
    }
    *position = load.position;
    return rc;
}

// ---- snapshots -------------------------------------------------------------------------------------------------------

static int64_t machine_ms(void) {
    const struct clock machine = clock_real();
    return clock_now_ms(&machine);
}

static int log_create(struct journal_local *local, uint64_t generation, int *fd, struct err *err) {
    char name[JOURNAL_NAME_SIZE], path[PATH_SIZE];
    uint8_t bytes[JOURNAL_HEAD_BYTES];
    const struct journal_head head = {.kind = JOURNAL_LOG,
                                      .rehearsal = local->rehearsal,
                                      .partitions = local->partitions,
                                      .generation = generation,
                                      .first_sequence = local->sequence};
    journal_name(JOURNAL_LOG, generation, name);
    journal_head_encode(&head, bytes);
    int rc = path_join(path, local->dir, name, err);
    if (rc == 0)
        rc = file_replace(path, 0600, bytes, sizeof bytes, err);
    if (rc != 0)
        return rc;
    *fd = open(path, O_RDWR | O_CLOEXEC);
    return *fd >= 0 ? 0 : err_errno(err, ERR_IO, "cannot open %s", path);
}

static void *compact_run(void *arg) {
    struct journal_local *local = arg;
    local->result = journal_compact(local->dir, &local->compact_head, &local->stop, &local->result_bytes, &local->result_err);
    atomic_store(&local->done, true);
    return NULL;
}

static void compact_join(struct journal_local *local) {
    CHECK(local->compacting);
    CHECK(pthread_join(local->thread, NULL) == 0);
    local->compacting = false;
    if (local->result == 0) {
        local->made_ms = local->compact_ms;
        local->older_bytes -= local->compact_bytes;
        local->snapshot_bytes = local->result_bytes;
        return;
    }
    local->retry_ms = clock_monotonic_ms() + SNAPSHOT_RETRY_MS;
    if (local->result != ERR_AGAIN)
        log_error("no snapshot of the journal, next try in a minute: %s", local->result_err.text);
}

// Commits go on in a new log while a thread turns all before it into a snapshot.
static void compact_begin(struct journal_local *local) {
    struct err err;
    int fd = -1;
    if (log_create(local, local->generation + 1, &fd, &err) != 0) {
        // Whether the new log is there is not known: a commit to the old one could be passed over at the next start.
        local->failed = true;
        log_error("cannot begin a new log of the journal: %s", err.text);
        return;
    }
    close(local->log_fd);
    local->log_fd = fd;
    local->older_bytes += local->size;
    CHECK(pthread_mutex_lock(&local->mutex) == 0);
    local->generation++;
    local->size = JOURNAL_HEAD_BYTES;
    CHECK(pthread_mutex_unlock(&local->mutex) == 0);
    local->compact_head = (struct journal_head){.rehearsal = local->rehearsal,
                                                .partitions = local->partitions,
                                                .generation = local->generation,
                                                .first_sequence = local->sequence};
    local->compact_bytes = local->older_bytes;
    local->compact_ms = machine_ms();
    atomic_store(&local->done, false);
    local->compacting = pthread_create(&local->thread, NULL, compact_run, local) == 0;
    if (!local->compacting) {
        local->retry_ms = clock_monotonic_ms() + SNAPSHOT_RETRY_MS;
        log_error("cannot start a thread for a snapshot of the journal");
    }
}

static void local_idle(struct journal *journal) {
    struct journal_local *local = (struct journal_local *)journal;
    if (local->compacting && atomic_load(&local->done))
        compact_join(local);
    uint64_t wanted = local->snapshot_bytes < local->low ? local->low : local->snapshot_bytes;
    wanted = wanted > local->high ? local->high : wanted;
    uint64_t bytes = local->older_bytes + local->size;
    bool old = bytes > JOURNAL_HEAD_BYTES && machine_ms() - local->made_ms > local->age_ms;
    if (!local->compacting && !local->failed && (bytes > wanted || old) && clock_monotonic_ms() >= local->retry_ms)
        compact_begin(local);
}

void journal_local_snapshot_age(struct journal *journal, int64_t age_ms) {
    ((struct journal_local *)journal)->age_ms = age_ms;
}

void journal_local_snapshot_bytes(struct journal *journal, uint64_t low, uint64_t high) {
    struct journal_local *local = (struct journal_local *)journal;
    CHECK(low > JOURNAL_HEAD_BYTES && low <= high);
    local->low = low;
    local->high = high;
}

// ---- open and close --------------------------------------------------------------------------------------------------

static void local_close(struct journal *journal) {
    struct journal_local *local = (struct journal_local *)journal;
    atomic_store(&local->stop, true);
    if (local->compacting)
        compact_join(local);
    if (local->log_fd >= 0)
        close(local->log_fd);
    if (local->lock_fd >= 0)
        close(local->lock_fd);
    CHECK(pthread_mutex_destroy(&local->mutex) == 0 && pthread_mutex_destroy(&local->index_mutex) == 0);
    journal_index_free(local->index);
    free(local->indexed);
    free(local->buffer);
    free(local);
}

// Finds the end of the newest log and cuts off what a crash left there half-written.
static int log_recover(struct journal_local *local, const char *path, uint64_t first_sequence, struct err *err) {
    struct frame_reader reader = {.fd = local->log_fd, .at = JOURNAL_HEAD_BYTES, .sequence = first_sequence};
    struct stat st;
    const uint8_t *payload;
    size_t len;
    bool follows = false;
    int rc;
    if (fstat(local->log_fd, &st) != 0)
        return err_errno(err, ERR_IO, "cannot look at %s", path);
    reader.end = (uint64_t)st.st_size;
    do
        rc = frame_reader_next(&reader, &payload, &len);
    while (rc == 1);
    frame_reader_free(&reader);
    local->size = reader.at;
    local->sequence = reader.sequence;
    if (rc == 0)
        return 0;
    if (rc != ERR_CORRUPT || frame_follows(&reader, &follows) != 0)
        return err_errno(err, ERR_IO, "cannot read %s", path);
    if (follows)
        return err_set(err, ERR_CORRUPT,
                       "%s is damaged after %llu bytes, and commits follow: restore it from a backup, or move the directory "
                       "away to begin with nothing counted",
                       path, (unsigned long long)reader.at);
    log_warn("a commit that was under way at the last stop is cut off the journal (%llu bytes)",
             (unsigned long long)(reader.end - reader.at));
    if (ftruncate(local->log_fd, (off_t)reader.at) != 0 || fsync(local->log_fd) != 0)
        return err_errno(err, ERR_IO, "cannot shorten %s", path);
    return 0;
}

static int local_continue(struct journal_local *local, const struct journal_files *files, struct err *err) {
    char name[JOURNAL_NAME_SIZE], path[PATH_SIZE];
    struct file_times times;
    int rc = files_match(local, files, err);
    if (rc != 0)
        return rc;
    journal_name(files->snapshot_fd >= 0 ? JOURNAL_SNAPSHOT : JOURNAL_LOG, files->head.generation, name);
    if ((rc = path_join(path, local->dir, name, err)) != 0)
        return rc;
    local->made_ms = file_times(path, &times) == 0 ? times.made_s * 1000 : 0;
    CHECK(files->n_logs > 0);
    const struct journal_log *newest = &files->logs[files->n_logs - 1];
    for (size_t i = 0; i + 1 < files->n_logs; i++) {
        struct stat st;
        local->older_bytes += fstat(files->logs[i].fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    local->snapshot_bytes = files->snapshot_bytes;
    local->generation = newest->generation;
    journal_name(JOURNAL_LOG, newest->generation, name);
    if ((rc = path_join(path, local->dir, name, err)) != 0)
        return rc;
    local->log_fd = open(path, O_RDWR | O_CLOEXEC);
    if (local->log_fd < 0)
        return err_errno(err, ERR_IO, "cannot open %s", path);
    return log_recover(local, path, newest->first_sequence, err);
}

static int local_begin(struct journal_local *local, const struct config *config, struct err *err) {
    struct journal_files files;
    int rc = dir_mark(config->aggregator_state_dir, local->rehearsal, err);
    if (rc != 0 || (rc = dir_mark(local->dir, local->rehearsal, err)) != 0)
        return rc;
    if ((local->lock_fd = dir_lock(local->dir, err)) < 0)
        return local->lock_fd;
    rc = journal_files_open(&files, local->dir, err);
    if (rc == ERR_NOT_FOUND) {
        local->sequence = 1;
        local->generation = 1;
        local->size = JOURNAL_HEAD_BYTES;
        local->made_ms = machine_ms();
        return log_create(local, 1, &local->log_fd, err);
    }
    if (rc != 0)
        return rc;
    journal_remove_below(local->dir, files.head.generation, true);
    rc = local_continue(local, &files, err);
    journal_files_close(&files);
    return rc;
}

static const struct journal_ops writable_ops = {
    .load = local_load, .commit = local_commit, .idle = local_idle, .close = local_close};
static const struct journal_ops readonly_ops = {.load = local_load, .close = local_close};

static int local_create(struct journal_local **out, const struct config *config, bool readonly, struct err *err) {
    struct journal_local *local = calloc(1, sizeof *local);
    if (local == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the journal");
    local->journal.ops = readonly ? &readonly_ops : &writable_ops;
    local->readonly = readonly;
    local->partitions = (uint32_t)config->kafka_partitions;
    local->rehearsal = config->rehearsal;
    local->lock_fd = -1;
    local->log_fd = -1;
    local->low = SNAPSHOT_LOW;
    local->high = SNAPSHOT_HIGH;
    local->age_ms = SNAPSHOT_AGE_MS;
    local->index_left = local->partitions;
    local->indexed = calloc(local->partitions, sizeof *local->indexed);
    CHECK(pthread_mutex_init(&local->mutex, NULL) == 0 && pthread_mutex_init(&local->index_mutex, NULL) == 0);
    int rc = local->indexed == NULL ? err_set(err, ERR_NOMEM, "no memory for the journal") : 0;
    if (rc == 0)
        rc = path_join(local->dir, config->aggregator_state_dir, "journal", err);
    if (rc != 0)
        local_close(&local->journal);
    else
        *out = local;
    return rc;
}

int journal_local_open(struct journal **journal, const struct config *config, struct err *err) {
    struct journal_local *local;
    int rc = local_create(&local, config, false, err);
    if (rc != 0)
        return rc;
    rc = local_begin(local, config, err);
    if (rc != 0)
        local_close(&local->journal);
    else
        *journal = &local->journal;
    return rc;
}

int journal_local_open_readonly(struct journal **journal, const struct config *config, struct err *err) {
    struct journal_local *local;
    struct journal_files files;
    int rc = local_create(&local, config, true, err);
    if (rc != 0)
        return rc;
    rc = journal_files_open(&files, local->dir, err);
    if (rc == 0) {
        rc = files_match(local, &files, err);
        journal_files_close(&files);
    }
    if (rc != 0)
        local_close(&local->journal);
    else
        *journal = &local->journal;
    return rc;
}
