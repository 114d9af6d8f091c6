#include "common/config.h"

#include "common/cidr.h"
#include "common/cli.h"
#include "common/config_table.h"
#include "common/event.h"
#include "common/files.h"

#include <ini.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1u << 20)
// One line: the longest value of the table and its key. Lines above inih's own limit would come back in pieces.
#define LINE_MAX_BYTES 4400
#define NAME_MAX_INIH 49 // inih cuts longer names of sections and keys
#define NAMES_MAX_BYTES 400 // more than the keys of any section

struct problems {
    char *text; // of struct err; NULL where nobody asks
    size_t size, used;
    unsigned n, hidden;
};

struct parser {
    struct config *config;
    const char *name;
    const char *at, *end; // what inih has not read yet
    unsigned line;
    unsigned lines[CONFIG_OPTIONS]; // where each option was set; 0: nowhere
    bool nomem;
    struct problems problems;
};

static void problem(struct parser *parser, unsigned line, const char *format, ...) PRINTF_LIKE(3, 4);
static void problem(struct parser *parser, unsigned line, const char *format, ...) {
    struct problems *p = &parser->problems;
    char text[512], where[32] = "";
    if (line > 0)
        snprintf(where, sizeof where, "%u:", line);
    int head = snprintf(text, 300, "%s%s:%s ", p->n == 0 ? "" : "\n", parser->name, where);
    size_t used = head < 300 ? (size_t)head : 299;
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, sizeof text - used, format, args);
    va_end(args);
    size_t len = strlen(text), room_for_more = sizeof "\nand 4294967295 more";
    p->n++;
    if (p->text == NULL)
        return;
    // The first problem is told even where it must be cut; the others only whole.
    if (p->n == 1 && len > p->size - 1 - room_for_more)
        len = p->size - 1 - room_for_more;
    if (p->hidden > 0 || p->used + len + 1 + room_for_more > p->size) {
        p->hidden++;
        return;
    }
    memcpy(p->text + p->used, text, len);
    p->used += len;
    p->text[p->used] = '\0';
}

static int problems_end(struct problems *p) {
    if (p->n == 0)
        return 0;
    if (p->text != NULL && p->hidden > 0)
        snprintf(p->text + p->used, p->size - p->used, "\nand %u more", p->hidden);
    return ERR_INVALID;
}

// What could have been meant: all sections (NULL), or the keys of one.
static size_t known_names(const char *section, const char *names[CONFIG_OPTIONS]) {
    size_t n = 0;
    for (size_t i = 0; i < CONFIG_OPTIONS; i++) {
        const struct config_option *option = &config_options[i];
        if (section != NULL && strcmp(option->section, section) == 0)
            names[n++] = option->key;
        else if (section == NULL && (i == 0 || strcmp(option->section, option[-1].section) != 0))
            names[n++] = option->section;
    }
    return n;
}

static const char *nearest(const char *word, const char *section) {
    const char *names[CONFIG_OPTIONS];
    return cli_nearest(word, names, known_names(section, names));
}

static const char *all_names(const char *section, char *text, size_t size) {
    const char *names[CONFIG_OPTIONS];
    size_t n = known_names(section, names), used = 0;
    for (size_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i == 0 ? "" : ", ", names[i]);
    return text;
}

static bool section_known(const char *section) {
    for (size_t i = 0; i < CONFIG_OPTIONS; i++)
        if (strcmp(config_options[i].section, section) == 0)
            return true;
    return false;
}

static void check_section_line(struct parser *parser, const char *line) {
    const char *end = strchr(line, ']');
    if (end == NULL || end - line > NAME_MAX_INIH || end[1 + strspn(end + 1, " \t")] != '\0') {
        problem(parser, parser->line, "a section's line is [NAME] and nothing else");
        return;
    }
    char section[NAME_MAX_INIH + 1];
    size_t len = (size_t)(end - line) - 1;
    memcpy(section, line + 1, len);
    section[len] = '\0';
    if (section_known(section))
        return;
    const char *near = nearest(section, NULL);
    char names[NAMES_MAX_BYTES];
    if (near != NULL)
        problem(parser, parser->line, "unknown section [%s]; did you mean [%s]?", section, near);
    else
        problem(parser, parser->line, "unknown section [%s]; there are %s", section,
                all_names(NULL, names, sizeof names));
}

