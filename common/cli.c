#include "common/cli.h"

#include "common/log.h"
#include "common/version.h"

#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define WORDS_MAX 4

struct cli_values {
    const char *program;
    const struct cli_command *command; // NULL while it is not known, and for the daemons
    struct {
        const char *name;
        const char *value; // NULL for a flag
    } given[CLI_VALUES_MAX];
    size_t n_given;
    const char *args[CLI_VALUES_MAX];
    size_t n_args;
};

static const struct cli_option global_options[] = {
    {"config", "FILE", "configuration file (default $OPENVEIL_CONFIG, then " CONFIG_PATH_DEFAULT ")", false, false},
    {"rehearsal", NULL, "run on the rehearsed clock of [rehearsal]; real data are refused", false, false},
    {"check-config", NULL, "check the configuration and stop", false, false},
    {"help", NULL, "print this", false, false},
    {"version", NULL, "print the version", false, false},
    {"json", NULL, "answer in JSON", false, false}, // the last, so that daemons can leave it out
};

static int complain(const char *program, int exit_code, const char *format, va_list args) {
    char text[1024];
    vsnprintf(text, sizeof text, format, args);
    // One line for each problem, each with the program's name before it.
    for (char *rest = text; rest != NULL;)
        fprintf(stderr, "%s: %s\n", program, strsep(&rest, "\n"));
    return exit_code;
}

int cli_error(int exit_code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    complain("openveil", exit_code, format, args);
    va_end(args);
    return exit_code;
}

static int usage_error(const struct cli_values *values, const char *format, ...) PRINTF_LIKE(2, 3);
static int usage_error(const struct cli_values *values, const char *format, ...) {
    va_list args;
    va_start(args, format);
    complain(values->program, EXIT_USAGE, format, args);
    va_end(args);
    return EXIT_USAGE;
}

const char *cli_value_at(const struct cli_values *values, const char *name, size_t index) {
    for (size_t i = 0; i < values->n_given; i++)
        if (strcmp(values->given[i].name, name) == 0 && index-- == 0)
            return values->given[i].value;
    return NULL;
}

const char *cli_value(const struct cli_values *values, const char *name) {
    return cli_value_at(values, name, 0);
}

bool cli_flag(const struct cli_values *values, const char *name) {
    for (size_t i = 0; i < values->n_given; i++)
        if (strcmp(values->given[i].name, name) == 0)
            return true;
    return false;
}

size_t cli_args(const struct cli_values *values) {
    return values->n_args;
}

const char *cli_arg(const struct cli_values *values, size_t index) {
    CHECK(values->n_args <= CLI_VALUES_MAX);
    return index < values->n_args ? values->args[index] : NULL;
}

bool cli_json(const struct cli_values *values) {
    return cli_flag(values, "json");
}

int cli_parse_u32(const char *what, const char *text, uint32_t min, uint32_t max, uint32_t *value) {
    uint64_t v = 0;
    size_t len = strlen(text);
    bool good = len >= 1 && len <= 10 && strspn(text, "0123456789") == len;
    for (size_t i = 0; good && i < len; i++)
        v = v * 10 + (uint64_t)(text[i] - '0');
    if (!good || v < min || v > max)
        return cli_error(EXIT_USAGE, "%s must be an integer from %u to %u, not \"%.40s\"", what, min, max, text);
    *value = (uint32_t)v;
    return 0;
}

int cli_parse_day(const char *what, const char *text, uint32_t *day) {
    if (day_parse(text, day) != 0)
        return cli_error(EXIT_USAGE, "%s must be a day as YYYY-MM-DD, not \"%.40s\"", what, text);
    return 0;
}

