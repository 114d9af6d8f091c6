// `openveil fetch-classes check`: what a file of fetch-class rules holds, and what it says about one request.
#include "common/cidr.h"
#include "common/files.h"
#include "common/hmac.h"
#include "ingest/commands.h"
#include "ingest/fetch_class.h"

#include <jansson.h>
#include <string.h>

static const char *const class_names[] = {
    [FETCH_PERSON] = "person", [FETCH_MACHINE] = "machine", [FETCH_SCANNER] = "scanner"};

static const struct cli_option options[] = {
    {"agent", "TEXT", "a request's User-Agent; \"\" for none: tell the class and the line that decides", false, false},
    {"address", "IP", "the request's address", false, false},
    {"sec-purpose", "TEXT", "the request's Sec-Purpose header", false, false},
    {"purpose", "TEXT", "the request's Purpose header", false, false},
    {"x-moz", "TEXT", "the request's X-Moz header", false, false},
    {"within-minute", NULL, "the mail was sent in this minute or the one before", false, false},
};

struct file {
    const char *name;
    const char *text; // the built-in one, or `read`
    size_t len;
    char *read;
    struct fetch_classes *classes;
};

static int file_open(struct file *file, const char *path, struct err *err) {
    int rc = 0;
    *file = (struct file){.name = path == NULL ? "built in" : path};
    if (path == NULL) {
        file->text = fetch_classes_builtin(&file->len);
    } else {
        rc = file_read(path, FETCH_CLASSES_BYTES_MAX, &file->read, &file->len, err);
        file->text = file->read;
    }
    return rc != 0 ? rc : fetch_classes_parse(&file->classes, file->name, file->text, file->len, err);
}

static void file_close(struct file *file) {
    fetch_classes_free(file->classes);
    free(file->read);
}

static struct text line_of(const struct file *file, unsigned number) {
    const char *at = file->text, *end = file->text + file->len;
    CHECK(number > 0);
    while (--number > 0)
        at = (const char *)memchr(at, '\n', (size_t)(end - at)) + 1;
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    return (struct text){at, (size_t)((stop == NULL ? end : stop) - at)};
}

static struct text text_of(const char *text) {
    return (struct text){text, text == NULL ? 0 : strlen(text)};
}

static int read_facts(const struct cli_values *values, struct fetch_facts *facts, bool *asked) {
    *facts = (struct fetch_facts){
        .user_agent = text_of(cli_value(values, "agent")),
        .sec_purpose = text_of(cli_value(values, "sec-purpose")),
        .purpose = text_of(cli_value(values, "purpose")),
        .x_moz = text_of(cli_value(values, "x-moz")),
        .within_minute = cli_flag(values, "within-minute"),
    };
    *asked = false;
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        *asked |= cli_flag(values, options[i].name);
    const char *address = cli_value(values, "address");
    if (address != NULL && ip_parse(address, facts->address) != 0)
        return cli_error(EXIT_USAGE, "--address must be an IPv4 or IPv6 address");
    return 0;
}

static void tell_file(const struct file *file, json_t *answer) {
    char hash[2 * SHA256_SIZE + 1];
    hex_encode(fetch_classes_hash(file->classes), SHA256_SIZE, hash);
    if (answer != NULL)
        json_object_set_new(answer, "sha256", json_string(hash));
    else
        printf("%s: good\nsha256 %s\n", file->name, hash);
    for (size_t i = 0; i < ARRAY_LEN(class_names); i++) {
        size_t n = fetch_classes_count(file->classes, (enum fetch)i);
        if (answer != NULL)
            json_object_set_new(answer, class_names[i], json_integer((json_int_t)n));
        else
            printf("%-7s %zu rules\n", class_names[i], n);
    }
}

static void tell_request(const struct file *file, const struct fetch_facts *facts, json_t *answer) {
    unsigned line;
    enum fetch fetch = fetch_classify(file->classes, facts, &line);
    struct text rule = line == 0 ? text_of("no line matches, so it is a person") : line_of(file, line);
    if (answer != NULL) {
        json_object_set_new(answer, "fetch", json_string(class_names[fetch]));
        json_object_set_new(answer, "line", json_integer((json_int_t)line));
    } else if (line == 0) {
        printf("%s: %.*s\n", class_names[fetch], (int)rule.len, rule.at);
    } else {
        printf("%s: line %u decides: %.*s\n", class_names[fetch], line, (int)rule.len, rule.at);
    }
}

static int run_check(const struct config *config, const struct cli_values *values) {
    (void)config;
    struct file file;
    struct fetch_facts facts;
    struct err err;
    bool asked;
    int code = read_facts(values, &facts, &asked);
    if (code != 0)
        return code;
    if (file_open(&file, cli_arg(values, 0), &err) != 0) {
        file_close(&file);
        return cli_error(EXIT_FAILURE, "%s", err.text);
    }
    json_t *answer = cli_json(values) ? json_object() : NULL;
    if (cli_json(values) && answer == NULL)
        code = cli_error(EXIT_FAILURE, "out of memory");
    else if (asked)
        tell_request(&file, &facts, answer);
    else
        tell_file(&file, answer);
    if (answer != NULL && (json_dumpf(answer, stdout, JSON_COMPACT) != 0 || putchar('\n') == EOF))
        code = cli_error(EXIT_FAILURE, "cannot write the answer");
    json_decref(answer);
    file_close(&file);
    return code;
}

const struct cli_command cmd_fetch_classes_check = {
    .words = "fetch-classes check",
    .args = "[FILE]",
    .args_max = 1,
    .summary = "check a file of fetch-class rules, or tell what it says about a request",
    .description = "Without FILE: the rules that are built in. Without options: the number of rules of each class, and the\n"
                   "hash that releases name. With any of the options: the class of such a request and the deciding line.\n"
                   "Exit status: 0 good, 1 not.",
    .options = options,
    .n_options = ARRAY_LEN(options),
    .run = run_check,
    .no_config = true,
};
