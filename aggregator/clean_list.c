#include "aggregator/clean_list.h"

#include "common/bytes.h"
#include "common/files.h"
#include "common/token.h"

#include <unistd.h>

#define DELIVERED_DIGITS_MAX 10
#define PSEUDONYM_DIGITS 16
#define FIELDS_BUFFER (1u << 20)
#define FIELD_HEAD 2 // its length
_Static_assert(FIELDS_BUFFER > FIELD_HEAD + CONTACT_ID_MAX, "a field fits the buffer");

struct clean_list {
    bool with_key;
    struct hmac_key contact_key;
    uint32_t tenant;
    size_t n_lines;
    size_t n_ones;
    uint8_t *ones; // a bit a line
    size_t ones_room;
    struct clean_asked_set *asked;
    // First fields, each behind its length: what does not fit the buffer any more is in the file.
    uint8_t *fields;
    size_t fields_used;
    int fields_fd; // -1: none yet
    uint64_t fields_written;
};

struct clean_line {
    uint64_t pseudonym;
    size_t field_len;
    bool few; // fewer than CLEAN_DELIVERED_MIN mails were delivered: the answer is 0
};

int clean_list_create(struct clean_list **out, const struct hmac_key *contact_key, uint32_t tenant) {
    struct clean_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return ERR_NOMEM;
    list->fields_fd = -1;
    list->fields = malloc(FIELDS_BUFFER);
    if (list->fields == NULL || clean_asked_create(&list->asked) != 0) {
        clean_list_free(list);
        return ERR_NOMEM;
    }
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
    clean_asked_free(list->asked);
    free(list->ones);
    free(list->fields);
    if (list->fields_fd >= 0)
        close(list->fields_fd);
    bytes_wipe(list, sizeof *list);
    free(list);
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
    *line = (struct clean_line){.field_len = field_len};
    if (list->with_key) {
        if (!contact_id_valid(text, field_len))
            return bad_line(list, "a contact id must be 1 to 256 bytes of UTF-8 without tab or carriage return", err);
        line->pseudonym = pseudonym_of(&list->contact_key, list->tenant, text, field_len);
    } else {
        if (field_len != PSEUDONYM_DIGITS || hex_decode(text, PSEUDONYM_DIGITS, bytes) != 0)
            return bad_line(list, "a pseudonym must be 16 hex digits", err);
        line->pseudonym = load_u64(bytes);
    }
    if (tab == NULL)
        return 0;
    int64_t delivered = delivered_parse(tab + 1, len - field_len - 1);
    if (delivered < 0)
        return bad_line(list, "after the tab there must be a number of delivered mails", err);
    line->few = delivered < CLEAN_DELIVERED_MIN;
    return 0;
}

static int ones_reserve(struct clean_list *list, struct err *err) {
    if (list->n_lines < list->ones_room * 8)
        return 0;
    size_t room = list->ones_room == 0 ? 4096 : list->ones_room * 2;
    uint8_t *ones = realloc(list->ones, room);
    if (ones == NULL)
        return err_set(err, ERR_NOMEM, "no memory for more than %zu lines: split the list", list->n_lines);
    memset(ones + list->ones_room, 0, room - list->ones_room);
    list->ones = ones;
    list->ones_room = room;
    return 0;
}

static int fields_flush(struct clean_list *list, struct err *err) {
    if (list->fields_fd < 0 && (list->fields_fd = file_temporary("clean", err)) < 0)
        return list->fields_fd;
    if (write_full(list->fields_fd, list->fields, list->fields_used, (off_t)list->fields_written) != 0)
        return err_errno(err, ERR_IO, "cannot write a temporary file");
    list->fields_written += list->fields_used;
    list->fields_used = 0;
    return 0;
}

static int field_keep(struct clean_list *list, const char *field, size_t len, struct err *err) {
    int rc = FIELD_HEAD + len > FIELDS_BUFFER - list->fields_used ? fields_flush(list, err) : 0;
    if (rc != 0)
        return rc;
    store_u16(list->fields + list->fields_used, (uint16_t)len);
    memcpy(list->fields + list->fields_used + FIELD_HEAD, field, len);
    list->fields_used += FIELD_HEAD + len;
    return 0;
}