// Edit distance with swaps of neighbours ("optimal string alignment"); words above 63 bytes are far from everything.
static size_t edit_distance(const char *a, const char *b) {
    size_t rows[3][64], len_a = strlen(a), len_b = strlen(b);
    if (len_a > 63 || len_b > 63)
        return SIZE_MAX;
    for (size_t j = 0; j <= len_b; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= len_a; i++) {
        size_t *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= len_b; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[len_a % 3][len_b];
}

const char *cli_nearest(const char *word, const char *const *names, size_t n) {
    const char *nearest = NULL;
    size_t len = strlen(word);
    size_t best = 1 + (len < 3 ? 1 : len < 6 ? 2 : len / 3); // that many edits are too many
    for (size_t i = 0; i < n; i++) {
        size_t distance = edit_distance(word, names[i]);
        if (distance < best && distance < strlen(names[i])) {
            best = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

// ---- Help ----

static void print_options(const struct cli_option *options, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", options[i].name, options[i].value == NULL ? "" : " ",
                 options[i].value == NULL ? "" : options[i].value);
        printf("  %-26s %s%s%s\n", left, options[i].help, options[i].required ? " (required)" : "",
               options[i].repeated ? " (may be repeated)" : "");
    }
}

static void print_command_help(const struct cli_command *command) {
    printf("usage: openveil %s", command->words);
    for (size_t i = 0; i < command->n_options; i++)
        if (command->options[i].required)
            printf(" --%s %s", command->options[i].name, command->options[i].value);
    printf("%s%s%s\n\n%s\n", command->n_options > 0 ? " [options]" : "", command->args[0] == '\0' ? "" : " ",
           command->args, command->summary);
    if (command->description != NULL)
        printf("\n%s\n", command->description);
    if (command->n_options > 0) {
        printf("\noptions:\n");
        print_options(command->options, command->n_options);
    }
    printf("\noptions of all commands:\n");
    print_options(global_options, ARRAY_LEN(global_options));
}

static bool command_in_group(const struct cli_command *command, const char *group) {
    size_t len = strlen(group);
    return len == 0 ||
           (strncmp(command->words, group, len) == 0 && (command->words[len] == ' ' || command->words[len] == '\0'));
}

static void print_commands(const struct cli_command *const *commands, size_t n, const char *group) {
    printf("usage: openveil COMMAND [options]\n\ncommands:\n");
    for (size_t i = 0; i < n; i++)
        if (command_in_group(commands[i], group))
            printf("  %-26s %s\n", commands[i]->words, commands[i]->summary);
    printf("\noptions of all commands:\n");
    print_options(global_options, ARRAY_LEN(global_options));
    printf("\n`openveil COMMAND --help` tells more about one command.\n");
}

// ---- Options ----

static const struct cli_option *option_find(const struct cli_option *options, size_t n, const char *name, size_t len) {
    for (size_t i = 0; i < n; i++)
        if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0)
            return &options[i];
    return NULL;
}

// The value may hold anything (a contact, a token), so messages name options only.
static int unknown_option(const struct cli_values *values, const char *name, size_t len, size_t globals) {
    const char *names[64];
    char word[64];
    size_t n = 0;
    const struct cli_command *command = values->command;
    for (size_t i = 0; i < globals; i++)
        names[n++] = global_options[i].name;
    for (size_t i = 0; command != NULL && i < command->n_options && n < ARRAY_LEN(names); i++)
        names[n++] = command->options[i].name;
    snprintf(word, sizeof word, "%.*s", (int)(len > 60 ? 60 : len), name);
    const char *near = cli_nearest(word, names, n);
    const char *of = command == NULL ? "" : command->words;
    const char *space = command == NULL ? "" : " ";
    if (near != NULL)
        return usage_error(values, "unknown option --%s%s%s; did you mean --%s?", word,
                           command == NULL ? "" : " of ", of, near);
    return usage_error(values, "unknown option --%s; `%s%s%s --help` lists all", word, values->program, space, of);
}

// Takes the option at argv[*i], and its value; *i is left at the last word used.
static int take_option(struct cli_values *values, int argc, char **argv, int *i, size_t globals) {
    const char *name = argv[*i] + 2;
    if (strcmp(argv[*i], "-h") == 0)
        name = "help";
    else if (argv[*i][1] != '-')
        return usage_error(values, "options begin with two dashes; write -- before an argument that begins with one");
    size_t len = strcspn(name, "=");
    const struct cli_option *option = option_find(global_options, globals, name, len);
    if (option == NULL && values->command != NULL)
        option = option_find(values->command->options, values->command->n_options, name, len);
    if (option == NULL)
        return unknown_option(values, name, len, globals);
    const char *value = name[len] == '=' ? name + len + 1 : NULL;
    if (option->value == NULL && value != NULL)
        return usage_error(values, "--%s takes no value", option->name);
    if (option->value != NULL && value == NULL) {
        if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
            return usage_error(values, "--%s needs a value: --%s=%s", option->name, option->name, option->value);
        value = argv[++*i];
    }
    if (!option->repeated && cli_flag(values, option->name))
        return usage_error(values, "--%s is given twice", option->name);
    if (values->n_given == CLI_VALUES_MAX)
        return usage_error(values, "more than %d options", CLI_VALUES_MAX);
    values->given[values->n_given].name = option->name;
    values->given[values->n_given++].value = value;
    return 0;
}

// Everything after the program's name, the first `n_words` plain words left out.
static int parse_all(struct cli_values *values, int argc, char **argv, size_t n_words, size_t globals) {
    bool options_end = false;
    for (int i = 1; i < argc; i++) {
        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
        } else if (!options_end && argv[i][0] == '-' && argv[i][1] != '\0') {
            int rc = take_option(values, argc, argv, &i, globals);
            if (rc != 0)
                return rc;
        } else if (n_words > 0) {
            n_words--;
        } else if (values->n_args == CLI_VALUES_MAX) {
            return usage_error(values, "more than %d arguments", CLI_VALUES_MAX);
        } else {
            values->args[values->n_args++] = argv[i];
        }
    }
    return 0;
}

