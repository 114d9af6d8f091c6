// `openveil consent set|get`: one contact.
#include "common/commands.h"
#include "common/consent_receipt.h"
#include "common/consent_store.h"
#include "common/contact_named.h"
#include "common/token.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

enum { CONFIRM_WAIT_MS = 30000, EXIT_UNCONFIRMED = 2 };

static int exit_of(int rc) {
    return rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE;
}

static int contact_find(const struct config *config, const struct cli_values *values, struct contact_named *contact) {
    return contact_named_find(config, values, cli_value(values, "contact"), contact);
}

static int print_json(json_t *json) {
    int rc = json == NULL ? -1 : json_dumpf(json, stdout, JSON_COMPACT);
    json_decref(json);
    if (rc != 0)
        return cli_error(EXIT_FAILURE, "cannot write the output");
    printf("\n");
    return 0;
}

// ---- consent set ----------------------------------------------------------------------------------------------------
static int parse_change(const struct cli_values *values, struct consent_change *change) {
    const char *name = cli_value(values, "state"), *notice = cli_value(values, "notice");
    int state = consent_state_parse(name);
    if (state < 0) {
        const char *near = cli_nearest(name, consent_state_names + 1, CONSENT_STATES - 1);
        return cli_error(EXIT_USAGE, "--state must be informed, granted, refused, withdrawn or objected%s%s%s",
                         near == NULL ? "" : " (did you mean ", near == NULL ? "" : near, near == NULL ? "" : "?)");
    }
    if (notice == NULL && !consent_state_leaves((uint8_t)state))
        return cli_error(EXIT_USAGE, "--notice is needed: the version of the notice that the contact was shown");
    if (notice == NULL)
        notice = "-";
    if (!notice_valid(notice))
        return cli_error(EXIT_USAGE, "--notice must be 1 to %d printable ASCII characters", NOTICE_MAX);
    change->state = (uint8_t)state;
    snprintf(change->notice, sizeof change->notice, "%s", notice);
    return cli_parse_day("--since", cli_value(values, "since"), &change->since);
}

// --wait: 0, or the exit status of a change that is recorded and not confirmed.
static int confirm(struct consent_store *store, uint32_t partition, uint64_t epoch) {
    static struct receipt receipt;
    struct err err;
    receipt.epoch = epoch;
    int rc = consent_receipt_wait(store, partition, &receipt, CONFIRM_WAIT_MS, &err);
    return rc == 0 ? 0 : cli_error(rc == ERR_AGAIN ? EXIT_UNCONFIRMED : exit_of(rc), "%s", err.text);
}

static int run_set(const struct config *config, const struct cli_values *values) {
    struct consent_change change = {0};
    struct consent_store *store;
    struct contact_named contact;
    struct err err;
    int code = parse_change(values, &change);
    if (code == 0)
        code = contact_find(config, values, &contact);
    if (code != 0)
        return code;
    change.tenant = contact.tenant;
    change.pseudonym = contact.pseudonym;
    int rc = consent_store_open(&store, config, &err);
    if (rc != 0)
        return cli_error(exit_of(rc), "%s", err.text);
    uint32_t partition = partition_of(change.tenant, (uint32_t)config->kafka_partitions);
    rc = consent_store_apply(store, &change, 1, &err);
    if (rc == 0 && change.result > 0 && cli_flag(values, "wait"))
        code = confirm(store, partition, (uint64_t)change.result);
    consent_store_close(store);
    if (rc != 0)
        return cli_error(exit_of(rc), "%s", err.text);
    if (change.result < 0)
        return cli_error(EXIT_FAILURE, "refused: %s", change.reason);
    if (cli_json(values))
        return print_json(json_pack("{s:I, s:I}", "partition", (json_int_t)partition, "receipt",
                                    (json_int_t)change.result)) != 0 ? EXIT_FAILURE : code;
    printf("%" PRId64 "\n", change.result);
    return code;
}

