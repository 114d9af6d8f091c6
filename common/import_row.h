// A line of `openveil consent import|inform`, checked and pseudonymised. Pure; one thread.
#ifndef OPENVEIL_IMPORT_ROW_H
#define OPENVEIL_IMPORT_ROW_H

#include "common/consent_store.h"
#include "common/hmac.h"

// What the lines of one run mean.
struct import_rules {
    uint32_t tenant;
    uint32_t tomorrow;
    const char *inform_notice; // NULL: import; else every line is a contact that was shown this notice
    uint32_t inform_since;
    struct hmac_key key; // the tenant's contact key
};

// Its line's number is its place in the file. Written to a temporary file as it is.
struct import_row {
    uint64_t pseudonym;
    uint64_t change_id;
    uint16_t since;
    uint8_t state;
    uint8_t bad; // 0, or why the line is none: import_bad_text
    bool has_change_id;
    char notice[NOTICE_MAX + 1];
};

// `line` is changed. NULL: it was too long to be read.
void import_row_read(const struct import_rules *rules, char *line, size_t len, struct import_row *row);
const char *import_bad_text(uint8_t bad);

#endif
