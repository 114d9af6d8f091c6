// `openveil audit`: whether every request of a closed day is accounted for, or (--retention) whether anything is kept for
// too long.
#include "aggregator/audit.h"
#include "aggregator/cmd_retention.h"
#include "aggregator/commands.h"
#include "aggregator/run_log.h"
#include "aggregator/state_view.h"

#include <inttypes.h>

enum { EXIT_BROKEN = 1, EXIT_OPEN = 2 };

static int audit_all(const struct config *config, struct audit *audit, struct err *err) {
    const struct state_filter filter = {.kinds = "ED"};
    struct journal *journal = NULL;
    int rc = journal_open_readonly(&journal, config, err);
    if (rc != 0)
        return rc;
    for (uint32_t partition = 0; rc == 0 && partition < config->kafka_partitions; partition++) {
        struct state *state = NULL;
        rc = state_view_load(&state, journal, config, partition, &filter, err);
        if (rc == 0)
            audit_add(audit, state);
        state_free(state);
    }
    journal->ops->close(journal);
    if (rc == 0)
        audit_end(audit);
    return rc;
}

static bool meets_all(const struct audit *audit) {
    bool all = true;
    for (size_t i = 0; i < AUDIT_IDENTITIES; i++)
        all &= audit->meets[i];
    return all;
}

static void print_term(unsigned indent, const char *name, uint64_t value) {
    printf("%*s%-*s%14" PRIu64 "\n", (int)indent, "", (int)(34 - indent), name, value);
}

static void print_text(const struct audit *audit, const char *day, bool terms) {
    printf("accounting of %s, closed by %zu edge%s\n", day, audit->n_edges, audit->n_edges == 1 ? "" : "s");
    for (size_t i = 0; i < AUDIT_IDENTITIES; i++)
        printf("  %-50s%s\n", audit_identity_texts[i], audit->meets[i] ? "meets" : "DOES NOT MEET");
    if (!terms) {
        printf("  terms are printed from %d recorded opens on, or with --exact\n", AUDIT_TERMS_MIN);
        return;
    }
    print_term(2, "requests", audit->edges.requests);
    for (size_t i = 0; i < EDGE_DROPS; i++)
        print_term(4, edge_drop_names[i], audit->edges.drops[i]);
    print_term(4, "recorded", audit->edges.recorded);
    print_term(2, "received", audit->received);
    for (size_t i = 0; i < AGG_DROPS; i++)
        print_term(4, agg_drop_names[i], audit->drops[i]);
    print_term(4, "repeated", audit->repeated);
    print_term(4, "counted", audit->counted);
}

static void print_drops(const char *member, const char *const *names, const uint64_t *drops, size_t n) {
    printf(",\"%s\":{", member);
    for (size_t i = 0; i < n; i++)
        printf("%s\"%s\":%" PRIu64, i == 0 ? "" : ",", names[i], drops[i]);
    printf("}");
}

// All texts are ours and need no escaping.
static void print_json(const struct audit *audit, const char *day, bool terms) {
    printf("{\"day\":\"%s\",\"closed\":true,\"edges\":%zu,\"meets\":%s,\"identities\":[", day, audit->n_edges,
           meets_all(audit) ? "true" : "false");
    for (size_t i = 0; i < AUDIT_IDENTITIES; i++)
        printf("%s{\"identity\":\"%s\",\"meets\":%s}", i == 0 ? "" : ",", audit_identity_texts[i],
               audit->meets[i] ? "true" : "false");
    printf("]");
    if (terms) {
        printf(",\"requests\":%" PRIu64 ",\"recorded\":%" PRIu64, audit->edges.requests, audit->edges.recorded);
        print_drops("edge_drops", edge_drop_names, audit->edges.drops, EDGE_DROPS);
        printf(",\"received\":%" PRIu64 ",\"counted\":%" PRIu64 ",\"repeated\":%" PRIu64, audit->received,
               audit->counted, audit->repeated);
        print_drops("aggregator_drops", agg_drop_names, audit->drops, AGG_DROPS);
    }
    printf("}\n");
}

// `why`: NULL, or why nothing at all was measured.
static int not_closed(const char *day, bool json, const char *why) {
    if (json)
        printf("{\"day\":\"%s\",\"closed\":false}\n", day);
    if (why != NULL)
        return cli_error(EXIT_OPEN, "%s was never measured: %s", day, why);
    return cli_error(EXIT_OPEN, "%s is not closed by every edge that takes part in it, or was never measured", day);
}

static int run_audit(const struct config *config, const struct cli_values *values) {
    uint32_t day;
    char text[DAY_TEXT_SIZE];
    struct err err;
    bool exact = cli_flag(values, "exact"), json = cli_json(values);
    const char *day_value = cli_value(values, "day");
    bool retention = cli_flag(values, "retention");
    if (retention == (day_value != NULL) || (retention && exact))
        return cli_error(EXIT_USAGE, "audit needs either --day DAY or --retention");
    if (retention)
        return run_retention(config, json);
    int code = cli_parse_day("--day", day_value, &day);
    if (code != 0)
        return code;
    day_format(day, text);
    struct audit audit = audit_begin(day);
    int rc = audit_all(config, &audit, &err);
    if (rc == ERR_NOT_FOUND || (rc == 0 && !audit.closed))
        return not_closed(text, json, rc == 0 ? NULL : err.text);
    if (rc != 0)
        return cli_error(EXIT_UNAVAILABLE, "%s", err.text);
    if (exact && run_log_append(config, "audit.log", &err, "day=%s exact", text) != 0)
        return cli_error(EXIT_UNAVAILABLE, "%s; nothing was printed", err.text);
    bool terms = exact || audit.edges.recorded >= AUDIT_TERMS_MIN;
    if (json)
        print_json(&audit, text, terms);
    else
        print_text(&audit, text, terms);
    return meets_all(&audit) ? 0 : EXIT_BROKEN;
}

static const struct cli_option audit_options[] = {
    {"day", "DAY", "the UTC day whose accounting is checked, as YYYY-MM-DD", false, false},
    {"retention", NULL, "instead: the oldest item of each store against its limit", false, false},
    {"exact", NULL, "print the terms of a small day too; logged in [aggregator] state_dir", false, false},
};
const struct cli_command cmd_audit = {
    .words = "audit",
    .args = "",
    .summary = "check that every request of a closed day ended in exactly one place, or that nothing is kept too long",
    .description =
        "With --day. Exit status: 0 every identity is met, 1 one is not, 2 the day is still open or was never\n"
        "measured, 69 the aggregator's state cannot be read.\n\n"
        "With --retention: last-open days, open windows and ledgers in the aggregator's state; spool, inbox,\n"
        "journal and released lines on this machine; the events topic. Nothing is changed. Run it on every machine\n"
        "with an edge or an aggregator. Exit status: 0 nothing is over its limit, 1 something is, 69 something\n"
        "cannot be read.",
    .options = audit_options,
    .n_options = ARRAY_LEN(audit_options),
    .run = run_audit,
};
