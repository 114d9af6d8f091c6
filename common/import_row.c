#include "common/import_row.h"

#include "common/lines.h"
#include "common/token.h"

#include <string.h>

enum bad { GOOD, LONG, FIELDS, NUL, CONTACT, STATE, DAY, LATER, NOTICE, CRLF, CHANGE_ID, BADS };

static const char *const texts[BADS] = {
    [GOOD] = "",
    [LONG] = "the line is longer than 4096 bytes",
    [FIELDS] = "it must have 4 fields with tabs between, and may have a fifth: contact, state, since, notice, change id",
    [NUL] = "it holds a NUL",
    [CONTACT] = "the contact must be 1 to 256 bytes of UTF-8 without a tab",
    [STATE] = "the state must be informed, granted, refused, withdrawn or objected",
    [DAY] = "the day must look like 2026-11-22",
    [LATER] = "the day is after tomorrow",
    [NOTICE] = "the notice's version must be 1 to 32 printable ASCII characters",
    [CRLF] = "the lines end with CR LF; LF is needed",
    [CHANGE_ID] = "the change id must be a number from 0 to 18446744073709551615",
};

const char *import_bad_text(uint8_t bad) {
    CHECK(bad < BADS);
    return texts[bad];
}

static bool read_change_id(const char *text, uint64_t *id) {
    *id = 0;
    if (text[0] == '\0' || (text[0] == '0' && text[1] != '\0'))
        return false;
    for (; *text != '\0'; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (*text < '0' || *text > '9' || *id > (UINT64_MAX - digit) / 10)
            return false;
        *id = *id * 10 + digit;
    }
    return true;
}

static enum bad contact_read(const struct import_rules *rules, const char *line, size_t len, struct import_row *row) {
    if (!contact_id_valid(line, len))
        return CONTACT;
    row->pseudonym = pseudonym_of(&rules->key, rules->tenant, line, len);
    row->since = (uint16_t)rules->inform_since;
    row->state = CONSENT_INFORMED;
    snprintf(row->notice, sizeof row->notice, "%s", rules->inform_notice);
    return GOOD;
}

static enum bad change_read(const struct import_rules *rules, char *line, size_t len, struct import_row *row) {
    char *fields[6];
    size_t lens[6];
    uint32_t since;
    if (len > 0 && line[len - 1] == '\r')
        return CRLF;
    size_t n = line_fields(line, len, fields, lens, ARRAY_LEN(fields));
    if (n != 4 && n != 5)
        return FIELDS;
    for (size_t i = 1; i < n; i++) {
        if (strlen(fields[i]) != lens[i])
            return NUL;
    }
    int state = consent_state_parse(fields[1]);
    if (!contact_id_valid(fields[0], lens[0]))
        return CONTACT;
    if (state < 0)
        return STATE;
    if (day_parse(fields[2], &since) != 0 || since == DAY_NONE || since > UINT16_MAX)
        return DAY;
    if (since > rules->tomorrow)
        return LATER;
    if (!notice_valid(fields[3]))
        return NOTICE;
    row->has_change_id = n == 5;
    if (n == 5 && !read_change_id(fields[4], &row->change_id))
        return CHANGE_ID;
    row->pseudonym = pseudonym_of(&rules->key, rules->tenant, fields[0], lens[0]);
    row->since = (uint16_t)since;
    row->state = (uint8_t)state;
    memcpy(row->notice, fields[3], lens[3]);
    return GOOD;
}

void import_row_read(const struct import_rules *rules, char *line, size_t len, struct import_row *row) {
    memset(row, 0, sizeof *row);
    enum bad bad = line == NULL                   ? LONG
                   : rules->inform_notice != NULL ? contact_read(rules, line, len, row)
                                                  : change_read(rules, line, len, row);
    row->bad = (uint8_t)bad;
}
