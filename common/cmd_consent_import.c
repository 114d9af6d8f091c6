// `openveil consent import|inform`: many contacts of one tenant. First every line is read and kept, pseudonymised, in a
// temporary file without a name, and the whole is hashed; then the changes are made, and rejects listed, in the lines' order.
// Memory stays small whatever the file's length. With --resume, what is done is remembered twice a second.
#include "common/commands.h"
#include "common/consent_receipt.h"
#include "common/contact_key.h"
#include "common/files.h"
#include "common/import_progress.h"
#include "common/import_row.h"
#include "common/lines.h"
#include "common/token.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define CHANGES_A_CHUNK 4000
#define PACED_CHANGES 100000
#define PROGRESS_MS 2000
#define REMEMBER_MS 500
#define REJECTS_PATH_SIZE 4096

struct import {
    const struct config *config;
    const char *path; // "-": standard input
    const char *resume; // NULL: nothing is remembered
    struct import_rules rules;
    FILE *kept;
    char rejects_path[REJECTS_PATH_SIZE]; // empty: standard error
    FILE *rejects; // opened with the first one
    struct import_progress progress;
    uint64_t n_before; // lines that an earlier run had done
    int64_t receipt; // the last one
    int64_t paced;   // the one at which the log was last waited for
    bool log_away;
    int64_t began_ms;
    int64_t told_ms;
    int64_t remembered_ms;
};

// ---- reading --------------------------------------------------------------------------------------------------------
static FILE *temporary_file(struct err *err) {
    int fd = file_temporary("import", err);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w+");
    if (fd >= 0 && file == NULL) {
        err_errno(err, ERR_IO, "cannot open a temporary file");
        close(fd);
    }
    return file;
}

// What the lines mean belongs to the input: going on with another notice or day would be another import.
static void hash_begin(const struct import *import, XXH64_state_t *hash) {
    char what[80] = "import";
    if (import->rules.inform_notice != NULL)
        snprintf(what, sizeof what, "inform %" PRIu32 " %s", import->rules.inform_since, import->rules.inform_notice);
    XXH64_reset(hash, 0);
    XXH64_update(hash, what, strlen(what) + 1);
}