// Whether inih may have this line. It would read some lines in another way than they look; those are told here and
// inih gets an empty line instead.
static bool check_line(struct parser *parser, const char *line, size_t len) {
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < ' ' && line[i] != '\t') {
            problem(parser, parser->line, "a control character (byte %zu of the line)", i + 1);
            return false;
        }
    const char *first = line + strspn(line, " \t");
    if (*first == '\0' || *first == '#' || *first == ';')
        return true;
    if (first != line) {
        problem(parser, parser->line, "an indented line; values end with their line, so begin it at the margin");
        return false;
    }
    if (*line == '[') {
        check_section_line(parser, line);
        return strchr(line, ']') != NULL;
    }
    if (line[strcspn(line, "=:")] != '=' || *line == '=') {
        problem(parser, parser->line, "neither [SECTION] nor KEY = VALUE nor a comment (#)");
        return false;
    }
    return true;
}

// inih's reader: the next line into `out` of `size` bytes, always whole.
static char *read_line(char *out, int size, void *stream) {
    struct parser *parser = stream;
    CHECK(size >= LINE_MAX_BYTES + 3);
    if (parser->at == parser->end)
        return NULL;
    const char *newline = memchr(parser->at, '\n', (size_t)(parser->end - parser->at));
    const char *stop = newline == NULL ? parser->end : newline;
    const char *line = parser->at;
    size_t len = (size_t)(stop - line);
    parser->at = newline == NULL ? parser->end : newline + 1;
    if (++parser->line == 1 && len >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        line += 3;
        len -= 3;
    }
    if (len > 0 && line[len - 1] == '\r')
        len--;
    if (len > LINE_MAX_BYTES) {
        problem(parser, parser->line, "a line of %zu bytes; at most %d are allowed", len, LINE_MAX_BYTES);
        len = 0;
    }
    memcpy(out, line, len);
    out[len] = '\0';
    if (!check_line(parser, out, len))
        len = 0;
    memcpy(out + len, "\n", 2);
    return out;
}

static const struct config_option *option_find(const char *section, const char *key) {
    for (size_t i = 0; i < CONFIG_OPTIONS; i++)
        if (strcmp(config_options[i].section, section) == 0 && strcmp(config_options[i].key, key) == 0)
            return &config_options[i];
    return NULL;
}

static void unknown_key(struct parser *parser, const char *section, const char *key) {
    const char *near = nearest(key, section);
    char names[NAMES_MAX_BYTES];
    if (section[0] == '\0') {
        problem(parser, parser->line, "key \"%s\" stands before the first [SECTION]", key);
    } else if (near != NULL) {
        problem(parser, parser->line, "unknown key \"%s\" in [%s]; did you mean \"%s\"?", key, section, near);
    } else {
        for (size_t i = 0; i < CONFIG_OPTIONS; i++)
            if (strcmp(config_options[i].key, key) == 0) {
                problem(parser, parser->line, "unknown key \"%s\" in [%s]; it belongs to [%s]", key, section,
                        config_options[i].section);
                return;
            }
        problem(parser, parser->line, "unknown key \"%s\" in [%s], which has %s", key, section,
                all_names(section, names, sizeof names));
    }
}

// inih's handler; always "success", because inih would only keep the number of the first bad line.
static int take_value(void *arg, const char *section, const char *key, const char *value) {
    struct parser *parser = arg;
    if (section[0] != '\0' && !section_known(section))
        return 1; // told at the section's own line
    const struct config_option *option = option_find(section, key);
    if (option == NULL) {
        unknown_key(parser, section, key);
        return 1;
    }
    unsigned *set = &parser->lines[option - config_options];
    if (*set != 0) {
        problem(parser, parser->line, "duplicate key \"%s\" in [%s], first set in line %u", key, section, *set);
        return 1;
    }
    *set = parser->line;
    int rc = config_value_set(parser->config, option, value);
    if (rc == ERR_NOMEM) {
        parser->nomem = true;
    } else if (rc != 0) {
        char allowed[CONFIG_WHAT_SIZE];
        config_allowed(option, allowed);
        problem(parser, parser->line, "%s must be %s, not \"%.60s\"", key, allowed, value);
    }
    return 1;
}

// Debian's inih is built to be adjusted at run time: long lines need its heap buffer, a ';' within a value is no
// comment, and an indented line is no continuation.
static int parse_lines(struct parser *parser) {
    ini_use_stack = false;
    ini_allow_realloc = false;
    ini_max_line = LINE_MAX_BYTES + 3;
    ini_initial_alloc = LINE_MAX_BYTES + 3;
    ini_allow_inline_comments = false;
    ini_allow_multiline = false;
    int rc = ini_parse_stream(read_line, parser, take_value, parser);
    if (rc == -2 || parser->nomem)
        return ERR_NOMEM;
    if (rc > 0 && parser->problems.n == 0)
        problem(parser, (unsigned)rc, "not understood");
    return 0;
}

