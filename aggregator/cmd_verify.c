// `openveil verify`: whether what was released of a tenant keeps its promises, as a report for people who have to answer
// for it. Reads files and, with --ledger, the aggregator's state; writes nothing.
#include "aggregator/commands.h"
#include "aggregator/journal.h"
#include "aggregator/verify.h"
#include "common/files.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

enum { EXIT_BROKEN = 1 };
#define NAMES_MAX (2 * VERIFY_LINES_MAX)

struct names {
    size_t n, room;
    char **at;
};

// What the aggregator's state says of the tenant.
struct ledger {
    uint32_t tenant;
    size_t n_settings, settings_room;
    struct settings *settings;
    size_t n_committed, committed_room;
    struct verify_committed *committed;
};

// ---- the directory ---------------------------------------------------------------------------------------------------

static void names_free(struct names *names) {
    for (size_t i = 0; i < names->n; i++)
        free(names->at[i]);
    free(names->at);
}

static int names_add(struct names *names, const char *name) {
    if (names->n == names->room) {
        size_t room = names->room == 0 ? 64 : 2 * names->room;
        char **more = room > NAMES_MAX ? NULL : realloc(names->at, room * sizeof *more);
        if (more == NULL)
            return ERR_NOMEM;
        names->at = more;
        names->room = room;
    }
    if ((names->at[names->n] = strdup(name)) == NULL)
        return ERR_NOMEM;
    names->n++;
    return 0;
}

static int names_ascend(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// A line is written under another name first.
static bool being_written(const char *name) {
    const char *ending = strstr(name, ".json.tmp.");
    return ending != NULL && strspn(ending + 10, "0123456789") == strlen(ending + 10);
}

// An absent directory has no files.
static int names_list(struct names *names, const char *dir, struct err *err) {
    DIR *stream = opendir(dir);
    int rc = 0;
    if (stream == NULL)
        return errno == ENOENT ? 0 : err_errno(err, ERR_IO, "cannot read the directory %s", dir);
    for (struct dirent *entry = readdir(stream); entry != NULL && rc == 0; entry = readdir(stream))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && !being_written(entry->d_name))
            rc = names_add(names, entry->d_name);
    closedir(stream);
    if (names->n > 1)
        qsort(names->at, names->n, sizeof *names->at, names_ascend);
    return rc == 0 ? 0 : err_set(err, rc, "%s holds more files than can be read", dir);
}

// A name that is not there any more is passed over.
static int file_verify(struct verify *verify, const char *dir, const char *name, struct err *err) {
    char path[PATH_SIZE], *data = NULL;
    size_t len;
    int rc = path_join(path, dir, name, err);
    if (rc != 0)
        return rc;
    rc = file_read(path, RECORD_VALUE_MAX, &data, &len, err);
    if (rc == ERR_NOT_FOUND)
        return 0;
    if (rc != 0) {
        verify_unreadable(verify, name, rc == ERR_LIMIT ? "is larger than any line" : "cannot be read as a file");
        return 0;
    }
    rc = verify_file(verify, name, data, len);
    free(data);
    return rc == 0 ? 0 : err_set(err, rc, "there are more than %d released lines, or no memory for them", VERIFY_LINES_MAX);
}

// ---- the ledger ------------------------------------------------------------------------------------------------------

static void ledger_free(struct ledger *ledger) {
    for (size_t i = 0; i < ledger->n_settings; i++)
        settings_free(&ledger->settings[i]);
    free(ledger->settings);
    free(ledger->committed);
}

static void *room_for(void *array, size_t n, size_t *room, size_t size) {
    if (n < *room)
        return array;
    *room = *room == 0 ? 16 : 2 * *room;
    return realloc(array, *room * size);
}

static int settings_take(struct ledger *ledger, uint32_t from_day, const uint8_t *value, size_t len) {
    size_t at = 0;
    while (at < ledger->n_settings && ledger->settings[at].from_day < from_day)
        at++;
    bool known = at < ledger->n_settings && ledger->settings[at].from_day == from_day;
    if (known) {
        settings_free(&ledger->settings[at]);
        ledger->n_settings--;
        memmove(ledger->settings + at, ledger->settings + at + 1, (ledger->n_settings - at) * sizeof *ledger->settings);
    }
    if (len == 0)
        return 0;
    struct settings settings = {0};
    void *array = room_for(ledger->settings, ledger->n_settings, &ledger->settings_room, sizeof settings);
    if (array == NULL)
        return ERR_NOMEM;
    ledger->settings = array;
    int rc = settings_decode(value, len, &settings);
    if (rc != 0)
        return rc;
    settings.from_day = from_day;
    memmove(ledger->settings + at + 1, ledger->settings + at, (ledger->n_settings - at) * sizeof settings);
    ledger->settings[at] = settings;
    ledger->n_settings++;
    return 0;
}

