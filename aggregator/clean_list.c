#include "aggregator/clean_list.h"

#include "common/bytes.h"
#include "common/token.h"

#define DELIVERED_DIGITS_MAX 10
#define PSEUDONYM_DIGITS 16

struct clean_list {
    bool with_key;
    struct hmac_key contact_key;
    uint32_t tenant;
    struct clean_line *lines;
    size_t n_lines;
    size_t lines_room;
    char *fields; // the lines' first fields, one after the other
    size_t fields_used;
    size_t fields_room;
};

int clean_list_create(struct clean_list **out, const struct hmac_key *contact_key, uint32_t tenant) {
    struct clean_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return ERR_NOMEM;
    list->with_key = contact_key != NULL;
    if (contact_key != NULL)
        list->contact_key = *contact_key;
    list->tenant = tenant;
    *out = list;
    return 0;
}

void clean_list_free(struct clean_list *list) {
    if (list == NULL)
        return;
    free(list->lines);
    free(list->fields);
    bytes_wipe(list, sizeof *list);
    free(list);
}

static int room_for(void **items, size_t *room, size_t needed, size_t size) {
    if (needed <= *room)
        return 0;
    size_t more = *room == 0 ? 4096 : *room * 2;
    if (more < needed)
        more = needed;
    void *bigger = realloc(*items, more * size);
    if (bigger == NULL)
        return ERR_NOMEM;
    *items = bigger;
    *room = more;
    return 0;
}

// The number of mails delivered, from the bytes after the tab: -1 where it is not one.
static int64_t delivered_parse(const char *text, size_t len) {
    int64_t value = 0;
    if (len < 1 || len > DELIVERED_DIGITS_MAX)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        value = value * 10 + (text[i] - '0');
    }
    return value;
}

static int bad_line(const struct clean_list *list, const char *what, struct err *err) {
    return err_set(err, ERR_INVALID, "line %zu: %s; nothing was answered", list->n_lines + 1, what);
}

static int line_parse(const struct clean_list *list, const char *text, size_t len, struct clean_line *line,
                      struct err *err) {
    const char *tab = memchr(text, '\t', len);
    size_t field_len = tab == NULL ? len : (size_t)(tab - text);
    uint8_t bytes[PSEUDONYM_DIGITS / 2];
    *line = (struct clean_line){0};
    if (list->with_key) {
        if (!contact_id_valid(text, field_len))
            return bad_line(list, "a contact id must be 1 to 256 bytes of UTF-8 without tab or carriage return", err);
        line->pseudonym = pseudonym_of(&list->contact_key, list->tenant, text, field_len);
    } else {
        if (field_len != PSEUDONYM_DIGITS || hex_decode(text, PSEUDONYM_DIGITS, bytes) != 0)
            return bad_line(list, "a pseudonym must be 16 hex digits", err);
        line->pseudonym = load_u64(bytes);
    }
    line->field_len = (uint16_t)field_len;
    if (tab == NULL)
        return 0;
    int64_t delivered = delivered_parse(tab + 1, len - field_len - 1);
    if (delivered < 0)
        return bad_line(list, "after the tab there must be a number of delivered mails", err);
    line->few = delivered < CLEAN_DELIVERED_MIN;
    return 0;
}

int clean_list_add(struct clean_list *list, const char *text, size_t len, struct err *err) {
    struct clean_line line;
    int rc = line_parse(list, text, len, &line, err);
    if (rc != 0)
        return rc;
    if (list->n_lines == CLEAN_LINES_MAX)
        return err_set(err, ERR_LIMIT, "more than %u lines: split the list", CLEAN_LINES_MAX);
    void *lines = list->lines, *fields = list->fields;
    rc = room_for(&lines, &list->lines_room, list->n_lines + 1, sizeof *list->lines);
    list->lines = lines;
    if (rc == 0)
        rc = room_for(&fields, &list->fields_room, list->fields_used + line.field_len, 1);
    list->fields = fields;
    if (rc != 0)
        return err_set(err, rc, "no memory for more than %zu lines: split the list", list->n_lines);
    list->lines[list->n_lines++] = line;
    memcpy(list->fields + list->fields_used, text, line.field_len);
    list->fields_used += line.field_len;
    return 0;
}

size_t clean_list_count(const struct clean_list *list) {
    return list->n_lines;
}

struct clean_line *clean_list_at(struct clean_list *list, size_t index) {
    CHECK(index < list->n_lines);
    return &list->lines[index];
}

bool clean_list_share_above(const struct clean_list *list, uint32_t percent) {
    uint64_t ones = 0;
    for (size_t i = 0; i < list->n_lines; i++)
        ones += list->lines[i].inactive;
    return ones * 100 > (uint64_t)percent * list->n_lines;
}

int clean_list_write(const struct clean_list *list, FILE *out, struct err *err) {
    size_t written = 0; // of the fields; an index, because there are none where the list is empty
    for (size_t i = 0; i < list->n_lines; i++) {
        const struct clean_line *line = &list->lines[i];
        CHECK(!(line->few && line->inactive));
        fwrite(list->fields + written, 1, line->field_len, out);
        fputs(line->inactive ? "\t1\n" : "\t0\n", out);
        written += line->field_len;
        if (ferror(out))
            break;
    }
    CHECK(ferror(out) || written == list->fields_used);
    return fflush(out) == 0 && !ferror(out) ? 0 : err_errno(err, ERR_IO, "cannot write the answer");
}