const char *const provider_builtin_names[PROVIDERS_BUILTIN] = {
    "other", "gmail", "outlook", "yahoo", "icloud", "orange", "free",
    "sfr", "laposte", "gmx", "web.de", "t-online", "libero", "proton"};

int config_provider_number(const struct config *config, const char *name) {
    for (int i = 0; i < PROVIDERS_MAX; i++)
        if (config->provider_names[i] != NULL && strcmp(config->provider_names[i], name) == 0)
            return i;
    return -1;
}

static void provider_add(struct parser *parser, unsigned line, char *entry) {
    struct config *config = parser->config;
    char *name = strchr(entry, '=');
    unsigned number = 0;
    if (name != NULL) {
        *name++ = '\0';
        size_t digits = strspn(entry, "0123456789");
        if (digits >= 1 && digits <= 3 && entry[digits] == '\0')
            number = (unsigned)strtoul(entry, NULL, 10);
    }
    if (number < PROVIDERS_BUILTIN || number >= PROVIDERS_MAX) {
        problem(parser, line, "providers must be NUMBER=NAME, comma separated, numbers from %d to %d",
                PROVIDERS_BUILTIN, PROVIDERS_MAX - 1);
        return;
    }
    size_t len = strlen(name);
    if (len < 1 || len > 32 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != len) {
        problem(parser, line, "the name of provider %u must be 1 to 32 of a-z 0-9 . -", number);
    } else if (config->provider_names[number] != NULL) {
        problem(parser, line, "provider %u has two names", number);
    } else if (config_provider_number(config, name) >= 0) {
        problem(parser, line, "provider name \"%s\" is taken by number %d", name, config_provider_number(config, name));
    } else {
        config->provider_names[number] = strdup(name);
        parser->nomem |= config->provider_names[number] == NULL;
    }
}

static void finish_providers(struct parser *parser) {
    struct config *config = parser->config;
    for (size_t i = 0; i < PROVIDERS_BUILTIN; i++) {
        config->provider_names[i] = strdup(provider_builtin_names[i]);
        parser->nomem |= config->provider_names[i] == NULL;
    }
    char *list = strdup(config->release_providers);
    if (list == NULL || parser->nomem) {
        parser->nomem = true;
        free(list);
        return;
    }
    char *rest = list;
    while (list[0] != '\0' && rest != NULL) {
        char *entry = strsep(&rest, ",");
        entry += strspn(entry, " \t");
        size_t len = strlen(entry);
        while (len > 0 && (entry[len - 1] == ' ' || entry[len - 1] == '\t'))
            entry[--len] = '\0';
        provider_add(parser, parser->lines[CONFIG_AT_release_providers], entry);
    }
    free(list);
}

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

static void finish_edge_id(struct parser *parser) {
    struct config *config = parser->config;
    unsigned line = parser->lines[CONFIG_AT_ingest_edge_id];
    if (strcmp(config->ingest_edge_id, "@hostname") != 0) {
        size_t len = strlen(config->ingest_edge_id);
        if (strspn(config->ingest_edge_id, NAME_CHARACTERS) != len)
            problem(parser, line, "edge_id must be made of letters, digits, dot, dash and underscore");
        return;
    }
    char host[64] = "";
    // A longer name is cut, with or without an error.
    if (gethostname(host, sizeof host) != 0 || host[0] == '\0') {
        problem(parser, line, "edge_id must be set in [ingest], because this host has no usable name");
        return;
    }
    host[sizeof host - 1] = '\0';
    for (char *c = host; *c != '\0'; c++)
        if (strchr(NAME_CHARACTERS, *c) == NULL)
            *c = '-';
    free(config->ingest_edge_id);
    config->ingest_edge_id = strdup(host);
    parser->nomem |= config->ingest_edge_id == NULL;
}

