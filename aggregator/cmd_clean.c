// `openveil clean`: one bit per contact of a sender's list, for cleaning it and for nothing else.
#include "aggregator/clean_answer.h"
#include "aggregator/clean_shards.h"
#include "aggregator/commands.h"
#include "aggregator/run_log.h"
#include "aggregator/state_view.h"
#include "common/keys.h"
#include "common/lines.h"

#include <string.h>

enum { EXIT_NOT_NOW = 3, EXIT_NOT_MEASURED = 4, EXIT_SHARE = 5 };
#define SHARE_DEFAULT 30
#define PROGRESS_LINES 1000000

struct run {
    const struct config *config;
    struct clean_terms terms;
    bool pseudonyms;
    bool accept_share;
    uint32_t share_percent_max;
    const char *out_dir; // NULL: standard output
    uint32_t n_shards;
    char run_id[CLEAN_RUN_ID_SIZE];
    struct clean_list *list;
    struct state *state;
    struct clean_opens *opens;
};

static int parse_options(struct run *run, const struct cli_values *values) {
    struct clean_terms *terms = &run->terms;
    const char *class_name = cli_value(values, "class");
    uint32_t regime = REGIME_EXEMPTION;
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &terms->tenant);
    if (code == 0 && cli_value(values, "regime") != NULL)
        code = cli_parse_u32("--regime", cli_value(values, "regime"), REGIME_EXEMPTION, REGIME_CONSENT, &regime);
    run->share_percent_max = SHARE_DEFAULT;
    if (code == 0 && cli_value(values, "max-share") != NULL)
        code = cli_parse_u32("--max-share", cli_value(values, "max-share"), 0, 100, &run->share_percent_max);
    run->out_dir = cli_value(values, "out");
    run->n_shards = 1;
    if (code == 0 && cli_value(values, "shards") != NULL)
        code = cli_parse_u32("--shards", cli_value(values, "shards"), 1, CLEAN_SHARDS_MAX, &run->n_shards);
    if (code != 0)
        return code;
    if (run->out_dir == NULL && cli_value(values, "shards") != NULL)
        return cli_error(EXIT_USAGE, "--shards needs --out");
    int message_class = message_class_parse(class_name);
    if (message_class < 0)
        return cli_error(EXIT_USAGE, "--class must be transactional, requested or prospecting, not \"%.40s\"",
                         class_name);
    terms->message_class = (enum message_class)message_class;
    terms->regime = (enum regime)regime;
    run->pseudonyms = cli_flag(values, "pseudonyms");
    run->accept_share = cli_flag(values, "accept-share");
    return 0;
}

// The month's E and the tenant's N; exit code 0, EXIT_NOT_NOW or EXIT_NOT_MEASURED.
static int find_terms(struct run *run, const struct tenant *tenant) {
    struct clean_terms *terms = &run->terms;
    uint32_t today = clock_today(&run->config->clock), next;
    char text[DAY_TEXT_SIZE];
    if (clean_first_day(today, &terms->first_day, &next) != 0) {
        day_format(next, text);
        return cli_error(EXIT_NOT_NOW, "not now: answers are given from the 1st to the %dth of a month, next on %s",
                         CLEAN_DAYS_OF_MONTH, text);
    }
    const struct tenant_version *version = tenant_version_on(tenant, terms->first_day);
    day_format(tenant_first_day(tenant), text);
    if (version == NULL)
        return cli_error(EXIT_NOT_MEASURED, "refused for everyone: tenant %u begins on %s", tenant->id, text);
    terms->n_days = version->inactive_days;
    if (terms->first_day <= terms->n_days)
        return cli_error(EXIT_NOT_MEASURED, "refused for everyone: there are no %u days before the month",
                         terms->n_days);
    terms->has_basis = clean_has_basis(tenant, terms->first_day - terms->n_days, today);
    return 0;
}

static int list_create(struct run *run, const struct hmac_key *contact_key, struct err *err) {
    int rc = clean_list_create(&run->list, contact_key, run->terms.tenant);
    return rc == 0 ? 0 : err_set(err, rc, "no memory for a list");
}

static int list_open(struct run *run, const struct tenant *tenant, struct err *err) {
    struct keys keys;
    struct hmac_key contact_key;
    uint8_t key[KEY_SIZE];
    if (run->pseudonyms)
        return list_create(run, NULL, err);
    int rc = keys_load(&keys, run->config->keys_dir, true, err);
    if (rc != 0)
        return rc;
    rc = tenant_contact_key(tenant, &keys, key, err);
    keys_wipe(&keys);
    if (rc != 0)
        return rc;
    hmac_key_init(&contact_key, key, sizeof key);
    rc = list_create(run, &contact_key, err);
    bytes_wipe(key, sizeof key);
    bytes_wipe(&contact_key, sizeof contact_key);
    return rc;
}