// ---- consent get ----------------------------------------------------------------------------------------------------
static json_t *day_json(uint32_t day) {
    char text[DAY_TEXT_SIZE];
    if (day == DAY_NONE)
        return json_null();
    day_format(day, text);
    return json_string(text);
}

static void print_day(const char *name, uint32_t day) {
    char text[DAY_TEXT_SIZE] = "-";
    if (day != DAY_NONE)
        day_format(day, text);
    printf("%-14s %s\n", name, text);
}

static int run_get(const struct config *config, const struct cli_values *values) {
    struct consent_record record;
    struct consent_store *store;
    struct contact_named contact;
    struct err err;
    int code = contact_find(config, values, &contact);
    if (code != 0)
        return code;
    int rc = consent_store_open(&store, config, &err);
    if (rc != 0)
        return cli_error(exit_of(rc), "%s", err.text);
    rc = consent_store_get(store, contact.tenant, contact.pseudonym, &record, &err);
    consent_store_close(store);
    if (rc != 0)
        return cli_error(exit_of(rc), "%s", err.text);
    if (record.unreadable)
        return cli_error(EXIT_FAILURE, "the contact's record was written by another version: it counts for nothing");
    CHECK(record.state < CONSENT_STATES);
    const char *state = consent_state_names[record.state];
    bool known = record.state != CONSENT_UNKNOWN;
    if (cli_json(values))
        return print_json(json_pack("{s:s, s:o, s:o, s:o, s:s?}", "state", state, "since", day_json(record.since),
                                    "allowed_since", day_json(record.allowed_since), "granted_since",
                                    day_json(record.granted_since), "notice", known ? record.notice : NULL));
    printf("%-14s %s\n", "state", state);
    if (known) {
        print_day("since", record.since);
        print_day("allowed since", record.allowed_since);
        print_day("granted since", record.granted_since);
        printf("%-14s %s\n", "notice", record.notice);
    }
    return 0;
}

// ---- table ----------------------------------------------------------------------------------------------------------
#define CONTACT_OPTIONS                                                                     \
    {"tenant", "ID", "the sender", true, false},                                            \
    {"contact", "CID", "the contact's id, as the sender uses it", false, false},            \
    {"pseudonym", "HEX", "instead of --contact: its pseudonym, 16 hex digits", false, false}

static const struct cli_option set_options[] = {
    CONTACT_OPTIONS,
    {"state", "STATE", "informed, granted, refused, withdrawn or objected", true, false},
    {"since", "DAY", "the day of it, YYYY-MM-DD, at most tomorrow", true, false},
    {"notice", "VERSION", "the version of the notice shown; not needed where the contact leaves", false, false},
    {"wait", NULL, "wait up to 30 s until it is confirmed: the log outside Redis has it", false, false},
};
const struct cli_command cmd_consent_set = {
    .words = "consent set",
    .args = "",
    .summary = "record what a contact decided; prints the receipt",
    .description = "Leaving (refused, withdrawn, objected) and granted are possible from every state, informed only from\n"
                   "unknown or informed. A day older than the recorded one is refused, and so is an allowing state on the\n"
                   "day of a leaving one. Recording the same again changes nothing.\n"
                   "Exit status 1: refused, with the reason. 2: recorded, with --wait not confirmed in time. 69: Redis\n"
                   "cannot be reached; nothing is known, try again.\n"
                   "A preference centre calls the same Function of Redis from any language: see common/CONSENT.md.",
    .options = set_options,
    .n_options = ARRAY_LEN(set_options),
    .run = run_set,
};

static const struct cli_option get_options[] = {CONTACT_OPTIONS};
const struct cli_command cmd_consent_get = {
    .words = "consent get",
    .args = "",
    .summary = "show what is recorded of a contact",
    .options = get_options,
    .n_options = ARRAY_LEN(get_options),
    .run = run_get,
};