static void finish_rehearsal(struct parser *parser) {
    struct config *config = parser->config;
    static const int needed[] = {CONFIG_AT_rehearsal_start_unix_s, CONFIG_AT_rehearsal_start_day,
                                 CONFIG_AT_rehearsal_day_seconds};
    bool complete = true;
    config->clock = clock_real();
    if (!config->rehearsal)
        return;
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (parser->lines[needed[i]] == 0) {
            problem(parser, 0, "--rehearsal needs %s in [rehearsal]", config_options[needed[i]].key);
            complete = false;
        }
    // An empty value reads as 0, which a rehearsed day cannot last.
    if (complete && config->rehearsal_day_seconds == 0)
        problem(parser, parser->lines[CONFIG_AT_rehearsal_day_seconds], "day_seconds must not be empty in a rehearsal");
    else if (complete)
        config->clock = clock_rehearsed((int64_t)config->rehearsal_start_unix_s, config->rehearsal_start_day,
                                        (uint32_t)config->rehearsal_day_seconds);
}

static void finish_topics(struct parser *parser) {
    const struct config *config = parser->config;
    const char *topics[] = {config->kafka_topic_events, config->kafka_topic_state, config->kafka_topic_releases,
                            config->consent_log_topic, config->consent_rejects_topic, config->consent_topic};
    static const int rows[] = {CONFIG_AT_kafka_topic_events, CONFIG_AT_kafka_topic_state,
                               CONFIG_AT_kafka_topic_releases, CONFIG_AT_consent_log_topic,
                               CONFIG_AT_consent_rejects_topic, CONFIG_AT_consent_topic};
    for (size_t i = 0; i < ARRAY_LEN(topics); i++) {
        if (strspn(topics[i], NAME_CHARACTERS) != strlen(topics[i]))
            problem(parser, parser->lines[rows[i]], "%s must be made of letters, digits, dot, dash and underscore",
                    config_options[rows[i]].key);
        for (size_t j = 0; j < i; j++)
            if (strcmp(topics[i], topics[j]) == 0)
                problem(parser, parser->lines[rows[i]], "%s and %s must be two topics", config_options[rows[j]].key,
                        config_options[rows[i]].key);
    }
}

static void finish_log_dir(struct parser *parser) {
    struct config *config = parser->config;
    char path[PATH_SIZE];
    if (config->consent_log_dir[0] != '\0')
        return;
    if (path_join(path, config->aggregator_state_dir, "consent-log", NULL) != 0) {
        problem(parser, 0, "state_dir is too long");
        return;
    }
    free(config->consent_log_dir);
    config->consent_log_dir = strdup(path);
    parser->nomem |= config->consent_log_dir == NULL;
}

#define REDIS_ADDRESSES_MAX 64

// The number of addresses in the list, all of them good and different; 0 otherwise, and it is told.
static size_t check_addresses(struct parser *parser, int row, const char *list, bool sockets) {
    char items[REDIS_ADDRESSES_MAX][300], host[256];
    uint16_t port;
    size_t n = 0;
    const char *rest = list;
    bool good = true;
    for (; good && n < REDIS_ADDRESSES_MAX && list_next(&rest, items[n], sizeof items[n]); n++) {
        good = (sockets && items[n][0] == '/') || (address_parse(items[n], host, &port) == 0 && port != 0);
        for (size_t i = 0; i < n; i++)
            good = good && strcmp(items[i], items[n]) != 0;
    }
    if (good && *rest == '\0')
        return n;
    problem(parser, parser->lines[row], "%s must be HOST:PORT%s, or up to %d different ones with commas between",
            config_options[row].key, sockets ? " or the path of a socket" : "", REDIS_ADDRESSES_MAX);
    return 0;
}

static void finish_redis(struct parser *parser) {
    const struct config *config = parser->config;
    bool sentinels = config->redis_sentinels[0] != '\0';
    size_t n = check_addresses(parser, CONFIG_AT_redis_address, config->redis_address, true);
    (void)check_addresses(parser, CONFIG_AT_redis_sentinels, config->redis_sentinels, false);
    if (sentinels != (config->redis_master[0] != '\0'))
        problem(parser, parser->lines[CONFIG_AT_redis_sentinels], "sentinels and master go together");
    if (sentinels && parser->lines[CONFIG_AT_redis_address] != 0)
        problem(parser, parser->lines[CONFIG_AT_redis_address], "address must not be set: the sentinels name the primary");
    if (sentinels && config->redis_cluster)
        problem(parser, parser->lines[CONFIG_AT_redis_cluster], "a Redis Cluster has no sentinels");
    if (!config->redis_cluster && n > config->kafka_partitions)
        problem(parser, parser->lines[CONFIG_AT_redis_address], "address names more servers than there are partitions");
    if (config->redis_tls)
        problem(parser, parser->lines[CONFIG_AT_redis_tls],
                "tls must be no: this program's hiredis (0.14, as in Debian 12) has no TLS; put stunnel or a socket "
                "between, or use a network that encrypts");
}

