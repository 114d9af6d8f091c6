// `openveil consent receipt`: what a change was, and who has it.
#include "common/commands.h"
#include "common/consent_receipt.h"
#include "common/evidence_log.h"
#include "common/token.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <time.h>

#define TIMEOUT_S_DEFAULT 30
#define TIME_TEXT_SIZE 32

enum { EXIT_UNCONFIRMED = 1, EXIT_UNKNOWN = 2 };

struct asked {
    const struct config *config;
    struct consent_store *store;
    uint64_t epoch;
    uint32_t partition;
    struct consent_entry entry;
    bool known;         // content and all
    bool erased;        // known once
    int64_t logged_ms;  // as the log itself says; 0: not looked up
    struct receipt receipt;
};

static void time_text(int64_t ms, char text[TIME_TEXT_SIZE]) {
    struct tm tm;
    time_t seconds = (time_t)(ms / 1000);
    CHECK(gmtime_r(&seconds, &tm) != NULL);
    size_t n = strftime(text, TIME_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, TIME_TEXT_SIZE - n, ".%03dZ", (int)(ms % 1000));
}

// What the stream does not have any more, the log does.
static int on_line(void *arg, const struct evidence_line *line) {
    struct asked *asked = arg;
    if (line->entry.epoch < asked->epoch || line->kind == EVIDENCE_RECORD || line->kind == EVIDENCE_RECORD_GONE)
        return 0;
    if (line->entry.epoch == asked->epoch && (line->kind == EVIDENCE_CHANGE || line->kind == EVIDENCE_ERASED)) {
        asked->known = line->kind == EVIDENCE_CHANGE;
        asked->erased = !asked->known;
        asked->entry = line->entry;
        asked->logged_ms = line->at_ms;
    }
    return 1;
}

static int log_look(struct asked *asked, struct err *err) {
    static struct evidence_chain chain;
    struct evidence_log *log;
    int rc = evidence_log_open(&log, asked->config, false, err);
    if (rc == 0) {
        rc = evidence_log_read(log, asked->partition, on_line, asked, &chain, err);
        evidence_log_close(log);
    }
    return rc > 0 ? 0 : rc;
}

// Fills what is known of the change in one partition: 0, ERR_NOT_FOUND where it has not got so far.
static int look(struct asked *asked, bool wait, int64_t timeout_ms, struct err *err) {
    struct consent_stamp stamp;
    asked->known = asked->erased = false;
    asked->logged_ms = 0;
    asked->receipt.epoch = asked->epoch;
    int rc = consent_store_stamp(asked->store, asked->partition, &stamp, err);
    if (rc != 0)
        return rc;
    rc = consent_store_entry(asked->store, asked->partition, asked->epoch, &asked->entry, err);
    asked->known = rc == 0;
    if (rc == ERR_NOT_FOUND)
        rc = log_look(asked, err);
    if (rc != 0)
        return rc;
    if (!asked->known && !asked->erased && stamp.epoch < asked->epoch)
        return ERR_NOT_FOUND;
    rc = consent_receipt_read(asked->store, asked->partition, &asked->receipt, err);
    if (rc == 0 && wait && asked->receipt.confirmed_ms == 0)
        rc = consent_receipt_wait(asked->store, asked->partition, &asked->receipt, timeout_ms, err);
    if (rc == ERR_AGAIN)
        rc = 0;
    if (rc == 0 && asked->logged_ms != 0 && asked->receipt.confirmed_ms != 0)
        asked->receipt.confirmed_ms = asked->logged_ms; // who told first may have been trimmed
    return rc;
}

static json_t *time_json(int64_t ms) {
    char text[TIME_TEXT_SIZE];
    if (ms == 0)
        return json_null();
    time_text(ms, text);
    return json_string(text);
}

static json_t *asked_json(const struct asked *asked) {
    char pseudonym[20], since[DAY_TEXT_SIZE];
    const struct consent_entry *entry = &asked->entry;
    json_t *applied = json_object();
    for (size_t i = 0; i < asked->receipt.n_applied; i++)
        json_object_set_new(applied, asked->receipt.applied[i].who, time_json(asked->receipt.applied[i].unix_ms));
    json_t *json = json_pack("{s:I, s:I, s:b, s:o, s:o}", "partition", (json_int_t)asked->partition, "receipt",
                             (json_int_t)asked->epoch, "erased", asked->erased, "confirmed",
                             time_json(asked->receipt.confirmed_ms), "applied", applied);
    if (!asked->known || json == NULL)
        return json;
    snprintf(pseudonym, sizeof pseudonym, "%016" PRIx64, entry->pseudonym);
    day_format(entry->since, since);
    json_object_set_new(json, "tenant", json_integer((json_int_t)entry->tenant));
    json_object_set_new(json, "pseudonym", json_string(pseudonym));
    json_object_set_new(json, "state", json_string(consent_entry_word(entry)));
    json_object_set_new(json, "since", json_string(since));
    json_object_set_new(json, "notice", json_string(entry->notice));
    return json;
}

