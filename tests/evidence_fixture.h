// Changes for tests of the evidence log, as the Function library writes them. Include it after cmocka.
#ifndef OPENVEIL_EVIDENCE_FIXTURE_H
#define OPENVEIL_EVIDENCE_FIXTURE_H

#include "common/evidence.h"

#include <stdio.h>
#include <string.h>

// Salted and chained, the next one after `before`.
static inline struct evidence_line change_make(const struct consent_stamp *before, uint32_t tenant, uint64_t pseudonym,
                                        const char *state, const char *notice) {
    struct evidence_line line = {.kind = EVIDENCE_CHANGE, .at_ms = 1790000000000 + (int64_t)before->epoch};
    struct consent_entry *entry = &line.entry;
    entry->epoch = before->epoch + 1;
    entry->tenant = tenant;
    entry->pseudonym = pseudonym;
    entry->since = 20781;
    entry->has_change_id = pseudonym % 2 == 1;
    entry->change_id = entry->has_change_id ? UINT64_MAX - pseudonym : 0;
    entry->salted = true;
    memset(entry->salt, 'a', sizeof entry->salt - 1);
    entry->salt[0] = (char)('0' + entry->epoch % 10);
    snprintf(entry->notice, sizeof entry->notice, "%s", notice);
    assert_int_equal(consent_entry_parse_word(state, entry), 0);
    consent_entry_digest(entry, line.x);
    consent_chain(before->hash, line.x, entry->hash);
    return line;
}

#endif
