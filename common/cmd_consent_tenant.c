// `openveil consent export|count|report|erase-tenant|rebucket`: all records of one tenant.
#include "common/commands.h"
#include "common/consent_store.h"
#include "common/tenant.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define ROWS_MAX 100000u

// How many contacts are in a state, by the notice they were shown.
struct row {
    uint8_t state; // CONSENT_STATES: unreadable
    char notice[NOTICE_MAX + 1];
    uint64_t contacts;
};

struct tally {
    bool by_notice;
    bool overflow;
    size_t n;
    struct row *rows;
};

static const char *state_name(uint8_t state) {
    CHECK(state <= CONSENT_STATES);
    return state == CONSENT_STATES ? "unreadable" : consent_state_names[state];
}

static int exit_of(int rc) {
    return rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE;
}

// The tenant of the command line, which must be known, and a store.
static int store_of(const struct config *config, const struct cli_values *values, uint32_t *tenant,
                    struct consent_store **store) {
    struct tenant known;
    struct err err;
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, tenant);
    if (code != 0)
        return code;
    if (tenant_load(&known, config->tenants_dir, *tenant, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    tenant_free(&known);
    int rc = consent_store_open(store, config, &err);
    return rc == 0 ? 0 : cli_error(exit_of(rc), "%s", err.text);
}

// ---- export ---------------------------------------------------------------------------------------------------------
static void day_write(uint32_t day, char end) {
    char text[DAY_TEXT_SIZE] = "-";
    if (day != DAY_NONE)
        day_format(day, text);
    printf("%s%c", text, end);
}

static void export_one(void *arg, uint64_t pseudonym, const struct consent_record *record) {
    uint64_t *n_unreadable = arg;
    if (record->unreadable) {
        (*n_unreadable)++;
        return;
    }
    printf("%016" PRIx64 "\t%s\t", pseudonym, state_name(record->state));
    day_write(record->since, '\t');
    printf("%s\t", record->notice);
    day_write(record->allowed_since, '\t');
    day_write(record->granted_since, '\n');
}

static int run_export(const struct config *config, const struct cli_values *values) {
    struct consent_store *store;
    uint64_t n_unreadable = 0;
    uint32_t tenant;
    struct err err;
    int code = store_of(config, values, &tenant, &store);
    if (code != 0)
        return code;
    int rc = consent_store_scan(store, tenant, export_one, &n_unreadable, &err);
    consent_store_close(store);
    if (rc != 0)
        return cli_error(exit_of(rc), "%s; what was written is not all", err.text);
    if (fflush(stdout) != 0)
        return cli_error(EXIT_FAILURE, "cannot write the output");
    if (n_unreadable > 0)
        return cli_error(EXIT_FAILURE, "%" PRIu64 " records were written by another version and left out", n_unreadable);
    return 0;
}

// ---- count and report -----------------------------------------------------------------------------------------------
static int row_compare(const void *left, const void *right) {
    const struct row *a = left, *b = right;
    if (a->state != b->state)
        return a->state < b->state ? -1 : 1;
    return strcmp(a->notice, b->notice);
}

static void tally_one(void *arg, uint64_t pseudonym, const struct consent_record *record) {
    struct tally *tally = arg;
    (void)pseudonym;
    struct row row = {.state = record->unreadable ? CONSENT_STATES : record->state, .contacts = 1};
    if (tally->by_notice)
        snprintf(row.notice, sizeof row.notice, "%s", record->notice);
    for (size_t i = 0; i < tally->n; i++) {
        if (row_compare(&tally->rows[i], &row) == 0) {
            tally->rows[i].contacts++;
            return;
        }
    }
    tally->overflow |= tally->n == ROWS_MAX;
    if (!tally->overflow)
        tally->rows[tally->n++] = row;
}

static int tally_print(const struct tally *tally, bool json) {
    json_t *array = json ? json_array() : NULL;
    for (size_t i = 0; i < tally->n; i++) {
        const struct row *row = &tally->rows[i];
        if (!json)
            printf("%-12s %s%s%" PRIu64 "\n", state_name(row->state), row->notice, tally->by_notice ? "\t" : "",
                   row->contacts);
        else if (json_array_append_new(array, json_pack("{s:s, s:s?, s:I}", "state", state_name(row->state), "notice",
                                                        tally->by_notice ? row->notice : NULL, "contacts",
                                                        (json_int_t)row->contacts)) != 0)
            return cli_error(EXIT_FAILURE, "out of memory");
    }
    int rc = json ? json_dumpf(array, stdout, JSON_COMPACT) : 0;
    json_decref(array);
    if (json)
        printf("\n");
    return rc == 0 && fflush(stdout) == 0 ? 0 : cli_error(EXIT_FAILURE, "cannot write the output");
}

static int tally_run(const struct config *config, const struct cli_values *values, bool by_notice) {
    struct tally tally = {.by_notice = by_notice};
    struct consent_store *store;
    uint32_t tenant;
    struct err err;
    int code = store_of(config, values, &tenant, &store);
    if (code != 0)
        return code;
    tally.rows = calloc(ROWS_MAX, sizeof *tally.rows);
    int rc = tally.rows == NULL ? err_set(&err, ERR_NOMEM, "out of memory")
                                : consent_store_scan(store, tenant, tally_one, &tally, &err);
    consent_store_close(store);
    if (rc == 0 && tally.overflow)
        rc = err_set(&err, ERR_LIMIT, "there are more than %u notices", ROWS_MAX);
    if (rc == 0)
        qsort(tally.rows, tally.n, sizeof *tally.rows, row_compare);
    code = rc == 0 ? tally_print(&tally, cli_json(values)) : cli_error(exit_of(rc), "%s", err.text);
    free(tally.rows);
    return code;
}

static int run_count(const struct config *config, const struct cli_values *values) {
    return tally_run(config, values, false);
}

static int run_report(const struct config *config, const struct cli_values *values) {
    return tally_run(config, values, true);
}

// ---- erase-tenant and rebucket --------------------------------------------------------------------------------------
static int receipt_print(const struct cli_values *values, int64_t receipt, const struct err *err) {
    if (receipt < 0)
        return cli_error(exit_of((int)receipt), "%s", err->text);
    printf(cli_json(values) ? "{\"receipt\":%" PRId64 "}\n" : "%" PRId64 "\n", receipt);
    return 0;
}

static int run_erase(const struct config *config, const struct cli_values *values) {
    struct consent_store *store;
    uint32_t tenant;
    struct err err;
    int code = store_of(config, values, &tenant, &store);
    if (code != 0)
        return code;
    int64_t receipt = consent_store_erase_tenant(store, tenant, &err);
    consent_store_close(store);
    return receipt_print(values, receipt, &err);
}

static int run_rebucket(const struct config *config, const struct cli_values *values) {
    struct consent_store *store;
    uint32_t tenant, bits;
    struct err err;
    int code = cli_parse_u32("--bits", cli_value(values, "bits"), 0, CONSENT_BITS_MAX, &bits);
    if (code == 0)
        code = store_of(config, values, &tenant, &store);
    if (code != 0)
        return code;
    int64_t receipt = consent_store_rebucket(store, tenant, bits, &err);
    consent_store_close(store);
    return receipt_print(values, receipt, &err);
}

// ---- table ----------------------------------------------------------------------------------------------------------
static const struct cli_option tenant_options[] = {{"tenant", "ID", "the sender", true, false}};

const struct cli_command cmd_consent_export = {
    .words = "consent export",
    .args = "",
    .summary = "write every record of a tenant, one a line",
    .description = "Pseudonym, state, day of it, notice, since when allowed and since when granted, with tabs between. This is\n"
                   "personal data. A contact that changes meanwhile is written as it was or as it is. Exit status 69: Redis\n"
                   "cannot be reached, and what was written is not all.",
    .options = tenant_options,
    .n_options = ARRAY_LEN(tenant_options),
    .run = run_export,
};

const struct cli_command cmd_consent_count = {
    .words = "consent count",
    .args = "",
    .summary = "how many contacts of a tenant are in each state",
    .options = tenant_options,
    .n_options = ARRAY_LEN(tenant_options),
    .run = run_count,
};

const struct cli_command cmd_consent_report = {
    .words = "consent report",
    .args = "",
    .summary = "how many contacts of a tenant are in each state, by the notice they were shown",
    .options = tenant_options,
    .n_options = ARRAY_LEN(tenant_options),
    .run = run_report,
};

const struct cli_command cmd_consent_erase_tenant = {
    .words = "consent erase-tenant",
    .args = "",
    .summary = "remove every record of a tenant: all of its contacts are unknown then",
    .description = "In one step of Redis, of about a second for 10 million contacts; above 2^20 buckets it is refused. Prints\n"
                   "the receipt. Objections go too: only for a sender that leaves.",
    .options = tenant_options,
    .n_options = ARRAY_LEN(tenant_options),
    .run = run_erase,
};

static const struct cli_option rebucket_options[] = {
    {"tenant", "ID", "the sender", true, false},
    {"bits", "N", "upper bits of the pseudonym that select a bucket, 0 to 20; 32 to 64 contacts a bucket are best", true,
     false},
};
const struct cli_command cmd_consent_rebucket = {
    .words = "consent rebucket",
    .args = "",
    .summary = "cut a tenant's records into another number of buckets",
    .description = "For a tenant that grew beyond what its first import laid out. Up to 250,000 contacts are moved in one\n"
                   "step of Redis, about a second. More are copied first, 10,000 a step, while changes go into both (twice\n"
                   "the tenant's memory meanwhile), then the copy takes their place, about a second for a million buckets.\n"
                   "Look-ups under way begin again. Prints the receipt. Running it again, with the same bits, is harmless:\n"
                   "it goes on where one was that was stopped.",
    .options = rebucket_options,
    .n_options = ARRAY_LEN(rebucket_options),
    .run = run_rebucket,
};
