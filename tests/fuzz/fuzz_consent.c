// A stored consent record: whatever its bytes, one that is not well-formed allows nothing, one that is encodes to the same
// bytes, and what it allows it allows on every later day too.
#include "tests/fuzz/fuzz.h"

#include "common/clock.h"
#include "common/consent.h"

#include <string.h>

static void check_rights(const struct consent_record *record, enum message_class message_class, enum regime regime) {
    for (int purpose = PURPOSE_DELIVERABILITY; purpose <= PURPOSE_INACTIVITY; purpose++)
        for (int has_basis = 0; has_basis < 2; has_basis++) {
            uint32_t needs = consent_needs(record, message_class, regime, has_basis == 1, (enum purpose)purpose);
            bool allows = consent_allows(record, message_class, regime, has_basis == 1, (enum purpose)purpose, UINT32_MAX);
            CHECK(allows == (needs != DAY_NONE));
            CHECK(!consent_allows(record, message_class, regime, has_basis == 1, (enum purpose)purpose, needs));
            if (!allows)
                continue;
            CHECK(!record->unreadable && !consent_state_leaves(record->state) && record->state != CONSENT_UNKNOWN);
            CHECK(regime == REGIME_CONSENT || (regime == REGIME_EXEMPTION && has_basis == 1));
            CHECK(regime == REGIME_EXEMPTION || record->state == CONSENT_GRANTED);
            CHECK(purpose == PURPOSE_INACTIVITY || message_class == CLASS_TRANSACTIONAL);
            CHECK(needs <= record->since);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct consent_record record;
    uint8_t out[CONSENT_RECORD_MAX];
    consent_record_decode(data, size, &record);
    for (int message_class = CLASS_TRANSACTIONAL; message_class <= CLASS_PROSPECTING; message_class++)
        for (int regime = REGIME_EXEMPTION; regime <= REGIME_AGGREGATE; regime++)
            check_rights(&record, (enum message_class)message_class, (enum regime)regime);
    if (!record.unreadable) { // version 1 is written as version 2
        size_t len = consent_record_encode(&record, out);
        CHECK(data[0] == 1 || (len == size && memcmp(out, data, size) == 0));
    }
    return 0;
}
