// `openveil tenant add|change|list|export`.
#include "common/commands.h"
#include "common/files.h"
#include "common/keys.h"
#include "common/tenant.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

static int print_json(json_t *json) {
    int failed = json == NULL || json_dumpf(json, stdout, JSON_COMPACT) != 0;
    json_decref(json);
    if (failed)
        return cli_error(EXIT_FAILURE, "cannot write the output");
    printf("\n");
    return 0;
}

// `N=NAME`; the name's own rules are tenant_check's.
static int stream_of(const char *text, struct stream *stream) {
    char number[16];
    uint32_t value;
    const char *equals = strchr(text, '=');
    size_t len = equals == NULL ? 0 : (size_t)(equals - text);
    if (len < 1 || len >= sizeof number || strlen(equals + 1) > STREAM_NAME_MAX)
        return cli_error(EXIT_USAGE, "--stream must be NUMBER=NAME with a name of at most %d bytes", STREAM_NAME_MAX);
    memcpy(number, text, len);
    number[len] = '\0';
    int code = cli_parse_u32("the number of --stream", number, 0, UINT16_MAX, &value);
    if (code != 0)
        return code;
    stream->number = (uint16_t)value;
    memcpy(stream->name, equals + 1, strlen(equals + 1) + 1);
    return 0;
}

static int streams_ascend(const void *a, const void *b) {
    return (int)((const struct stream *)a)->number - (int)((const struct stream *)b)->number;
}

// Takes over what the command line says; `basis` keeps the text that the version then points to.
static int version_options(const struct cli_values *values, struct tenant_version *version, char **basis) {
    const char *text = cli_value(values, "inactive-days");
    uint32_t days;
    if (text != NULL) {
        int code = cli_parse_u32("--inactive-days", text, 0, UINT16_MAX, &days);
        if (code != 0)
            return code;
        version->inactive_days = (uint16_t)days;
    }
    if ((text = cli_value(values, "exemption-basis")) != NULL) {
        free(*basis);
        *basis = text[0] == '\0' ? NULL : strdup(text);
        if (text[0] != '\0' && *basis == NULL)
            return cli_error(EXIT_FAILURE, "no memory");
        version->exemption_basis = *basis;
    }
    if (cli_value(values, "stream") != NULL)
        version->n_streams = 0;
    for (size_t i = 0; (text = cli_value_at(values, "stream", i)) != NULL; i++) {
        if (i == TENANT_STREAMS_MAX)
            return cli_error(EXIT_USAGE, "a tenant has at most %d streams", TENANT_STREAMS_MAX);
        int code = stream_of(text, &version->streams[version->n_streams++]);
        if (code != 0)
            return code;
    }
    qsort(version->streams, version->n_streams, sizeof version->streams[0], streams_ascend);
    return 0;
}

static int tenant_argument(const struct cli_values *values, uint32_t *id) {
    return cli_parse_u32("the tenant's ID", cli_arg(values, 0), 0, UINT32_MAX, id);
}

// Reading, changing and writing a tenant's file is one step for other runs of these commands.
static int tenants_lock(const struct config *config) {
    struct err err;
    int rc = dir_create(config->tenants_dir, 0755, &err);
    if (rc == 0)
        rc = dir_lock(config->tenants_dir, &err);
    return rc < 0 ? -cli_error(EXIT_FAILURE, "%s", err.text) : rc;
}

static int print_stored(const struct cli_values *values, const struct tenant *tenant, const char *what) {
    char day[DAY_TEXT_SIZE];
    if (cli_json(values))
        return print_json(tenant_json(tenant));
    day_format(tenant->versions[tenant->n_versions - 1].from_day, day);
    printf("tenant %u %s, from %s\n", tenant->id, what, day);
    return 0;
}

// ---- tenant add ------------------------------------------------------------------------------------------------------