static int import_read(struct import *import, struct err *err) {
    struct lines *lines = NULL;
    struct import_row row;
    char *line;
    size_t len;
    XXH64_state_t *hash = XXH64_createState();
    if (hash == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    hash_begin(import, hash);
    int rc = lines_open(&lines, import->path, err);
    while (rc == 0 && ((rc = lines_next(lines, &line, &len, err)) == 1 || rc == ERR_LIMIT)) {
        if (rc == ERR_LIMIT) {
            line = NULL;
        } else {
            XXH64_update(hash, line, len);
            XXH64_update(hash, "\n", 1);
        }
        import_row_read(&import->rules, line, len, &row);
        rc = line == NULL ? lines_skip(lines, err) : 0;
        if (rc == 0 && fwrite(&row, sizeof row, 1, import->kept) != 1)
            rc = err_errno(err, ERR_IO, "cannot write the temporary file");
        import->progress.n_lines += rc == 0;
    }
    lines_close(lines);
    import->progress.tenant = import->rules.tenant;
    import->progress.input = XXH64_digest(hash);
    XXH64_freeState(hash);
    if (rc == 0 && fflush(import->kept) != 0)
        rc = err_errno(err, ERR_IO, "cannot write the temporary file");
    return rc;
}

// Where an earlier run of the same came to; ERR_REFUSED where it was about something else.
static int import_position(struct import *import, struct err *err) {
    struct import_progress before, *progress = &import->progress;
    int rc = import->resume == NULL ? ERR_NOT_FOUND : import_progress_read(&before, import->resume, err);
    if (rc == 0 && (before.tenant != progress->tenant || before.input != progress->input ||
                    before.n_lines != progress->n_lines))
        return err_set(err, ERR_REFUSED, "%s is about another import: another tenant, file, notice or day",
                       import->resume);
    if (rc != 0 && rc != ERR_NOT_FOUND)
        return rc;
    if (rc == 0) {
        *progress = before;
        import->n_before = before.n_done;
    }
    if (fseeko(import->kept, (off_t)(progress->n_done * sizeof(struct import_row)), SEEK_SET) != 0)
        return err_errno(err, ERR_IO, "cannot read the temporary file");
    return 0;
}

// ---- rejects --------------------------------------------------------------------------------------------------------
static int rejects_path(struct import *import, const char *given, struct err *err) {
    int n = 0;
    if (given != NULL)
        n = snprintf(import->rejects_path, REJECTS_PATH_SIZE, "%s", given);
    else if (strcmp(import->path, "-") != 0)
        n = snprintf(import->rejects_path, REJECTS_PATH_SIZE, "%s.rejects", import->path);
    return n < REJECTS_PATH_SIZE ? 0 : err_set(err, ERR_INVALID, "the path of the rejects is too long");
}

// Those of an earlier run stay, up to where it was remembered; where it was not, there are none.
static int rejects_begin(struct import *import, struct err *err) {
    if (import->rejects_path[0] == '\0')
        return 0;
    if (import->progress.rejects_bytes == 0) {
        unlink(import->rejects_path);
        return 0;
    }
    import->rejects = fopen(import->rejects_path, "r+e");
    if (import->rejects == NULL || ftruncate(fileno(import->rejects), (off_t)import->progress.rejects_bytes) != 0 ||
        fseeko(import->rejects, 0, SEEK_END) != 0)
        return err_errno(err, ERR_IO, "cannot go on writing %s", import->rejects_path);
    return 0;
}

// Line and reason, never the contact.
static int reject(struct import *import, uint64_t line, const char *reason, struct err *err) {
    if (import->rejects == NULL)
        import->rejects = import->rejects_path[0] == '\0' ? stderr : fopen(import->rejects_path, "we");
    if (import->rejects == NULL)
        return err_errno(err, ERR_IO, "cannot write %s", import->rejects_path);
    int n = fprintf(import->rejects, "%" PRIu64 "\t%s\n", line, reason);
    if (n < 0)
        return err_errno(err, ERR_IO, "cannot write %s", import->rejects_path);
    import->progress.n_refused++;
    import->progress.rejects_bytes += import->rejects == stderr ? 0 : (uint64_t)n;
    return 0;
}

// ---- applying -------------------------------------------------------------------------------------------------------
static void tell_progress(struct import *import) {
    int64_t now_ms = clock_monotonic_ms();
    if (now_ms - import->told_ms < PROGRESS_MS)
        return;
    const struct import_progress *progress = &import->progress;
    uint64_t a_second = (progress->n_done - import->n_before) * 1000 / (uint64_t)(now_ms - import->began_ms + 1);
    import->told_ms = now_ms;
    fprintf(stderr, "openveil: %" PRIu64 " of %" PRIu64 " lines, %" PRIu64 " a second, %" PRIu64 " s left\n",
            progress->n_done, progress->n_lines, a_second,
            a_second == 0 ? 0 : (progress->n_lines - progress->n_done) / a_second);
}

// The rejects of what counts as done are on disk before it does.
static int import_remember(struct import *import, struct err *err) {
    import->remembered_ms = clock_monotonic_ms();
    if (import->resume == NULL)
        return 0;
    if (import->rejects != NULL && import->rejects != stderr &&
        (fflush(import->rejects) != 0 || fdatasync(fileno(import->rejects)) != 0))
        return err_errno(err, ERR_IO, "cannot write %s", import->rejects_path);
    return import_progress_write(&import->progress, import->resume, err);
}

// A contact that already said more than "informed", or whose record is newer, keeps it: objections win.
static bool stays(const struct import *import, const char *reason) {
    return import->rules.inform_notice != NULL && (strncmp(reason, "informed can follow", 19) == 0 ||
                                                   strncmp(reason, "the record holds a later day", 28) == 0);
}

static int chunk_account(struct import *import, const struct import_row *rows, size_t n,
                         const struct consent_change *changes, struct err *err) {
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint64_t line = import->progress.n_done + i + 1;
        if (rows[i].bad != 0) {
            rc = reject(import, line, import_bad_text(rows[i].bad), err);
            continue;
        }
        if (changes->result >= 0)
            import->receipt = changes->result;
        else if (stays(import, changes->reason))
            import->progress.n_stayed++;
        else
            rc = reject(import, line, changes->reason, err);
        changes++;
    }
    import->progress.n_done += n;
    return rc;
}

