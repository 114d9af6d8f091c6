// `openveil consent import|inform`: many contacts of one tenant. First every line is checked and kept, pseudonymised, in a
// temporary file without a name; only then does anything change. Memory stays small whatever the file's length.
#include "common/commands.h"
#include "common/consent_store.h"
#include "common/contact_key.h"
#include "common/files.h"
#include "common/lines.h"
#include "common/token.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define CHANGES_A_CHUNK 4000
#define PROGRESS_MS 2000
#define REJECTS_PATH_SIZE 4096

// A checked line; its number is its place in the file.
struct kept {
    uint64_t pseudonym;
    uint16_t since;
    uint8_t state;
    char notice[NOTICE_MAX + 1];
};

struct import {
    const struct config *config;
    const char *path; // "-": standard input
    uint32_t tenant;
    uint32_t tomorrow;
    const char *inform_notice; // NULL: import; else every line is a contact that was shown this notice
    uint32_t inform_since;
    struct hmac_key key;
    FILE *kept;
    FILE *rejects; // opened with the first one
    uint64_t n_lines;
    uint64_t n_done;
    uint64_t n_refused;
    uint64_t n_stayed; // informed: their record says more, or something later
    int64_t receipt; // the last one
    int64_t told_ms;
};

static int contact_check(const struct import *import, const char *line, size_t len, struct kept *kept,
                         struct err *err) {
    *kept = (struct kept){.since = (uint16_t)import->inform_since, .state = CONSENT_INFORMED};
    if (!contact_id_valid(line, len))
        return err_set(err, ERR_INVALID, "the contact must be 1 to %d bytes of UTF-8 without a tab", CONTACT_ID_MAX);
    kept->pseudonym = pseudonym_of(&import->key, import->tenant, line, len);
    snprintf(kept->notice, sizeof kept->notice, "%s", import->inform_notice);
    return 0;
}

static int line_check(const struct import *import, char *line, size_t len, struct kept *kept, struct err *err) {
    char *fields[5];
    size_t lens[5];
    uint32_t since;
    size_t n = line_fields(line, len, fields, lens, ARRAY_LEN(fields));
    *kept = (struct kept){0};
    if (n != 4)
        return err_set(err, ERR_INVALID, "it must have 4 fields with tabs between: contact, state, since, notice");
    for (size_t i = 1; i < n; i++) {
        if (strlen(fields[i]) != lens[i])
            return err_set(err, ERR_INVALID, "it holds a NUL");
    }
    int state = consent_state_parse(fields[1]);
    if (!contact_id_valid(fields[0], lens[0]))
        return err_set(err, ERR_INVALID, "the contact must be 1 to %d bytes of UTF-8", CONTACT_ID_MAX);
    if (state < 0)
        return err_set(err, ERR_INVALID, "the state must be informed, granted, refused, withdrawn or objected");
    if (day_parse(fields[2], &since) != 0 || since == DAY_NONE || since > UINT16_MAX)
        return err_set(err, ERR_INVALID, "the day must look like 2026-11-22");
    if (since > import->tomorrow)
        return err_set(err, ERR_INVALID, "the day is after tomorrow");
    if (!notice_valid(fields[3]))
        return err_set(err, ERR_INVALID, "the notice's version must be 1 to %d printable ASCII characters%s", NOTICE_MAX,
                       lens[3] > 0 && fields[3][lens[3] - 1] == '\r' ? " (the lines end with CR LF; LF is needed)" : "");
    kept->pseudonym = pseudonym_of(&import->key, import->tenant, fields[0], lens[0]);
    kept->since = (uint16_t)since;
    kept->state = (uint8_t)state;
    memcpy(kept->notice, fields[3], lens[3]);
    return 0;
}

static FILE *temporary_file(struct err *err) {
    int fd = file_temporary("import", err);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w+");
    if (fd >= 0 && file == NULL) {
        err_errno(err, ERR_IO, "cannot open a temporary file");
        close(fd);
    }
    return file;
}

