#include "aggregator/journal_compact.h"

#include "common/bytes.h"
#include "common/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUT_BYTES = 1 << 20, OFFSET_BITS = 40 };
#define OUT_ROOM (FRAME_HEAD_BYTES + 4 + OUT_BYTES + FRAME_RECORD_BYTES + RECORD_KEY_MAX + RECORD_VALUE_MAX + FRAME_SUM_BYTES)

struct map {
    const uint8_t *bytes;
    size_t size;
};

struct compact {
    _Atomic bool *stop;
    struct journal_head head;
    struct journal_files files;
    struct map *maps;  // of the logs below head.generation
    size_t n_maps;
    size_t mapping;    // the one being walked
    uint64_t *entries; // records of the logs: which map and offset in it, so that their order is that of the commits
    size_t n_entries, room;
    size_t cursor;     // next entry to write
    struct snapshot_part *parts;
    uint32_t partition; // being written
    int fd;
    uint64_t at;
    uint64_t sequence; // within the partition
    uint8_t *out;
    size_t used; // bytes of payload
};

// ---- collecting the logs' records ------------------------------------------------------------------------------------

static struct frame_record entry_record(const struct compact *compact, uint64_t entry) {
    const struct map *map = &compact->maps[entry >> OFFSET_BITS];
    return frame_record_at(map->bytes + (entry & (((uint64_t)1 << OFFSET_BITS) - 1)));
}

static int on_position(void *arg, uint32_t partition, int64_t position) {
    struct compact *compact = arg;
    if (partition >= compact->head.partitions)
        return ERR_CORRUPT;
    compact->parts[partition].position = position;
    return 0;
}

static int on_log_record(void *arg, const struct frame_record *record) {
    struct compact *compact = arg;
    if (record->partition >= compact->head.partitions)
        return ERR_CORRUPT;
    if (compact->n_entries == compact->room) {
        size_t room = compact->room == 0 ? 65536 : compact->room * 2;
        uint64_t *entries = realloc(compact->entries, room * sizeof *entries);
        if (entries == NULL)
            return ERR_NOMEM;
        compact->entries = entries;
        compact->room = room;
    }
    uint64_t offset = (uint64_t)(record->at - compact->maps[compact->mapping].bytes);
    compact->entries[compact->n_entries++] = (uint64_t)compact->mapping << OFFSET_BITS | offset;
    return 0;
}

// These logs are closed: every byte of them must be as it was written.
static int walk_log(struct compact *compact, uint64_t sequence) {
    const struct map *map = &compact->maps[compact->mapping];
    const struct frame_hooks hooks = {on_position, on_log_record, compact};
    size_t at = JOURNAL_HEAD_BYTES;
    while (at < map->size) {
        uint64_t found;
        size_t left = map->size - at;
        if (atomic_load(compact->stop))
            return ERR_AGAIN;
        int64_t len = left < FRAME_HEAD_BYTES ? ERR_CORRUPT : frame_head_parse(map->bytes + at, &found);
        if (len < 0 || (uint64_t)len > left || found != sequence || frame_check(map->bytes + at, (size_t)len) != 0)
            return ERR_CORRUPT;
        int rc = frame_walk(map->bytes + at + FRAME_HEAD_BYTES, (size_t)len - FRAME_HEAD_BYTES - FRAME_SUM_BYTES, &hooks);
        if (rc != 0)
            return rc;
        at += (size_t)len;
        sequence++;
    }
    uint64_t next = compact->mapping + 1 < compact->files.n_logs ? compact->files.logs[compact->mapping + 1].first_sequence
                                                                 : compact->head.first_sequence;
    return sequence == next ? 0 : ERR_CORRUPT;
}