static int chunk_apply(struct import *import, struct consent_store *store, struct import_row *rows,
                       struct consent_change *changes, struct err *err) {
    uint64_t left = import->progress.n_lines - import->progress.n_done;
    size_t n = left < CHANGES_A_CHUNK ? (size_t)left : CHANGES_A_CHUNK, n_changes = 0;
    if (fread(rows, sizeof *rows, n, import->kept) != n)
        return err_errno(err, ERR_IO, "cannot read the temporary file");
    for (size_t i = 0; i < n; i++) {
        const struct import_row *row = &rows[i];
        struct consent_change *change = &changes[n_changes];
        if (row->bad != 0)
            continue;
        *change = (struct consent_change){.tenant = import->rules.tenant,
                                          .pseudonym = row->pseudonym,
                                          .state = row->state,
                                          .since = row->since,
                                          .has_change_id = row->has_change_id,
                                          .change_id = row->change_id};
        memcpy(change->notice, row->notice, sizeof row->notice);
        n_changes++;
    }
    int rc = n_changes == 0 ? 0 : consent_store_apply(store, changes, n_changes, err);
    if (rc == 0)
        rc = chunk_account(import, rows, n, changes, err);
    if (rc == 0 && clock_monotonic_ms() - import->remembered_ms >= REMEMBER_MS)
        rc = import_remember(import, err);
    tell_progress(import);
    return rc;
}

// The log outside Redis is given time for every part of a large import.
static int import_pace(struct import *import, struct consent_store *store, struct err *err) {
    if (import->log_away || import->receipt < import->paced + PACED_CHANGES)
        return 0;
    import->paced = import->receipt;
    uint32_t partition = partition_of(import->rules.tenant, (uint32_t)import->config->kafka_partitions);
    int rc = consent_receipt_pace(store, partition, (uint64_t)import->receipt, err);
    if (rc != ERR_AGAIN)
        return rc;
    import->log_away = true;
    fprintf(stderr, "openveil: %s: the import goes on without it, and it will begin anew with a list of all records\n",
            err->text);
    return 0;
}

static int import_apply(struct import *import, struct err *err) {
    struct consent_store *store = NULL;
    struct consent_change *changes = calloc(CHANGES_A_CHUNK, sizeof *changes);
    struct import_row *rows = calloc(CHANGES_A_CHUNK, sizeof *rows);
    int rc = changes == NULL || rows == NULL ? err_set(err, ERR_NOMEM, "out of memory")
                                             : consent_store_open(&store, import->config, err);
    if (rc == 0)
        rc = consent_store_size_hint(store, import->rules.tenant, import->progress.n_lines, err);
    while (rc == 0 && import->progress.n_done < import->progress.n_lines)
        if ((rc = chunk_apply(import, store, rows, changes, err)) == 0)
            rc = import_pace(import, store, err);
    consent_store_close(store);
    free(changes);
    free(rows);
    return rc;
}

static int import_report(const struct import *import, bool json) {
    const struct import_progress *progress = &import->progress;
    uint64_t applied = progress->n_lines - progress->n_refused - progress->n_stayed;
    CHECK(progress->n_done == progress->n_lines && progress->n_refused <= progress->n_lines);
    if (import->rules.inform_notice != NULL)
        printf(json ? "{\"informed\":%" PRIu64 ",\"stayed\":%" PRIu64 ",\"refused\":%" PRIu64 "}\n"
                    : "informed %" PRIu64 ", stayed as they were %" PRIu64 ", refused %" PRIu64 "\n",
               applied, progress->n_stayed, progress->n_refused);
    else if (json)
        printf("{\"applied\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"receipt\":%" PRId64 "}\n", applied,
               progress->n_refused, import->receipt);
    else
        printf("applied %" PRIu64 ", refused %" PRIu64 ", last receipt %" PRId64 "\n", applied, progress->n_refused,
               import->receipt);
    if (progress->n_refused == 0)
        return 0;
    return cli_error(EXIT_FAILURE, "%" PRIu64 " lines were refused: %s", progress->n_refused,
                     import->rejects_path[0] == '\0' ? "see above" : import->rejects_path);
}

static int import_run(struct import *import, bool json) {
    struct err err, later;
    import->kept = temporary_file(&err);
    if (import->kept == NULL)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    int rc = import_read(import, &err);
    if (rc == 0)
        rc = import_position(import, &err);
    if (rc == 0)
        rc = rejects_begin(import, &err);
    if (rc != 0)
        return cli_error(EXIT_FAILURE, "%s; nothing was changed", err.text);
    if (import->progress.n_done < import->progress.n_lines)
        rc = import_apply(import, &err);
    if (rc != 0 && rc != ERR_IO && import_remember(import, &later) != 0)
        return cli_error(EXIT_FAILURE, "%s; and %s", err.text, later.text);
    if (rc != 0)
        return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE,
                         "%s; %" PRIu64 " of %" PRIu64 " lines are done, running it again is harmless", err.text,
                         import->progress.n_done, import->progress.n_lines);
    if (import->resume != NULL)
        unlink(import->resume);
    return import_report(import, json);
}

