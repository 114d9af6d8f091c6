// One record of the consent topic (common/CONSENT.md): a JSON object of at most CONSENT_TOPIC_RECORD_MAX bytes. Pure.
#ifndef OPENVEIL_CONSENT_TOPIC_RECORD_H
#define OPENVEIL_CONSENT_TOPIC_RECORD_H

#include "common/consent_store.h"
#include "common/token.h"

#define CONSENT_TOPIC_RECORD_MAX 4096u
#define CONSENT_TOPIC_REASON_SIZE 120

struct consent_topic_record {
    struct consent_change change;
    char contact[CONTACT_ID_MAX + 1]; // empty: `change` has the pseudonym
};

// `today` refuses days after tomorrow. ERR_INVALID: `reason` says why, in words that hold nothing of the record; `contact`
// is then set all the same where the record names one.
int consent_topic_record_parse(const char *text, size_t len, uint32_t today, struct consent_topic_record *record,
                               char reason[CONSENT_TOPIC_REASON_SIZE]) MUST_CHECK;

#endif
