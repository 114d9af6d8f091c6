// Command lines: words, options before and after them, and what is refused.
#include "common/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

// What the last run of a command saw.
static struct {
    unsigned runs;
    bool json, all, rehearsal, had_config;
    char id[64], first[64], second[64], arg[64];
    size_t args;
} seen;

static void keep(char out[64], const char *text) {
    snprintf(out, 64, "%s", text == NULL ? "(none)" : text);
}

static int run_fake(const struct config *config, const struct cli_values *values) {
    seen.runs++;
    seen.had_config = config != NULL;
    seen.rehearsal = config != NULL && config->rehearsal;
    seen.json = cli_json(values);
    seen.all = cli_flag(values, "all");
    keep(seen.id, cli_value(values, "id"));
    keep(seen.first, cli_value_at(values, "stream", 0));
    keep(seen.second, cli_value_at(values, "stream", 1));
    seen.args = cli_args(values);
    keep(seen.arg, cli_arg(values, 0));
    return 3;
}

static const struct cli_option fake_options[] = {
    {"id", "ID", "an id", true, false},
    {"stream", "N", "streams", false, true},
    {"all", NULL, "all of it", false, false},
};
static const struct cli_command fake_mint = {
    .words = "token mint", .args = "[FILE]", .args_max = 1, .summary = "mint", .options = fake_options,
    .n_options = ARRAY_LEN(fake_options), .run = run_fake, .no_config = true};
static const struct cli_command fake_open = {
    .words = "token open", .args = "TOKEN", .args_min = 1, .args_max = 1, .summary = "open", .run = run_fake,
    .no_config = true};
static const struct cli_command fake_clean = {.words = "clean", .args = "", .summary = "clean", .run = run_fake};
static const struct cli_command *const fakes[] = {&fake_mint, &fake_open, &fake_clean};

static char messages[4096]; // what the last line printed, both streams

static int capture(int (*call)(int, char **), int argc, char **argv) {
    FILE *sink = tmpfile();
    assert_non_null(sink);
    fflush(stdout);
    fflush(stderr);
    int out = dup(1), errors = dup(2);
    assert_true(out >= 0 && errors >= 0 && dup2(fileno(sink), 1) == 1 && dup2(fileno(sink), 2) == 2);
    int code = call(argc, argv);
    fflush(stdout);
    assert_true(dup2(out, 1) == 1 && dup2(errors, 2) == 2);
    close(out);
    close(errors);
    ssize_t n = pread(fileno(sink), messages, sizeof messages - 1, 0);
    assert_true(n >= 0);
    messages[n] = '\0';
    fclose(sink);
    return code;
}

static int call_main(int argc, char **argv) {
    return cli_main(argc, argv, fakes, ARRAY_LEN(fakes));
}

static struct config daemon_config;
static int call_daemon(int argc, char **argv) {
    return cli_daemon(argc, argv, "openveil-test", "A test.", &daemon_config);
}

// Splits a line at '|' and runs it.
static int line(int (*call)(int, char **), const char *text) {
    static char copy[1024];
    char *argv[32], *rest = copy;
    int argc = 0;
    memset(&seen, 0, sizeof seen);
    snprintf(copy, sizeof copy, "openveil|%s", text);
    while (rest != NULL && argc < 31)
        argv[argc++] = strsep(&rest, "|");
    argv[argc] = NULL;
    return capture(call, argc, argv);
}

static void options_reach_the_command(void **state) {
    (void)state;
    assert_int_equal(line(call_main, "token|mint|--id|7|--stream=1|--all|--stream|2|--json|file"), 3);
    assert_int_equal(seen.runs, 1);
    assert_false(seen.had_config);
    assert_true(seen.json && seen.all);
    assert_string_equal(seen.id, "7");
    assert_string_equal(seen.first, "1");
    assert_string_equal(seen.second, "2");
    assert_int_equal(seen.args, 1);
    assert_string_equal(seen.arg, "file");
    assert_int_equal(line(call_main, "--json|token|--config=/x|mint|--id=a=b"), 3);
    assert_string_equal(seen.id, "a=b");
    assert_true(seen.json);
    assert_string_equal(seen.arg, "(none)");
    assert_int_equal(line(call_main, "token|open|--|--help"), 3);
    assert_string_equal(seen.arg, "--help");
    assert_int_equal(line(call_main, "token|open|-"), 3);
    assert_string_equal(seen.arg, "-");
    assert_int_equal(line(call_main, "token|mint|--id|-5"), 3);
    assert_string_equal(seen.id, "-5");
}

