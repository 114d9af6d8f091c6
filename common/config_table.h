// The options of config_options.def as rows at run time, and the parsing of one value. Shared by the configuration's
// parser and by the commands that print its sample file and its man page. Read-only, any thread.
#ifndef OPENVEIL_CONFIG_TABLE_H
#define OPENVEIL_CONFIG_TABLE_H

#include "common/config.h"

enum config_type {
    CONFIG_TEXT,
    CONFIG_PATH,
    CONFIG_UINT,
    CONFIG_BOOL,
    CONFIG_ADDRESS,
    CONFIG_FRACTION,
    CONFIG_DAY,
    CONFIG_CHOICE
};

struct config_option {
    const char *section;
    const char *key;
    enum config_type type;
    const char *initial;
    uint64_t min;
    uint64_t max;
    const char *help;
    size_t offset; // of its field in struct config
};

#define CONFIG_PATH_MAX 900 // leaves room for a file's name within PATH_SIZE
#define CONFIG_WHAT_SIZE 160

enum {
#define OPTION(section, key, type, initial, min, max, help) CONFIG_AT_##section##_##key,
#include "common/config_options.def"
#undef OPTION
    CONFIG_OPTIONS
};
extern const struct config_option config_options[CONFIG_OPTIONS];

// Sets the option's field. An empty value is fine where the default is empty. ERR_INVALID: not what config_allowed says.
int config_value_set(struct config *config, const struct config_option *option, const char *value) MUST_CHECK;
// What a value may be, for messages and help: "an integer from 0 to 64".
void config_allowed(const struct config_option *option, char text[CONFIG_WHAT_SIZE]);
// The help of an option without the words of a CHOICE before it.
const char *config_help(const struct config_option *option);
// Frees what config_value_set allocated and clears the field.
void config_value_clear(struct config *config, const struct config_option *option);

#endif
