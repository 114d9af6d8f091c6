// Errors: a function that can fail returns 0 or one of these negative codes, and, where a person will read it, fills a
// `struct err` with one sentence that says what is wrong and how to mend it. Library code returns; main logs.
#ifndef OPENVEIL_ERR_H
#define OPENVEIL_ERR_H

#include "common/check.h"

enum {
    ERR_INVALID = -1,     // the input breaks a rule
    ERR_IO = -2,          // the operating system said no
    ERR_NOMEM = -3,       // out of memory
    ERR_LIMIT = -4,       // a documented limit is reached
    ERR_CORRUPT = -5,     // stored bytes are not what was written
    ERR_UNREACHABLE = -6, // a server is away, loading or behind: neither yes nor no; try again later
    ERR_NOT_FOUND = -7,   // there is no such thing
    ERR_EXISTS = -8,      // there is one already
    ERR_REFUSED = -9,     // a rule forbids it now
    ERR_AGAIN = -10,      // not ready yet: more input or time is needed
};

struct err {
    char text[512];
};

// Fills `err` (may be NULL) and returns `code`, so that a failing line reads `return err_set(err, ERR_IO, "…")`.
int err_set(struct err *err, int code, const char *format, ...) PRINTF_LIKE(3, 4);
// The same, and appends ": <strerror(errno)>".
int err_errno(struct err *err, int code, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
