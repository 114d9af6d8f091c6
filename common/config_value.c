#include "common/config_table.h"

#include <arpa/inet.h>
#include <string.h>

const struct config_option config_options[CONFIG_OPTIONS] = {
#define OPTION(section, key, type, initial, min, max, help)                                                            \
    {#section, #key, CONFIG_##type, initial, min, max, help, offsetof(struct config, section##_##key)},
#include "common/config_options.def"
#undef OPTION
};

// Decimal digits only, no sign, no leading zero: what we print is what we read.
static int uint_parse(const char *text, size_t len, uint64_t max, uint64_t *value) {
    uint64_t v = 0;
    if (len == 0 || (len > 1 && text[0] == '0'))
        return ERR_INVALID;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return ERR_INVALID;
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (digit > max || v > (max - digit) / 10)
            return ERR_INVALID;
        v = v * 10 + digit;
    }
    *value = v;
    return 0;
}

int fraction_parse(const char *text, struct fraction *fraction) {
    uint64_t a, b;
    const char *slash = strchr(text, '/');
    if (slash == NULL || uint_parse(text, (size_t)(slash - text), UINT32_MAX, &a) != 0 ||
        uint_parse(slash + 1, strlen(slash + 1), UINT32_MAX, &b) != 0 || a == 0 || b == 0)
        return ERR_INVALID;
    uint64_t x = a, y = b;
    while (y != 0) {
        uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    if (x != 1)
        return ERR_INVALID;
    *fraction = (struct fraction){(uint32_t)a, (uint32_t)b};
    return 0;
}

int address_parse(const char *text, char host[256], uint16_t *port) {
    static const char host_characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    const char *colon = strrchr(text, ':');
    uint64_t number;
    if (colon == NULL || uint_parse(colon + 1, strlen(colon + 1), UINT16_MAX, &number) != 0)
        return ERR_INVALID;
    size_t len = (size_t)(colon - text);
    bool v6 = text[0] == '[';
    if (v6) {
        if (len < 3 || text[len - 1] != ']')
            return ERR_INVALID;
        text++;
        len -= 2;
    }
    if (len == 0 || len > 255)
        return ERR_INVALID;
    memcpy(host, text, len);
    host[len] = '\0';
    struct in6_addr address;
    if (v6 ? inet_pton(AF_INET6, host, &address) != 1 : strspn(host, host_characters) != len)
        return ERR_INVALID;
    *port = (uint16_t)number;
    return 0;
}

bool list_next(const char **rest, char *item, size_t size) {
    CHECK(size > 0);
    if (*rest == NULL || **rest == '\0')
        return false;
    const char *first = *rest + strspn(*rest, " \t");
    size_t len = strcspn(first, ",");
    *rest = first[len] == ',' ? first + len + 1 : first + len;
    while (len > 0 && (first[len - 1] == ' ' || first[len - 1] == '\t'))
        len--;
    snprintf(item, size, "%.*s", (int)(len < size ? len : size - 1), first);
    return true;
}

const char *config_help(const struct config_option *option) {
    const char *colon = option->type == CONFIG_CHOICE ? strchr(option->help, ':') : NULL;
    return colon == NULL ? option->help : colon + 1 + strspn(colon + 1, " ");
}

static bool choice_has(const struct config_option *option, const char *value) {
    size_t len = strlen(value);
    for (const char *word = option->help;; word++) {
        size_t word_len = strcspn(word, "|:");
        if (len == word_len && memcmp(word, value, len) == 0)
            return true;
        word += word_len;
        CHECK(*word != '\0'); // the table names the words before a colon
        if (*word == ':')
            return false;
    }
}

void config_allowed(const struct config_option *option, char text[CONFIG_WHAT_SIZE]) {
    unsigned long long min = option->min, max = option->max;
    switch (option->type) {
    case CONFIG_TEXT:
        snprintf(text, CONFIG_WHAT_SIZE, "a text of %llu to %llu bytes, without quotes", min, max);
        break;
    case CONFIG_PATH:
        snprintf(text, CONFIG_WHAT_SIZE, "a path of 1 to %d bytes, without quotes", CONFIG_PATH_MAX);
        break;
    case CONFIG_UINT:
        snprintf(text, CONFIG_WHAT_SIZE, "an integer from %llu to %llu", min, max);
        break;
    case CONFIG_BOOL:
        snprintf(text, CONFIG_WHAT_SIZE, "yes or no");
        break;
    case CONFIG_ADDRESS:
        snprintf(text, CONFIG_WHAT_SIZE, "HOST:PORT or [IPV6]:PORT with a port from 0 to 65535");
        break;
    case CONFIG_FRACTION:
        snprintf(text, CONFIG_WHAT_SIZE, "a reduced fraction A/B of positive integers, for instance 1/4");
        break;
    case CONFIG_DAY:
        snprintf(text, CONFIG_WHAT_SIZE, "a day as YYYY-MM-DD");
        break;
    case CONFIG_CHOICE:
        snprintf(text, CONFIG_WHAT_SIZE, "one of %.*s", (int)strcspn(option->help, ":"), option->help);
        break;
    }
}

static void *field_of(struct config *config, const struct config_option *option) {
    CHECK(option >= config_options && option < config_options + CONFIG_OPTIONS);
    return (char *)config + option->offset;
}

static int text_set(struct config *config, const struct config_option *option, const char *value) {
    char **field = field_of(config, option);
    char *copy = strdup(value);
    if (copy == NULL)
        return ERR_NOMEM;
    free(*field);
    *field = copy;
    return 0;
}

// Quotes would become part of the value, which nobody means.
static bool quoted(const char *value) {
    size_t len = strlen(value);
    return len >= 1 && (value[0] == '"' || value[len - 1] == '"');
}

static bool text_fits(const struct config_option *option, const char *value) {
    size_t len = strlen(value);
    char host[256];
    uint16_t port;
    switch (option->type) {
    case CONFIG_TEXT:
        return len >= option->min && len <= option->max && !quoted(value);
    case CONFIG_PATH:
        return len >= 1 && len <= CONFIG_PATH_MAX && !quoted(value);
    case CONFIG_ADDRESS:
        return address_parse(value, host, &port) == 0;
    default:
        CHECK(option->type == CONFIG_CHOICE);
        return choice_has(option, value);
    }
}

int config_value_set(struct config *config, const struct config_option *option, const char *value) {
    void *field = field_of(config, option);
    bool none = value[0] == '\0' && option->initial[0] == '\0';
    switch (option->type) {
    case CONFIG_UINT: {
        uint64_t number = 0;
        if (!none && (uint_parse(value, strlen(value), option->max, &number) != 0 || number < option->min))
            return ERR_INVALID;
        memcpy(field, &number, sizeof number);
        return 0;
    }
    case CONFIG_BOOL: {
        bool yes = strcmp(value, "yes") == 0;
        if (!yes && strcmp(value, "no") != 0)
            return ERR_INVALID;
        memcpy(field, &yes, sizeof yes);
        return 0;
    }
    case CONFIG_FRACTION:
        return fraction_parse(value, field);
    case CONFIG_DAY: {
        uint32_t day = DAY_NONE;
        if (!none && day_parse(value, &day) != 0)
            return ERR_INVALID;
        memcpy(field, &day, sizeof day);
        return 0;
    }
    default:
        return none || text_fits(option, value) ? text_set(config, option, value) : ERR_INVALID;
    }
}

void config_value_clear(struct config *config, const struct config_option *option) {
    bool text = option->type == CONFIG_TEXT || option->type == CONFIG_PATH || option->type == CONFIG_ADDRESS ||
                option->type == CONFIG_CHOICE;
    if (!text)
        return;
    char **field = field_of(config, option);
    free(*field);
    *field = NULL;
}
