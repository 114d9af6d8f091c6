#include "aggregator/journal_index.h"

#include <sys/mman.h>

// Records that follow each other in one log.
struct run {
    uint32_t log;
    uint32_t n;
    uint64_t first, end; // offsets of the first one and behind the last one
};
struct runs {
    struct run *at;
    size_t n, room;
    int64_t position; // -1: the logs say nothing
};
struct map {
    uint8_t *bytes;
    size_t size;
};
struct journal_index {
    struct journal_files files;
    struct map *maps; // of the logs
    struct runs *partitions;
};

void journal_index_free(struct journal_index *index) {
    if (index == NULL)
        return;
    for (size_t i = 0; index->maps != NULL && i < index->files.n_logs; i++)
        if (index->maps[i].bytes != NULL)
            munmap(index->maps[i].bytes, index->maps[i].size);
    for (uint32_t p = 0; index->partitions != NULL && p < index->files.head.partitions; p++)
        free(index->partitions[p].at);
    free(index->maps);
    free(index->partitions);
    journal_files_close(&index->files);
    free(index);
}

static int on_position(void *arg, uint32_t partition, int64_t position) {
    struct journal_index *index = arg;
    if (partition >= index->files.head.partitions)
        return ERR_CORRUPT;
    index->partitions[partition].position = position;
    return 0;
}

static int on_record(void *arg, size_t log, uint64_t offset, const struct frame_record *record) {
    struct journal_index *index = arg;
    if (record->partition >= index->files.head.partitions)
        return ERR_CORRUPT;
    struct runs *runs = &index->partitions[record->partition];
    const uint64_t end = offset + FRAME_RECORD_BYTES + record->key_len + record->value_len;
    struct run *last = runs->n == 0 ? NULL : &runs->at[runs->n - 1];
    if (last != NULL && last->log == log && last->end == offset && last->n < UINT32_MAX) {
        last->n++;
        last->end = end;
        return 0;
    }
    if (runs->n == runs->room) {
        size_t room = runs->room == 0 ? 16 : runs->room + runs->room / 2;
        struct run *more = realloc(runs->at, room * sizeof *more);
        if (more == NULL)
            return ERR_NOMEM;
        runs->at = more;
        runs->room = room;
    }
    runs->at[runs->n++] = (struct run){.log = (uint32_t)log, .n = 1, .first = offset, .end = end};
    return 0;
}

// Behind the last record that a run speaks of there may be less than was read, and more by now: neither is looked at. A disk
// that fails under the mapping ends the process with SIGBUS, and the next start reads what is there.
static int logs_map(struct journal_index *index, struct err *err) {
    for (uint32_t p = 0; p < index->files.head.partitions; p++)
        for (size_t i = 0; i < index->partitions[p].n; i++) {
            const struct run *run = &index->partitions[p].at[i];
            struct map *map = &index->maps[run->log];
            map->size = run->end > map->size ? (size_t)run->end : map->size;
        }
    for (size_t i = 0; i < index->files.n_logs; i++) {
        if (index->maps[i].size == 0)
            continue;
        void *bytes = mmap(NULL, index->maps[i].size, PROT_READ, MAP_PRIVATE, index->files.logs[i].fd, 0);
        if (bytes == MAP_FAILED)
            return err_errno(err, ERR_IO, "cannot map a log of the journal");
        index->maps[i].bytes = bytes;
    }
    return 0;
}

int journal_index_build(struct journal_index **out, struct journal_files *files, struct journal_load *how, const char *dir,
                        struct err *err) {
    struct journal_index *index = calloc(1, sizeof *index);
    if (index == NULL) {
        journal_files_close(files);
        return err_set(err, ERR_NOMEM, "no memory for the journal");
    }
    index->files = *files;
    *files = (struct journal_files){.snapshot_fd = -1};
    index->maps = calloc(index->files.n_logs, sizeof *index->maps);
    index->partitions = calloc(index->files.head.partitions, sizeof *index->partitions);
    int rc = index->maps == NULL || index->partitions == NULL ? err_set(err, ERR_NOMEM, "no memory for the journal") : 0;
    for (uint32_t p = 0; rc == 0 && p < index->files.head.partitions; p++)
        index->partitions[p].position = -1;
    how->found = on_record;
    how->found_position = on_position;
    how->found_arg = index;
    if (rc == 0)
        rc = journal_logs_load(how, &index->files, dir, err);
    if (rc == 0)
        rc = logs_map(index, err);
    if (rc != 0)
        journal_index_free(index);
    else
        *out = index;
    return rc;
}

int journal_index_load(const struct journal_index *index, struct journal_load *load, const char *dir, struct err *err) {
    CHECK(load->partition < index->files.head.partitions);
    const struct runs *runs = &index->partitions[load->partition];
    for (size_t i = 0; i < runs->n; i++)
        load->total += runs->at[i].end - runs->at[i].first;
    int rc = journal_snapshot_load(load, &index->files, dir, err);
    for (size_t i = 0; rc == 0 && i < runs->n; i++) {
        const struct run *run = &runs->at[i];
        const uint8_t *at = index->maps[run->log].bytes + run->first;
        for (uint32_t n = 0; rc == 0 && n < run->n; n++) {
            struct frame_record record = frame_record_at(at);
            CHECK(record.partition == load->partition);
            rc = journal_load_record(load, &record);
            at += FRAME_RECORD_BYTES + record.key_len + record.value_len;
        }
        load->done += run->end - run->first;
    }
    if (runs->position >= 0)
        load->position = runs->position;
    return rc;
}
