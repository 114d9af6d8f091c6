// `openveil last-open import`: the days of last opens that a sender brings along from its system before this one.
#include "aggregator/command_send.h"
#include "aggregator/commands.h"
#include "aggregator/record.h"
#include "aggregator/run_log.h"
#include "common/contact_key.h"
#include "common/lines.h"
#include "common/message.h"
#include "common/token.h"

#include <string.h>

enum { PROGRESS_LINES = 65536, PROGRESS_MS = 2000 };

struct import {
    const struct config *config;
    uint32_t tenant;
    uint32_t today;
    uint32_t measured_since; // DAY_NONE: not declared
    struct hmac_key key;
    struct import_row *rows;
    size_t n, room;
    uint64_t n_lines;
    uint64_t n_too_old;
    int64_t told_ms;
};

// ---- reading ---------------------------------------------------------------------------------------------------------

static int row_add(struct import *import, uint64_t pseudonym, uint32_t day, struct err *err) {
    if (import->n == import->room) {
        size_t room = import->room == 0 ? 4096 : import->room * 2;
        struct import_row *rows = realloc(import->rows, room * sizeof *rows);
        if (rows == NULL)
            return err_set(err, ERR_NOMEM, "no memory for %zu contacts", room);
        import->rows = rows;
        import->room = room;
    }
    import->rows[import->n++] = (struct import_row){.pseudonym = pseudonym, .day = day};
    return 0;
}

static int line_take(struct import *import, char *line, size_t len, struct err *err) {
    char *fields[3];
    size_t lens[3];
    uint32_t day;
    if (line_fields(line, len, fields, lens, 3) != 2)
        return err_set(err, ERR_INVALID, "a line has 2 fields with a tab between: contact, day of the last open");
    if (!contact_id_valid(fields[0], lens[0]))
        return err_set(err, ERR_INVALID, "the contact must be 1 to %d bytes of UTF-8", CONTACT_ID_MAX);
    if (strlen(fields[1]) != lens[1] || day_parse(fields[1], &day) != 0 || day == DAY_NONE)
        return err_set(err, ERR_INVALID, "the day must look like 2026-11-22");
    if (day > import->today)
        return err_set(err, ERR_INVALID, "the day has not begun");
    if (import->today - day > LAST_OPEN_KEEP_DAYS) {
        import->n_too_old++;
        return 0;
    }
    return row_add(import, pseudonym_of(&import->key, import->tenant, fields[0], lens[0]), day, err);
}

static void progress(struct import *import, const char *what, uint64_t n) {
    int64_t now = clock_monotonic_ms();
    if (now - import->told_ms < PROGRESS_MS)
        return;
    import->told_ms = now;
    fprintf(stderr, "openveil: %llu %s\n", (unsigned long long)n, what);
}

static int lines_take(struct import *import, const char *path, struct err *err) {
    struct lines *lines = NULL;
    char *line;
    size_t len;
    struct err why;
    int rc = lines_open(&lines, path, err);
    while (rc == 0 && (rc = lines_next(lines, &line, &len, err)) == 1) {
        rc = line_take(import, line, len, &why);
        if (rc != 0)
            rc = err_set(err, rc, "line %llu: %s", (unsigned long long)lines_number(lines), why.text);
        if (++import->n_lines % PROGRESS_LINES == 0)
            progress(import, "lines read", import->n_lines);
    }
    lines_close(lines);
    return rc;
}

static int rows_ascend(const void *a, const void *b) {
    const struct import_row *left = a, *right = b;
    if (left->pseudonym != right->pseudonym)
        return left->pseudonym < right->pseudonym ? -1 : 1;
    return left->day > right->day ? -1 : left->day < right->day;
}

// In the order of pseudonyms, so that nothing of the list's order goes on; each contact once, with its newest day.
static void rows_settle(struct import *import) {
    size_t kept = 0;
    if (import->n > 0)
        qsort(import->rows, import->n, sizeof import->rows[0], rows_ascend);
    for (size_t i = 0; i < import->n; i++)
        if (kept == 0 || import->rows[kept - 1].pseudonym != import->rows[i].pseudonym)
            import->rows[kept++] = import->rows[i];
    import->n = kept;
}

// ---- sending ---------------------------------------------------------------------------------------------------------