// From `before` lines to `n`.
static void progress_lines(const char *what, size_t before, size_t n) {
    if (n / PROGRESS_LINES > before / PROGRESS_LINES)
        fprintf(stderr, "openveil: %s %zu million lines\n", what, n / PROGRESS_LINES);
}

static int list_read(struct run *run, struct err *err) {
    struct lines *lines = NULL;
    char *line;
    size_t len;
    int rc = lines_open(&lines, NULL, err);
    if (rc != 0)
        return rc;
    while ((rc = lines_next(lines, &line, &len, err)) == 1) {
        if ((rc = clean_list_add(run->list, line, len, err)) != 0)
            break;
        progress_lines("read", clean_list_count(run->list) - 1, clean_list_count(run->list));
    }
    lines_close(lines);
    return rc;
}

static int take_last_open(void *arg, uint64_t pseudonym, const struct last_open *value) {
    return clean_opens_take(arg, pseudonym, value);
}

// What the aggregator has committed of this tenant.
static int state_load(struct run *run, struct err *err) {
    const struct config *config = run->config;
    int rc = clean_opens_create(&run->opens, &run->terms);
    if (rc != 0)
        return err_set(err, rc, "no memory for the contacts with an open");
    const struct state_filter filter = {.kinds = "DTLC",
                                        .of_tenant = true,
                                        .tenant = run->terms.tenant,
                                        .last_open = take_last_open,
                                        .arg = run->opens};
    uint32_t partition = partition_of(run->terms.tenant, (uint32_t)config->kafka_partitions);
    struct journal *journal = NULL;
    rc = journal_open_readonly(&journal, config, err);
    if (rc != 0)
        return rc;
    rc = state_view_load(&run->state, journal, config, partition, &filter, err);
    journal->ops->close(journal);
    return rc;
}

struct looking_up {
    struct consent_store *store;
    uint32_t tenant;
};

static int look_up(void *arg, const uint64_t *pseudonyms, size_t n, struct consent_record *records, struct err *err) {
    const struct looking_up *looking_up = arg;
    return consent_store_get_many(looking_up->store, looking_up->tenant, pseudonyms, n, records, err);
}

static void looked_up(void *arg, size_t before, size_t done) {
    (void)arg;
    progress_lines("looked up", before, done);
}

static int answer(struct run *run, struct err *err) {
    struct looking_up looking_up = {.tenant = run->terms.tenant};
    const struct clean_answer terms = {
        .terms = &run->terms, .opens = run->opens, .look_up = look_up, .progress = looked_up, .arg = &looking_up};
    const struct consent_stamp *known = state_stamp(run->state);
    int rc = consent_store_open(&looking_up.store, run->config, err);
    if (rc == 0 && known != NULL) // a store restored to an older state might not know of a withdrawal
        consent_store_known(looking_up.store,
                            partition_of(run->terms.tenant, (uint32_t)run->config->kafka_partitions), known);
    if (rc == 0)
        rc = clean_answer(&terms, run->list, err);
    consent_store_close(looking_up.store);
    // Only the list is still needed.
    clean_opens_free(run->opens);
    run->opens = NULL;
    return rc;
}

// ---- handing out ---------------------------------------------------------------------------------------------------
static int line_write(void *arg, const char *field, size_t len, bool inactive, struct err *err) {
    FILE *out = arg;
    fwrite(field, 1, len, out);
    fputs(inactive ? "\t1\n" : "\t0\n", out);
    return ferror(out) ? err_errno(err, ERR_IO, "cannot write the answer") : 0;
}

static int line_shard(void *arg, const char *field, size_t len, bool inactive, struct err *err) {
    return clean_shards_add(arg, field, len, inactive, err);
}

static int write_stdout(struct run *run, struct err *err) {
    int rc = clean_list_each(run->list, line_write, stdout, err);
    return rc == 0 && fflush(stdout) != 0 ? err_errno(err, ERR_IO, "cannot write the answer") : rc;
}

static int write_shards(struct run *run, struct err *err) {
    struct clean_shards *shards = NULL;
    struct clean_manifest manifest = {.terms = &run->terms,
                                      .rehearsal = run->config->rehearsal,
                                      .lines = clean_list_count(run->list),
                                      .ones = clean_list_ones(run->list)};
    memcpy(manifest.run_id, run->run_id, sizeof manifest.run_id);
    int rc = clean_shards_create(&shards, run->out_dir, run->n_shards, err);
    if (rc == 0)
        rc = clean_list_each(run->list, line_shard, shards, err);
    if (rc == 0)
        rc = clean_shards_finish(shards, &manifest, err);
    clean_shards_free(shards);
    return rc;
}