// What one key alone cannot show: defaults that are derived, and keys that must agree.
static void config_finish(struct parser *parser) {
    struct config *config = parser->config;
    char host[256];
    uint16_t port;
    finish_edge_id(parser);
    finish_providers(parser);
    finish_rehearsal(parser);
    finish_topics(parser);
    finish_log_dir(parser);
    if (config->release_epsilon.numerator > config->release_epsilon.denominator)
        problem(parser, parser->lines[CONFIG_AT_release_epsilon], "epsilon must be at most 1");
    if (config->spool_bytes_max < 2 * config->spool_segment_bytes)
        problem(parser, parser->lines[CONFIG_AT_spool_bytes_max],
                "bytes_max must be at least twice segment_bytes (%llu)",
                (unsigned long long)config->spool_segment_bytes);
    if (address_parse(config->ingest_listen, host, &port) == 0 && port != 0 &&
        strcmp(config->ingest_listen, config->ingest_admin_listen) == 0)
        problem(parser, parser->lines[CONFIG_AT_ingest_admin_listen], "listen and admin_listen must be two addresses");
    if (config->ingest_proxy_protocol && config->ingest_trusted_cidrs[0] == '\0')
        problem(parser, parser->lines[CONFIG_AT_ingest_proxy_protocol], "proxy_protocol needs trusted_cidrs");
    struct cidr cidrs[CONFIG_CIDRS_MAX];
    if (cidr_parse_list(config->ingest_trusted_cidrs, cidrs, CONFIG_CIDRS_MAX) < 0)
        problem(parser, parser->lines[CONFIG_AT_ingest_trusted_cidrs],
                "trusted_cidrs must be at most %d ranges like 10.0.0.0/8 or 2001:db8::/32, comma separated",
                CONFIG_CIDRS_MAX);
    finish_redis(parser);
}

int config_parse(struct config *config, const char *name, const char *text, size_t len, bool rehearsal,
                 struct err *err) {
    CHECK(name != NULL && (text != NULL || len == 0));
    *config = (struct config){.rehearsal = rehearsal, .clock = clock_real()};
    struct parser parser = {.config = config, .name = name, .at = text, .end = text == NULL ? NULL : text + len};
    if (err != NULL) {
        err->text[0] = '\0';
        parser.problems.text = err->text;
        parser.problems.size = sizeof err->text;
    }
    int rc = 0;
    config->path = strdup(name);
    parser.nomem = config->path == NULL;
    for (size_t i = 0; i < CONFIG_OPTIONS && rc == 0; i++) {
        rc = config_value_set(config, &config_options[i], config_options[i].initial);
        CHECK(rc != ERR_INVALID); // a default of the table is always good
    }
    if (rc == 0)
        rc = parse_lines(&parser);
    if (rc == 0) {
        config_finish(&parser);
        rc = parser.nomem ? ERR_NOMEM : problems_end(&parser.problems);
    }
    if (rc == ERR_NOMEM)
        err_set(err, rc, "out of memory while reading %s", name);
    if (rc != 0)
        config_free(config);
    return rc;
}

int config_load(struct config *config, const char *path, bool rehearsal, struct err *err) {
    char *text = NULL;
    size_t len = 0;
    *config = (struct config){0};
    if (path == NULL)
        path = getenv("OPENVEIL_CONFIG");
    if (path == NULL || path[0] == '\0')
        path = CONFIG_PATH_DEFAULT;
    int rc = file_read(path, FILE_BYTES_MAX, &text, &len, err);
    if (rc == ERR_NOT_FOUND)
        return err_set(err, rc, "there is no configuration file %s: `openveil config sample` prints one to begin with, "
                       "--config FILE names another", path);
    if (rc != 0)
        return rc;
    rc = config_parse(config, path, text, len, rehearsal, err);
    free(text);
    return rc;
}

void config_free(struct config *config) {
    if (config == NULL)
        return;
    for (size_t i = 0; i < CONFIG_OPTIONS; i++)
        config_value_clear(config, &config_options[i]);
    for (size_t i = 0; i < PROVIDERS_MAX; i++)
        free(config->provider_names[i]);
    free(config->path);
    *config = (struct config){0};
}