static int parts_send(struct import *import, struct command_sender *sender, uint64_t epoch, const char *name, size_t n_parts,
                      struct err *err) {
    uint32_t partitions = (uint32_t)import->config->kafka_partitions;
    struct message_head head = {.kind = MESSAGE_IMPORT,
                                .rehearsal = import->config->rehearsal,
                                .epoch = epoch,
                                .partition = (uint16_t)partition_of(import->tenant, partitions),
                                .partitions = (uint16_t)partitions,
                                .day = import->today};
    int rc = 0;
    memcpy(head.edge, name, strlen(name) + 1);
    uint8_t *message = malloc(MESSAGE_BYTES_MAX);
    if (message == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    for (size_t i = 0; i < n_parts && rc == 0; i++) {
        size_t first = i * IMPORT_ROWS_MAX, left = import->n - first;
        struct import_body body = {.tenant = import->tenant,
                                   .measured_since = import->measured_since,
                                   .n_rows = left < IMPORT_ROWS_MAX ? left : IMPORT_ROWS_MAX,
                                   .rows = import->rows + first};
        head.segment = i;
        int64_t len = message_encode_import(&head, &body, message);
        CHECK(len > 0);
        rc = command_sender_send(sender, head.partition, message, (size_t)len, err);
        progress(import, "contacts sent", first + body.n_rows);
    }
    bytes_wipe(message, MESSAGE_BYTES_MAX);
    free(message);
    return rc;
}

static int declare(const struct import *import, struct err *err) {
    char day[DAY_TEXT_SIZE] = "-";
    if (import->measured_since != DAY_NONE)
        day_format(import->measured_since, day);
    return run_log_append(import->config, "declarations.log", err, "last-open import tenant=%u measured_since=%s lines=%llu",
                          import->tenant, day, (unsigned long long)import->n_lines);
}

static void print_result(const struct import *import, const struct cli_values *values, const char *state) {
    unsigned long long n = import->n, old = import->n_too_old;
    if (cli_json(values))
        printf("{\"tenant\":%u,\"contacts\":%llu,\"too_old\":%llu,\"state\":\"%s\"}\n", import->tenant, n, old, state);
    else
        printf("%llu contacts of tenant %u %s; %llu lines with a day older than %d days were passed over\n", n,
               import->tenant, state, old, LAST_OPEN_KEEP_DAYS);
}

static int send_all(struct import *import, const struct cli_values *values, struct err *err) {
    struct command_sender *sender = NULL;
    uint64_t epoch;
    bool applied = false;
    bool kafka = import->config->kafka_brokers[0] != '\0';
    size_t n_parts = (import->n + IMPORT_ROWS_MAX - 1) / IMPORT_ROWS_MAX;
    if (n_parts == 0 && import->measured_since != DAY_NONE)
        n_parts = 1; // the declaration travels in a part, an empty one if need be
    if (n_parts == 0) {
        print_result(import, values, "imported");
        return 0;
    }
    char name[EDGE_ID_MAX + 1];
    bytes_random(&epoch, sizeof epoch);
    snprintf(name, sizeof name, "import-%016llx", (unsigned long long)epoch);
    int rc = command_sender_open(&sender, import->config, name, err);
    if (rc == 0)
        rc = declare(import, err);
    if (rc == 0)
        rc = parts_send(import, sender, epoch, name, n_parts, err);
    if (rc == 0)
        rc = command_sender_finish(sender, &applied, err);
    command_sender_free(sender);
    if (rc == 0)
        print_result(import, values, applied ? "applied" : kafka ? "sent" : "queued for the aggregator");
    return rc;
}

// ---- command ---------------------------------------------------------------------------------------------------------

static int options_read(struct import *import, const struct cli_values *values) {
    const char *since = cli_value(values, "measured-since");
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &import->tenant);
    if (code != 0 || since == NULL)
        return code;
    if ((code = cli_parse_day("--measured-since", since, &import->measured_since)) != 0)
        return code;
    if (import->measured_since == DAY_NONE || import->measured_since > import->today)
        return cli_error(EXIT_USAGE, "--measured-since must be a day that has begun");
    return 0;
}

static int run_import(const struct config *config, const struct cli_values *values) {
    struct import import = {.config = config,
                            .today = clock_today(&config->clock),
                            .measured_since = DAY_NONE,
                            .told_ms = clock_monotonic_ms()};
    struct err err;
    int code = options_read(&import, values);
    if (code != 0)
        return code;
    int rc = contact_key_load(&import.key, config, import.tenant, &err);
    if (rc == 0)
        rc = lines_take(&import, cli_arg(values, 0), &err);
    if (rc == 0) {
        rows_settle(&import);
        rc = send_all(&import, values, &err);
    }
    bytes_wipe(&import.key, sizeof import.key);
    if (import.rows != NULL)
        bytes_wipe(import.rows, import.room * sizeof import.rows[0]);
    free(import.rows);
    return rc == 0 ? 0 : cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s", err.text);
}

static const struct cli_option import_options[] = {
    {"tenant", "ID", "the sender whose contacts these are", true, false},
    {"measured-since", "DAY", "declares that every open since this day is in the file; list cleaning counts on it", false,
     false},
};
const struct cli_command cmd_last_open_import = {
    .words = "last-open import",
    .args = "[FILE]",
    .args_max = 1,
    .summary = "bring in the days of last opens from another system",
    .description =
        "Lines of FILE (or of standard input): contact and day of the last open, with a tab between. A bad line fails\n"
        "the whole run and is named before anything is sent. Only contacts that may be counted for inactivity on their day\n"
        "are kept, and a newer day is never replaced by an older one; importing the same again is harmless.\n"
        "The run and its declaration are logged in [aggregator] state_dir/declarations.log, without any contact.",
    .options = import_options,
    .n_options = ARRAY_LEN(import_options),
    .run = run_import,
};