static int run_add(const struct config *config, const struct cli_values *values) {
    struct tenant_version version = {.from_day = clock_today(&config->clock), .inactive_days = 180};
    struct tenant tenant = {.n_versions = 1, .versions = &version};
    struct err err;
    char *basis = NULL;
    int lock = -1;
    const char *key_file = cli_value(values, "contact-key-file");
    int code = tenant_argument(values, &tenant.id);
    if (code != 0 || (code = version_options(values, &version, &basis)) != 0)
        goto done;
    if (key_file != NULL) {
        tenant.own_contact_key = true;
        if (key_file_read(key_file, tenant.contact_key, &err) != 0) {
            code = cli_error(EXIT_FAILURE, "%s", err.text);
            goto done;
        }
    }
    if (tenant_check(&tenant, &err) != 0) {
        code = cli_error(EXIT_USAGE, "%s", err.text);
        goto done;
    }
    if ((lock = tenants_lock(config)) < 0)
        code = -lock;
    else if (tenant_store(&tenant, config->tenants_dir, true, &err) != 0)
        code = cli_error(EXIT_FAILURE, "%s", err.text);
    else
        code = print_stored(values, &tenant, "added");
done:
    if (lock >= 0)
        close(lock);
    bytes_wipe(&tenant, sizeof tenant);
    free(basis);
    return code;
}

// ---- tenant change ---------------------------------------------------------------------------------------------------

// Makes the last version the one that begins on `day`, beginning with what holds then. What has begun stays as it is.
static int version_begin(const struct config *config, struct tenant *tenant, uint32_t day) {
    char text[DAY_TEXT_SIZE];
    struct tenant_version *last = &tenant->versions[tenant->n_versions - 1];
    if (day <= clock_today(&config->clock)) {
        day_format(clock_today(&config->clock) + 1, text);
        return cli_error(EXIT_USAGE, "--from must be a day that has not begun, %s or later", text);
    }
    if (day < last->from_day) {
        day_format(last->from_day, text);
        return cli_error(EXIT_USAGE, "there is a change from %s already: --from must be that day or a later one", text);
    }
    if (day == last->from_day)
        return 0;
    struct tenant_version *versions = realloc(tenant->versions, (tenant->n_versions + 1) * sizeof *versions);
    char *basis = versions != NULL && versions[tenant->n_versions - 1].exemption_basis != NULL
                      ? strdup(versions[tenant->n_versions - 1].exemption_basis)
                      : NULL;
    if (versions != NULL)
        tenant->versions = versions;
    if (versions == NULL || (versions[tenant->n_versions - 1].exemption_basis != NULL && basis == NULL))
        return cli_error(EXIT_FAILURE, "no memory");
    versions[tenant->n_versions] = versions[tenant->n_versions - 1];
    versions[tenant->n_versions].from_day = day;
    versions[tenant->n_versions].exemption_basis = basis;
    tenant->n_versions++;
    return 0;
}

