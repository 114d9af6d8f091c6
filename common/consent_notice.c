#include "common/consent_notice.h"

#include "common/check.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

bool language_valid(const char *language) {
    size_t len = strnlen(language, LANGUAGE_MAX + 1);
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)language[i]) && language[i] != '-')
            return false;
    }
    return len > 0 && len <= LANGUAGE_MAX;
}

static const char *const purpose_words[] = {"", "deliverability", "inactivity", "deliverability,inactivity"};

int purposes_parse(const char *text, uint8_t *purposes) {
    CHECK(text != NULL && ARRAY_LEN(purpose_words) == PURPOSES_ALL + 1);
    *purposes = PURPOSES_ALL;
    if (strcmp(text, "inactivity,deliverability") == 0)
        return 0;
    for (uint8_t i = 1; i <= PURPOSES_ALL; i++) {
        *purposes = i;
        if (strcmp(text, purpose_words[i]) == 0)
            return 0;
    }
    return ERR_INVALID;
}

const char *purposes_text(uint8_t purposes) {
    CHECK(purposes <= PURPOSES_ALL);
    return purpose_words[purposes];
}

int consent_notice_parse(const char *version, size_t version_len, const char *value, size_t value_len,
                         struct consent_notice *notice) {
    char text[NOTICE_VALUE_SIZE], hex[2 * SHA256_SIZE + 1];
    unsigned purposes;
    int used = 0;
    *notice = (struct consent_notice){0};
    if (version_len > NOTICE_MAX || value_len >= sizeof text)
        return ERR_CORRUPT;
    memcpy(notice->version, version, version_len);
    memcpy(text, value, value_len);
    text[value_len] = '\0';
    if (sscanf(text, "%1u %35s %5" SCNu32 " %64s%n", &purposes, notice->language, &notice->from, hex, &used) != 4 ||
        (size_t)used != value_len)
        return ERR_CORRUPT;
    notice->purposes = (uint8_t)purposes;
    bool good = notice_valid(notice->version) && strlen(notice->version) == version_len && purposes >= 1 &&
                purposes <= PURPOSES_ALL && language_valid(notice->language) && notice->from <= UINT16_MAX &&
                strlen(hex) == 2 * SHA256_SIZE && hex_decode(hex, 2 * SHA256_SIZE, notice->hash) == 0;
    return good ? 0 : ERR_CORRUPT;
}

void consent_notice_value(const struct consent_notice *notice, char value[NOTICE_VALUE_SIZE]) {
    char hex[2 * SHA256_SIZE + 1];
    hex_encode(notice->hash, SHA256_SIZE, hex);
    int n = snprintf(value, NOTICE_VALUE_SIZE, "%u %s %" PRIu32 " %s", notice->purposes, notice->language, notice->from,
                     hex);
    CHECK(n > 0 && n < NOTICE_VALUE_SIZE);
}

void consent_notices_apply(const struct consent_notice *notices, size_t n, struct consent_record *record) {
    if (n == 0 || (record->state != CONSENT_INFORMED && record->state != CONSENT_GRANTED))
        return;
    record->excludes = PURPOSES_ALL;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(notices[i].version, record->notice) == 0) {
            record->excludes = PURPOSES_ALL & ~notices[i].purposes;
            return;
        }
    }
}
