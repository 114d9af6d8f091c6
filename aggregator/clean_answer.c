#include "aggregator/clean_answer.h"

#define PREFETCH_AHEAD 16

// Contacts without an open, collected until a look-up is worth while.
struct silent {
    size_t n, room;
    struct clean_asked *asked;
    uint64_t *pseudonyms;
    struct consent_record *records;
};

// The consent record alone decides for them.
static int silent_settle(const struct clean_answer *answer, struct silent *silent, struct clean_list *list,
                         struct err *err) {
    size_t n = silent->n;
    silent->n = 0;
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        silent->pseudonyms[i] = silent->asked[i].pseudonym;
    int rc = answer->look_up(answer->arg, silent->pseudonyms, n, silent->records, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (clean_measured(answer->terms, &silent->records[i]))
            clean_list_set(list, silent->asked[i].line);
    return 0;
}

static int slice_take(const struct clean_answer *answer, const struct clean_asked *asked, size_t n, struct silent *silent,
                      struct clean_list *list, struct err *err) {
    for (size_t i = 0; i < n; i++) {
        if (i + PREFETCH_AHEAD < n)
            clean_opens_prefetch(answer->opens, asked[i + PREFETCH_AHEAD].pseudonym);
        if (clean_opens_has(answer->opens, asked[i].pseudonym))
            continue;
        silent->asked[silent->n++] = asked[i];
        int rc = silent->n == silent->room ? silent_settle(answer, silent, list, err) : 0;
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int answer_slices(const struct clean_answer *answer, struct silent *silent, struct clean_list *list,
                         struct err *err) {
    const struct clean_asked *asked;
    size_t n, done = 0;
    int rc;
    while ((rc = clean_list_slice(list, &asked, &n, err)) == 1) {
        if ((rc = slice_take(answer, asked, n, silent, list, err)) != 0)
            return rc;
        if (answer->progress != NULL)
            answer->progress(answer->arg, done, done + n);
        done += n;
    }
    return rc == 0 ? silent_settle(answer, silent, list, err) : rc;
}

int clean_answer(const struct clean_answer *answer, struct clean_list *list, struct err *err) {
    size_t n_lines = clean_list_count(list);
    struct silent silent = {.room = n_lines < CLEAN_LOOK_UP_MAX ? n_lines + 1 : CLEAN_LOOK_UP_MAX};
    silent.asked = calloc(silent.room, sizeof *silent.asked);
    silent.pseudonyms = calloc(silent.room, sizeof *silent.pseudonyms);
    silent.records = calloc(silent.room, sizeof *silent.records);
    int rc = silent.asked == NULL || silent.pseudonyms == NULL || silent.records == NULL
                 ? err_set(err, ERR_NOMEM, "no memory to look contacts up")
                 : answer_slices(answer, &silent, list, err);
    free(silent.asked);
    free(silent.pseudonyms);
    free(silent.records);
    return rc;
}
