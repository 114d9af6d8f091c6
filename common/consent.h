// Who may be counted (FORMATS 4): the states, the stored record, the decision. Pure; any thread.
#ifndef OPENVEIL_CONSENT_H
#define OPENVEIL_CONSENT_H

#include "common/err.h"
#include "common/event.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum consent_state {
    CONSENT_UNKNOWN = 0, // no record
    CONSENT_INFORMED = 1,
    CONSENT_GRANTED = 2,
    CONSENT_REFUSED = 3,
    CONSENT_WITHDRAWN = 4,
    CONSENT_OBJECTED = 5,
    CONSENT_STATES
};
enum purpose { PURPOSE_DELIVERABILITY = 0, PURPOSE_INACTIVITY = 1 };

#define NOTICE_MAX 32

struct consent_record {
    uint8_t state;          // enum consent_state
    bool unreadable;        // stored with an unknown version: denies, and is counted
    uint32_t since;         // day of this state
    uint32_t allowed_since; // since when informed or granted has held without a break; DAY_NONE: it does not
    uint32_t granted_since; // since when granted has; DAY_NONE: it does not
    uint64_t change_id;     // of the change that made it; 0 where version 1 did not keep one
    char notice[NOTICE_MAX + 1];
    uint8_t excludes; // bits 1 << enum purpose that its notice does not name (common/consent_notice.h); not stored
};

extern const char *const consent_state_names[CONSENT_STATES];
int consent_state_parse(const char *name); // enum consent_state without unknown, or -1
bool consent_state_leaves(uint8_t state);  // refused, withdrawn, objected
bool notice_valid(const char *notice);     // 1..32 printable ASCII characters

// The day that must be earlier than an event's for it to count; DAY_NONE where the row allows nothing. `has_basis`: the
// tenant's configuration names an exemption basis on that day.
uint32_t consent_needs(const struct consent_record *record, enum message_class message_class, enum regime regime,
                       bool has_basis, enum purpose purpose);
// consent_needs, and its day is earlier than `day`.
bool consent_allows(const struct consent_record *record, enum message_class message_class, enum regime regime,
                    bool has_basis, enum purpose purpose, uint32_t day);

// The stored record, as the Redis Function writes it: version 1; 1 byte of which the high nibble says how many bytes the
// change id has (0: it is 0), bit 3 whether the next two days are there, and the rest the state; since 2; allowed_since 2
// and granted_since 2 unless they are what the state begins with (none where it was left, `since` otherwise); the change
// id without leading zeros; the notice as text. Version 1 had state 1, all three days and no id. Anything else decodes
// as `unreadable` (never as an allowing record).
#define CONSENT_RECORD_VERSION 2
#define CONSENT_RECORD_MAX (16 + NOTICE_MAX)
void consent_record_decode(const uint8_t *data, size_t len, struct consent_record *record);
size_t consent_record_encode(const struct consent_record *record, uint8_t out[CONSENT_RECORD_MAX]);

// Keys of one partition share the hash tag {p}:
//   ov:{p}:meta              hash: mode (production|rehearsal), epoch, hash (hex SHA-1 chain), version, seed (of salts),
//                            joined (ranges <epoch>-<epoch> whose stamps lead on), joining (while a repair is under way)
//   ov:{p}:bits              hash: tenant -> how many upper bits of the pseudonym select the bucket
//   ov:{p}:c:<tenant>:<b>    hash, the bucket of upper bits b (lower-case hex): field = the pseudonym's 8 bytes less
//                            the whole bytes that b fixes, value = the record
//   ov:{p}:changes           stream, entry id <epoch>-0: common/consent_entry.h
//   ov:{p}:links             hash: <epoch>:<hash> of an entry that was erased from the stream -> its x, or -
//   ov:{p}:applied           stream: w who, e epoch up to which it has applied all changes; the id is the time
//   ov:{p}:notices           hash: version of a notice -> purposes, language, first day, SHA-256 (hex) of its text
// Whether `joined` (a NUL-terminated list of ranges) has a range in which the epoch lies: after its first number, up to
// its second. Anything else in the text ends the list.
bool consent_joined(const char *joined, uint64_t epoch);
#define CONSENT_KEY_SIZE 80
// The key of that name: "meta", "bits", "changes" …
void consent_key(char key[CONSENT_KEY_SIZE], uint32_t partition, const char *name);
#define CONSENT_BITS_DEFAULT 8
#define CONSENT_BITS_MAX 28
size_t consent_bucket_key(char key[CONSENT_KEY_SIZE], uint32_t partition, uint32_t tenant, unsigned bits,
                          uint64_t pseudonym);
// The field within the bucket: its length, 4..8 bytes.
size_t consent_bucket_field(uint8_t field[8], unsigned bits, uint64_t pseudonym);
// The other way round: the pseudonym of a field in bucket number `bucket`; false where it cannot lie there.
bool consent_field_pseudonym(const uint8_t *field, size_t len, unsigned bits, size_t bucket, uint64_t *pseudonym);

#endif
