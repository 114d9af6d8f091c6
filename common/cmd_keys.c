// `openveil keys init|add`.
#include "common/commands.h"
#include "common/keys.h"

#include <jansson.h>

static void print_created(const struct config *config, const struct cli_values *values, int key_id, bool contact) {
    if (!cli_json(values)) {
        printf("created token-%d.key%s in %s\n", key_id, contact ? " and contact.key" : "", config->keys_dir);
        return;
    }
    json_t *json = json_pack("{s:s, s:i}", "dir", config->keys_dir, "key_id", key_id);
    CHECK(json != NULL && json_dumpf(json, stdout, JSON_COMPACT) == 0);
    printf("\n");
    json_decref(json);
}

static int run_init(const struct config *config, const struct cli_values *values) {
    struct err err;
    if (keys_create(config->keys_dir, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    print_created(config, values, 1, true);
    return 0;
}

static int run_add(const struct config *config, const struct cli_values *values) {
    struct err err;
    int key_id = keys_add(config->keys_dir, &err);
    if (key_id < 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    print_created(config, values, key_id, false);
    return 0;
}

const struct cli_command cmd_keys_init = {
    .words = "keys init",
    .args = "",
    .summary = "create the first token master key and the contact master key",
    .description = "Both go to [keys] dir, readable by their owner alone. Edges need the token keys, aggregators none;\n"
                   "contact.key belongs only where tokens are minted and consent and cleaning commands run.",
    .run = run_init,
};

const struct cli_command cmd_keys_add = {
    .words = "keys add",
    .args = "",
    .summary = "create the next token master key, which is minted with from then on",
    .description = "Give it to every edge before minting with it: edges notice a new key file without a restart.\n"
                   "Older keys go on opening the tokens that were minted with them, until their files are removed.",
    .run = run_add,
};
