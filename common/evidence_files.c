// The log in files: <log_dir>/<partition>.jsonl. Nothing is ever taken away from one but an unfinished last line, and what
// was written and could not be made durable; a reader passes over what it cannot use.
#include "common/evidence_backend.h"

#include "common/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WALK_BYTES (1u << 20)
#define WINDOW_BYTES (1u << 18) // the end of a file in which its head is looked for first

struct part {
    int fd; // -1: not open
    uint64_t size, durable;
};

struct files_log {
    struct evidence_log log;
    int lock_fd;
    struct part *parts; // for writing
};

static int part_open(const struct files_log *files, uint32_t partition, int flags, int *fd, struct err *err) {
    char name[32], path[PATH_SIZE];
    snprintf(name, sizeof name, "%" PRIu32 ".jsonl", partition);
    int rc = path_join(path, files->log.config->consent_log_dir, name, err);
    if (rc != 0)
        return rc;
    *fd = open(path, flags | O_CLOEXEC, 0600);
    if (*fd >= 0)
        return 0;
    return errno == ENOENT ? ERR_NOT_FOUND : err_errno(err, ERR_IO, "cannot open %s", path);
}

static int fd_size(int fd, uint64_t *size, struct err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_errno(err, ERR_IO, "cannot look at the evidence log");
    *size = (uint64_t)st.st_size;
    return 0;
}

// ---- walking over lines ---------------------------------------------------------------------------------------------
struct walk {
    int fd;
    uint64_t at, end; // bytes; from behind a line feed or 0
    // A line without its line feed; NULL: one too long to be any. Non-zero stops.
    int (*line)(void *arg, uint64_t offset, const char *text, size_t len);
    void *arg;
    uint64_t torn; // out: where an unfinished last line begins, or `end`
};

// The whole lines of a buffer: how many bytes they were, or a negative error.
static int64_t walk_buffer(struct walk *walk, const char *buffer, size_t used, bool *skipping) {
    size_t at = 0;
    for (;;) {
        const char *feed = memchr(buffer + at, '\n', used - at);
        if (feed == NULL)
            return (int64_t)at;
        size_t len = (size_t)(feed - buffer) - at;
        int rc = walk->line(walk->arg, walk->at + at, *skipping || len >= EVIDENCE_LINE_MAX ? NULL : buffer + at, len);
        *skipping = false;
        if (rc != 0)
            return rc;
        at += len + 1;
    }
}

static int walk_lines(struct walk *walk, struct err *err) {
    char *buffer = malloc(WALK_BYTES);
    bool skipping = false;
    size_t used = 0;
    int rc = buffer == NULL ? err_set(err, ERR_NOMEM, "no memory to read the evidence log") : 0;
    while (rc == 0 && walk->at + used < walk->end) {
        uint64_t left = walk->end - walk->at - used;
        size_t n = left < WALK_BYTES - used ? (size_t)left : WALK_BYTES - used;
        if (read_full(walk->fd, buffer + used, n, (off_t)(walk->at + used)) != 0) {
            rc = err_errno(err, ERR_IO, "cannot read the evidence log");
            break;
        }
        used += n;
        int64_t taken = walk_buffer(walk, buffer, used, &skipping);
        if (taken < 0) {
            rc = (int)taken;
            break;
        }
        if (taken == 0 && used >= EVIDENCE_LINE_MAX && walk->at + used < walk->end) {
            skipping = true; // no line is so long: pass over it
            taken = (int64_t)used;
        }
        memmove(buffer, buffer + taken, used - (size_t)taken);
        used -= (size_t)taken;
        walk->at += (uint64_t)taken;
    }
    walk->torn = walk->at;
    if (buffer != NULL)
        explicit_bzero(buffer, WALK_BYTES);
    free(buffer);
    return rc;
}

// ---- reading --------------------------------------------------------------------------------------------------------
struct reading {
    struct evidence_chain *chain;
    evidence_each_fn each;
    void *arg;
};

static int reading_line(void *arg, uint64_t offset, const char *text, size_t len) {
    const struct reading *reading = arg;
    struct evidence_line line;
    (void)offset;
    if (text == NULL || evidence_decode(text, len, &line) != 0) {
        reading->chain->damaged++;
        return 0;
    }
    if (!evidence_chain_take(reading->chain, &line) || reading->each == NULL)
        return 0;
    int rc = reading->each(reading->arg, &line);
    explicit_bzero(&line, sizeof line);
    return rc;
}

