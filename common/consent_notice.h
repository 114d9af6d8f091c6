// The notices that contacts are shown: what a version names, in which language, from which day, and the hash of its text.
// They lie in every partition's store (ov:{p}:notices), are never changed, and hold once a first one is there: then an
// allowing state counts only for what its notice names, and a notice that is not there names nothing. Pure; any thread.
#ifndef OPENVEIL_CONSENT_NOTICE_H
#define OPENVEIL_CONSENT_NOTICE_H

#include "common/consent.h"
#include "common/hmac.h"

#define NOTICES_MAX 1000 // NOTICES_MAX in common/consent.lua
#define LANGUAGE_MAX 35  // RFC 5646, 4.4.1
#define NOTICE_VALUE_SIZE 128
#define PURPOSES_ALL (1u << PURPOSE_DELIVERABILITY | 1u << PURPOSE_INACTIVITY)

struct consent_notice {
    char version[NOTICE_MAX + 1];
    uint8_t purposes; // bits 1 << enum purpose
    char language[LANGUAGE_MAX + 1];
    uint32_t from;
    uint8_t hash[SHA256_SIZE]; // SHA-256 of its text
};

bool language_valid(const char *language);
// "deliverability", "inactivity" or both with a comma between; 0 or ERR_INVALID.
int purposes_parse(const char *text, uint8_t *purposes) MUST_CHECK;
const char *purposes_text(uint8_t purposes);
// The stored value of a version: purposes, language, day and hash with blanks between. ERR_CORRUPT.
int consent_notice_parse(const char *version, size_t version_len, const char *value, size_t value_len,
                         struct consent_notice *notice) MUST_CHECK;
void consent_notice_value(const struct consent_notice *notice, char value[NOTICE_VALUE_SIZE]);
// Sets what the record's notice does not name. `n` 0: notices are not kept, and name everything.
void consent_notices_apply(const struct consent_notice *notices, size_t n, struct consent_record *record);

#endif
