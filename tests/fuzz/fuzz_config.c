// Configuration files: one that is accepted has a value for every key; one that is not leaves nothing behind and says why.
#include "tests/fuzz/fuzz.h"

#include "common/config_table.h"

#include <string.h>

static void check_accepted(const struct config *config) {
    for (size_t i = 0; i < CONFIG_OPTIONS; i++) {
        const struct config_option *option = &config_options[i];
        const char *field = (const char *)config + option->offset;
        uint64_t number;
        switch (option->type) {
        case CONFIG_UINT:
            memcpy(&number, field, sizeof number);
            CHECK(number <= option->max && (number >= option->min || option->initial[0] == '\0'));
            break;
        case CONFIG_BOOL:
        case CONFIG_DAY:
        case CONFIG_FRACTION:
            break;
        default:
            CHECK(*(char *const *)(const void *)field != NULL);
        }
    }
    CHECK(config->release_epsilon.numerator >= 1 && config->release_threshold >= 11);
    CHECK(config->release_epsilon.numerator <= config->release_epsilon.denominator);
    CHECK(config_provider_number(config, "proton") == 13);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (int rehearsal = 0; rehearsal < 2; rehearsal++) {
        struct config config;
        struct err err;
        int rc = config_parse(&config, "a.conf", (const char *)data, size, rehearsal == 1, &err);
        CHECK(rc == 0 || rc == ERR_INVALID);
        if (rc == 0) {
            check_accepted(&config);
            CHECK(config.clock.rehearsal == (rehearsal == 1));
        } else {
            CHECK(err.text[0] != '\0' && memchr(err.text, '\0', sizeof err.text) != NULL && config.path == NULL);
        }
        config_free(&config);
    }
    return 0;
}
