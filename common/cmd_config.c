// `openveil config sample|check|man`: what the table of options says, as a file to begin with and as a man page.
#include "common/commands.h"
#include "common/config_table.h"

#include <string.h>

static bool first_of_section(size_t i) {
    return i == 0 || strcmp(config_options[i].section, config_options[i - 1].section) != 0;
}

static int run_sample(const struct config *config, const struct cli_values *values) {
    (void)config;
    CHECK(cli_args(values) == 0);
    printf("# openveil's configuration. Every key is shown with its default; take the # away to change one.\n");
    for (size_t i = 0; i < CONFIG_OPTIONS; i++) {
        const struct config_option *option = &config_options[i];
        char allowed[CONFIG_WHAT_SIZE];
        config_allowed(option, allowed);
        if (first_of_section(i))
            printf("\n[%s]\n", option->section);
        printf("# %s (%s)\n#%s =%s%s\n", config_help(option), allowed, option->key,
               option->initial[0] == '\0' ? "" : " ", option->initial);
    }
    return 0;
}

const struct cli_command cmd_config_sample = {
    .words = "config sample",
    .args = "",
    .summary = "print a configuration file with every key, its default and what it may be",
    .run = run_sample,
    .no_config = true,
};

static int run_check(const struct config *config, const struct cli_values *values) {
    if (!cli_json(values)) {
        printf("configuration %s is good\n", config->path);
        return 0;
    }
    printf("{\"good\":true,\"rehearsal\":%s}\n", config->rehearsal ? "true" : "false");
    return 0;
}

const struct cli_command cmd_config_check = {
    .words = "config check",
    .args = "",
    .summary = "check the configuration file as a whole",
    .description = "Tells every problem with its line, what is allowed there and the nearest known key.\n"
                   "Exit status: 0 good, 78 not. With --rehearsal the section [rehearsal] must be complete.",
    .run = run_check,
};

// Text for troff: no backslash, hyphens that can be copied, and no line that begins with a request.
static void print_troff(const char *text) {
    if (text[0] == '.' || text[0] == '\'')
        printf("\\&");
    for (; *text != '\0'; text++) {
        if (*text == '-' || *text == '\\')
            printf(*text == '-' ? "\\-" : "\\e");
        else
            putchar(*text);
    }
    putchar('\n');
}

static int run_man(const struct config *config, const struct cli_values *values) {
    (void)config;
    CHECK(cli_args(values) == 0);
    printf(".TH OPENVEIL.CONF 5\n.SH NAME\nopenveil.conf \\- configuration of openveil\n.SH DESCRIPTION\n"
           "One INI file for openveil\\-ingest, openveil\\-aggregator and openveil, by default\n%s.\n"
           "Lines are [SECTION], KEY = VALUE or comments that begin with #. Unknown keys are errors.\n",
           CONFIG_PATH_DEFAULT);
    for (size_t i = 0; i < CONFIG_OPTIONS; i++) {
        const struct config_option *option = &config_options[i];
        char line[512], allowed[CONFIG_WHAT_SIZE];
        config_allowed(option, allowed);
        if (first_of_section(i))
            printf(".SH SECTION [%s]\n", option->section);
        printf(".TP\n.B %s\n", option->key);
        snprintf(line, sizeof line, "%s. It is %s; default: %s.", config_help(option), allowed,
                 option->initial[0] == '\0' ? "none" : option->initial);
        print_troff(line);
    }
    printf(".SH SEE ALSO\nopenveil\\-ingest(8), openveil\\-aggregator(8), openveil(1)\n");
    return 0;
}

const struct cli_command cmd_config_man = {
    .words = "config man",
    .args = "",
    .summary = "print the man page openveil.conf(5)",
    .run = run_man,
    .no_config = true,
};
