// Everything that was released of a tenant against every promise that can be seen from outside: in the lines, in the
// configuration and, where it is at hand, in the aggregator's ledger of committed lines. Pure, one thread; the caller
// reads the files. Limits: VERIFY_KEPT_MAX things found are kept for each promise, the rest only counted.
#ifndef OPENVEIL_VERIFY_H
#define OPENVEIL_VERIFY_H

#include "aggregator/verify_line.h"
#include "common/hmac.h"

#define VERIFY_KEPT_MAX 50
#define VERIFY_LINES_MAX 20000
#define VERIFY_FILE_SIZE 64

struct verify_committed {
    enum release_kind kind;
    uint32_t period_day;
    struct fraction spent;
    uint8_t hash[SHA256_SIZE]; // of the line, without a line feed
    bool published;            // set by verify_file
};
// All pointers are the caller's and must live until verify_free.
struct verify_terms {
    const struct tenant *tenant;
    bool rehearsal;
    uint32_t today;
    bool has_ledger;
    size_t n_settings;
    const struct settings *settings; // ascending from_day
    size_t n_committed;
    struct verify_committed *committed; // by verify_committed_order
};
struct verify_finding {
    char file[VERIFY_FILE_SIZE]; // printable
    char why[200];
};

struct verify;
int verify_create(struct verify **verify, const struct verify_terms *terms) MUST_CHECK;
void verify_free(struct verify *verify);
// One file of the tenant's directory, in any order. ERR_NOMEM; ERR_LIMIT above VERIFY_LINES_MAX lines.
int verify_file(struct verify *verify, const char *name, const char *data, size_t len) MUST_CHECK;
// One that could not be read, or is none.
void verify_unreadable(struct verify *verify, const char *name, const char *why);
// After the last file: what only all of them can tell.
void verify_end(struct verify *verify);

// What a promise says, for people, and its name, for programs.
const char *verify_promise_text(enum verify_promise promise);
const char *verify_promise_name(enum verify_promise promise);
bool verify_promise_checked(const struct verify *verify, enum verify_promise promise); // false: needs the ledger
size_t verify_broken(const struct verify *verify, enum verify_promise promise); // how often; 0: kept
// The i-th of them, NULL from VERIFY_KEPT_MAX on.
const struct verify_finding *verify_finding(const struct verify *verify, enum verify_promise promise, size_t i);
size_t verify_lines(const struct verify *verify);

// For qsort and bsearch over struct verify_committed.
int verify_committed_order(const void *a, const void *b);

#endif
