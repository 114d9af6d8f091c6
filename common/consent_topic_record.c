#include "common/consent_topic_record.h"

#include "common/hmac.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define ID_KEY "\"change_id\""

static int wrong(char reason[CONSENT_TOPIC_REASON_SIZE], const char *text) {
    snprintf(reason, CONSENT_TOPIC_REASON_SIZE, "%s", text);
    return ERR_INVALID;
}

// jansson's integers end at 2^63, so a plain number behind "change_id": is put in quotes. The key cannot stand inside a
// text of the record: there its quotes would follow a backslash.
static size_t quote_change_id(const char *text, size_t len, char out[CONSENT_TOPIC_RECORD_MAX + 2]) {
    const char *end = text + len, *key = memmem(text, len, ID_KEY, strlen(ID_KEY));
    memcpy(out, text, len);
    if (key == NULL || (key > text && key[-1] == '\\'))
        return len;
    const char *first = key + strlen(ID_KEY);
    while (first < end && (isspace((unsigned char)*first) || *first == ':'))
        first++;
    const char *after = first;
    while (after < end && isdigit((unsigned char)*after))
        after++;
    if (after == first || after == end || strchr(".eE", *after) != NULL)
        return len;
    size_t before = (size_t)(first - text), digits = (size_t)(after - first);
    out[before] = '"';
    memcpy(out + before + 1, first, digits);
    out[before + 1 + digits] = '"';
    memcpy(out + before + digits + 2, after, (size_t)(end - after));
    return len + 2;
}

static int read_change_id(const json_t *value, struct consent_change *change) {
    const char *text = json_string_value(value);
    uint64_t id = 0;
    if (text == NULL || text[0] == '\0' || (text[0] == '0' && text[1] != '\0'))
        return ERR_INVALID;
    for (; *text != '\0'; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (*text < '0' || *text > '9' || id > (UINT64_MAX - digit) / 10)
            return ERR_INVALID;
        id = id * 10 + digit;
    }
    change->has_change_id = true;
    change->change_id = id;
    return 0;
}

static int read_pseudonym(const json_t *value, struct consent_change *change) {
    uint8_t bytes[8];
    const char *text = json_string_value(value);
    if (text == NULL || strlen(text) != 16 || hex_decode(text, 16, bytes) != 0)
        return ERR_INVALID;
    change->pseudonym = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        change->pseudonym = change->pseudonym << 8 | bytes[i];
    return 0;
}

static int read_who(const json_t *object, struct consent_topic_record *record, char *reason) {
    const json_t *tenant = json_object_get(object, "tenant"), *pseudonym = json_object_get(object, "pseudonym");
    const char *contact = json_string_value(json_object_get(object, "contact"));
    size_t len = json_string_length(json_object_get(object, "contact"));
    if (contact != NULL && contact_id_valid(contact, len) && pseudonym == NULL)
        memcpy(record->contact, contact, len + 1);
    if (!json_is_integer(tenant) || json_integer_value(tenant) < 0 || json_integer_value(tenant) > UINT32_MAX)
        return wrong(reason, "tenant must be a number from 0 to 4294967295");
    record->change.tenant = (uint32_t)json_integer_value(tenant);
    if ((json_object_get(object, "contact") == NULL) == (pseudonym == NULL))
        return wrong(reason, "there must be either contact or pseudonym");
    if (pseudonym != NULL)
        return read_pseudonym(pseudonym, &record->change) == 0 ? 0 : wrong(reason, "pseudonym must be 16 hex digits");
    return record->contact[0] != '\0' ? 0 : wrong(reason, "contact must be 1 to 256 bytes without tab, CR or LF");
}

static int read_what(const json_t *object, uint32_t today, struct consent_change *change, char *reason) {
    const char *name = json_string_value(json_object_get(object, "state"));
    const char *since = json_string_value(json_object_get(object, "since"));
    const json_t *notice = json_object_get(object, "notice"), *id = json_object_get(object, "change_id");
    int state = name == NULL ? -1 : consent_state_parse(name);
    if (state < 0)
        return wrong(reason, "state must be informed, granted, refused, withdrawn or objected");
    change->state = (uint8_t)state;
    if (since == NULL || day_parse(since, &change->since) != 0 || change->since == DAY_NONE ||
        change->since > UINT16_MAX)
        return wrong(reason, "since must be a day like 2026-11-22");
    if (change->since > today + 1)
        return wrong(reason, "since is after tomorrow");
    if (notice == NULL && !consent_state_leaves(change->state))
        return wrong(reason, "notice is needed: the version that the contact was shown");
    const char *version = notice == NULL ? "-" : json_string_value(notice);
    if (version == NULL || !notice_valid(version))
        return wrong(reason, "notice must be 1 to 32 printable ASCII characters");
    snprintf(change->notice, sizeof change->notice, "%s", version);
    if (id != NULL && read_change_id(id, change) != 0)
        return wrong(reason, "change_id must be a number from 0 to 18446744073709551615");
    return 0;
}

static bool fields_known(json_t *object) {
    static const char *const known[] = {"tenant", "contact", "pseudonym", "state", "since", "notice", "change_id"};
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        size_t i = 0;
        while (i < ARRAY_LEN(known) && strcmp(known[i], key) != 0)
            i++;
        if (i == ARRAY_LEN(known))
            return false;
    }
    return true;
}

int consent_topic_record_parse(const char *text, size_t len, uint32_t today, struct consent_topic_record *record,
                               char reason[CONSENT_TOPIC_REASON_SIZE]) {
    char quoted[CONSENT_TOPIC_RECORD_MAX + 2];
    json_error_t error;
    *record = (struct consent_topic_record){0};
    if (len > CONSENT_TOPIC_RECORD_MAX)
        return wrong(reason, "the record is longer than 4096 bytes");
    if (len == 0)
        return wrong(reason, "the record is empty");
    json_t *object = json_loadb(quoted, quote_change_id(text, len, quoted), JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(object)) {
        json_decref(object);
        return wrong(reason, "the record is not a JSON object");
    }
    int rc = read_who(object, record, reason);
    if (rc == 0)
        rc = read_what(object, today, &record->change, reason);
    if (rc == 0 && !fields_known(object))
        rc = wrong(reason, "the record has a field that is not tenant, contact, pseudonym, state, since, notice, change_id");
    json_decref(object);
    CHECK(rc == 0 || reason[0] != '\0');
    return rc;
}
