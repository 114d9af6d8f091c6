// What the log of consent changes holds outside Redis (common/decisions/0010-the-evidence-log.md): its lines, one JSON
// object each, the chain over them, and the rule by which a reader takes them in. Pure; any thread.
#ifndef OPENVEIL_EVIDENCE_H
#define OPENVEIL_EVIDENCE_H

#include "common/consent_store.h"
#include "common/err.h"

#define EVIDENCE_LINE_MAX 768 // bytes of a line with its line feed

enum evidence_kind {
    EVIDENCE_CHANGE,       // one change, whole
    EVIDENCE_ERASED,       // one change without content and salt
    EVIDENCE_BASELINE,     // begins a list of all records as of an epoch
    EVIDENCE_RECORD,       // one of them
    EVIDENCE_RECORD_GONE,  // one of them, erased
    EVIDENCE_BASELINE_END, // ends it
    EVIDENCE_HEAD,         // says where the log ends: daily, so that a quiet topic is compacted, and before a change whose
                           // epoch is higher than the next, because a restore raised it
};

struct evidence_line {
    enum evidence_kind kind;
    int64_t at_ms; // wall clock, since 1970: when the log took it
    // Every kind has its epoch and hash but EVIDENCE_RECORD and …_GONE, which have no hash and the baseline's epoch. A
    // change has the rest; it is salted. A record is as an ENTRY_STATE, without salt.
    struct consent_entry entry;
    uint8_t x[CONSENT_HASH_SIZE];          // of a change, erased or not
    uint32_t allowed_since, granted_since; // of a record; DAY_NONE: it does not hold
    uint64_t n_records;
};

// The line with its line feed: its length. A line has exactly one encoding (but for blanks behind erased ones).
size_t evidence_encode(const struct evidence_line *line, char out[EVIDENCE_LINE_MAX]);
// Without its line feed. ERR_CORRUPT for anything that evidence_encode does not write. An erased change or record may end
// in blanks: it took the place of a longer line.
int evidence_decode(const char *text, size_t len, struct evidence_line *line) MUST_CHECK;

// Leaves what an erased change or record keeps.
void evidence_erase(struct evidence_line *line);

// A reader's place and what it met. Begin with zeros: an empty log, before the first change.
#define EVIDENCE_REMEMBERED 1024u // entries back that a repeated one is known as such
struct evidence_chain {
    struct consent_stamp head; // of the last entry or baseline accepted
    int64_t at_ms;
    uint64_t changes, erased;  // accepted; `erased` of them without content
    uint64_t baselines, gaps;  // baselines, and how many of them left changes before them unproved
    uint64_t records;          // of the baseline that is open, or was last
    uint64_t repeated, forks;  // entries not accepted: told before, or leading on from something else
    uint64_t damaged;          // lines that are none
    bool in_baseline;          // begun and not ended: it has to be written again
    bool sparse;               // set by the caller: records may be missing where a later baseline has them too
    bool unanchored;           // set by the caller: the first entry is taken as it is (the end of a log)
    uint64_t seen;             // highest epoch of any entry
    uint64_t first_break;      // epoch of the first change that is missing or altered before a baseline; 0: none
    uint8_t remembered[EVIDENCE_REMEMBERED][CONSENT_HASH_SIZE]; // by epoch; zeros: unknown
};
// Takes the log's next line: true where it is accepted. A line that leads on from the head moves it; one told before is
// counted as repeated, any other as a fork, and neither harms what follows.
bool evidence_chain_take(struct evidence_chain *chain, const struct evidence_line *line);
// At the log's end, or anywhere before: the epoch of the first change that is missing, altered or in no order; 0: none.
uint64_t evidence_chain_break(const struct evidence_chain *chain);

#endif