static int files_read(struct evidence_log *log, uint32_t partition, evidence_each_fn each, void *arg,
                      struct evidence_chain *chain, struct err *err) {
    const struct files_log *files = (const struct files_log *)log;
    struct reading reading = {.chain = chain, .each = each, .arg = arg};
    struct walk walk = {.line = reading_line, .arg = &reading};
    int rc = part_open(files, partition, O_RDONLY, &walk.fd, err);
    if (rc != 0)
        return rc == ERR_NOT_FOUND ? 0 : rc;
    rc = fd_size(walk.fd, &walk.end, err);
    if (rc == 0)
        rc = walk_lines(&walk, err);
    close(walk.fd);
    return rc;
}

// The first line's begin at or behind `from`.
static int line_begin(int fd, uint64_t from, uint64_t size, uint64_t *begin, struct err *err) {
    char bytes[2 * EVIDENCE_LINE_MAX];
    uint64_t at = from == 0 ? 0 : from - 1;
    *begin = from;
    if (from == 0)
        return 0;
    size_t n = size - at < sizeof bytes ? (size_t)(size - at) : sizeof bytes;
    if (read_full(fd, bytes, n, (off_t)at) != 0)
        return err_errno(err, ERR_IO, "cannot read the evidence log");
    const char *feed = memchr(bytes, '\n', n);
    *begin = feed == NULL ? at + n : at + (uint64_t)(feed - bytes) + 1;
    return 0;
}

// Looks at ever more of the end until a line there says where the log stands.
static int head_find(int fd, uint64_t size, struct evidence_chain *chain, uint64_t *torn, struct err *err) {
    for (uint64_t window = WINDOW_BYTES;; window *= 8) {
        struct reading reading = {.chain = chain};
        struct walk walk = {.fd = fd, .end = size, .line = reading_line, .arg = &reading};
        memset(chain, 0, sizeof *chain);
        chain->unanchored = window < size;
        int rc = line_begin(fd, window < size ? size - window : 0, size, &walk.at, err);
        if (rc == 0)
            rc = walk_lines(&walk, err);
        *torn = walk.torn;
        if (rc != 0 || !chain->unanchored)
            return rc;
    }
}

static int files_head(struct evidence_log *log, uint32_t partition, struct evidence_chain *chain, struct err *err) {
    struct files_log *files = (struct files_log *)log;
    uint64_t size = 0, torn;
    int fd;
    int rc = part_open(files, partition, log->writes ? O_RDWR | O_CREAT : O_RDONLY, &fd, err);
    if (rc != 0)
        return rc == ERR_NOT_FOUND ? 0 : rc;
    rc = fd_size(fd, &size, err);
    if (rc == 0)
        rc = head_find(fd, size, chain, &torn, err);
    if (rc != 0 || !log->writes) {
        close(fd);
        return rc;
    }
    if (torn < size && ftruncate(fd, (off_t)torn) != 0)
        rc = err_errno(err, ERR_IO, "cannot cut an unfinished line off the evidence log");
    // What was found may be in memory alone: a process before this one may have ended between its write and its sync.
    if (rc == 0 && fdatasync(fd) != 0)
        rc = err_errno(err, ERR_IO, "cannot make the evidence log durable");
    if (rc == 0)
        rc = dir_sync(log->config->consent_log_dir, err);
    struct part *part = &files->parts[partition];
    if (part->fd >= 0)
        close(part->fd);
    part->fd = rc == 0 ? fd : -1;
    part->size = part->durable = torn;
    if (rc != 0)
        close(fd);
    return rc;
}

// ---- writing --------------------------------------------------------------------------------------------------------
// What is not durable goes again, so that nothing is taken for durable later; a failed fsync is never repeated.
static void part_undo(struct part *part) {
    if (ftruncate(part->fd, (off_t)part->durable) != 0) {
        close(part->fd); // the next head reads what is there, and syncs it anew
        part->fd = -1;
    }
    part->size = part->durable;
}

