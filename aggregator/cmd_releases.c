// `openveil releases` and `openveil budget`: what was released of a tenant, and what it spent.
#include "aggregator/commands.h"
#include "aggregator/release_files.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

// The lines of --tenant; exit code 0 with none where the tenant has none yet.
static int load_lines(const struct config *config, const struct cli_values *values, int kind,
                      struct release_files *files) {
    uint32_t id;
    struct tenant tenant;
    struct err err;
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &id);
    if (code != 0)
        return code;
    if (release_files_load(files, config->release_dir, id, kind, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    if (files->n > 0)
        return 0;
    if (tenant_load(&tenant, config->tenants_dir, id, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    tenant_free(&tenant);
    fprintf(stderr, "openveil: nothing of tenant %" PRIu32 " has been released yet\n", id);
    return 0;
}

// ---- releases ------------------------------------------------------------------------------------------------------
// A cell's number as a column: "1234", "<40", or "budget" where the whole line is withheld.
static void number_format(const struct release_file *file, const json_t *contacts, char text[24]) {
    if (json_is_integer(contacts))
        snprintf(text, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(contacts));
    else if (file->budget_spent)
        snprintf(text, 24, "budget");
    else
        snprintf(text, 24, "<%" PRIu32, file->threshold);
}

// Person and machine of one stream and provider stand side by side.
static int print_deliverability(const struct release_file *file) {
    const json_t *cells = json_object_get(file->json, "cells");
    for (size_t i = 0; i + 1 < json_array_size(cells); i += 2) {
        const char *stream_name, *provider;
        int stream;
        char person[24], machine[24];
        json_t *cell = json_array_get(cells, i);
        if (json_unpack(cell, "{s:i, s:s, s:s}", "stream", &stream, "stream_name", &stream_name, "provider",
                        &provider) != 0)
            return ERR_CORRUPT;
        number_format(file, json_object_get(cell, "contacts"), person);
        number_format(file, json_object_get(json_array_get(cells, i + 1), "contacts"), machine);
        printf("%-12s%-10s%-7d%-24s%-14s%12s%12s\n", file->period, file->complete ? "yes" : "no", stream, stream_name,
               provider, person, machine);
    }
    return 0;
}

static void print_inactivity(const struct release_file *file) {
    const json_t *cells = json_object_get(file->json, "cells");
    printf("%-12s%-10s", file->period, file->complete ? "yes" : "no");
    for (size_t i = 0; i < json_array_size(cells); i++) {
        char text[24];
        number_format(file, json_object_get(json_array_get(cells, i), "contacts"), text);
        printf("%15s", text);
    }
    printf("\n");
}

static void print_head(enum release_kind kind) {
    if (kind == RELEASE_DELIVERABILITY) {
        printf("contacts that opened, by day of sending (noisy numbers)\n%-12s%-10s%-7s%-24s%-14s%12s%12s\n", "sent on",
               "complete", "stream", "name", "provider", "person", "machine");
        return;
    }
    printf("contacts by days since their last open, at the month's end (noisy numbers)\n%-12s%-10s", "month",
           "complete");
    for (size_t i = 0; i < INACTIVITY_CELLS; i++)
        printf("%15s", inactivity_cell_names[i]);
    printf("\n");
}

static int print_tables(const struct release_files *files) {
    bool before = false;
    for (enum release_kind kind = RELEASE_DELIVERABILITY; kind <= RELEASE_INACTIVITY; kind++) {
        bool any = false;
        for (size_t i = 0; i < files->n; i++) {
            const struct release_file *file = &files->files[i];
            if (file->kind != kind)
                continue;
            if (!any && before)
                printf("\n");
            if (!any)
                print_head(kind);
            any = before = true;
            if (kind == RELEASE_INACTIVITY)
                print_inactivity(file);
            else if (print_deliverability(file) != 0)
                return cli_error(EXIT_FAILURE, "the line of %s has cells that are none", file->period);
        }
    }
    return 0;
}

static int run_releases(const struct config *config, const struct cli_values *values) {
    struct release_files files = {0};
    const char *kind_name = cli_value(values, "kind");
    int kind = kind_name == NULL ? 0 : release_kind_parse(kind_name);
    if (kind < 0)
        return cli_error(EXIT_USAGE, "--kind must be deliverability or inactivity, not \"%.40s\"", kind_name);
    int code = load_lines(config, values, kind, &files);
    if (code == 0 && cli_json(values)) {
        for (size_t i = 0; i < files.n; i++)
            puts(files.files[i].line);
    } else if (code == 0) {
        code = print_tables(&files);
    }
    release_files_free(&files);
    return code;
}

static const struct cli_option releases_options[] = {
    {"tenant", "ID", "the sender", true, false},
    {"kind", "KIND", "deliverability or inactivity; default: both", false, false},
};
const struct cli_command cmd_releases = {
    .words = "releases",
    .args = "",
    .summary = "show what was released of a tenant",
    .description = "Numbers carry noise; <40 says that the noisy number was below the threshold of 40. With --json\n"
                   "the lines themselves are printed, in the order of their periods.",
    .options = releases_options,
    .n_options = ARRAY_LEN(releases_options),
    .run = run_releases,
};

// ---- budget --------------------------------------------------------------------------------------------------------
// Lines of one calendar month: files[from..to).
static void print_month(const struct config *config, const struct release_files *files, size_t from, size_t to,
                        bool json) {
    char month[MONTH_TEXT_SIZE];
    struct fraction spent[64];
    size_t withheld = 0, n = 0;
    double sum = 0;
    month_format(files->files[from].period_day, month);
    for (size_t i = from; i < to; i++) {
        const struct release_file *file = &files->files[i];
        withheld += file->budget_spent;
        sum += (double)file->epsilon.numerator / file->epsilon.denominator;
        if (n < ARRAY_LEN(spent))
            spent[n++] = file->epsilon;
    }
    bool another = release_budget_fits(spent, n, config->release_epsilon);
    if (json)
        printf("{\"month\":\"%s\",\"lines\":%zu,\"withheld\":%zu,\"spent\":%.9g,\"limit\":%d,\"another_fits\":%s}\n",
               month, to - from, withheld, sum, RELEASE_BUDGET_A_MONTH, another ? "true" : "false");
    else
        printf("%-10s%8zu%10zu%14.9g of %d%16s\n", month, to - from, withheld, sum, RELEASE_BUDGET_A_MONTH,
               another ? "yes" : "no");
}

static int run_budget(const struct config *config, const struct cli_values *values) {
    struct release_files files = {0};
    bool json = cli_json(values);
    int code = load_lines(config, values, 0, &files);
    if (code == 0 && files.n > 0 && !json)
        printf("%-10s%8s%10s%14s%21s\n", "month", "lines", "withheld", "spent", "another fits");
    for (size_t from = 0; code == 0 && from < files.n;) {
        size_t to = from;
        uint32_t month = day_month_start(files.files[from].period_day);
        while (to < files.n && day_month_start(files.files[to].period_day) == month)
            to++;
        print_month(config, &files, from, to, json);
        from = to;
    }
    release_files_free(&files);
    return code;
}

static const struct cli_option budget_options[] = {
    {"tenant", "ID", "the sender", true, false},
};
const struct cli_command cmd_budget = {
    .words = "budget",
    .args = "",
    .summary = "show what the released lines of a tenant spent of each month's privacy budget",
    .description = "Each line spends its epsilon; those of one calendar month at most 8. Lines that no longer fit\n"
                   "are released with every number withheld and spend nothing. The last column: whether a line with\n"
                   "the epsilon of the configuration still fits.",
    .options = budget_options,
    .n_options = ARRAY_LEN(budget_options),
    .run = run_budget,
};
