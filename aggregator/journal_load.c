#include "aggregator/journal_load.h"

#include <sys/stat.h>

enum { PROGRESS_RECORDS = 100000 };

static int on_position(void *arg, uint32_t partition, int64_t position) {
    struct journal_load *load = arg;
    if (load->found != NULL)
        return load->stopped = load->found_position(load->found_arg, partition, position);
    if (partition == load->partition)
        load->position = position;
    return 0;
}

static int load_progress(struct journal_load *load) {
    if (++load->records % PROGRESS_RECORDS == 0 && load->stopped == 0 && load->progress != NULL)
        load->stopped = load->progress(load->arg, load->done, load->total);
    return load->stopped;
}

int journal_load_record(struct journal_load *load, const struct frame_record *record) {
    load->stopped = load->each(load->arg, record->key, record->key_len, record->value, record->value_len);
    return load->stopped != 0 ? load->stopped : load_progress(load);
}

static int on_record(void *arg, const struct frame_record *record) {
    struct journal_load *load = arg;
    if (load->found != NULL) {
        uint64_t offset = load->frame_offset + (uint64_t)(record->at - load->payload);
        load->stopped = load->found(load->found_arg, load->log, offset, record);
        return load->stopped != 0 ? load->stopped : load_progress(load);
    }
    return record->partition == load->partition ? journal_load_record(load, record) : 0;
}

// To the end of one file: 0, or why not. `reader` then says where it stopped.
static int load_frames(struct journal_load *load, struct frame_reader *reader) {
    const struct frame_hooks hooks = {on_position, on_record, load};
    const uint8_t *payload;
    size_t len;
    int rc;
    while ((rc = frame_reader_next(reader, &payload, &len)) == 1) {
        load->done += len;
        load->payload = payload;
        load->frame_offset = reader->at - FRAME_SUM_BYTES - len;
        if ((rc = frame_walk(payload, len, &hooks)) != 0)
            break;
    }
    frame_reader_free(reader);
    return rc;
}

int journal_snapshot_load(struct journal_load *load, const struct journal_files *files, const char *dir, struct err *err) {
    load->position = -1;
    if (files->snapshot_fd < 0)
        return 0;
    const struct snapshot_part *part = &files->parts[load->partition];
    struct frame_reader reader = {.fd = files->snapshot_fd, .at = part->start, .end = part->end};
    load->position = part->position;
    load->total += part->end - part->start;
    int rc = load_frames(load, &reader);
    if (load->stopped != 0)
        return load->stopped;
    if (rc == ERR_CORRUPT || (rc == 0 && load->records != part->records))
        return err_set(err, ERR_CORRUPT, "snapshot-%016llx.ovj in %s is damaged after %llu bytes",
                       (unsigned long long)files->head.generation, dir, (unsigned long long)reader.at);
    return rc == 0 ? 0 : err_errno(err, rc, "cannot read the snapshot in %s", dir);
}

// What another process appends right now looks torn and is whole a moment later; damage stays, with frames behind it.
static int load_growing(struct journal_load *load, struct frame_reader *reader) {
    struct stat st;
    uint64_t stopped_at;
    int rc;
    do {
        stopped_at = reader->at;
        if (fstat(reader->fd, &st) != 0)
            return ERR_IO;
        reader->end = (uint64_t)st.st_size > stopped_at ? (uint64_t)st.st_size : stopped_at;
        bool follows = false;
        if ((rc = frame_follows(reader, &follows)) != 0)
            return rc;
        rc = follows ? load_frames(load, reader) : 0;
    } while (rc == ERR_CORRUPT && load->stopped == 0 && reader->at > stopped_at);
    return rc;
}

static int load_log(struct journal_load *load, const struct journal_log *log, bool newest, uint64_t *sequence,
                    const char *dir, struct err *err) {
    struct stat st;
    if (fstat(log->fd, &st) != 0)
        return err_errno(err, ERR_IO, "cannot look at a log in %s", dir);
    struct frame_reader reader = {
        .fd = log->fd, .at = JOURNAL_HEAD_BYTES, .end = (uint64_t)st.st_size, .sequence = log->first_sequence};
    if (log->first_sequence != *sequence)
        return err_set(err, ERR_CORRUPT, "log-%016llx.ovj in %s does not follow the log before it",
                       (unsigned long long)log->generation, dir);
    int rc = load_frames(load, &reader);
    bool growing = newest && (log->generation != load->generation || reader.at >= load->size);
    if (rc == ERR_CORRUPT && load->stopped == 0 && growing)
        rc = load_growing(load, &reader);
    *sequence = reader.sequence;
    if (load->stopped != 0)
        return load->stopped;
    if (rc == ERR_CORRUPT)
        return err_set(err, rc, "log-%016llx.ovj in %s is damaged after %llu bytes", (unsigned long long)log->generation,
                       dir, (unsigned long long)reader.at);
    return rc == 0 ? 0 : err_errno(err, rc, "cannot read log-%016llx.ovj in %s", (unsigned long long)log->generation, dir);
}

static void logs_expect(struct journal_load *load, const struct journal_files *files) {
    for (size_t i = 0; i < files->n_logs; i++) {
        struct stat st;
        load->total += fstat(files->logs[i].fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    }
}

int journal_logs_load(struct journal_load *load, const struct journal_files *files, const char *dir, struct err *err) {
    uint64_t sequence = files->head.first_sequence;
    CHECK(files->n_logs > 0);
    if (load->total == 0)
        logs_expect(load, files);
    for (load->log = 0; load->log < files->n_logs; load->log++) {
        int rc = load_log(load, &files->logs[load->log], load->log + 1 == files->n_logs, &sequence, dir, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int journal_files_load(struct journal_load *load, const struct journal_files *files, const char *dir, struct err *err) {
    CHECK(load->partition < files->head.partitions);
    logs_expect(load, files);
    int rc = journal_snapshot_load(load, files, dir, err);
    return rc != 0 ? rc : journal_logs_load(load, files, dir, err);
}