int clean_list_add(struct clean_list *list, const char *text, size_t len, struct err *err) {
    struct clean_line line;
    int rc = line_parse(list, text, len, &line, err);
    if (rc != 0)
        return rc;
    if (list->n_lines == CLEAN_LINES_MAX)
        return err_set(err, ERR_LIMIT, "more than %u lines: split the list", CLEAN_LINES_MAX);
    if ((rc = ones_reserve(list, err)) != 0 || (rc = field_keep(list, text, line.field_len, err)) != 0)
        return rc;
    uint32_t number = (uint32_t)list->n_lines++;
    return line.few ? 0 : clean_asked_add(list->asked, line.pseudonym, number, err);
}

size_t clean_list_count(const struct clean_list *list) {
    return list->n_lines;
}

int clean_list_slice(struct clean_list *list, const struct clean_asked **asked, size_t *n, struct err *err) {
    return clean_asked_slice(list->asked, asked, n, err);
}

static bool answer_of(const struct clean_list *list, size_t line) {
    return (list->ones[line / 8] >> line % 8 & 1) != 0;
}

void clean_list_set(struct clean_list *list, uint32_t line) {
    CHECK(line < list->n_lines);
    list->n_ones += !answer_of(list, line);
    list->ones[line / 8] |= (uint8_t)(1u << line % 8);
}

size_t clean_list_ones(const struct clean_list *list) {
    CHECK(list->n_ones <= list->n_lines);
    return list->n_ones;
}

bool clean_list_share_above(const struct clean_list *list, uint32_t percent) {
    return (uint64_t)list->n_ones * 100 > (uint64_t)percent * list->n_lines;
}

// ---- handing out ---------------------------------------------------------------------------------------------------
// Whole fields at the front of `bytes`: those of the lines from *line on. The bytes they take, or what `each` said.
static int64_t fields_give(const struct clean_list *list, const uint8_t *bytes, size_t len, size_t *line,
                           clean_line_fn each, void *arg, struct err *err) {
    size_t at = 0;
    while (len - at >= FIELD_HEAD && len - at - FIELD_HEAD >= load_u16(bytes + at)) {
        size_t field_len = load_u16(bytes + at);
        CHECK(*line < list->n_lines);
        int rc = each(arg, (const char *)bytes + at + FIELD_HEAD, field_len, answer_of(list, *line), err);
        if (rc != 0)
            return rc;
        at += FIELD_HEAD + field_len;
        ++*line;
    }
    return (int64_t)at;
}

static int file_give(const struct clean_list *list, uint8_t *buffer, size_t *line, clean_line_fn each, void *arg,
                     struct err *err) {
    for (uint64_t at = 0; at < list->fields_written;) {
        uint64_t left = list->fields_written - at;
        size_t len = left < FIELDS_BUFFER ? (size_t)left : FIELDS_BUFFER;
        if (read_full(list->fields_fd, buffer, len, (off_t)at) != 0)
            return err_errno(err, ERR_IO, "cannot read a temporary file");
        int64_t given = fields_give(list, buffer, len, line, each, arg, err);
        if (given <= 0)
            return given < 0 ? (int)given : err_set(err, ERR_CORRUPT, "a temporary file is damaged");
        at += (uint64_t)given;
    }
    return 0;
}

int clean_list_each(struct clean_list *list, clean_line_fn each, void *arg, struct err *err) {
    size_t line = 0;
    uint8_t *buffer = malloc(FIELDS_BUFFER);
    if (buffer == NULL)
        return err_set(err, ERR_NOMEM, "no memory to write the answer");
    int rc = file_give(list, buffer, &line, each, arg, err);
    free(buffer);
    if (rc != 0)
        return rc;
    int64_t given = fields_give(list, list->fields, list->fields_used, &line, each, arg, err);
    if (given < 0)
        return (int)given;
    CHECK((size_t)given == list->fields_used && line == list->n_lines);
    return 0;
}