static int collect(struct compact *compact, struct err *err) {
    size_t n = 0;
    while (n < compact->files.n_logs && compact->files.logs[n].generation < compact->head.generation)
        n++;
    compact->maps = calloc(n + 1, sizeof *compact->maps);
    if (compact->maps == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a snapshot");
    for (size_t i = 0; i < n; i++) {
        struct stat st;
        int fd = compact->files.logs[i].fd;
        unsigned long long generation = compact->files.logs[i].generation;
        if (fstat(fd, &st) != 0)
            return err_errno(err, ERR_IO, "cannot look at a log of the journal");
        // A disk that fails under the mapping ends the process with SIGBUS: as with a failed fsync, the next start reads
        // what is there.
        void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED)
            return err_errno(err, ERR_IO, "cannot map a log of the journal");
        compact->maps[i] = (struct map){bytes, (size_t)st.st_size};
        compact->n_maps = i + 1;
        compact->mapping = i;
        int rc = walk_log(compact, compact->files.logs[i].first_sequence);
        if (rc == ERR_CORRUPT)
            return err_set(err, rc, "log-%016llx.ovj is damaged", generation);
        if (rc != 0)
            return err_set(err, rc, "cannot read log-%016llx.ovj", generation);
    }
    return 0;
}

static int entries_ascend(const void *a, const void *b, void *arg) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    struct frame_record x = entry_record(arg, left), y = entry_record(arg, right);
    if (x.partition != y.partition)
        return x.partition < y.partition ? -1 : 1;
    int order = frame_key_compare(&x, &y);
    return order != 0 ? order : left < right ? -1 : left > right;
}

// Sorted by partition and key; of each key only the newest is kept.
static void entries_settle(struct compact *compact) {
    size_t kept = 0;
    if (compact->n_entries == 0)
        return;
    qsort_r(compact->entries, compact->n_entries, sizeof compact->entries[0], entries_ascend, compact);
    for (size_t i = 0; i < compact->n_entries; i++) {
        if (kept > 0) {
            struct frame_record last = entry_record(compact, compact->entries[kept - 1]);
            struct frame_record next = entry_record(compact, compact->entries[i]);
            if (last.partition == next.partition && frame_key_compare(&last, &next) == 0)
                kept--;
        }
        compact->entries[kept++] = compact->entries[i];
    }
    compact->n_entries = kept;
}

// ---- writing the snapshot --------------------------------------------------------------------------------------------

static int out_flush(struct compact *compact) {
    if (compact->used == 4) // the number of positions, none
        return 0;
    if (atomic_load(compact->stop))
        return ERR_AGAIN;
    size_t len = frame_seal(compact->out, compact->sequence++, compact->used);
    int rc = write_full(compact->fd, compact->out, len, (off_t)compact->at);
    compact->at += len;
    compact->used = 4;
    return rc;
}

static int out_record(struct compact *compact, const struct frame_record *record) {
    if (record->value_len == 0) // erased
        return 0;
    compact->used += frame_record_write(compact->out + FRAME_HEAD_BYTES + compact->used, record);
    compact->parts[compact->partition].records++;
    return compact->used >= OUT_BYTES ? out_flush(compact) : 0;
}

static int on_old_record(void *arg, const struct frame_record *record) {
    struct compact *compact = arg;
    if (record->partition != compact->partition)
        return ERR_CORRUPT;
    while (compact->cursor < compact->n_entries) {
        struct frame_record newer = entry_record(compact, compact->entries[compact->cursor]);
        int order = newer.partition != compact->partition ? 1 : frame_key_compare(&newer, record);
        if (order > 0)
            break;
        compact->cursor++;
        int rc = out_record(compact, &newer);
        if (rc != 0 || order == 0)
            return rc;
    }
    return out_record(compact, record);
}

static int write_partition(struct compact *compact) {
    struct snapshot_part *part = &compact->parts[compact->partition];
    const struct frame_hooks hooks = {NULL, on_old_record, compact};
    struct frame_reader reader = {.fd = compact->files.snapshot_fd};
    const uint8_t *payload;
    size_t len;
    int rc = 0;
    part->start = compact->at;
    compact->sequence = 0;
    if (reader.fd >= 0) {
        reader.at = compact->files.parts[compact->partition].start;
        reader.end = compact->files.parts[compact->partition].end;
        while ((rc = frame_reader_next(&reader, &payload, &len)) == 1)
            if ((rc = frame_walk(payload, len, &hooks)) != 0)
                break;
        frame_reader_free(&reader);
    }
    while (rc == 0 && compact->cursor < compact->n_entries) {
        struct frame_record newer = entry_record(compact, compact->entries[compact->cursor]);
        if (newer.partition != compact->partition)
            break;
        compact->cursor++;
        rc = out_record(compact, &newer);
    }
    if (rc == 0)
        rc = out_flush(compact);
    part->end = compact->at;
    return rc;
}

