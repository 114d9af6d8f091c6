#include "aggregator/clean_asked.h"

#include "common/bytes.h"
#include "common/files.h"

#include <unistd.h>

#define RUNS 256 // one for each first byte of a pseudonym
#define CHUNK_ENTRIES 4096
#define CHUNK_BYTES (CHUNK_ENTRIES * CLEAN_ASKED_BYTES)

struct clean_asked_set {
    int fd; // -1: nothing had to be written
    struct {
        uint8_t *bytes; // CHUNK_BYTES
        size_t n;
    } runs[RUNS];
    uint8_t *chunk_runs; // of each chunk in the file, in order: the run that it belongs to
    size_t n_chunks, chunks_room;
    size_t n; // contacts
    // taking: where the next slice begins
    size_t run, chunk;
    uint8_t *chunk_bytes;
    struct clean_asked *slice, *other;
    size_t slice_room, n_slice;
};

int clean_asked_create(struct clean_asked_set **out) {
    struct clean_asked_set *set = calloc(1, sizeof *set);
    if (set == NULL)
        return ERR_NOMEM;
    set->fd = -1;
    *out = set;
    return 0;
}

void clean_asked_free(struct clean_asked_set *set) {
    if (set == NULL)
        return;
    for (size_t i = 0; i < RUNS; i++)
        free(set->runs[i].bytes);
    free(set->chunk_runs);
    free(set->chunk_bytes);
    free(set->slice);
    free(set->other);
    if (set->fd >= 0)
        close(set->fd);
    free(set);
}

static int chunk_write(struct clean_asked_set *set, size_t run, struct err *err) {
    CHECK(set->runs[run].n == CHUNK_ENTRIES);
    if (set->fd < 0 && (set->fd = file_temporary("clean", err)) < 0)
        return set->fd;
    if (set->n_chunks == set->chunks_room) {
        size_t room = set->chunks_room == 0 ? 1024 : set->chunks_room * 2;
        uint8_t *chunk_runs = realloc(set->chunk_runs, room);
        if (chunk_runs == NULL)
            return err_set(err, ERR_NOMEM, "no memory for the list");
        set->chunk_runs = chunk_runs;
        set->chunks_room = room;
    }
    if (write_full(set->fd, set->runs[run].bytes, CHUNK_BYTES, (off_t)(set->n_chunks * CHUNK_BYTES)) != 0)
        return err_errno(err, ERR_IO, "cannot write a temporary file");
    set->chunk_runs[set->n_chunks++] = (uint8_t)run;
    set->runs[run].n = 0;
    return 0;
}

int clean_asked_add(struct clean_asked_set *set, uint64_t pseudonym, uint32_t line, struct err *err) {
    size_t run = pseudonym >> 56;
    CHECK(set->slice == NULL);
    if (set->runs[run].bytes == NULL && (set->runs[run].bytes = malloc(CHUNK_BYTES)) == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the list");
    uint8_t *at = set->runs[run].bytes + set->runs[run].n++ * CLEAN_ASKED_BYTES;
    store_u64(at, pseudonym);
    store_u32(at + 8, line);
    set->n++;
    return set->runs[run].n == CHUNK_ENTRIES ? chunk_write(set, run, err) : 0;
}

// ---- taking --------------------------------------------------------------------------------------------------------
static int slice_create(struct clean_asked_set *set, struct err *err) {
    set->slice_room = set->n < CLEAN_SLICE_MAX ? set->n + 1 : CLEAN_SLICE_MAX;
    set->slice = calloc(set->slice_room, sizeof *set->slice);
    set->other = calloc(set->slice_room, sizeof *set->other);
    set->chunk_bytes = malloc(CHUNK_BYTES);
    if (set->slice == NULL || set->other == NULL || set->chunk_bytes == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the list");
    return 0;
}

// False where the slice has no room for them.
static bool slice_take(struct clean_asked_set *set, const uint8_t *bytes, size_t n) {
    if (n > set->slice_room - set->n_slice)
        return false;
    for (const uint8_t *at = bytes; at < bytes + n * CLEAN_ASKED_BYTES; at += CLEAN_ASKED_BYTES)
        set->slice[set->n_slice++] = (struct clean_asked){.pseudonym = load_u64(at), .line = load_u32(at + 8)};
    return true;
}

// By all bytes of the pseudonym, the least significant first; bytes that are the same in all need no pass.
static void slice_sort(struct clean_asked_set *set) {
    for (unsigned shift = 0; shift < 64; shift += 8) {
        size_t ends[256] = {0};
        for (size_t i = 0; i < set->n_slice; i++)
            ends[set->slice[i].pseudonym >> shift & 255]++;
        if (ends[set->slice[0].pseudonym >> shift & 255] == set->n_slice)
            continue;
        for (size_t digit = 1; digit < 256; digit++)
            ends[digit] += ends[digit - 1];
        for (size_t i = set->n_slice; i-- > 0;)
            set->other[--ends[set->slice[i].pseudonym >> shift & 255]] = set->slice[i];
        struct clean_asked *sorted = set->other;
        set->other = set->slice;
        set->slice = sorted;
    }
}

// Adds what fits of the run that is being taken: 1 when it is through, 0 when the slice is full, ERR_IO.
static int run_take(struct clean_asked_set *set, struct err *err) {
    for (; set->chunk < set->n_chunks; set->chunk++) {
        if (set->chunk_runs[set->chunk] != set->run)
            continue;
        if (read_full(set->fd, set->chunk_bytes, CHUNK_BYTES, (off_t)(set->chunk * CHUNK_BYTES)) != 0)
            return err_errno(err, ERR_IO, "cannot read a temporary file");
        if (!slice_take(set, set->chunk_bytes, CHUNK_ENTRIES))
            return 0;
    }
    return slice_take(set, set->runs[set->run].bytes, set->runs[set->run].n);
}

int clean_asked_slice(struct clean_asked_set *set, const struct clean_asked **asked, size_t *n, struct err *err) {
    int rc = set->slice == NULL ? slice_create(set, err) : 0;
    set->n_slice = 0;
    while (rc == 0 && set->run < RUNS) {
        int through = run_take(set, err);
        if (through < 0)
            return through;
        if (through == 0)
            break;
        set->run++;
        set->chunk = 0;
    }
    if (rc != 0 || set->n_slice == 0)
        return rc;
    slice_sort(set);
    *asked = set->slice;
    *n = set->n_slice;
    return 1;
}
