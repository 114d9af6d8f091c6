// The configuration: one INI file for all programs, checked as a whole before anything starts. The keys are the lines of
// config_options.def. Ownership: config_load fills a struct that the caller frees with config_free; immutable afterwards,
// any thread. Errors name the file's line, what is allowed and the nearest known key.
#ifndef OPENVEIL_CONFIG_H
#define OPENVEIL_CONFIG_H

#include "common/clock.h"
#include "common/err.h"
#include "common/event.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A reduced fraction of positive integers.
struct fraction {
    uint32_t numerator;
    uint32_t denominator;
};

#define CONFIG_TEXT_SIZE 4096
#define CONFIG_CIDRS_MAX 64 // ranges of trusted_cidrs
#define CONFIG_PATH_DEFAULT "/etc/openveil/openveil.conf"

// C types of the table's types. TEXT, PATH, ADDRESS and CHOICE are NUL-terminated strings owned by the struct.
typedef char *config_TEXT;
typedef char *config_PATH;
typedef char *config_ADDRESS;
typedef char *config_CHOICE;
typedef uint64_t config_UINT;
typedef bool config_BOOL;
typedef struct fraction config_FRACTION;
typedef uint32_t config_DAY;

struct config {
    char *path;       // the file it came from
    bool rehearsal;   // --rehearsal was given
    struct clock clock;
    char *provider_names[256]; // by provider number; NULL where the number has no name
#define OPTION(section, key, type, initial, min, max, help) config_##type section##_##key;
#include "common/config_options.def"
#undef OPTION
};

// `path` NULL: $OPENVEIL_CONFIG, or CONFIG_PATH_DEFAULT. With `rehearsal`, the section [rehearsal] must be complete.
// On failure `config` is empty and `err` holds all problems that fit, one a line.
int config_load(struct config *config, const char *path, bool rehearsal, struct err *err) MUST_CHECK;
// The same from memory, for tests and fuzzing; `name` stands for the file in messages.
int config_parse(struct config *config, const char *name, const char *text, size_t len, bool rehearsal, struct err *err)
    MUST_CHECK;
void config_free(struct config *config);

extern const char *const provider_builtin_names[PROVIDERS_BUILTIN]; // FORMATS 2: 0 other … 13 proton
// Provider names, built in and configured: the number, or -1.
int config_provider_number(const struct config *config, const char *name);

// "a/b" of positive integers without a common divisor; 0 or ERR_INVALID.
int fraction_parse(const char *text, struct fraction *fraction) MUST_CHECK;
// "host:port", "[v6]:port" into its parts; `host` holds 256 bytes. 0 or ERR_INVALID.
int address_parse(const char *text, char host[256], uint16_t *port) MUST_CHECK;
// The next item of a comma separated list, without blanks around it; an item of `size` bytes or more is cut. `*rest`
// begins as the list; false at its end. An empty list has no item.
bool list_next(const char **rest, char *item, size_t size);

#endif
