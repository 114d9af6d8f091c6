// `openveil token mint|open`.
#include "common/commands.h"
#include "common/event.h"
#include "common/keys.h"
#include "common/lines.h"
#include "common/tenant.h"

#include <jansson.h>
#include <string.h>

// ---- token mint ------------------------------------------------------------------------------------------------------

// One tenant's keys and what all tokens of a run share.
struct mint {
    const struct config *config;
    struct token_key token_key;
    struct hmac_key contact_key;
    struct token common; // tenant, key id, regime, and the minute of sending unless said otherwise
};

static int mint_open(struct mint *mint, const struct config *config, uint32_t id, struct err *err) {
    struct tenant tenant;
    struct keys keys;
    uint8_t key[KEY_SIZE];
    memset(mint, 0, sizeof *mint);
    int rc = tenant_load(&tenant, config->tenants_dir, id, err);
    if (rc != 0)
        return rc;
    if ((rc = keys_load(&keys, config->keys_dir, true, err)) != 0)
        goto done;
    if ((rc = tenant_contact_key(&tenant, &keys, key, err)) != 0)
        goto done;
    hmac_key_init(&mint->contact_key, key, sizeof key);
    token_key_derive(keys.token[keys.newest], id, keys.newest, key);
    token_key_init(&mint->token_key, key);
    bytes_wipe(key, sizeof key);
    mint->config = config;
    mint->common.tenant = id;
    mint->common.key_id = keys.newest;
    int64_t minute = clock_now_ms(&config->clock) / 60000;
    mint->common.sent_minute = minute > UINT32_MAX ? UINT32_MAX : (uint32_t)minute;
done:
    keys_wipe(&keys);
    tenant_free(&tenant);
    return rc;
}

static int number_parse(const char *text, uint32_t max, uint32_t *value) {
    uint32_t v = 0;
    if (*text == '\0')
        return ERR_INVALID;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return ERR_INVALID;
        v = v * 10 + (uint32_t)(*text - '0');
        if (v > max)
            return ERR_INVALID;
    }
    *value = v;
    return 0;
}

// The texts of one mail; `sent` NULL: now.
struct mail {
    const char *contact;
    size_t contact_len;
    const char *message_class;
    const char *stream;
    const char *provider;
    const char *sent;
};

static int mail_token(const struct mint *mint, const struct mail *mail, struct token *token, struct err *err) {
    uint32_t stream, provider;
    *token = mint->common;
    if (!contact_id_valid(mail->contact, mail->contact_len))
        return err_set(err, ERR_INVALID, "the contact must be 1 to %d bytes of UTF-8 without tab, CR or LF", CONTACT_ID_MAX);
    int message_class = message_class_parse(mail->message_class);
    if (message_class < 0)
        return err_set(err, ERR_INVALID, "the class must be transactional, requested or prospecting");
    if (number_parse(mail->stream, UINT16_MAX, &stream) != 0)
        return err_set(err, ERR_INVALID, "the stream must be a number from 0 to 65535");
    if (number_parse(mail->provider, UINT8_MAX, &provider) != 0) {
        int named = config_provider_number(mint->config, mail->provider);
        if (named < 0)
            return err_set(err, ERR_INVALID, "the provider must be a number from 0 to 255 or a name that is built in or in "
                                             "[release] providers");
        provider = (uint32_t)named;
    }
    if (mail->sent != NULL && minutes_parse_rfc3339(mail->sent, &token->sent_minute) != 0)
        return err_set(err, ERR_INVALID, "the time of sending must look like 2026-11-22T08:30:00Z");
    token->message_class = (uint8_t)message_class;
    token->stream = (uint16_t)stream;
    token->provider = (uint8_t)provider;
    token->pseudonym = pseudonym_of(&mint->contact_key, token->tenant, mail->contact, mail->contact_len);
    return 0;
}

static void print_token(const struct mint *mint, const struct token *token, bool json) {
    char text[TOKEN_CHARS + 1];
    token_mint(&mint->token_key, token, text);
    fputs(json ? "{\"token\":\"" : "", stdout);
    fputs(text, stdout);
    fputs(json ? "\"}\n" : "\n", stdout);
}