static int write_all(struct compact *compact) {
    uint8_t head[JOURNAL_HEAD_BYTES];
    size_t table_len = snapshot_table_bytes(compact->head.partitions);
    compact->at = JOURNAL_HEAD_BYTES + table_len;
    compact->used = 4;
    store_u32(compact->out + FRAME_HEAD_BYTES, 0);
    int rc = 0;
    for (compact->partition = 0; rc == 0 && compact->partition < compact->head.partitions; compact->partition++)
        rc = write_partition(compact);
    if (rc != 0)
        return rc;
    CHECK(compact->cursor == compact->n_entries);
    uint8_t *table = malloc(table_len);
    if (table == NULL)
        return ERR_NOMEM;
    journal_head_encode(&compact->head, head);
    snapshot_table_encode(compact->parts, compact->head.partitions, table);
    if (write_full(compact->fd, head, sizeof head, 0) != 0 ||
        write_full(compact->fd, table, table_len, JOURNAL_HEAD_BYTES) != 0 || fsync(compact->fd) != 0)
        rc = ERR_IO;
    free(table);
    return rc;
}

static int publish(struct compact *compact, const char *dir, struct err *err) {
    char name[JOURNAL_NAME_SIZE], path[PATH_SIZE], temporary[PATH_SIZE + 8];
    journal_name(JOURNAL_SNAPSHOT, compact->head.generation, name);
    int rc = path_join(path, dir, name, err);
    if (rc != 0)
        return rc;
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    compact->fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (compact->fd < 0)
        return err_errno(err, ERR_IO, "cannot create %s", temporary);
    rc = write_all(compact);
    if (close(compact->fd) != 0 && rc == 0)
        rc = ERR_IO;
    if (rc == 0 && rename(temporary, path) != 0)
        rc = ERR_IO;
    if (rc == 0)
        return dir_sync(dir, err);
    if (rc == ERR_CORRUPT)
        err_set(err, rc, "the last snapshot in %s is damaged", dir);
    else
        err_errno(err, rc, "cannot write %s", temporary);
    unlink(temporary);
    return rc;
}

int journal_compact(const char *dir, const struct journal_head *head, _Atomic bool *stop, uint64_t *bytes,
                    struct err *err) {
    struct compact compact = {.stop = stop, .head = *head, .files = {.snapshot_fd = -1}};
    compact.head.kind = JOURNAL_SNAPSHOT;
    int rc = journal_files_open(&compact.files, dir, err);
    if (rc != 0)
        return rc;
    CHECK(compact.files.head.partitions == head->partitions && compact.files.head.generation < head->generation);
    compact.parts = calloc(head->partitions, sizeof *compact.parts);
    compact.out = malloc(OUT_ROOM);
    if (compact.parts == NULL || compact.out == NULL) {
        rc = err_set(err, ERR_NOMEM, "no memory for a snapshot");
        goto done;
    }
    for (uint32_t i = 0; i < head->partitions; i++)
        compact.parts[i].position = compact.files.snapshot_fd >= 0 ? compact.files.parts[i].position : -1;
    if ((rc = collect(&compact, err)) != 0)
        goto done;
    entries_settle(&compact);
    if ((rc = publish(&compact, dir, err)) != 0)
        goto done;
    *bytes = compact.at;
    journal_remove_below(dir, head->generation, false);
done:
    for (size_t i = 0; i < compact.n_maps; i++)
        munmap((void *)compact.maps[i].bytes, compact.maps[i].size);
    free(compact.maps);
    free(compact.entries);
    free(compact.parts);
    free(compact.out);
    journal_files_close(&compact.files);
    return rc;
}

void journal_remove_below(const char *dir, uint64_t generation, bool unfinished) {
    char path[PATH_SIZE];
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return;
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        enum journal_file_kind kind;
        uint64_t found;
        bool old = journal_name_parse(entry->d_name, &kind, &found) && found < generation;
        if (!old && !(unfinished && strstr(entry->d_name, ".ovj.tmp") != NULL))
            continue;
        if (path_join(path, dir, entry->d_name, NULL) == 0)
            unlink(path); // one that stays is removed next time; nobody reads it
    }
    closedir(stream);
}
