// Who fetched the pixel: person, machine or scanner, from the request's headers and address, by an ordered list of
// rules from a data file (common/data/fetch-classes.txt is built in). All words are found in one pass over the agent
// (Aho & Corasick 1975, "Efficient String Matching"). A loaded set is immutable and shareable between threads.
#ifndef OPENVEIL_FETCH_CLASS_H
#define OPENVEIL_FETCH_CLASS_H

#include "common/err.h"
#include "common/event.h"
#include "common/message.h"

#include <stdbool.h>
#include <stddef.h>

struct fetch_classes;

struct text {
    const char *at; // not NUL-terminated; NULL where the header is absent
    size_t len;
};

// What a request shows; the caller overwrites the address before the reply.
struct fetch_facts {
    struct text user_agent;
    struct text sec_purpose;
    struct text purpose;
    struct text x_moz;
    uint8_t address[16]; // IPv6, or IPv4 as ::ffff:a.b.c.d
    bool within_minute;  // minute of the open − sent <= 1
};

#define FETCH_CLASSES_BYTES_MAX (1u << 20)
#define FETCH_CLASSES_RULES_MAX 4096

// `path` empty or NULL: the built-in rules. ERR_INVALID names the line and what is allowed.
int fetch_classes_load(struct fetch_classes **classes, const char *path, struct err *err) MUST_CHECK;
int fetch_classes_parse(struct fetch_classes **classes, const char *name, const char *text, size_t len, struct err *err)
    MUST_CHECK;
void fetch_classes_free(struct fetch_classes *classes);
const uint8_t *fetch_classes_hash(const struct fetch_classes *classes); // SHA-256 of the file's bytes
// The built-in file: NUL-terminated, for ever.
const char *fetch_classes_builtin(size_t *len);
// Rules of one class.
size_t fetch_classes_count(const struct fetch_classes *classes, enum fetch fetch);
// True where a reload from `before` to `after` loses more than half of the rules: then it is refused.
bool fetch_classes_shrunk(const struct fetch_classes *before, const struct fetch_classes *after);
// False where no rule looks at the address of such a fetch: then it need not even be found out, and may be zeros.
bool fetch_classes_want_address(const struct fetch_classes *classes, bool within_minute);
// No allocation. `rule` (may be NULL) gets the number of the line that decided, 0 for the default.
enum fetch fetch_classify(const struct fetch_classes *classes, const struct fetch_facts *facts, unsigned *rule);

#endif