static int mint_one(const struct mint *mint, const struct cli_values *values) {
    const char *contact = cli_value(values, "contact");
    static const char *const needed[] = {"class", "stream", "provider"};
    struct token token;
    struct err err;
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (cli_value(values, needed[i]) == NULL)
            return cli_error(EXIT_USAGE, "--contact needs --%s too", needed[i]);
    struct mail mail = {contact, strlen(contact), cli_value(values, "class"), cli_value(values, "stream"),
                        cli_value(values, "provider"), cli_value(values, "sent")};
    if (mail_token(mint, &mail, &token, &err) != 0)
        return cli_error(EXIT_USAGE, "%s", err.text);
    print_token(mint, &token, cli_json(values));
    return 0;
}

static int line_token(const struct mint *mint, char *line, size_t len, struct token *token, struct err *err) {
    char *fields[6];
    size_t lens[6];
    size_t n = line_fields(line, len, fields, lens, 6);
    if (n < 4 || n > 5)
        return err_set(err, ERR_INVALID, "a line has 4 or 5 fields with tabs between: contact, class, stream, provider, sent");
    for (size_t i = 1; i < n; i++)
        if (strlen(fields[i]) != lens[i])
            return err_set(err, ERR_INVALID, "it holds a NUL");
    struct mail mail = {fields[0], lens[0], fields[1], fields[2], fields[3], n == 5 ? fields[4] : NULL};
    return mail_token(mint, &mail, token, err);
}

// All lines are read before the first token is printed: a bad one must not leave half a mailing.
static int mint_many(const struct mint *mint, bool json) {
    struct lines *lines = NULL;
    struct token *tokens = NULL;
    size_t n = 0, room = 0, len;
    struct err err, why;
    char *line;
    int rc = lines_open(&lines, NULL, &err);
    while (rc == 0 && (rc = lines_next(lines, &line, &len, &err)) == 1) {
        if (n == room) {
            room = room == 0 ? 4096 : room * 2;
            struct token *more = realloc(tokens, room * sizeof *more);
            if (more == NULL) {
                rc = err_set(&err, ERR_NOMEM, "no memory for %zu tokens", room);
                break;
            }
            tokens = more;
        }
        rc = line_token(mint, line, len, &tokens[n], &why);
        if (rc != 0)
            rc = err_set(&err, rc, "line %llu: %s", (unsigned long long)lines_number(lines), why.text);
        else
            n++;
    }
    for (size_t i = 0; rc == 0 && i < n; i++)
        print_token(mint, &tokens[i], json);
    if (tokens != NULL)
        bytes_wipe(tokens, room * sizeof *tokens);
    free(tokens);
    lines_close(lines);
    return rc == 0 ? 0 : cli_error(EXIT_FAILURE, "%s", err.text);
}

