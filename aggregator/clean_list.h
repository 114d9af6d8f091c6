// The list that a sender hands to `openveil clean` (FORMATS 7): read and checked as a whole before anything is
// answered, then written back in its order. Owned by the command, one thread. Memory: the first fields' bytes and 16
// bytes a line; at most CLEAN_LINES_MAX lines. Holds contact ids: never logged, freed with clean_list_free.
#ifndef OPENVEIL_CLEAN_LIST_H
#define OPENVEIL_CLEAN_LIST_H

#include "common/err.h"
#include "common/hmac.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CLEAN_LINES_MAX 200000000u
#define CLEAN_DELIVERED_MIN 5 // fewer mails delivered in the N days say nothing about a contact

struct clean_line {
    uint64_t pseudonym;
    uint16_t field_len;
    bool few;      // fewer than CLEAN_DELIVERED_MIN mails were delivered: the answer is 0
    bool inactive; // the answer
};

struct clean_list;
// `contact_key` is copied; NULL: the first fields are pseudonyms of 16 hex digits.
int clean_list_create(struct clean_list **list, const struct hmac_key *contact_key, uint32_t tenant) MUST_CHECK;
void clean_list_free(struct clean_list *list);
// The next line, without its line feed. ERR_INVALID names the line's number.
int clean_list_add(struct clean_list *list, const char *text, size_t len, struct err *err) MUST_CHECK;

size_t clean_list_count(const struct clean_list *list);
struct clean_line *clean_list_at(struct clean_list *list, size_t index);
// True where more than `percent` of the lines are answered 1.
bool clean_list_share_above(const struct clean_list *list, uint32_t percent);
// "<first field>TAB<1|0>" a line, in the order of the input. ERR_IO.
int clean_list_write(const struct clean_list *list, FILE *out, struct err *err) MUST_CHECK;

#endif
