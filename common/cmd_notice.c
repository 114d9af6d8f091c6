// `openveil notice add|list`: what contacts are told.
#include "common/commands.h"
#include "common/consent_notice.h"
#include "common/consent_store.h"
#include "common/files.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define TEXT_BYTES_MAX (4u << 20)

static int exit_of(int rc) {
    return rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE;
}

static int notice_read(const struct cli_values *values, struct consent_notice *notice) {
    const char *version = cli_arg(values, 0), *language = cli_value(values, "language");
    struct err err;
    char *text;
    size_t len;
    if (!notice_valid(version) || strcmp(version, "-") == 0)
        return cli_error(EXIT_USAGE, "VERSION must be 1 to %d printable ASCII characters, and not -", NOTICE_MAX);
    if (!language_valid(language))
        return cli_error(EXIT_USAGE, "--language must be a language tag, for instance fr or de-AT");
    if (purposes_parse(cli_value(values, "purposes"), &notice->purposes) != 0)
        return cli_error(EXIT_USAGE, "--purposes must be deliverability, inactivity or both with a comma between");
    int code = cli_parse_day("--from", cli_value(values, "from"), &notice->from);
    if (code != 0)
        return code;
    if (notice->from == DAY_NONE || notice->from > UINT16_MAX)
        return cli_error(EXIT_USAGE, "--from must be a day from 1970-01-02 to 2149-06-06");
    if (file_read(cli_value(values, "text"), TEXT_BYTES_MAX, &text, &len, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    sha256(text, len, notice->hash);
    free(text);
    if (len == 0)
        return cli_error(EXIT_FAILURE, "the text of a notice cannot be empty");
    snprintf(notice->version, sizeof notice->version, "%s", version);
    snprintf(notice->language, sizeof notice->language, "%s", language);
    return 0;
}

static int run_add(const struct config *config, const struct cli_values *values) {
    struct consent_notice notice = {0};
    struct consent_store *store;
    struct err err;
    int code = notice_read(values, &notice);
    if (code != 0)
        return code;
    int rc = consent_store_open(&store, config, &err);
    if (rc == 0) {
        rc = consent_store_notice_add(store, &notice, &err);
        consent_store_close(store);
    }
    return rc == 0 ? 0 : cli_error(exit_of(rc), "%s", err.text);
}

static int notices_print(const struct consent_notice *notices, size_t n, bool json) {
    json_t *array = json ? json_array() : NULL;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct consent_notice *notice = &notices[i];
        char hash[2 * SHA256_SIZE + 1], from[DAY_TEXT_SIZE];
        hex_encode(notice->hash, SHA256_SIZE, hash);
        day_format(notice->from, from);
        if (json)
            rc = json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:s, s:s}", "version", notice->version,
                                                        "purposes", purposes_text(notice->purposes), "language",
                                                        notice->language, "from", from, "sha256", hash));
        else
            printf("%s\t%s\t%s\t%s\t%s\n", notice->version, purposes_text(notice->purposes), notice->language, from,
                   hash);
    }
    if (json && rc == 0 && (rc = json_dumpf(array, stdout, JSON_COMPACT)) == 0)
        printf("\n");
    json_decref(array);
    return rc == 0 && fflush(stdout) == 0 ? 0 : cli_error(EXIT_FAILURE, "cannot write the output");
}

static int run_list(const struct config *config, const struct cli_values *values) {
    struct consent_notice *notices = NULL;
    struct consent_store *store;
    struct err err;
    size_t n = 0;
    int rc = consent_store_open(&store, config, &err);
    if (rc == 0) {
        rc = consent_store_notices(store, &notices, &n, &err);
        consent_store_close(store);
    }
    if (rc != 0)
        return cli_error(exit_of(rc), "%s", err.text);
    int code = notices_print(notices, n, cli_json(values));
    free(notices);
    return code;
}

static const struct cli_option add_options[] = {
    {"purposes", "LIST", "what it names: deliverability, inactivity, or both with a comma between", true, false},
    {"language", "TAG", "its language, for instance fr", true, false},
    {"from", "DAY", "the first day on which it was shown, YYYY-MM-DD", true, false},
    {"text", "FILE", "its text, of which the SHA-256 is kept", true, false},
};
const struct cli_command cmd_notice_add = {
    .words = "notice add",
    .args = "VERSION",
    .args_min = 1,
    .args_max = 1,
    .summary = "make a notice known that contacts are shown",
    .description = "With the first one, notices begin to hold for the whole store: informed and granted are then accepted only\n"
                   "with a known notice, from its first day on, and count only for the purposes that it names; records whose\n"
                   "notice is not known count for nothing. So add every notice that `consent report` shows. A notice never\n"
                   "changes; adding it again changes nothing, and completes what an error left undone.",
    .options = add_options,
    .n_options = ARRAY_LEN(add_options),
    .run = run_add,
};

const struct cli_command cmd_notice_list = {
    .words = "notice list",
    .args = "",
    .summary = "the known notices: version, purposes, language, first day, SHA-256 of the text",
    .run = run_list,
};