static int import_check(struct import *import, struct err *err) {
    struct lines *lines = NULL;
    struct kept kept;
    struct err why;
    char *line;
    size_t len;
    int rc = lines_open(&lines, import->path, err);
    while (rc == 0 && (rc = lines_next(lines, &line, &len, err)) == 1) {
        rc = import->inform_notice == NULL ? line_check(import, line, len, &kept, &why)
                                           : contact_check(import, line, len, &kept, &why);
        if (rc != 0)
            rc = err_set(err, rc, "line %" PRIu64 ": %s; nothing was changed", lines_number(lines), why.text);
        else if (fwrite(&kept, sizeof kept, 1, import->kept) != 1)
            rc = err_errno(err, ERR_IO, "cannot write the temporary file");
        else
            import->n_lines++;
    }
    lines_close(lines);
    if (rc == 0 && (fflush(import->kept) != 0 || fseeko(import->kept, 0, SEEK_SET) != 0))
        rc = err_errno(err, ERR_IO, "cannot write the temporary file");
    return rc;
}

// FILE.rejects; false for standard input.
static bool rejects_path(const struct import *import, char path[REJECTS_PATH_SIZE]) {
    int n = snprintf(path, REJECTS_PATH_SIZE, "%s.rejects", import->path);
    return strcmp(import->path, "-") != 0 && n > 0 && n < REJECTS_PATH_SIZE;
}

static void rejects_open(struct import *import) {
    char path[REJECTS_PATH_SIZE];
    if (rejects_path(import, path))
        import->rejects = fopen(path, "we");
    if (import->rejects == NULL)
        import->rejects = stderr;
}

// Line and reason, never the contact.
static void reject(struct import *import, uint64_t line, const char *reason) {
    if (import->rejects == NULL)
        rejects_open(import);
    fprintf(import->rejects, "%" PRIu64 "\t%s\n", line, reason);
    import->n_refused++;
}

static void tell_progress(struct import *import) {
    int64_t now_ms = clock_monotonic_ms();
    if (now_ms - import->told_ms < PROGRESS_MS)
        return;
    import->told_ms = now_ms;
    fprintf(stderr, "openveil: %" PRIu64 " of %" PRIu64 " lines\n", import->n_done, import->n_lines);
}

// A contact that already said more than "informed", or whose record is newer, keeps it: objections win.
static bool stays(const struct import *import, const char *reason) {
    return import->inform_notice != NULL && (strncmp(reason, "informed can follow", 19) == 0 ||
                                             strncmp(reason, "the record holds a later day", 28) == 0);
}

static int apply_chunk(struct import *import, struct consent_store *store, struct consent_change *changes, size_t n,
                       struct err *err) {
    struct kept kept;
    for (size_t i = 0; i < n; i++) {
        if (fread(&kept, sizeof kept, 1, import->kept) != 1)
            return err_errno(err, ERR_IO, "cannot read the temporary file");
        changes[i] = (struct consent_change){
            .tenant = import->tenant, .pseudonym = kept.pseudonym, .state = kept.state, .since = kept.since};
        memcpy(changes[i].notice, kept.notice, sizeof kept.notice);
    }
    int rc = consent_store_apply(store, changes, n, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        if (changes[i].result < 0 && stays(import, changes[i].reason))
            import->n_stayed++;
        else if (changes[i].result < 0)
            reject(import, import->n_done + i + 1, changes[i].reason);
        else
            import->receipt = changes[i].result;
    }
    import->n_done += n;
    tell_progress(import);
    return 0;
}

