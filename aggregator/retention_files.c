// The stores that are files: spool, inbox, journal, what was set aside, released lines.
#include "aggregator/journal_file.h"
#include "aggregator/release_files.h"
#include "aggregator/retention.h"
#include "common/files.h"
#include "common/segment.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define DAY_MS (24LL * 3600 * 1000)

// ---- directories -----------------------------------------------------------------------------------------------------

struct walk {
    struct retention *retention;
    const struct config *config;
    const char *dir;
    int64_t now_ms; // the machine's clock
    uint64_t n_sealed, sealed_first; // of the lowest number
    uint64_t n_open, open_first;
    bool has_snapshot, has_log;
    uint32_t snapshot_age, log_age;
};
typedef void (*name_fn)(struct walk *walk, const char *name);

// An absent directory has no names.
static int walk_names(struct walk *walk, const char *dir, name_fn each, struct err *err) {
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return errno == ENOENT ? 0 : err_errno(err, ERR_IO, "cannot read the directory %s", dir);
    walk->dir = dir;
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream))
        if (entry->d_name[0] != '.')
            each(walk, entry->d_name);
    closedir(stream);
    return 0;
}

// In whole days since a file was made, or last written; 0 where it is gone.
static uint32_t file_age(const struct walk *walk, const char *name, bool made) {
    char path[PATH_SIZE];
    struct file_times times;
    if (path_join(path, walk->dir, name, NULL) != 0 || file_times(path, &times) != 0)
        return 0;
    int64_t age_ms = walk->now_ms - (made ? times.made_s : times.written_s) * 1000;
    return age_ms < 0 ? 0 : (uint32_t)(age_ms / DAY_MS);
}

// ---- spool -----------------------------------------------------------------------------------------------------------

static void spool_name(struct walk *walk, const char *name) {
    uint64_t segment;
    bool sealed = sealed_name_parse(name, &segment);
    if (!sealed && !raw_name_parse(name, &segment))
        return;
    uint64_t *n = sealed ? &walk->n_sealed : &walk->n_open, *first = sealed ? &walk->sealed_first : &walk->open_first;
    *first = *n > 0 && *first < segment ? *first : segment;
    ++*n;
}

// The day of a segment and whether it may hold opens; ERR_NOT_FOUND where it was taken meanwhile.
static int segment_day(const struct walk *walk, const char *name, bool sealed, uint32_t *day, bool *opens) {
    char path[PATH_SIZE], *data = NULL;
    struct segment_head head = {0};
    struct sealed decoded;
    struct ledger *ledger = NULL;
    size_t len;
    int rc = path_join(path, walk->dir, name, NULL);
    if (rc == 0)
        rc = file_read(path, SEALED_BYTES_MAX, &data, &len, NULL);
    if (rc == 0 && sealed) {
        rc = sealed_decode((const uint8_t *)data, len, &decoded, NULL);
        head = decoded.head;
    } else if (rc == 0) {
        ledger = malloc(sizeof *ledger);
        rc = ledger == NULL ? ERR_NOMEM : raw_header_decode((const uint8_t *)data, len, &head, ledger) < 0 ? ERR_CORRUPT : 0;
    }
    *day = head.day;
    *opens = head.kind == MESSAGE_BLOCK;
    free(ledger);
    free(data);
    return rc;
}

// An edge's day never goes back, so the segment of the lowest number is the oldest. The newest sealed one always stays:
// where it is the only one, it is old only if its edge is off.
static void add_segments(struct walk *walk, bool sealed) {
    uint64_t n = sealed ? walk->n_sealed : walk->n_open;
    uint32_t day = 0, today = clock_today(&walk->config->clock);
    char name[SEGMENT_NAME_SIZE];
    bool opens = true;
    if (n == 0)
        return;
    if (sealed)
        sealed_name(walk->sealed_first, name);
    else
        raw_name(walk->open_first, name);
    int rc = segment_day(walk, name, sealed, &day, &opens);
    uint32_t age = day < today ? today - day : 0;
    if (rc == ERR_NOT_FOUND || (rc == 0 && !opens && n == 1))
        return;
    retention_add(walk->retention, RETENTION_SPOOL, n, rc == 0 ? age : file_age(walk, name, false), RETENTION_ERASED_DAYS);
}