static void wrong_lines_are_explained(void **state) {
    (void)state;
    static const struct {
        const char *line, *message;
    } wrong[] = {
        {"token|mnt", "unknown command \"token mnt\"; did you mean \"token mint\"?"},
        {"cleen", "unknown command \"cleen\"; did you mean \"clean\"?"},
        {"elephant|--trunk", "unknown command \"elephant\"; `openveil --help` lists all"},
        {"token", "\"token\" needs one more word:"},
        {"token|mint", "token mint needs --id ID"},
        {"token|mint|--di=3", "unknown option --di of token mint; did you mean --id?"},
        {"token|mint|--elephant=secret", "unknown option --elephant; `openveil token mint --help` lists all"},
        {"token|mint|--id", "--id needs a value: --id=ID"},
        {"token|mint|--id|--json", "--id needs a value: --id=ID"},
        {"token|mint|--id=1|--id=2", "--id is given twice"},
        {"token|mint|--id=1|--all=yes", "--all takes no value"},
        {"token|mint|--id=1|-x", "options begin with two dashes"},
        {"token|mint|--id=1|a|b", "2 arguments are too many; usage: openveil token mint [options] [FILE]"},
        {"token|open", "0 arguments are too few; usage: openveil token open [options] TOKEN"},
        {"--confg|x|clean", "unknown option --confg; did you mean --config?"},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(line(call_main, wrong[i].line), EXIT_USAGE);
        assert_int_equal(seen.runs, 0);
        if (strstr(messages, wrong[i].message) == NULL)
            fail_msg("\"%s\" gave: %s", wrong[i].line, messages);
        assert_null(strstr(messages, "secret"));
    }
}

static void help_and_version(void **state) {
    (void)state;
    assert_int_equal(line(call_main, "--help"), 0);
    assert_non_null(strstr(messages, "token mint"));
    assert_non_null(strstr(messages, "clean"));
    assert_int_equal(line(call_main, "token|mint|--help"), 0);
    assert_non_null(strstr(messages, "usage: openveil token mint --id ID [options] [FILE]"));
    assert_non_null(strstr(messages, "--stream N"));
    assert_int_equal(line(call_main, "token|--help"), 0);
    assert_null(strstr(messages, "clean"));
    assert_int_equal(line(call_main, "clean|--version"), 0);
    assert_string_equal(messages, "openveil 0.1.0\n");
    assert_int_equal(seen.runs, 0);
}

static void configuration_is_loaded_first(void **state) {
    char path[] = "/tmp/test_cli.XXXXXX", text[256];
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char good[] = "[rehearsal]\nstart_unix_s=1\nstart_day=2026-01-01\nday_seconds=9\n";
    assert_int_equal(write(fd, good, sizeof good - 1), (int)sizeof good - 1);
    snprintf(text, sizeof text, "--config|%s|clean|--rehearsal", path);
    assert_int_equal(line(call_main, text), 3);
    assert_true(seen.had_config && seen.rehearsal);
    snprintf(text, sizeof text, "--check-config|clean|--config=%s", path);
    assert_int_equal(line(call_main, text), 0);
    assert_int_equal(seen.runs, 0);
    assert_non_null(strstr(messages, " is good\n"));

    snprintf(text, sizeof text, "--config|%s|--rehearsal", path);
    assert_int_equal(line(call_daemon, text), -1);
    assert_true(daemon_config.rehearsal);
    config_free(&daemon_config);
    snprintf(text, sizeof text, "--config|%s|--check-config", path);
    assert_int_equal(line(call_daemon, text), 0);
    assert_null(daemon_config.path);
    assert_int_equal(write(fd, "x\n", 2), 2);
    assert_int_equal(line(call_daemon, text), EXIT_CONFIG);
    assert_non_null(strstr(messages, "openveil-test: "));
    assert_non_null(strstr(messages, ":5: "));
    assert_int_equal(line(call_daemon, "--version"), 0);
    assert_string_equal(messages, "openveil-test 0.1.0\n");
    assert_int_equal(line(call_daemon, "extra"), EXIT_USAGE);
    assert_int_equal(line(call_daemon, "--json"), EXIT_USAGE);
    snprintf(text, sizeof text, "--config|%s|clean", path);
    assert_int_equal(line(call_main, text), EXIT_CONFIG);
    assert_int_equal(seen.runs, 0);
    close(fd);
    unlink(path);
}

static int call_parsers(int argc, char **argv) {
    uint32_t value = 0;
    (void)argc;
    if (strchr(argv[1], '-') != NULL && argv[1][0] != '-')
        return cli_parse_day("--day", argv[1], &value) == 0 ? (int)value : -1;
    return cli_parse_u32("--n", argv[1], 5, 4294967295u, &value) == 0 ? (int)(value % 1000) : -1;
}

static void numbers_and_days(void **state) {
    (void)state;
    assert_int_equal(line(call_parsers, "4294967295"), 295);
    assert_int_equal(line(call_parsers, "5"), 5);
    assert_int_equal(line(call_parsers, "2026-11-22"), 20779);
    const char *bad[] = {"4", "4294967296", "", "+5", "-5", "5 ", "99999999999999", "2026-11-31", "2026-11"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(line(call_parsers, bad[i]), -1);
        assert_non_null(strstr(messages, "must be "));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_reach_the_command),
        cmocka_unit_test(wrong_lines_are_explained),
        cmocka_unit_test(help_and_version),
        cmocka_unit_test(configuration_is_loaded_first),
        cmocka_unit_test(numbers_and_days),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