// A committed line never changes, but a journal may bring the same record again.
static int committed_take(struct ledger *ledger, const struct record_key *key, const uint8_t *value, size_t len) {
    struct release_record release;
    struct verify_committed committed = {.kind = (enum release_kind)key->release_kind, .period_day = key->day};
    if (len == 0)
        return 0;
    int rc = release_decode(value, len, &release);
    if (rc != 0)
        return rc;
    committed.spent = release.spent;
    sha256(release.line, release.line_len, committed.hash);
    for (size_t i = ledger->n_committed; i-- > 0;)
        if (verify_committed_order(&ledger->committed[i], &committed) == 0) {
            ledger->committed[i] = committed;
            return 0;
        }
    void *array = room_for(ledger->committed, ledger->n_committed, &ledger->committed_room, sizeof committed);
    if (array == NULL)
        return ERR_NOMEM;
    ledger->committed = array;
    ledger->committed[ledger->n_committed++] = committed;
    return 0;
}

static int take_record(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    struct ledger *ledger = arg;
    struct record_key decoded;
    if (key_decode(key, key_len, &decoded) != 0)
        return ERR_CORRUPT;
    if (decoded.kind == RECORD_SETTINGS)
        return settings_take(ledger, decoded.day, value, value_len);
    if (decoded.kind == RECORD_RELEASE && decoded.tenant == ledger->tenant)
        return committed_take(ledger, &decoded, value, value_len);
    return 0;
}

static int ledger_load(struct ledger *ledger, const struct config *config, struct err *err) {
    struct journal *journal = NULL;
    int64_t position;
    int rc = journal_open_readonly(&journal, config, err);
    if (rc != 0)
        return rc;
    *err = (struct err){""};
    rc = journal->ops->load(journal, partition_of(ledger->tenant, (uint32_t)config->kafka_partitions), take_record, NULL,
                            ledger, &position, err);
    journal->ops->close(journal);
    if (rc != 0 && err->text[0] == '\0')
        (void)err_set(err, rc, "the aggregator's state cannot be read: it is damaged or too large");
    if (rc == 0 && ledger->n_committed > 1)
        qsort(ledger->committed, ledger->n_committed, sizeof *ledger->committed, verify_committed_order);
    return rc;
}

// ---- the report ------------------------------------------------------------------------------------------------------

static size_t promises_broken(const struct verify *verify) {
    size_t n = 0;
    for (enum verify_promise promise = 0; promise < VERIFY_PROMISES; promise++)
        n += verify_broken(verify, promise) > 0;
    return n;
}

static void print_text(const struct verify *verify, uint32_t tenant, bool rehearsal) {
    size_t n_checked = 0;
    printf("released lines of tenant %" PRIu32 ", %s: %zu\n\n", tenant, rehearsal ? "rehearsal" : "production",
           verify_lines(verify));
    for (enum verify_promise promise = 0; promise < VERIFY_PROMISES; promise++) {
        size_t broken = verify_broken(verify, promise);
        bool checked = verify_promise_checked(verify, promise);
        n_checked += checked;
        printf("%-10s%s\n", !checked ? "unchecked" : broken == 0 ? "kept" : "BROKEN", verify_promise_text(promise));
        const struct verify_finding *finding;
        for (size_t i = 0; (finding = verify_finding(verify, promise, i)) != NULL; i++)
            printf("          %s %s\n", finding->file, finding->why);
        if (broken > VERIFY_KEPT_MAX)
            printf("          and %zu more\n", broken - VERIFY_KEPT_MAX);
    }
    printf("\n%zu promises checked, %zu broken", n_checked, promises_broken(verify));
    printf("%s\n", n_checked == VERIFY_PROMISES ? "" : "; --ledger checks the others against the aggregator's state");
}

// File names and findings are printable text of ours, but a stray file may be called anything.
static json_t *promise_json(const struct verify *verify, enum verify_promise promise) {
    size_t broken = verify_broken(verify, promise);
    json_t *findings = json_array();
    const struct verify_finding *finding;
    for (size_t i = 0; (finding = verify_finding(verify, promise, i)) != NULL; i++)
        if (json_array_append_new(findings, json_pack("{s:s, s:s}", "file", finding->file, "why", finding->why)) != 0) {
            json_decref(findings);
            return NULL;
        }
    return json_pack("{s:s, s:s, s:b, s:b, s:I, s:o}", "promise", verify_promise_name(promise), "text",
                     verify_promise_text(promise), "checked", (int)verify_promise_checked(verify, promise), "kept",
                     (int)(verify_promise_checked(verify, promise) && broken == 0), "times_broken", (json_int_t)broken,
                     "findings", findings);
}

