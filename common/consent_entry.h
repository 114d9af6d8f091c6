// One change of consent as the change stream holds it (ov:{p}:changes, written by common/consent.lua) and as the
// evidence log keeps it, and the hash chain over both (common/decisions/0010-the-evidence-log.md):
//   content = "<tenant> <pseudonym> <state> <since> <notice> <change id>", `-` for no change id
//   x = SHA-1(salt ' ' content), h = SHA-1(previous h in hex ' ' x in hex); before the first change h is 20 zero bytes.
// An entry of which content and salt were erased keeps its x, so the chain still verifies. Pure; any thread.
#ifndef OPENVEIL_CONSENT_ENTRY_H
#define OPENVEIL_CONSENT_ENTRY_H

#include "common/consent.h"

#define CONSENT_HASH_SIZE 20
#define CONSENT_SALT_SIZE 41                // hex and a NUL
#define CONSENT_ENTRY_NOTICE_SIZE 160       // a notice's version, or what belongs to an entry about no contact, and a NUL
#define CONSENT_ENTRY_CONTENT_SIZE 256      // and a NUL

enum consent_entry_kind {
    ENTRY_STATE,      // the contact's record now says `state`
    ENTRY_LATE,       // "late-<state>": a later change decides; the record keeps its state, its days begin later
    // About no contact; the pseudonym is zero.
    ENTRY_ERASED,     // a whole tenant
    ENTRY_REBUCKETED, // a tenant; `notice`: the bits in force now
    ENTRY_NOTICE,     // `notice`: "<version> <purposes> <language> <first day> <SHA-256>"
    ENTRY_FORGOTTEN,  // one contact of a tenant; nothing says which
    ENTRY_JOINED,     // a repair joined a branch that was lost; `notice`: "<last shared epoch> <new epoch>"
    ENTRY_KINDS
};

struct consent_entry {
    uint64_t epoch;
    uint8_t hash[CONSENT_HASH_SIZE]; // h
    bool salted; // false: written by library 2, whose chain was SHA-1(previous h ' ' content without change id)
    char salt[CONSENT_SALT_SIZE];
    enum consent_entry_kind kind;
    uint8_t state; // enum consent_state; of ENTRY_STATE and ENTRY_LATE
    uint32_t tenant;
    uint64_t pseudonym;
    uint32_t since;
    char notice[CONSENT_ENTRY_NOTICE_SIZE];
    bool has_change_id;
    uint64_t change_id;
};

// An entry of XRANGE or XREAD: [id, fields]. ERR_CORRUPT for what the library does not write.
struct redisReply;
int consent_entry_read(const struct redisReply *reply, struct consent_entry *entry) MUST_CHECK;
// A stream of XREAD's answer, ov:{p}:changes of a partition below `partitions`: the array of its entries, or NULL.
const struct redisReply *consent_entries_of(const struct redisReply *stream, uint32_t partitions, uint32_t *partition);
// The word of the stream's field `s`: "withdrawn", "late-withdrawn", "erased"…; valid for ever.
const char *consent_entry_word(const struct consent_entry *entry);
// Sets kind and state; ERR_CORRUPT.
int consent_entry_parse_word(const char *word, struct consent_entry *entry) MUST_CHECK;
// The text that is hashed, without NUL its length.
size_t consent_entry_content(const struct consent_entry *entry, char content[CONSENT_ENTRY_CONTENT_SIZE]);
// x of a salted entry.
void consent_entry_digest(const struct consent_entry *entry, uint8_t x[CONSENT_HASH_SIZE]);
// h from the one before and x.
void consent_chain(const uint8_t before[CONSENT_HASH_SIZE], const uint8_t x[CONSENT_HASH_SIZE],
                   uint8_t hash[CONSENT_HASH_SIZE]);
// Whether the entry's h follows from the one before, by the chain of the library that wrote it.
bool consent_entry_follows(const struct consent_entry *entry, const uint8_t before[CONSENT_HASH_SIZE]);

#endif
