#include "aggregator/journal_file.h"

#include "common/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOGS_MAX = 4096, OPEN_TRIES = 20 };

struct listing {
    uint64_t snapshot; // newest generation; 0: none
    size_t n_logs;
    uint64_t logs[LOGS_MAX];
};

static int list(const char *dir, struct listing *listing, struct err *err) {
    int rc = 0;
    listing->snapshot = 0;
    listing->n_logs = 0;
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot read the directory %s", dir);
    for (struct dirent *entry = readdir(stream); entry != NULL && rc == 0; entry = readdir(stream)) {
        enum journal_file_kind kind;
        uint64_t generation;
        if (!journal_name_parse(entry->d_name, &kind, &generation) || generation == 0)
            continue;
        if (kind == JOURNAL_SNAPSHOT)
            listing->snapshot = generation > listing->snapshot ? generation : listing->snapshot;
        else if (listing->n_logs < LOGS_MAX)
            listing->logs[listing->n_logs++] = generation;
        else
            rc = err_set(err, ERR_LIMIT, "%s holds more than %d logs", dir, LOGS_MAX);
    }
    closedir(stream);
    return rc;
}

static int generations_ascend(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

// Drops the logs that the snapshot covers; ERR_AGAIN where the rest is not a whole series (it changed under our eyes).
static int listing_settle(struct listing *listing) {
    uint64_t next = listing->snapshot == 0 ? 1 : listing->snapshot;
    size_t kept = 0;
    qsort(listing->logs, listing->n_logs, sizeof listing->logs[0], generations_ascend);
    for (size_t i = 0; i < listing->n_logs; i++) {
        if (listing->logs[i] < next && kept == 0)
            continue;
        if (listing->logs[i] != next)
            return ERR_AGAIN;
        listing->logs[kept++] = next++;
    }
    listing->n_logs = kept;
    return kept > 0 ? 0 : ERR_AGAIN;
}

static int open_one(const char *dir, enum journal_file_kind kind, uint64_t generation, struct journal_head *head, int *out,
                    struct err *err) {
    char name[JOURNAL_NAME_SIZE], path[PATH_SIZE];
    uint8_t bytes[JOURNAL_HEAD_BYTES];
    journal_name(kind, generation, name);
    int rc = path_join(path, dir, name, err);
    if (rc != 0)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ERR_AGAIN : err_errno(err, ERR_IO, "cannot open %s", path);
    rc = read_full(fd, bytes, sizeof bytes, 0);
    if (rc == ERR_IO)
        rc = err_errno(err, ERR_IO, "cannot read %s", path);
    else if (rc != 0 || journal_head_decode(bytes, head) != 0 || head->kind != kind || head->generation != generation)
        rc = err_set(err, ERR_CORRUPT, "%s is damaged: its head is not what was written", path);
    if (rc != 0)
        close(fd);
    else
        *out = fd;
    return rc;
}

static int open_snapshot(struct journal_files *files, const char *dir, uint64_t generation, struct err *err) {
    struct stat st;
    int rc = open_one(dir, JOURNAL_SNAPSHOT, generation, &files->head, &files->snapshot_fd, err);
    if (rc != 0)
        return rc;
    size_t len = snapshot_table_bytes(files->head.partitions);
    uint8_t *table = malloc(len);
    files->parts = calloc(files->head.partitions, sizeof *files->parts);
    if (table == NULL || files->parts == NULL)
        rc = err_set(err, ERR_NOMEM, "no memory to read the journal in %s", dir);
    else if (fstat(files->snapshot_fd, &st) != 0)
        rc = err_errno(err, ERR_IO, "cannot look at the snapshot in %s", dir);
    else if (read_full(files->snapshot_fd, table, len, JOURNAL_HEAD_BYTES) != 0 ||
             snapshot_table_decode(table, files->head.partitions, (uint64_t)st.st_size, files->parts) != 0)
        rc = err_set(err, ERR_CORRUPT, "snapshot-%016llx.ovj in %s is damaged: its table is not what was written",
                     (unsigned long long)generation, dir);
    else
        files->snapshot_bytes = (uint64_t)st.st_size;
    free(table);
    return rc;
}

static int open_logs(struct journal_files *files, const char *dir, const struct listing *listing, struct err *err) {
    files->logs = calloc(listing->n_logs, sizeof *files->logs);
    if (files->logs == NULL)
        return err_set(err, ERR_NOMEM, "no memory to read the journal in %s", dir);
    for (size_t i = 0; i < listing->n_logs; i++) {
        struct journal_head head;
        struct journal_log *log = &files->logs[i];
        int rc = open_one(dir, JOURNAL_LOG, listing->logs[i], &head, &log->fd, err);
        if (rc != 0)
            return rc;
        files->n_logs++;
        log->generation = head.generation;
        log->first_sequence = head.first_sequence;
        if (i == 0 && files->snapshot_fd < 0)
            files->head = head;
        if (head.partitions != files->head.partitions || head.rehearsal != files->head.rehearsal ||
            (i == 0 && head.first_sequence != files->head.first_sequence))
            return err_set(err, ERR_CORRUPT, "log-%016llx.ovj in %s does not go with the journal's other files",
                           (unsigned long long)head.generation, dir);
    }
    return 0;
}

static int files_try(struct journal_files *files, const char *dir, struct listing *listing, struct err *err) {
    int rc = list(dir, listing, err);
    if (rc != 0)
        return rc;
    if (listing->snapshot == 0 && listing->n_logs == 0)
        return err_set(err, ERR_NOT_FOUND, "%s holds no journal: no aggregator has run with this [aggregator] state_dir", dir);
    if ((rc = listing_settle(listing)) != 0)
        return rc;
    if (listing->snapshot != 0 && (rc = open_snapshot(files, dir, listing->snapshot, err)) != 0)
        return rc;
    return open_logs(files, dir, listing, err);
}

int journal_files_open(struct journal_files *files, const char *dir, struct err *err) {
    struct listing *listing = malloc(sizeof *listing);
    int rc = listing == NULL ? err_set(err, ERR_NOMEM, "no memory to read the journal in %s", dir) : ERR_AGAIN;
    for (int i = 0; i < OPEN_TRIES && rc == ERR_AGAIN; i++) {
        if (i > 0)
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        *files = (struct journal_files){.snapshot_fd = -1};
        rc = files_try(files, dir, listing, err);
        if (rc != 0)
            journal_files_close(files);
    }
    free(listing);
    if (rc == ERR_AGAIN)
        rc = err_set(err, ERR_CORRUPT, "%s lacks a log of the journal: put it back, or move the whole directory away", dir);
    return rc;
}

void journal_files_close(struct journal_files *files) {
    if (files->snapshot_fd >= 0)
        close(files->snapshot_fd);
    for (size_t i = 0; i < files->n_logs; i++)
        close(files->logs[i].fd);
    free(files->parts);
    free(files->logs);
    *files = (struct journal_files){.snapshot_fd = -1};
}
