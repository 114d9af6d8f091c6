// `openveil contact show|erase`: what is held of one contact (GDPR art. 15), and its erasure everywhere (art. 17).
#include "aggregator/commands.h"
#include "aggregator/contact_erase.h"
#include "aggregator/contact_held.h"
#include "aggregator/run_log.h"
#include "common/contact_named.h"
#include "common/token.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define WAIT_S_DEFAULT 120
#define WAIT_S_MAX 86400
#define GONE_DAYS 3 // until compaction and snapshots have removed the last bytes

static const char not_held[] =
    "not held: times, counts, messages, addresses, devices, mail clients; released lines and metrics name nobody.\n"
    "Not asked here: the spools of edges and the events topic, where an open waits for minutes, and your own systems.";

static int exit_of(int rc) {
    return rc == ERR_UNREACHABLE || rc == ERR_AGAIN ? EXIT_UNAVAILABLE : EXIT_FAILURE;
}

static int contact_log(const struct config *config, const char *what, uint32_t tenant, const char *result) {
    struct err err;
    int rc = run_log_append(config, "contact.log", &err, "%s tenant=%" PRIu32 " result=%s", what, tenant, result);
    return rc == 0 ? 0 : cli_error(EXIT_FAILURE, "%s", err.text);
}

// ---- show -----------------------------------------------------------------------------------------------------------
static const char *const age_names[] = {"0-30",    "31-89",   "90",  "91-179",
                                        "180",     "181-364", "365", "none-recorded"};
static const char *const fetch_names[] = {[FETCH_PERSON] = "person", [FETCH_MACHINE] = "machine"};

static const char *day_text(uint32_t day, char text[DAY_TEXT_SIZE]) {
    if (day == DAY_NONE)
        return "-";
    day_format(day, text);
    return text;
}

static const char *state_of(const struct consent_record *record) {
    return record->unreadable ? "unreadable" : consent_state_names[record->state];
}

static const char *provider_of(uint8_t provider) {
    return provider < PROVIDERS_BUILTIN ? provider_builtin_names[provider] : "named by configuration";
}

static void show_entry(const char *where, const struct consent_entry *entry) {
    char day[DAY_TEXT_SIZE];
    printf("%-14s change %" PRIu64 ": %s since %s, notice %s\n", where, entry->epoch, consent_entry_word(entry),
           day_text(entry->since, day), entry->notice);
}

static void show_text(const struct contact_held *held) {
    char day[DAY_TEXT_SIZE];
    const struct consent_record *record = &held->record;
    printf("%-14s %016" PRIx64 " of tenant %" PRIu32 "\n", "pseudonym", held->pseudonym, held->tenant);
    printf("%-14s %s\n", "consent", state_of(record));
    if (!record->unreadable && record->state != CONSENT_UNKNOWN) {
        printf("%-14s %s\n", "  since", day_text(record->since, day));
        printf("%-14s %s\n", "  allowed since", day_text(record->allowed_since, day));
        printf("%-14s %s\n", "  granted since", day_text(record->granted_since, day));
        printf("%-14s %s\n", "  notice", record->notice);
    }
    printf("%-14s %s\n", "last open", held->has_open ? day_text(held->open.day, day) : "none");
    if (held->has_open)
        printf("%-14s %s (days since an open, at the end of the month before this one)\n", "  frozen age",
               age_names[held->open.frozen_age]);
    for (size_t i = 0; i < held->n_windows; i++) {
        const struct held_window *window = &held->windows[i];
        printf("%-14s mail of %s: stream %u, provider %s, fetched by %s\n", "open window", day_text(window->sent_day, day),
               window->cell.stream, provider_of(window->cell.provider), fetch_names[window->cell.fetch]);
    }
    for (size_t i = 0; i < held->n_changes; i++)
        show_entry("change stream", &held->changes[i]);
    for (size_t i = 0; i < held->n_evidence; i++)
        show_entry("consent log", &held->evidence[i].entry);
    printf("%s\n", not_held);
}

static json_t *day_json(uint32_t day) {
    char text[DAY_TEXT_SIZE];
    return day == DAY_NONE ? json_null() : json_string(day_text(day, text));
}

static json_t *entry_json(const struct consent_entry *entry) {
    return json_pack("{s:I, s:s, s:o, s:s}", "change", (json_int_t)entry->epoch, "state", consent_entry_word(entry),
                     "since", day_json(entry->since), "notice", entry->notice);
}

static json_t *windows_json(const struct contact_held *held) {
    json_t *windows = json_array();
    for (size_t i = 0; i < held->n_windows; i++) {
        const struct window_cell *cell = &held->windows[i].cell;
        json_array_append_new(windows, json_pack("{s:o, s:i, s:s, s:s}", "sent", day_json(held->windows[i].sent_day),
                                                 "stream", (int)cell->stream, "provider", provider_of(cell->provider),
                                                 "fetch", fetch_names[cell->fetch]));
    }
    return windows;
}

