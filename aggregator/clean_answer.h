// The heart of one run of `openveil clean`, apart from files and servers: which lines of a list are 1, from the contacts
// with an open and from what a look-up says of the others. One thread.
#ifndef OPENVEIL_CLEAN_ANSWER_H
#define OPENVEIL_CLEAN_ANSWER_H

#include "aggregator/clean_list.h"
#include "aggregator/clean_opens.h"

// Fills `records` for n contacts, n up to CLEAN_LOOK_UP_MAX, pseudonyms ascending for the most part. 0, or an error that
// ends the run.
#define CLEAN_LOOK_UP_MAX 65536u
typedef int (*clean_look_up_fn)(void *arg, const uint64_t *pseudonyms, size_t n, struct consent_record *records,
                                struct err *err);
struct clean_answer {
    const struct clean_terms *terms;
    const struct clean_opens *opens;
    clean_look_up_fn look_up;
    void (*progress)(void *arg, size_t before, size_t done); // lines; may be NULL
    void *arg;
};
// Sets the list's answers; where it fails nothing of them may be handed out. ERR_NOMEM, ERR_IO, or what look_up says.
int clean_answer(const struct clean_answer *answer, struct clean_list *list, struct err *err) MUST_CHECK;

#endif