static int import_main(struct import *import, const struct config *config, const struct cli_values *values) {
    struct err err;
    struct import_rules *rules = &import->rules;
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &rules->tenant);
    if (code != 0)
        return code;
    import->config = config;
    import->path = cli_arg(values, 0);
    import->resume = cli_value(values, "resume");
    import->began_ms = import->told_ms = import->remembered_ms = clock_monotonic_ms();
    rules->tomorrow = clock_today(&config->clock) + 1;
    if (rules->inform_since > rules->tomorrow)
        return cli_error(EXIT_USAGE, "--since is after tomorrow");
    if (rejects_path(import, cli_value(values, "rejects"), &err) != 0)
        return cli_error(EXIT_USAGE, "%s", err.text);
    if (contact_key_load(&rules->key, config, rules->tenant, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    code = import_run(import, cli_json(values));
    bytes_wipe(&rules->key, sizeof rules->key);
    if (import->kept != NULL)
        fclose(import->kept);
    if (import->rejects != NULL && import->rejects != stderr && fclose(import->rejects) != 0)
        return cli_error(EXIT_FAILURE, "cannot write %s", import->rejects_path);
    return code;
}

static int run_import(const struct config *config, const struct cli_values *values) {
    struct import import = {0};
    return import_main(&import, config, values);
}

static int run_inform(const struct config *config, const struct cli_values *values) {
    struct import import = {.rules = {.inform_notice = cli_value(values, "notice")}};
    if (!notice_valid(import.rules.inform_notice) || strcmp(import.rules.inform_notice, "-") == 0)
        return cli_error(EXIT_USAGE, "--notice must be 1 to %d printable ASCII characters", NOTICE_MAX);
    int code = cli_parse_day("--since", cli_value(values, "since"), &import.rules.inform_since);
    if (code == 0 && (import.rules.inform_since == DAY_NONE || import.rules.inform_since > UINT16_MAX))
        return cli_error(EXIT_USAGE, "--since must be a day from 1970-01-02 to 2149-06-06");
    return code != 0 ? code : import_main(&import, config, values);
}

#define RUN_OPTIONS                                                                                                    \
    {"rejects", "FILE", "where refused lines are listed; FILE.rejects", false, false},                                 \
        {"resume", "FILE", "remembers there what is done, and goes on from it where it exists", false, false}

static const struct cli_option import_options[] = {{"tenant", "ID", "the sender", true, false}, RUN_OPTIONS};
const struct cli_command cmd_consent_import = {
    .words = "consent import",
    .args = "FILE",
    .args_min = 1,
    .args_max = 1,
    .summary = "record what many contacts decided, one a line",
    .description = "Lines of FILE (or -): contact, state, since (YYYY-MM-DD), notice version and, if you have one, change id,\n"
                   "with tabs between. Lines that are none, or that the rules of `consent set` refuse, are listed by number\n"
                   "and reason in FILE.rejects or --rejects (for - on standard error); the others are recorded, and the exit\n"
                   "status is 1. 69: Redis cannot be reached; run it again, that is harmless, and with --resume it goes on\n"
                   "where it was. Progress is told on standard error. Before its first contact a tenant's storage is laid\n"
                   "out for the number of lines: import the bulk first.",
    .options = import_options,
    .n_options = ARRAY_LEN(import_options),
    .run = run_import,
};

static const struct cli_option inform_options[] = {
    {"tenant", "ID", "the sender", true, false},
    {"notice", "VERSION", "the version of the notice that all of them were shown", true, false},
    {"since", "DAY", "the day of it, YYYY-MM-DD, at most tomorrow", true, false},
    RUN_OPTIONS,
};
const struct cli_command cmd_consent_inform = {
    .words = "consent inform",
    .args = "FILE",
    .args_min = 1,
    .args_max = 1,
    .summary = "record that a whole list of contacts was informed",
    .description = "Lines of FILE (or -): one contact each. Objections win: who refused, withdrew, objected or granted, or has\n"
                   "a newer record, stays as before and is only counted. What else is refused, for instance an unknown\n"
                   "notice, is listed as by `consent import`. Running it again is harmless.",
    .options = inform_options,
    .n_options = ARRAY_LEN(inform_options),
    .run = run_inform,
};