static void asked_print(const struct asked *asked) {
    char text[TIME_TEXT_SIZE] = "not yet", since[DAY_TEXT_SIZE];
    const struct consent_entry *entry = &asked->entry;
    printf("%-14s %" PRIu32 "\n%-14s %" PRIu64 "\n", "partition", asked->partition, "receipt", asked->epoch);
    if (asked->known) {
        day_format(entry->since, since);
        printf("%-14s %" PRIu32 "\n%-14s %016" PRIx64 "\n%-14s %s\n%-14s %s\n%-14s %s\n", "tenant", entry->tenant, "pseudonym",
               entry->pseudonym, "state", consent_entry_word(entry), "since", since, "notice", entry->notice);
    } else {
        printf("%-14s %s\n", "content", asked->erased ? "erased" : "not kept: the change is older than the log");
    }
    if (asked->receipt.confirmed_ms != 0)
        time_text(asked->receipt.confirmed_ms, text);
    printf("%-14s %s\n", "confirmed", text);
    for (size_t i = 0; i < asked->receipt.n_applied; i++) {
        time_text(asked->receipt.applied[i].unix_ms, text);
        printf("%-14s %s\n", asked->receipt.applied[i].who, text);
    }
}

static int tell(const struct asked *asked, bool json) {
    if (!json) {
        asked_print(asked);
        return 0;
    }
    json_t *line = asked_json(asked);
    int rc = line == NULL ? -1 : json_dumpf(line, stdout, JSON_COMPACT);
    json_decref(line);
    printf("\n");
    return rc == 0 ? 0 : cli_error(EXIT_FAILURE, "cannot write the output");
}

static int receipt_look(struct asked *asked, const struct cli_values *values, uint32_t first, uint32_t end,
                        int64_t timeout_ms) {
    struct err err;
    bool found = false, confirmed = true;
    for (asked->partition = first; asked->partition < end; asked->partition++) {
        int rc = look(asked, cli_flag(values, "wait"), timeout_ms, &err);
        if (rc == ERR_NOT_FOUND)
            continue;
        if (rc != 0)
            return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s", err.text);
        if (found && !cli_json(values))
            printf("\n");
        found = true;
        confirmed &= asked->receipt.confirmed_ms != 0;
        if (tell(asked, cli_json(values)) != 0)
            return EXIT_FAILURE;
    }
    if (!found)
        return cli_error(EXIT_UNKNOWN, "there is no change of that number");
    return confirmed ? 0 : EXIT_UNCONFIRMED;
}

static int run_receipt(const struct config *config, const struct cli_values *values) {
    static struct asked asked;
    uint32_t tenant, number, timeout_s = TIMEOUT_S_DEFAULT, first = 0, end = (uint32_t)config->kafka_partitions;
    struct err err;
    int code = cli_parse_u32("the receipt", cli_arg(values, 0), 1, UINT32_MAX, &number);
    if (code == 0 && cli_value(values, "timeout") != NULL)
        code = cli_parse_u32("--timeout", cli_value(values, "timeout"), 0, 86400, &timeout_s);
    if (code == 0 && cli_value(values, "tenant") != NULL) {
        code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &tenant);
        first = code == 0 ? partition_of(tenant, end) : 0;
        end = first + 1;
    }
    if (code != 0)
        return code;
    asked = (struct asked){.config = config, .epoch = number};
    int rc = consent_store_open(&asked.store, config, &err);
    if (rc != 0)
        return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s", err.text);
    code = receipt_look(&asked, values, first, end, (int64_t)timeout_s * 1000);
    consent_store_close(asked.store);
    return code;
}

static const struct cli_option receipt_options[] = {
    {"tenant", "ID", "the sender; without it, every partition is looked at", false, false},
    {"wait", NULL, "wait until it is confirmed", false, false},
    {"timeout", "S", "seconds to wait at most, 30 without it", false, false},
};
const struct cli_command cmd_consent_receipt = {
    .words = "consent receipt",
    .args = "N",
    .args_min = 1,
    .args_max = 1,
    .summary = "show a change of consent, and when it was confirmed and applied",
    .description = "A change is confirmed once the log outside Redis holds it. Edges and aggregators are named with the time at\n"
                   "which each had applied it: an edge records the contact no more, an aggregator has erased what it kept.\n"
                   "Exit status 0: confirmed. 1: recorded, not yet confirmed. 2: no such change. 69: Redis cannot be reached.",
    .options = receipt_options,
    .n_options = ARRAY_LEN(receipt_options),
    .run = run_receipt,
};