static int import_apply(struct import *import, struct err *err) {
    char stale[REJECTS_PATH_SIZE];
    struct consent_store *store;
    struct consent_change *changes = calloc(CHANGES_A_CHUNK, sizeof *changes);
    if (changes == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (rejects_path(import, stale))
        unlink(stale);
    int rc = consent_store_open(&store, import->config, err);
    if (rc != 0) {
        free(changes);
        return rc;
    }
    rc = consent_store_size_hint(store, import->tenant, import->n_lines, err);
    while (rc == 0 && import->n_done < import->n_lines) {
        uint64_t left = import->n_lines - import->n_done;
        rc = apply_chunk(import, store, changes, left < CHANGES_A_CHUNK ? (size_t)left : CHANGES_A_CHUNK, err);
    }
    consent_store_close(store);
    free(changes);
    return rc;
}

static int import_report(const struct import *import, bool json) {
    uint64_t applied = import->n_lines - import->n_refused - import->n_stayed;
    CHECK(import->n_done == import->n_lines && import->n_refused <= import->n_lines);
    if (import->inform_notice != NULL)
        printf(json ? "{\"informed\":%" PRIu64 ",\"stayed\":%" PRIu64 ",\"refused\":%" PRIu64 "}\n"
                    : "informed %" PRIu64 ", stayed as they were %" PRIu64 ", refused %" PRIu64 "\n",
               applied, import->n_stayed, import->n_refused);
    else if (json)
        printf("{\"applied\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"receipt\":%" PRId64 "}\n", applied, import->n_refused,
               import->receipt);
    else
        printf("applied %" PRIu64 ", refused %" PRIu64 ", last receipt %" PRId64 "\n", applied, import->n_refused,
               import->receipt);
    if (import->n_refused == 0)
        return 0;
    return cli_error(EXIT_FAILURE, "%" PRIu64 " lines were refused: %s%s", import->n_refused,
                     import->rejects == stderr ? "see above" : import->path, import->rejects == stderr ? "" : ".rejects");
}

static int import_run(struct import *import, bool json) {
    struct err err;
    import->kept = temporary_file(&err);
    if (import->kept == NULL)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    int rc = import_check(import, &err);
    if (rc != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    if (import->n_lines > 0)
        rc = import_apply(import, &err);
    if (rc != 0)
        return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE,
                         "%s; %" PRIu64 " of %" PRIu64 " lines are done, running it again is harmless", err.text,
                         import->n_done, import->n_lines);
    return import_report(import, json);
}

static int import_main(struct import *import, const struct config *config, const struct cli_values *values) {
    struct err err;
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &import->tenant);
    if (code != 0)
        return code;
    import->config = config;
    import->path = cli_arg(values, 0);
    import->told_ms = clock_monotonic_ms();
    import->tomorrow = clock_today(&config->clock) + 1;
    if (import->inform_since > import->tomorrow)
        return cli_error(EXIT_USAGE, "--since is after tomorrow");
    if (contact_key_load(&import->key, config, import->tenant, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    code = import_run(import, cli_json(values));
    bytes_wipe(&import->key, sizeof import->key);
    if (import->kept != NULL)
        fclose(import->kept);
    if (import->rejects != NULL && import->rejects != stderr && fclose(import->rejects) != 0)
        return cli_error(EXIT_FAILURE, "cannot write %s.rejects", import->path);
    return code;
}

static int run_import(const struct config *config, const struct cli_values *values) {
    struct import import = {0};
    return import_main(&import, config, values);
}

static int run_inform(const struct config *config, const struct cli_values *values) {
    struct import import = {.inform_notice = cli_value(values, "notice")};
    if (!notice_valid(import.inform_notice) || strcmp(import.inform_notice, "-") == 0)
        return cli_error(EXIT_USAGE, "--notice must be 1 to %d printable ASCII characters", NOTICE_MAX);
    int code = cli_parse_day("--since", cli_value(values, "since"), &import.inform_since);
    if (code == 0 && (import.inform_since == DAY_NONE || import.inform_since > UINT16_MAX))
        return cli_error(EXIT_USAGE, "--since must be a day from 1970-01-02 to 2149-06-06");
    return code != 0 ? code : import_main(&import, config, values);
}

static const struct cli_option import_options[] = {{"tenant", "ID", "the sender", true, false}};
const struct cli_command cmd_consent_import = {
    .words = "consent import",
    .args = "FILE",
    .args_min = 1,
    .args_max = 1,
    .summary = "record what many contacts decided, one a line",
    .description = "Lines of FILE (or -): contact, state, since (YYYY-MM-DD) and notice version, with tabs between. A bad\n"
                   "line fails the whole run and is named before anything is changed. Lines that the rules of `consent\n"
                   "set` refuse are listed by number and reason in FILE.rejects (for - on standard error); the others are\n"
                   "recorded, and the exit status is 1. 69: Redis cannot be reached; run it again, that is harmless.\n"
                   "Before its first contact a tenant's storage is laid out for the number of lines: import the bulk first.",
    .options = import_options,
    .n_options = ARRAY_LEN(import_options),
    .run = run_import,
};

static const struct cli_option inform_options[] = {
    {"tenant", "ID", "the sender", true, false},
    {"notice", "VERSION", "the version of the notice that all of them were shown", true, false},
    {"since", "DAY", "the day of it, YYYY-MM-DD, at most tomorrow", true, false},
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
