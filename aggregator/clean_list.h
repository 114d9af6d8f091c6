// The list that a sender hands to `openveil clean` (FORMATS 7): read and checked as a whole before anything is
// answered, then handed back in its order with the answers. Owned by the command, one thread. Memory: about 70 MB and a
// bit a line; the rest lies in nameless temporary files. At most CLEAN_LINES_MAX lines. Holds contact ids: never logged.
#ifndef OPENVEIL_CLEAN_LIST_H
#define OPENVEIL_CLEAN_LIST_H

#include "aggregator/clean_asked.h"
#include "common/hmac.h"

#include <stdbool.h>

#define CLEAN_LINES_MAX 200000000u
#define CLEAN_DELIVERED_MIN 5 // fewer mails delivered in the N days say nothing about a contact

struct clean_list;
// `contact_key` is copied; NULL: the first fields are pseudonyms of 16 hex digits.
int clean_list_create(struct clean_list **list, const struct hmac_key *contact_key, uint32_t tenant) MUST_CHECK;
void clean_list_free(struct clean_list *list);
// The next line, without its line feed. ERR_INVALID names the line's number.
int clean_list_add(struct clean_list *list, const char *text, size_t len, struct err *err) MUST_CHECK;
size_t clean_list_count(const struct clean_list *list);

// Once all lines are added: those to which enough mails were delivered, slice by slice as in clean_asked_slice. All
// answers are 0 until they are set.
int clean_list_slice(struct clean_list *list, const struct clean_asked **asked, size_t *n, struct err *err) MUST_CHECK;
void clean_list_set(struct clean_list *list, uint32_t line); // answers 1

// True where more than `percent` of the lines are answered 1.
bool clean_list_share_above(const struct clean_list *list, uint32_t percent);
size_t clean_list_ones(const struct clean_list *list);
// Hands out the lines in the order of the input; what `each` returns other than 0 is returned. ERR_IO.
typedef int (*clean_line_fn)(void *arg, const char *field, size_t len, bool inactive, struct err *err);
int clean_list_each(struct clean_list *list, clean_line_fn each, void *arg, struct err *err) MUST_CHECK;

#endif