static int show_json(const struct contact_held *held) {
    char pseudonym[17];
    json_t *changes = json_array(), *evidence = json_array();
    const struct consent_record *record = &held->record;
    bool known = !record->unreadable && record->state != CONSENT_UNKNOWN;
    snprintf(pseudonym, sizeof pseudonym, "%016" PRIx64, held->pseudonym);
    for (size_t i = 0; i < held->n_changes; i++)
        json_array_append_new(changes, entry_json(&held->changes[i]));
    for (size_t i = 0; i < held->n_evidence; i++)
        json_array_append_new(evidence, entry_json(&held->evidence[i].entry));
    json_t *consent = json_pack("{s:s, s:o, s:o, s:o, s:s?}", "state", state_of(record), "since", day_json(record->since),
                                "allowed_since", day_json(record->allowed_since), "granted_since",
                                day_json(record->granted_since), "notice", known ? record->notice : NULL);
    json_t *open = held->has_open ? json_pack("{s:o, s:s}", "day", day_json(held->open.day), "frozen_days_since_open",
                                              age_names[held->open.frozen_age])
                                  : json_null();
    json_t *json = json_pack("{s:I, s:s, s:o, s:o, s:o, s:o, s:o}", "tenant", (json_int_t)held->tenant, "pseudonym",
                             pseudonym, "consent", consent, "last_open", open, "open_windows", windows_json(held),
                             "change_stream", changes, "consent_log", evidence);
    int rc = json == NULL ? -1 : json_dumpf(json, stdout, JSON_COMPACT);
    json_decref(json);
    if (rc != 0)
        return cli_error(EXIT_FAILURE, "cannot write the output");
    printf("\n");
    return 0;
}

static int contact_given(const struct config *config, const struct cli_values *values, struct contact_named *contact) {
    return contact_named_find(config, values, cli_args(values) == 0 ? NULL : cli_arg(values, 0), contact);
}

// Opens the store, and reads all that is held; the caller frees both, also after an error.
static int held_open(const struct config *config, const struct contact_named *contact, struct consent_store **store,
                     struct contact_held *held) {
    struct err err = {""};
    *held = (struct contact_held){.tenant = contact->tenant, .pseudonym = contact->pseudonym};
    int rc = *store == NULL ? consent_store_open(store, config, &err) : 0;
    if (rc == 0)
        rc = contact_held_read(held, config, *store, &err);
    return rc == 0 ? 0 : cli_error(exit_of(rc), "%s", err.text);
}

static int run_show(const struct config *config, const struct cli_values *values) {
    struct contact_named contact;
    struct contact_held held;
    struct consent_store *store = NULL;
    int code = contact_given(config, values, &contact);
    if (code != 0)
        return code;
    code = held_open(config, &contact, &store, &held);
    if (code == 0)
        code = contact_log(config, "show", contact.tenant, "shown");
    if (code == 0 && cli_json(values))
        code = show_json(&held);
    else if (code == 0)
        show_text(&held);
    contact_held_free(&held);
    consent_store_close(store);
    return code;
}

// ---- erase ----------------------------------------------------------------------------------------------------------
static void progress(const char *what, int64_t waited_s) {
    fprintf(stderr, "openveil: waiting for %s, %lld s so far\n", what, (long long)waited_s);
}

static int erase(const struct config *config, const struct contact_named *contact, struct consent_store *store,
                 struct contact_erase *job) {
    struct err err = {""};
    int code = contact_log(config, "erase", contact->tenant, "begun");
    if (code != 0)
        return code;
    job->store = store;
    int rc = contact_erase_run(job, &err);
    if (rc == ERR_AGAIN)
        return cli_error(EXIT_UNAVAILABLE,
                         "%s: is openveil-aggregator running, and does it reach Redis? The contact is withdrawn and counts "
                         "for nothing, but it is not erased: run this again",
                         err.text);
    return rc == 0 ? 0 : cli_error(exit_of(rc), "%s; it is not erased everywhere: run this again", err.text);
}

// Nothing may be left but the record that was to be kept.
static int erase_check(const struct config *config, const struct contact_named *contact, struct consent_store *store,
                       bool keep_objection) {
    struct contact_held held;
    int code = held_open(config, contact, &store, &held);
    bool kept = keep_objection && consent_state_leaves(held.record.state);
    bool left = held.has_open || held.n_windows > 0 || (!keep_objection && (held.n_changes > 0 || held.n_evidence > 0)) ||
                (held.record.state != CONSENT_UNKNOWN && !kept);
    contact_held_free(&held);
    if (code == 0 && left)
        return cli_error(EXIT_FAILURE, "something came in meanwhile and is still there: run this again");
    return code;
}

static const char *const aof_words[] = {[CONSENT_AOF_OFF] = "none",
                                        [CONSENT_AOF_ASKED] = "rewriting",
                                        [CONSENT_AOF_BUSY] = "not-rewritten",
                                        [CONSENT_AOF_REFUSED] = "not-rewritten"};
static const char *const aof_notes[] = {
    [CONSENT_AOF_OFF] = "Redis has no append-only file.",
    [CONSENT_AOF_ASKED] = "Redis writes its append-only file anew now.",
    [CONSENT_AOF_BUSY] = "Redis' append-only file still holds the changes, because another rewrite of it takes long:\n"
                         "run redis-cli BGREWRITEAOF when that has ended.",
    [CONSENT_AOF_REFUSED] = "Redis' append-only file, if it has one, still holds the changes: its user may not ask for a\n"
                            "rewrite (+info +bgrewriteaof), or Redis cannot: run redis-cli BGREWRITEAOF there.",
};