static int change_locked(const struct config *config, const struct cli_values *values, struct tenant *tenant,
                         uint32_t day) {
    struct err err;
    int code = version_begin(config, tenant, day);
    if (code != 0)
        return code;
    struct tenant_version *version = &tenant->versions[tenant->n_versions - 1];
    if ((code = version_options(values, version, &version->exemption_basis)) != 0)
        return code;
    if (tenant_check(tenant, &err) != 0)
        return cli_error(EXIT_USAGE, "%s", err.text);
    if (tenant_store(tenant, config->tenants_dir, false, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    return print_stored(values, tenant, "changed");
}

static int run_change(const struct config *config, const struct cli_values *values) {
    struct tenant tenant;
    struct err err;
    uint32_t id, day;
    int code = tenant_argument(values, &id);
    if (code != 0 || (code = cli_parse_day("--from", cli_value(values, "from"), &day)) != 0)
        return code;
    int lock = tenants_lock(config);
    if (lock < 0)
        return -lock;
    if (tenant_load(&tenant, config->tenants_dir, id, &err) != 0) {
        code = cli_error(EXIT_FAILURE, "%s", err.text);
    } else {
        code = change_locked(config, values, &tenant, day);
        tenant_free(&tenant);
    }
    close(lock);
    return code;
}

// ---- tenant list and export ------------------------------------------------------------------------------------------

static int print_all_json(const struct tenant_table *table) {
    json_t *list = json_array();
    for (size_t i = 0; list != NULL && i < tenant_table_count(table); i++)
        if (json_array_append_new(list, tenant_json(tenant_table_at(table, i))) != 0) {
            json_decref(list);
            list = NULL;
        }
    return print_json(list);
}

static int run_list(const struct config *config, const struct cli_values *values) {
    struct tenant_table *table;
    struct err err;
    if (tenant_table_load(&table, config->tenants_dir, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    int code = 0;
    if (cli_json(values)) {
        code = print_all_json(table);
    } else {
        printf("%-10s %-10s %-8s %-9s %s\n", "TENANT", "FROM", "INACTIVE", "EXEMPTION", "STREAMS");
        for (size_t i = 0; i < tenant_table_count(table); i++) {
            const struct tenant *tenant = tenant_table_at(table, i);
            for (size_t j = 0; j < tenant->n_versions; j++) {
                const struct tenant_version *version = &tenant->versions[j];
                char day[DAY_TEXT_SIZE];
                day_format(version->from_day, day);
                printf("%-10u %-10s %-8u %-9s", tenant->id, day, version->inactive_days,
                       version->exemption_basis == NULL ? "no" : "yes");
                for (size_t k = 0; k < version->n_streams; k++)
                    printf(" %u=%s", version->streams[k].number, version->streams[k].name);
                printf("\n");
            }
        }
    }
    tenant_table_free(table);
    return code;
}

static int print_export(const struct tenant *tenant, const struct keys *keys) {
    uint8_t key[KEY_SIZE];
    char token_text[2 * KEY_SIZE + 1], contact_text[2 * KEY_SIZE + 1];
    struct err err;
    if (tenant_contact_key(tenant, keys, key, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    hex_encode(key, sizeof key, contact_text);
    token_key_derive(keys->token[keys->newest], tenant->id, keys->newest, key);
    hex_encode(key, sizeof key, token_text);
    // Written without a JSON library, whose copies of the keys nobody could wipe.
    printf("{\"tenant\":%u,\"token_key\":\"%s\",\"key_id\":%u,\"contact_key\":\"%s\"}\n", tenant->id, token_text,
           keys->newest, contact_text);
    bytes_wipe(key, sizeof key);
    bytes_wipe(token_text, sizeof token_text);
    bytes_wipe(contact_text, sizeof contact_text);
    return 0;
}

static int run_export(const struct config *config, const struct cli_values *values) {
    struct tenant tenant;
    struct keys keys;
    struct err err;
    uint32_t id;
    int code = tenant_argument(values, &id);
    if (code != 0)
        return code;
    if (tenant_load(&tenant, config->tenants_dir, id, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    if (keys_load(&keys, config->keys_dir, true, &err) != 0) {
        code = cli_error(EXIT_FAILURE, "%s", err.text);
    } else {
        code = print_export(&tenant, &keys);
        keys_wipe(&keys);
    }
    tenant_free(&tenant);
    return code;
}

// ---- table -----------------------------------------------------------------------------------------------------------

static const struct cli_option add_options[] = {
    {"stream", "N=NAME", "a mail stream: its number (0 to 65535) in tokens and its name; at least one", true, true},
    {"exemption-basis", "TEXT", "the ground for counting under the exemption; without it regime 0 is not accepted", false, false},
    {"inactive-days", "N", "days without an open after which a contact is inactive: 90, 180 (default) or 365", false, false},
    {"contact-key-file", "FILE", "a contact key of the tenant's own, 64 hex digits", false, false},
};
const struct cli_command cmd_tenant_add = {
    .words = "tenant add",
    .args = "ID",
    .args_min = 1,
    .args_max = 1,
    .summary = "register a sender; it counts from today on",
    .options = add_options,
    .n_options = ARRAY_LEN(add_options),
    .run = run_add,
};

static const struct cli_option change_options[] = {
    {"from", "DAY", "the day, not yet begun, from which the change holds", true, false},
    {"stream", "N=NAME", "the mail streams from then on, all of them", false, true},
    {"exemption-basis", "TEXT", "the ground for counting under the exemption; an empty text ends it", false, false},
    {"inactive-days", "N", "90, 180 or 365; may change once in 12 months", false, false},
};
const struct cli_command cmd_tenant_change = {
    .words = "tenant change",
    .args = "ID",
    .args_min = 1,
    .args_max = 1,
    .summary = "change what a sender counts, from a later day on",
    .description = "What is not given stays as it is. A change that has not begun is replaced by one for the same day.\n"
                   "A stream keeps its number and name for at least 28 days, so that no stream is a campaign.",
    .options = change_options,
    .n_options = ARRAY_LEN(change_options),
    .run = run_change,
};

const struct cli_command cmd_tenant_list = {
    .words = "tenant list",
    .args = "",
    .summary = "list the senders with all their versions",
    .run = run_list,
};

const struct cli_command cmd_tenant_export = {
    .words = "tenant export",
    .args = "ID",
    .args_min = 1,
    .args_max = 1,
    .summary = "print a sender's keys as JSON, for minting on the sender's side",
    .description = "The output is secret: who holds it can mint tokens and compute pseudonyms of this sender.",
    .run = run_export,
};