static int print_json(const struct verify *verify, uint32_t tenant, bool rehearsal) {
    json_t *list = json_array();
    bool good = list != NULL;
    for (enum verify_promise promise = 0; good && promise < VERIFY_PROMISES; promise++)
        good = json_array_append_new(list, promise_json(verify, promise)) == 0;
    json_t *json = json_pack("{s:I, s:b, s:I, s:b, s:o}", "tenant", (json_int_t)tenant, "rehearsal", (int)rehearsal,
                             "lines", (json_int_t)verify_lines(verify), "kept", (int)(promises_broken(verify) == 0),
                             "promises", list);
    good = good && json != NULL && json_dumpf(json, stdout, JSON_COMPACT) == 0;
    json_decref(json);
    printf("\n");
    return good ? 0 : cli_error(EXIT_UNAVAILABLE, "cannot write the report");
}

// ---- the command -----------------------------------------------------------------------------------------------------

// The files that were there before the ledger was read, then what the ledger says was published since: so that a line
// on its way is neither missing nor never committed.
static int all_verify(struct verify *verify, const char *dir, const struct names *names, const struct ledger *ledger,
                      struct err *err) {
    int rc = 0;
    for (size_t i = 0; i < names->n && rc == 0; i++)
        rc = file_verify(verify, dir, names->at[i], err);
    for (size_t i = 0; i < ledger->n_committed && rc == 0; i++) {
        const struct verify_committed *committed = &ledger->committed[i];
        char name[VERIFY_FILE_SIZE], period[DAY_TEXT_SIZE];
        if (committed->published)
            continue;
        release_period_format(committed->kind, committed->period_day, period);
        snprintf(name, sizeof name, "%s-%s.json", release_kind_names[committed->kind], period);
        rc = file_verify(verify, dir, name, err);
    }
    if (rc == 0)
        verify_end(verify);
    return rc;
}

static int tenant_verify(const struct config *config, const struct tenant *tenant, bool with_ledger, bool json,
                         struct err *err) {
    char number[16], dir[PATH_SIZE];
    struct names names = {0};
    struct ledger ledger = {.tenant = tenant->id};
    struct verify *verify = NULL;
    int code = EXIT_UNAVAILABLE;
    snprintf(number, sizeof number, "%" PRIu32, tenant->id);
    if (path_join(dir, config->release_dir, number, err) != 0 || names_list(&names, dir, err) != 0 ||
        (with_ledger && ledger_load(&ledger, config, err) != 0))
        goto done;
    const struct verify_terms terms = {.tenant = tenant,
                                       .rehearsal = config->rehearsal,
                                       .today = clock_today(&config->clock),
                                       .has_ledger = with_ledger,
                                       .n_settings = ledger.n_settings,
                                       .settings = ledger.settings,
                                       .n_committed = ledger.n_committed,
                                       .committed = ledger.committed};
    if (verify_create(&verify, &terms) != 0) {
        (void)err_set(err, ERR_NOMEM, "no memory");
        goto done;
    }
    if (all_verify(verify, dir, &names, &ledger, err) != 0)
        goto done;
    *err = (struct err){""};
    if (json)
        code = print_json(verify, tenant->id, config->rehearsal);
    else
        print_text(verify, tenant->id, config->rehearsal);
    if (!json || code == 0)
        code = promises_broken(verify) == 0 ? 0 : EXIT_BROKEN;
done:
    verify_free(verify);
    ledger_free(&ledger);
    names_free(&names);
    return code;
}

static int run_verify(const struct config *config, const struct cli_values *values) {
    uint32_t id;
    struct tenant tenant;
    struct err err;
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &id);
    if (code != 0)
        return code;
    if (tenant_load(&tenant, config->tenants_dir, id, &err) != 0)
        return cli_error(EXIT_UNAVAILABLE, "%s", err.text);
    code = tenant_verify(config, &tenant, cli_flag(values, "ledger"), cli_json(values), &err);
    tenant_free(&tenant);
    return code == EXIT_UNAVAILABLE && err.text[0] != '\0' ? cli_error(code, "%s", err.text) : code;
}

static const struct cli_option verify_options[] = {
    {"tenant", "ID", "the sender", true, false},
    {"ledger", NULL, "also compare with the aggregator's state: committed lines, settings in force", false, false},
};
const struct cli_command cmd_verify = {
    .words = "verify",
    .args = "",
    .summary = "check that what was released of a tenant keeps every promise that can be seen",
    .description = "Reads the tenant's released lines and the configuration, says of each promise whether it is kept, and\n"
                   "names the file and the reason where it is not. Whether consent was asked and the noise was fresh cannot\n"
                   "be seen in lines: the tests named in deploy/privacy/ show it.\n"
                   "Exit status: 0 every promise is kept, 1 one is broken, 69 something cannot be read.",
    .options = verify_options,
    .n_options = ARRAY_LEN(verify_options),
    .run = run_verify,
};
