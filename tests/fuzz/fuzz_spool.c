// A spool directory with files of any content. A start always succeeds, unless the files belong to another edge or the
// day has too many epochs; the start after it finds nothing damaged any more and the same segments.
// Input: files, each a kind (0 raw, 1 sealed, others: leftovers), a segment number of one byte, and a length of two bytes
// with that many bytes of chunks (framing.h).
#include "tests/fuzz/framing.h"
#include "tests/fuzz/fuzz.h"

#include "common/log.h"
#include "ingest/spool_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define DAY 20779
#define FILES_MAX 8
#define FILE_SIZE (1u << 19)

static char dir[PATH_SIZE];
static char edge[] = "e", durability[] = "page-cache";
static uint8_t file[FILE_SIZE];

static int no_sync(int fd) {
    (void)fd;
    return 0;
}

static void dir_empty(const char *path, bool all) {
    DIR *stream = opendir(path);
    struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        char inner[PATH_SIZE];
        // The mark is the same for every input; writing it anew would only cost time.
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (!all && strcmp(entry->d_name, "openveil-mode") == 0))
            continue;
        CHECK(path_join(inner, path, entry->d_name, NULL) == 0);
        if (unlink(inner) != 0) {
            dir_empty(inner, true);
            CHECK(rmdir(inner) == 0);
        }
    }
    if (stream != NULL)
        closedir(stream);
}

static void dir_remove(void) {
    dir_empty(dir, true);
    (void)rmdir(dir);
}

static void dir_make(void) {
    const char *temporary = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR");
    log_open("fuzz_spool", LOG_ERROR);
    snprintf(dir, sizeof dir, "%s/openveil-fuzz-XXXXXX", temporary == NULL ? "/tmp" : temporary);
    CHECK(mkdtemp(dir) != NULL && atexit(dir_remove) == 0);
}

static void file_write(unsigned kind, uint64_t number, struct reader *content) {
    char name[SEGMENT_NAME_SIZE], path[PATH_SIZE];
    size_t len = kind == 1 ? frame_sealed(content, file, sizeof file) : frame_raw(content, file, sizeof file);
    if (kind == 0)
        raw_name(number, name);
    else if (kind == 1)
        sealed_name(number, name);
    else
        snprintf(name, sizeof name, "%s-%llu.%s", kind % 2 == 0 ? "free" : "x", (unsigned long long)number,
                 kind % 2 == 0 ? "log" : "tmp");
    CHECK(path_join(path, dir, name, NULL) == 0);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write_full(fd, file, len, 0) == 0 && close(fd) == 0);
}

static int start(const struct config *config, const struct spool_io *io, uint64_t *damaged, struct numbers *sealed) {
    static const uint8_t rules[RULES_HASH_SIZE] = {42};
    struct spool *spool = NULL;
    struct spool_listing listing;
    struct err err = {0};
    int rc = spool_open_io(&spool, config, rules, io, &err);
    if (rc != 0) {
        if (rc != ERR_REFUSED && rc != ERR_LIMIT) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
        return rc;
    }
    *damaged = spool_damaged(spool);
    spool_free(spool);
    CHECK(spool_list(dir, &listing, &err) == 0 && listing.raw.n == 0 && listing.sealed.n > 0);
    *sealed = listing.sealed;
    numbers_free(&listing.raw);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct config config = {.spool_dir = dir, .ingest_edge_id = edge, .spool_bytes_max = 64u << 20,
                            .spool_segment_bytes = 1u << 20, .spool_segment_ms = 100, .spool_group_us = 600,
                            .spool_durability = durability, .kafka_partitions = 2};
    struct spool_io io = spool_io_real;
    struct reader r = reader_of(data, size);
    uint64_t damaged, damaged_again;
    struct numbers sealed, sealed_again;
    if (dir[0] == '\0')
        dir_make();
    dir_empty(dir, false);
    io.fsync = io.fdatasync = no_sync;
    struct clock real = clock_real();
    config.clock = clock_rehearsed(clock_now_ms(&real) / 1000, DAY, DAY_SECONDS);
    for (size_t i = 0; i < FILES_MAX && reader_left(&r) > 4; i++) {
        unsigned kind = read_u8(&r), number = read_u8(&r);
        size_t len = read_u16(&r), left = reader_left(&r);
        struct reader content = reader_of(r.at, len < left ? len : left);
        (void)read_bytes(&r, len < left ? len : left);
        file_write(kind, number, &content);
    }
    if (start(&config, &io, &damaged, &sealed) != 0)
        return 0;
    CHECK(start(&config, &io, &damaged_again, &sealed_again) == 0 && damaged_again == 0);
    CHECK(sealed.n == sealed_again.n && memcmp(sealed.at, sealed_again.at, sealed.n * sizeof *sealed.at) == 0);
    numbers_free(&sealed);
    numbers_free(&sealed_again);
    return 0;
}