static int read_spool(struct walk *walk, struct err *err) {
    int rc = walk_names(walk, walk->config->spool_dir, spool_name, err);
    if (rc != 0)
        return rc;
    add_segments(walk, true);
    add_segments(walk, false);
    return 0;
}

// ---- the others ------------------------------------------------------------------------------------------------------

static void inbox_name(struct walk *walk, const char *name) {
    size_t len = strlen(name);
    if (len > 4 && strcmp(name + len - 4, ".msg") == 0)
        retention_add(walk->retention, RETENTION_INBOX, 1, file_age(walk, name, false), RETENTION_ERASED_DAYS);
}

static void aside_name(struct walk *walk, const char *name) {
    retention_add(walk->retention, RETENTION_ASIDE, 1, file_age(walk, name, false), RETENTION_ERASED_DAYS);
}

static void journal_name_seen(struct walk *walk, const char *name) {
    enum journal_file_kind kind;
    uint64_t generation;
    if (!journal_name_parse(name, &kind, &generation))
        return;
    uint32_t age = file_age(walk, name, true);
    bool *has = kind == JOURNAL_SNAPSHOT ? &walk->has_snapshot : &walk->has_log;
    uint32_t *oldest = kind == JOURNAL_SNAPSHOT ? &walk->snapshot_age : &walk->log_age;
    *oldest = *has && *oldest > age ? *oldest : age;
    *has = true;
}

// What was erased since the last snapshot is still in it, or in the logs that follow it.
static int read_journal(struct walk *walk, struct err *err) {
    char dir[PATH_SIZE];
    int rc = path_join(dir, walk->config->aggregator_state_dir, "journal", err);
    if (rc == 0)
        rc = walk_names(walk, dir, journal_name_seen, err);
    if (rc == 0 && (walk->has_snapshot || walk->has_log))
        retention_add(walk->retention, RETENTION_JOURNAL, 1, walk->has_snapshot ? walk->snapshot_age : walk->log_age,
                      RETENTION_ERASED_DAYS);
    return rc;
}

static void release_name(struct walk *walk, const char *name) {
    enum release_kind kind;
    uint32_t day, today = clock_today(&walk->config->clock);
    if (release_file_name(name, &kind, &day))
        retention_add(walk->retention, RETENTION_RELEASES, 1, day < today ? today - day : 0, RETENTION_NO_LIMIT);
}

static int read_releases(struct walk *walk, struct err *err) {
    DIR *stream = opendir(walk->config->release_dir);
    int rc = 0;
    if (stream == NULL)
        return errno == ENOENT ? 0 : err_errno(err, ERR_IO, "cannot read the directory %s", walk->config->release_dir);
    for (struct dirent *entry = readdir(stream); entry != NULL && rc == 0; entry = readdir(stream)) {
        char dir[PATH_SIZE];
        struct stat st;
        if (entry->d_name[0] == '.' || path_join(dir, walk->config->release_dir, entry->d_name, NULL) != 0 ||
            stat(dir, &st) != 0 || !S_ISDIR(st.st_mode))
            continue;
        rc = walk_names(walk, dir, release_name, err);
    }
    closedir(stream);
    return rc;
}

static int read_folder(struct walk *walk, const char *parent, const char *folder, name_fn each, struct err *err) {
    char dir[PATH_SIZE];
    int rc = path_join(dir, parent, folder, err);
    return rc != 0 ? rc : walk_names(walk, dir, each, err);
}

int retention_read_files(struct retention *retention, const struct config *config, struct err *err) {
    const struct clock machine = clock_real();
    const char *state_dir = config->aggregator_state_dir;
    struct walk walk = {.retention = retention, .config = config, .now_ms = clock_now_ms(&machine)};
    int rc = read_spool(&walk, err);
    if (rc == 0)
        rc = read_folder(&walk, state_dir, "inbox", inbox_name, err);
    if (rc == 0)
        rc = read_folder(&walk, config->spool_dir, "corrupt", aside_name, err);
    if (rc == 0)
        rc = read_folder(&walk, state_dir, "inbox/corrupt", aside_name, err);
    if (rc == 0)
        rc = read_folder(&walk, state_dir, "corrupt", aside_name, err);
    if (rc == 0)
        rc = read_journal(&walk, err);
    return rc == 0 ? read_releases(&walk, err) : rc;
}