static int check_complete(const struct cli_values *values) {
    const struct cli_command *command = values->command;
    for (size_t i = 0; i < command->n_options; i++)
        if (command->options[i].required && !cli_flag(values, command->options[i].name))
            return usage_error(values, "%s needs --%s %s", command->words, command->options[i].name,
                               command->options[i].value);
    if (values->n_args < command->args_min || values->n_args > command->args_max)
        return usage_error(values, "%zu arguments are too %s; usage: openveil %s [options]%s%s", values->n_args,
                           values->n_args < command->args_min ? "few" : "many", command->words,
                           command->args[0] == '\0' ? "" : " ", command->args);
    return 0;
}

// ---- The command's words ----

struct words {
    const char *at[WORDS_MAX];
    size_t n;
};

// Plain words up to the first option that is not a global one.
static void collect_words(int argc, char **argv, struct words *words) {
    for (int i = 1; i < argc && words->n < WORDS_MAX; i++) {
        if (argv[i][0] != '-') {
            words->at[words->n++] = argv[i];
            continue;
        }
        size_t len = strcspn(argv[i], "=");
        if (len < 3 || option_find(global_options, ARRAY_LEN(global_options), argv[i] + 2, len - 2) == NULL)
            return;
        if (strcmp(argv[i], "--config") == 0)
            i++;
    }
}

// How many of the command's words the line begins with; `all` where it has every one.
static size_t words_match(const struct cli_command *command, const struct words *words, bool *all) {
    const char *at = command->words;
    size_t n = 0;
    while (n < words->n && *at != '\0') {
        size_t len = strcspn(at, " ");
        if (strlen(words->at[n]) != len || memcmp(words->at[n], at, len) != 0)
            break;
        at += len + (at[len] == ' ');
        n++;
    }
    *all = *at == '\0';
    return n;
}

static int unknown_command(const struct cli_values *values, const struct cli_command *const *commands, size_t n,
                           const struct words *words, size_t known) {
    const char *names[128] = {0};
    char typed[128] = "";
    CHECK(n <= ARRAY_LEN(names));
    for (size_t i = 0; i < words->n && i <= known; i++) {
        size_t used = strlen(typed);
        snprintf(typed + used, sizeof typed - used, "%s%.40s", i == 0 ? "" : " ", words->at[i]);
    }
    for (size_t i = 0; i < n; i++)
        names[i] = commands[i]->words;
    const char *near = cli_nearest(typed, names, n);
    for (size_t i = 0; near == NULL && i < n && known == 0; i++) {
        char first[64];
        const char *one[] = {first};
        snprintf(first, sizeof first, "%.*s", (int)strcspn(names[i], " "), names[i]);
        near = cli_nearest(typed, one, 1) == NULL ? NULL : names[i];
    }
    if (near != NULL)
        return usage_error(values, "unknown command \"%s\"; did you mean \"%s\"?", typed, near);
    return usage_error(values, "unknown command \"%s\"; `openveil --help` lists all", typed);
}

// ---- Running ----

void cli_apply_log_level(const struct config *config) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(config->log_level, names[i]) == 0)
            log_set_level((enum log_level)i);
}

// 0, or the exit code with the problems printed.
static int load_config(const struct cli_values *values, struct config *config) {
    struct err err;
    if (config_load(config, cli_value(values, "config"), cli_flag(values, "rehearsal"), &err) != 0) {
        usage_error(values, "%s", err.text);
        return EXIT_CONFIG;
    }
    cli_apply_log_level(config);
    return 0;
}