static int run_mint(const struct config *config, const struct cli_values *values) {
    struct mint mint;
    struct err err;
    uint32_t id, regime = REGIME_EXEMPTION;
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &id);
    if (code == 0 && cli_value(values, "regime") != NULL)
        code = cli_parse_u32("--regime", cli_value(values, "regime"), REGIME_EXEMPTION, REGIME_AGGREGATE, &regime);
    if (code != 0)
        return code;
    bool one = cli_value(values, "contact") != NULL;
    static const char *const of_one[] = {"class", "stream", "provider", "sent"};
    for (size_t i = 0; i < ARRAY_LEN(of_one) && !one; i++)
        if (cli_value(values, of_one[i]) != NULL)
            return cli_error(EXIT_USAGE, "--%s belongs to --contact; for many mails it stands in each line", of_one[i]);
    if (mint_open(&mint, config, id, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    mint.common.regime = (uint8_t)regime;
    code = one ? mint_one(&mint, values) : mint_many(&mint, cli_json(values));
    bytes_wipe(&mint, sizeof mint);
    return code;
}

// ---- token open ------------------------------------------------------------------------------------------------------

// 0, or ERR_INVALID for whatever reason it is not ours; ERR_* of the keys' and tenants' directories otherwise.
static int token_open_text(const struct config *config, const char *text, struct token *token, struct err *err) {
    struct keys keys;
    struct tenant tenant;
    struct token_key prepared;
    uint8_t bytes[TOKEN_BYTES], key[KEY_SIZE];
    uint32_t id;
    uint8_t key_id;
    int rc = keys_load(&keys, config->keys_dir, false, err);
    if (rc != 0)
        return rc == ERR_INVALID ? ERR_IO : rc;
    rc = token_decode(text, strlen(text), bytes, &id, &key_id);
    if (rc == 0)
        rc = keys.has_token[key_id] ? 0 : ERR_INVALID;
    if (rc == 0) {
        token_key_derive(keys.token[key_id], id, key_id, key);
        token_key_init(&prepared, key);
        rc = token_open(&prepared, bytes, token);
        bytes_wipe(key, sizeof key);
        bytes_wipe(&prepared, sizeof prepared);
    }
    keys_wipe(&keys);
    if (rc != 0)
        return rc;
    rc = tenant_load(&tenant, config->tenants_dir, id, err);
    if (rc == 0)
        tenant_free(&tenant);
    return rc == ERR_NOT_FOUND ? ERR_INVALID : rc == ERR_INVALID ? ERR_IO : rc;
}

static int run_open(const struct config *config, const struct cli_values *values) {
    struct token token;
    struct err err;
    char pseudonym[24], sent[32], number[8];
    int rc = token_open_text(config, cli_arg(values, 0), &token, &err);
    if (rc == ERR_INVALID)
        return cli_error(EXIT_FAILURE, "not a token of ours");
    if (rc != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    snprintf(pseudonym, sizeof pseudonym, "%016llx", (unsigned long long)token.pseudonym);
    snprintf(number, sizeof number, "%u", token.provider);
    minutes_format(token.sent_minute, sent, sizeof sent);
    const char *provider = config->provider_names[token.provider];
    provider = provider == NULL ? number : provider;
    const char *message_class = message_class_names[token.message_class];
    if (!cli_json(values)) {
        printf("tenant     %u\nkey id     %u\npseudonym  %s\nsent       %s\nstream     %u\nprovider   %s\nclass      %s\n"
               "regime     %u\n",
               token.tenant, token.key_id, pseudonym, sent, token.stream, provider, message_class, token.regime);
        return 0;
    }
    json_t *json = json_pack("{s:I, s:i, s:s, s:s, s:i, s:s, s:s, s:i}", "tenant", (json_int_t)token.tenant, "key_id",
                             token.key_id, "pseudonym", pseudonym, "sent", sent, "stream", token.stream, "provider",
                             provider, "class", message_class, "regime", token.regime);
    if (json == NULL || json_dumpf(json, stdout, JSON_COMPACT) != 0) {
        json_decref(json);
        return cli_error(EXIT_FAILURE, "cannot write the output");
    }
    printf("\n");
    json_decref(json);
    return 0;
}

// ---- table -----------------------------------------------------------------------------------------------------------

static const struct cli_option mint_options[] = {
    {"tenant", "ID", "the sender", true, false},
    {"contact", "CID", "the contact's id; without it many mails are read from standard input", false, false},
    {"class", "CLASS", "transactional, requested or prospecting", false, false},
    {"stream", "N", "the number of the mail stream", false, false},
    {"provider", "NAME", "the recipient's provider, by name or number; other where it is none of them", false, false},
    {"regime", "N", "0 exemption by day (default), 1 consent only, 2 aggregate only", false, false},
    {"sent", "TIME", "when the mail is sent, as 2026-11-22T08:30:00Z; default: now", false, false},
};
const struct cli_command cmd_token_mint = {
    .words = "token mint",
    .args = "",
    .summary = "mint the token of a mail's pixel, or one for each line of standard input",
    .description = "Lines: contact, class, stream, provider and, if wanted, sent, with tabs between; a token a line comes\n"
                   "back in the same order. A bad line fails the whole run and is named before anything is printed.\n"
                   "The pixel is https://<edge>/p/<token>.gif.",
    .options = mint_options,
    .n_options = ARRAY_LEN(mint_options),
    .run = run_mint,
};

const struct cli_command cmd_token_open = {
    .words = "token open",
    .args = "TOKEN",
    .args_min = 1,
    .args_max = 1,
    .summary = "show what a token says; exit status 1 where it is not one of ours",
    .run = run_open,
};
