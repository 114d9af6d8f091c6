// Command lines: the options that all programs share, and the table of `openveil` subcommands. A subcommand's code lives
// beside its domain in cmd_*.c; common/openveil.c holds only the table.
#ifndef OPENVEIL_CLI_H
#define OPENVEIL_CLI_H

#include "common/config.h"

#include <stdbool.h>
#include <stddef.h>

enum { EXIT_USAGE = 64, EXIT_CONFIG = 78, EXIT_UNAVAILABLE = 69 }; // as in sysexits.h

// Options of one command, one line each; the parser, --help and the completion of wrong names come from it.
struct cli_option {
    const char *name;    // without the dashes
    const char *value;   // name of its value in the help; NULL for a flag
    const char *help;
    bool required;
    bool repeated;
};

#define CLI_VALUES_MAX 64
struct cli_values; // parsed command line, owned by cli_main

// The value of an option: NULL where it was not given; the i-th for repeated ones.
const char *cli_value(const struct cli_values *values, const char *name);
const char *cli_value_at(const struct cli_values *values, const char *name, size_t index);
bool cli_flag(const struct cli_values *values, const char *name);
// Positional arguments after the command's words.
size_t cli_args(const struct cli_values *values);
const char *cli_arg(const struct cli_values *values, size_t index);
bool cli_json(const struct cli_values *values); // --json, for every command

struct cli_command {
    const char *words;      // "token mint"
    const char *args;       // "ID", "TOKEN", "[FILE]" or "" for the usage line
    size_t args_min, args_max;
    const char *summary;    // one line
    const char *description; // paragraphs for its --help; may be NULL
    const struct cli_option *options;
    size_t n_options;
    // Runs with a loaded configuration; returns the exit code. Prints its own errors with cli_error.
    int (*run)(const struct config *config, const struct cli_values *values);
    bool no_config; // works without a configuration: `config` is NULL then
};

// "openveil: <text>" on standard error; returns `exit_code` so that a failing line reads `return cli_error(1, "…")`.
int cli_error(int exit_code, const char *format, ...) PRINTF_LIKE(2, 3);
// Parsers that print the error themselves; 0 or EXIT_USAGE.
int cli_parse_u32(const char *what, const char *text, uint32_t min, uint32_t max, uint32_t *value) MUST_CHECK;
int cli_parse_day(const char *what, const char *text, uint32_t *day) MUST_CHECK;

// Both fronts first forbid core dumps.
// The whole of `openveil`: global options (--config --rehearsal --json --help --version --check-config) before or after
// the subcommand, unknown words answered with the nearest known one.
int cli_main(int argc, char **argv, const struct cli_command *const *commands, size_t n_commands);

// The common front of the two daemons: parses --config --check-config --rehearsal --help --version, loads the
// configuration. Returns -1 to go on, or an exit code. `about` is the text that --help begins with.
int cli_daemon(int argc, char **argv, const char *program, const char *about, struct config *config);
void cli_apply_log_level(const struct config *config); // once more where a daemon has read its configuration again

// Edit distance for "did you mean"; the nearest of `n` names, or NULL where none is near.
const char *cli_nearest(const char *word, const char *const *names, size_t n);

#endif