static int hand_out(struct run *run) {
    struct err err;
    uint8_t random[(CLEAN_RUN_ID_SIZE - 1) / 2];
    bool refused = !run->accept_share && clean_list_share_above(run->list, run->share_percent_max);
    bytes_random(random, sizeof random);
    hex_encode(random, sizeof random, run->run_id);
    int rc = run_log_append(run->config, "clean.log", &err, "run=%s tenant=%u class=%s regime=%d lines=%zu result=%s",
                            run->run_id, run->terms.tenant, message_class_names[run->terms.message_class],
                            (int)run->terms.regime, clean_list_count(run->list), refused ? "share" : "answered");
    if (rc != 0)
        return cli_error(EXIT_FAILURE, "%s; nothing was answered", err.text);
    if (refused)
        return cli_error(EXIT_SHARE,
                         "more than %u %% of the lines would be 1, so nothing was answered: check the list, the class "
                         "and the regime, then use --accept-share",
                         run->share_percent_max);
    rc = run->out_dir == NULL ? write_stdout(run, &err) : write_shards(run, &err);
    return rc == 0 ? 0 : cli_error(EXIT_FAILURE, "%s", err.text);
}

static int run_for(struct run *run, const struct tenant *tenant) {
    struct err err = {""};
    int code = find_terms(run, tenant);
    if (code != 0)
        return code;
    if (run->out_dir != NULL && clean_shards_check(run->out_dir, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    if (list_open(run, tenant, &err) != 0 || list_read(run, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    int rc = state_load(run, &err);
    if (rc == ERR_NOT_FOUND)
        return cli_error(EXIT_NOT_MEASURED, "refused for everyone: nothing has been measured here yet");
    if (rc != 0)
        return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s", err.text);
    if ((rc = clean_check(&run->terms, run->state, &err)) != 0)
        return cli_error(rc == ERR_AGAIN ? EXIT_NOT_NOW : EXIT_NOT_MEASURED, "%s", err.text);
    if ((rc = answer(run, &err)) != 0)
        return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s; nothing was answered", err.text);
    return hand_out(run);
}

static int run_clean(const struct config *config, const struct cli_values *values) {
    struct run run = {.config = config};
    struct tenant tenant;
    struct err err;
    int code = parse_options(&run, values);
    if (code != 0)
        return code;
    if (tenant_load(&tenant, config->tenants_dir, run.terms.tenant, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    code = run_for(&run, &tenant);
    clean_list_free(run.list);
    clean_opens_free(run.opens);
    state_free(run.state);
    tenant_free(&tenant);
    return code;
}

static const struct cli_option clean_options[] = {
    {"tenant", "ID", "the sender", true, false},
    {"class", "CLASS", "class of the list's mail: transactional, requested or prospecting", true, false},
    {"regime", "N", "its regime: 0 exemption by day (default) or 1 consent only", false, false},
    {"pseudonyms", NULL, "first fields are pseudonyms of 16 hex digits; needs no contact key", false, false},
    {"max-share", "P", "answer nothing where more than P per cent of the lines would be 1 (default 30)", false, false},
    {"accept-share", NULL, "answer whatever the share of ones is", false, false},
    {"out", "DIR", "write files into DIR, which must be absent or empty, instead of standard output", false, false},
    {"shards", "K", "with --out: how many files, 1 (default) to 500", false, false},
};
const struct cli_command cmd_clean = {
    .words = "clean",
    .args = "",
    .summary = "say for each contact of a list, 1 or 0, whether it is clearly inactive",
    .description =
        "In: one contact a line, its id, optionally a tab and the number of mails delivered to it in the N days.\n"
        "Out: the same first field, a tab, and 1 or 0, in the same order. A bad line fails the whole run.\n\n"
        "1 means: on each of the N days before the month (90, 180 or 365, a setting of the tenant) this contact\n"
        "could be measured and may be measured now, and no image of a mail was seen to be loaded for it. It does\n"
        "NOT mean that mails were not read: many people read with images off. It says nothing about interest, and\n"
        "is for removing contacts from a list only.\n"
        "0 means nothing: active, not measured, unknown, refusing, new, or fewer than 5 mails delivered all look\n"
        "alike.\n\n"
        "Answers are frozen at the end of the month before and given from the 1st to the 10th. Each run is logged\n"
        "in [aggregator] state_dir: who, when, tenant and lines, no contact.\n"
        "--out writes DIR/part-00000-of-0000K.tsv.zst and so on: the same lines, each in the file that its first field\n"
        "says, pmod(xxhash64(field), K) in the words of Spark. DIR/_SUCCESS comes last: JSON with the run's id, E, N,\n"
        "the counts, and each file's lines and SHA-256. Without it nothing in DIR is finished.\n"
        "TMPDIR (/var/tmp) needs up to 14 bytes a line and the first fields' length.\n\n"
        "Exit status: 0 answered, 1 a bad line or another failure, 3 not now, 4 not measured long or completely\n"
        "enough, 5 too many ones, 69 consent store or state unreachable. Nothing is written unless it is 0.",
    .options = clean_options,
    .n_options = ARRAY_LEN(clean_options),
    .run = run_clean,
};