// Lost output must not look like success.
static int output_end(const struct cli_values *values, int exit_code) {
    if (fflush(stdout) == 0 && !ferror(stdout))
        return exit_code;
    usage_error(values, "cannot write the output: %m");
    return exit_code == 0 ? EXIT_FAILURE : exit_code;
}

static int run_command(const struct cli_values *values) {
    const struct cli_command *command = values->command;
    struct config config = {0};
    int code = 0;
    bool check_only = cli_flag(values, "check-config");
    if (!check_only && (code = check_complete(values)) != 0)
        return code;
    if (check_only || !command->no_config)
        code = load_config(values, &config);
    if (code == 0 && check_only)
        printf("configuration %s is good\n", config.path);
    else if (code == 0)
        code = command->run(command->no_config ? NULL : &config, values);
    config_free(&config);
    return code;
}

static int run_group(struct cli_values *values, const struct cli_command *const *commands, size_t n, int argc,
                     char **argv, const struct words *words, size_t known) {
    static const struct cli_command none = {.words = "", .args = ""};
    if (words->n > known)
        return unknown_command(values, commands, n, words, known);
    int code = parse_all(values, argc, argv, known, ARRAY_LEN(global_options));
    if (code != 0)
        return code;
    values->command = &none;
    if (known == 0 && cli_flag(values, "check-config"))
        return run_command(values);
    if (known == 0 || cli_flag(values, "help")) {
        print_commands(commands, n, known == 0 ? "" : words->at[0]);
        return argc > 1 ? 0 : EXIT_USAGE;
    }
    usage_error(values, "\"%s\" needs one more word:", words->at[0]);
    for (size_t i = 0; i < n; i++)
        if (command_in_group(commands[i], words->at[0]))
            fprintf(stderr, "  openveil %-26s %s\n", commands[i]->words, commands[i]->summary);
    return EXIT_USAGE;
}

// What is in memory (tokens, addresses, contact ids, pseudonyms, keys) must not reach a disk through a core dump.
static void forbid_core_dumps(void) {
    const struct rlimit no_core = {0, 0};
    CHECK(setrlimit(RLIMIT_CORE, &no_core) == 0);
    CHECK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
}

int cli_main(int argc, char **argv, const struct cli_command *const *commands, size_t n_commands) {
    struct cli_values values = {.program = "openveil"};
    struct words words = {.n = 0};
    size_t matched = 0, known = 0;
    forbid_core_dumps();
    log_open("openveil", LOG_INFO);
    collect_words(argc, argv, &words);
    for (size_t i = 0; i < n_commands; i++) {
        bool all;
        CHECK(commands[i]->args != NULL && commands[i]->summary != NULL && commands[i]->run != NULL);
        size_t n = words_match(commands[i], &words, &all);
        known = n > known ? n : known;
        if (all && n > matched) {
            matched = n;
            values.command = commands[i];
        }
    }
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--version") == 0) {
            printf("openveil %s\n", OPENVEIL_VERSION);
            return output_end(&values, 0);
        }
    if (values.command == NULL)
        return output_end(&values, run_group(&values, commands, n_commands, argc, argv, &words, known));
    int code = parse_all(&values, argc, argv, matched, ARRAY_LEN(global_options));
    if (code == 0 && cli_flag(&values, "help"))
        print_command_help(values.command);
    else if (code == 0)
        code = run_command(&values);
    return output_end(&values, code);
}

int cli_daemon(int argc, char **argv, const char *program, const char *about, struct config *config) {
    struct cli_values values = {.program = program};
    *config = (struct config){0};
    forbid_core_dumps();
    log_open(program, LOG_INFO);
    size_t globals = ARRAY_LEN(global_options) - 1; // daemons have no answers, so no --json
    int code = parse_all(&values, argc, argv, 0, globals);
    if (code != 0)
        return code;
    if (cli_flag(&values, "help")) {
        printf("usage: %s [options]\n\n%s\n\noptions:\n", program, about);
        print_options(global_options, globals);
        return output_end(&values, 0);
    }
    if (cli_flag(&values, "version")) {
        printf("%s %s\n", program, OPENVEIL_VERSION);
        return output_end(&values, 0);
    }
    if (values.n_args > 0)
        return usage_error(&values, "no arguments are expected; `%s --help` lists the options", program);
    code = load_config(&values, config);
    if (code != 0)
        return code;
    if (!cli_flag(&values, "check-config"))
        return -1;
    printf("configuration %s is good\n", config->path);
    config_free(config);
    return output_end(&values, 0);
}
