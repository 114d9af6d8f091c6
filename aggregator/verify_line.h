// One released line against the promises that can be seen in it (FORMATS 6). Pure; any thread. The text may hold anything:
// what is found names places and numbers in it, and quotes nothing.
#ifndef OPENVEIL_VERIFY_LINE_H
#define OPENVEIL_VERIFY_LINE_H

#include "aggregator/release.h"

enum verify_promise {
    VERIFY_FILES,
    VERIFY_ONCE,
    VERIFY_MEMBERS,
    VERIFY_NAMED,
    VERIFY_OVER,
    VERIFY_GAPLESS,
    VERIFY_GRID,
    VERIFY_NOISE,
    VERIFY_BUDGET,
    VERIFY_THRESHOLD,
    VERIFY_RULES,
    VERIFY_MODE,
    VERIFY_COMMITTED, // this one and the next: with the aggregator's ledger only
    VERIFY_SETTINGS,
    VERIFY_PROMISES
};

// What the line must be, from its file's name and the configuration.
struct verify_frame {
    enum release_kind kind;
    uint32_t period_day; // the day of sending, or the month's first
    const struct tenant *tenant;
    bool rehearsal;
    const struct settings *settings; // in force on the period's first day; NULL: not at hand
};

// Called for each thing found; `why` goes on from the file's name: "has no member \"rules\"".
typedef void (*verify_found_fn)(void *arg, enum verify_promise promise, const char *why);

// Checks the bytes of a file. `spent` is the line's epsilon, 0/1 where it has none that can be read.
void verify_line(const struct verify_frame *frame, const char *data, size_t len, verify_found_fn found, void *arg,
                 struct fraction *spent);

#endif