static int erase_print(const struct config *config, const struct cli_values *values, const struct contact_erase *job) {
    char day[DAY_TEXT_SIZE];
    day_format(clock_today(&config->clock) + GONE_DAYS, day);
    if (cli_json(values)) {
        printf("{\"tenant\":%" PRIu32 ",\"erased\":true,\"kept_objection\":%s,\"redis_append_only_file\":\"%s\","
               "\"last_bytes_gone_by\":\"%s\"}\n",
               job->tenant, job->keep_objection ? "true" : "false", aof_words[job->aof], day);
        return 0;
    }
    printf("erased: last open, open windows, change stream, consent log%s\n",
           job->keep_objection ? "; one record stays: that the contact left" : ", consent record");
    printf("the last bytes in files are gone by %s (72 hours: snapshot of the journal, compaction in Kafka) while the\n"
           "aggregator runs; openveil audit --retention watches it. %s\n"
           "Redis' snapshots, replicas' files and backups are yours to rewrite within that time.\n",
           day, aof_notes[job->aof]);
    return 0;
}

static int run_erase(const struct config *config, const struct cli_values *values) {
    struct contact_named contact;
    struct consent_store *store = NULL;
    struct err err = {""};
    uint32_t wait_s = WAIT_S_DEFAULT;
    const char *wait = cli_value(values, "wait");
    int code = wait == NULL ? 0 : cli_parse_u32("--wait", wait, 0, WAIT_S_MAX, &wait_s);
    if (code == 0)
        code = contact_given(config, values, &contact);
    if (code != 0)
        return code;
    struct contact_erase job = {.config = config,
                                .tenant = contact.tenant,
                                .pseudonym = contact.pseudonym,
                                .keep_objection = cli_flag(values, "keep-objection"),
                                .wait_s = wait_s,
                                .progress = progress};
    int rc = consent_store_open(&store, config, &err);
    if (rc != 0)
        return cli_error(exit_of(rc), "%s; nothing was erased", err.text);
    code = erase(config, &contact, store, &job);
    if (code == 0)
        code = erase_check(config, &contact, store, job.keep_objection);
    if (code == 0)
        code = contact_log(config, "erase", contact.tenant, job.keep_objection ? "erased,objection-kept" : "erased");
    consent_store_close(store);
    return code == 0 ? erase_print(config, values, &job) : code;
}

// ---- table ----------------------------------------------------------------------------------------------------------
#define CONTACT_OPTIONS                          \
    {"tenant", "ID", "the sender", true, false}, \
    {"pseudonym", "HEX", "instead of CONTACT: its pseudonym, 16 hex digits; needs no contact key", false, false}

static const struct cli_option show_options[] = {CONTACT_OPTIONS};
const struct cli_command cmd_contact_show = {
    .words = "contact show",
    .args = "[CONTACT]",
    .args_max = 1,
    .summary = "show everything that is held of one contact (GDPR art. 15)",
    .description = "The consent record, the day of the last open with its frozen age, places in open windows, and the changes\n"
                   "of consent that the change stream and the consent log still hold. Days, and nothing finer, are all\n"
                   "there is. Each run is logged in [aggregator] state_dir: who, when, tenant, no contact.\n\n"
                   "Exit status: 0 shown, also where nothing is held; 69 Redis or Kafka cannot be reached.",
    .options = show_options,
    .n_options = ARRAY_LEN(show_options),
    .run = run_show,
};

static const struct cli_option erase_options[] = {
    CONTACT_OPTIONS,
    {"keep-objection", NULL, "keep one record: that the contact left, so that nobody informs it again", false, false},
    {"wait", "SECONDS", "for the aggregator to erase (default 120); after a start it sweeps all contacts first", false, false},
};
const struct cli_command cmd_contact_erase = {
    .words = "contact erase",
    .args = "[CONTACT]",
    .args_max = 1,
    .summary = "erase one contact everywhere (GDPR art. 17)",
    .description =
        "Withdraws first, so that edges and aggregators drop the contact at once, waits until an aggregator says that it\n"
        "has erased last open and windows, then forgets the contact in Redis and erases its content in the consent log,\n"
        "where only hashes stay, and lets Redis write its change stream and its append-only file anew, which would keep\n"
        "bytes of what was erased; the file only where its user may ask for that (+info +bgrewriteaof).\n"
        "At the end it looks everywhere whether anything is left.\n"
        "Without --keep-objection nothing remembers that the contact said no: do not inform it again by an import.\n"
        "It can be run again at any time. Each run is logged as those of contact show are.\n\n"
        "Exit status: 0 erased; 1 something is left, or a failure; 69 Redis, Kafka or the aggregator did not answer: the\n"
        "contact may be withdrawn already, and is not erased: run it again.",
    .options = erase_options,
    .n_options = ARRAY_LEN(erase_options),
    .run = run_erase,
};