static int files_write(struct evidence_log *log, uint32_t partition, const struct evidence_line *lines, size_t n,
                       struct err *err) {
    struct part *part = &((struct files_log *)log)->parts[partition];
    char *buffer = malloc(n * EVIDENCE_LINE_MAX);
    size_t len = 0;
    int rc = 0;
    CHECK(part->fd >= 0 && part->size >= part->durable);
    if (buffer == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the evidence log");
    for (size_t i = 0; i < n; i++)
        len += evidence_encode(&lines[i], buffer + len);
    if (write_full(part->fd, buffer, len, (off_t)part->size) != 0) {
        rc = err_errno(err, ERR_IO, "cannot write to the evidence log in %s", log->config->consent_log_dir);
        part_undo(part);
    } else {
        part->size += len;
    }
    explicit_bzero(buffer, len);
    free(buffer);
    return rc;
}

static int files_sync(struct evidence_log *log, struct err *err) {
    struct files_log *files = (struct files_log *)log;
    int rc = 0;
    for (uint32_t p = 0; p < log->config->kafka_partitions; p++) {
        struct part *part = &files->parts[p];
        if (part->fd < 0 || part->size == part->durable)
            continue;
        if (rc == 0 && fdatasync(part->fd) != 0)
            rc = err_errno(err, ERR_IO, "cannot make the evidence log in %s durable", log->config->consent_log_dir);
        if (rc == 0)
            part->durable = part->size;
        else
            part_undo(part);
    }
    return rc;
}

// ---- erasing --------------------------------------------------------------------------------------------------------
struct erasing {
    int fd;
    uint32_t tenant;
    const uint64_t *pseudonym;
    uint64_t *n;
};

static int erasing_line(void *arg, uint64_t offset, const char *text, size_t len) {
    struct erasing *erasing = arg;
    struct evidence_line line;
    char erased[EVIDENCE_LINE_MAX];
    if (text == NULL || evidence_decode(text, len, &line) != 0 ||
        !evidence_concerns(&line, erasing->tenant, erasing->pseudonym))
        return 0;
    evidence_erase(&line);
    size_t used = evidence_encode(&line, erased) - 1;
    CHECK(used <= len);
    memset(erased + used, ' ', len - used);
    ++*erasing->n;
    return write_full(erasing->fd, erased, len, (off_t)offset);
}

static int files_erase(struct evidence_log *log, uint32_t partition, uint32_t tenant, const uint64_t *pseudonym,
                       uint64_t *n, struct err *err) {
    const struct files_log *files = (const struct files_log *)log;
    struct erasing erasing = {.tenant = tenant, .pseudonym = pseudonym, .n = n};
    struct walk walk = {.line = erasing_line, .arg = &erasing};
    int rc = part_open(files, partition, O_RDWR, &walk.fd, err);
    if (rc != 0)
        return rc == ERR_NOT_FOUND ? 0 : rc;
    erasing.fd = walk.fd;
    rc = fd_size(walk.fd, &walk.end, err);
    if (rc == 0) {
        err_set(err, ERR_IO, "cannot erase in the evidence log in %s", log->config->consent_log_dir);
        rc = walk_lines(&walk, err);
    }
    if (rc == 0 && *n > 0 && fdatasync(walk.fd) != 0)
        rc = err_errno(err, ERR_IO, "cannot make the evidence log in %s durable", log->config->consent_log_dir);
    close(walk.fd);
    return rc;
}

// ---- opening --------------------------------------------------------------------------------------------------------
static void files_close(struct evidence_log *log) {
    struct files_log *files = (struct files_log *)log;
    for (uint32_t p = 0; files->parts != NULL && p < log->config->kafka_partitions; p++)
        if (files->parts[p].fd >= 0)
            close(files->parts[p].fd);
    if (files->lock_fd >= 0)
        close(files->lock_fd);
    free(files->parts);
    free(files);
}

static const struct evidence_log_ops files_ops = {.read = files_read,
                                                  .head = files_head,
                                                  .write = files_write,
                                                  .sync = files_sync,
                                                  .erase = files_erase,
                                                  .close = files_close};

int evidence_files_open(struct evidence_log **out, const struct config *config, bool writes, struct err *err) {
    struct files_log *files = calloc(1, sizeof *files);
    if (files == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the evidence log");
    files->log = (struct evidence_log){.ops = &files_ops, .config = config, .writes = writes};
    files->lock_fd = -1;
    int rc = 0;
    if (writes) {
        files->parts = malloc(config->kafka_partitions * sizeof *files->parts);
        if (files->parts == NULL)
            rc = err_set(err, ERR_NOMEM, "no memory for the evidence log");
        for (uint32_t p = 0; rc == 0 && p < config->kafka_partitions; p++)
            files->parts[p] = (struct part){.fd = -1};
        if (rc == 0)
            rc = dir_mark(config->consent_log_dir, config->rehearsal, err);
        if (rc == 0 && (files->lock_fd = dir_lock(config->consent_log_dir, err)) < 0)
            rc = files->lock_fd;
    }
    if (rc != 0) {
        files_close(&files->log);
        return rc;
    }
    *out = &files->log;
    return 0;
}
