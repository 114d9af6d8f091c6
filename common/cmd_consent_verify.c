// `openveil consent verify`: the log of consent changes proves itself, and Redis is what it says.
#include "common/commands.h"
#include "common/consent_receipt.h"
#include "common/evidence_log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define CONTACTS_A_LOOKUP 4096u

// What the log says last of a contact; later positions win.
struct said {
    uint32_t tenant;
    uint64_t pseudonym;
    uint64_t position;
    uint32_t since;
    uint8_t state; // CONSENT_UNKNOWN: not to be compared
};

struct verify {
    const struct config *config;
    struct consent_store *store;
    struct evidence_log *log;
    uint32_t partition;
    struct evidence_chain chain;
    struct consent_stamp stamp; // Redis
    struct said *said;
    size_t n_said, room;
    uint64_t *erased; // (tenant, position) pairs
    size_t n_erased;
    uint64_t position;
    bool nomem;
    uint64_t n_differ, n_compared;
    unsigned n_problems;
    bool json, first;
};

static void problem(struct verify *verify, const char *format, ...) PRINTF_LIKE(2, 3);
static void problem(struct verify *verify, const char *format, ...) {
    char text[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    verify->n_problems++;
    fprintf(stderr, "openveil: partition %" PRIu32 ": %s\n", verify->partition, text);
}

// ---- what the log says ----------------------------------------------------------------------------------------------
static void say(struct verify *verify, const struct consent_entry *entry) {
    if (entry->kind == ENTRY_ERASED) {
        uint64_t *more = realloc(verify->erased, 2 * (verify->n_erased + 1) * sizeof *more);
        verify->nomem |= more == NULL;
        if (more == NULL)
            return;
        verify->erased = more;
        more[2 * verify->n_erased] = entry->tenant;
        more[2 * verify->n_erased++ + 1] = verify->position;
        return;
    }
    if (entry->kind != ENTRY_STATE)
        return;
    if (verify->n_said == verify->room) {
        size_t room = verify->room == 0 ? 4096 : 2 * verify->room;
        struct said *more = realloc(verify->said, room * sizeof *more);
        verify->nomem |= more == NULL;
        if (more == NULL)
            return;
        verify->said = more;
        verify->room = room;
    }
    verify->said[verify->n_said++] = (struct said){.tenant = entry->tenant, .pseudonym = entry->pseudonym,
                                                   .position = verify->position, .since = entry->since,
                                                   .state = entry->state};
}

static int on_line(void *arg, const struct evidence_line *line) {
    struct verify *verify = arg;
    verify->position++;
    if (line->kind == EVIDENCE_CHANGE || line->kind == EVIDENCE_RECORD)
        say(verify, &line->entry);
    return verify->nomem ? ERR_NOMEM : 0;
}

static void on_later(void *arg, const struct consent_entry *entry) {
    struct verify *verify = arg;
    verify->position++;
    say(verify, entry);
}

static int said_compare(const void *left, const void *right) {
    const struct said *a = left, *b = right;
    if (a->tenant != b->tenant)
        return a->tenant < b->tenant ? -1 : 1;
    if (a->pseudonym != b->pseudonym)
        return a->pseudonym < b->pseudonym ? -1 : 1;
    return a->position < b->position ? -1 : a->position > b->position;
}

static bool tenant_erased(const struct verify *verify, const struct said *said) {
    for (size_t i = 0; i < verify->n_erased; i++)
        if (verify->erased[2 * i] == said->tenant && verify->erased[2 * i + 1] > said->position)
            return true;
    return false;
}

// The last word about each contact, in order.
static void said_settle(struct verify *verify) {
    size_t n = 0;
    if (verify->n_said > 0)
        qsort(verify->said, verify->n_said, sizeof *verify->said, said_compare);
    for (size_t i = 0; i < verify->n_said; i++) {
        const struct said *next = i + 1 < verify->n_said ? &verify->said[i + 1] : NULL;
        bool last = next == NULL || next->tenant != verify->said[i].tenant ||
                    next->pseudonym != verify->said[i].pseudonym;
        if (last && !tenant_erased(verify, &verify->said[i]))
            verify->said[n++] = verify->said[i];
    }
    verify->n_said = n;
}

// ---- Redis ----------------------------------------------------------------------------------------------------------
static int records_compare(struct verify *verify, struct err *err) {
    struct consent_record *records = calloc(CONTACTS_A_LOOKUP, sizeof *records);
    uint64_t *pseudonyms = calloc(CONTACTS_A_LOOKUP, sizeof *pseudonyms);
    int rc = records == NULL || pseudonyms == NULL ? err_set(err, ERR_NOMEM, "out of memory") : 0;
    said_settle(verify);
    for (size_t at = 0; rc == 0 && at < verify->n_said;) {
        size_t n = 0;
        uint32_t tenant = verify->said[at].tenant;
        for (; n < CONTACTS_A_LOOKUP && at + n < verify->n_said && verify->said[at + n].tenant == tenant; n++)
            pseudonyms[n] = verify->said[at + n].pseudonym;
        rc = consent_store_get_many(verify->store, tenant, pseudonyms, n, records, err);
        for (size_t i = 0; rc == 0 && i < n; i++)
            verify->n_differ += records[i].state != verify->said[at + i].state ||
                                records[i].since != verify->said[at + i].since;
        verify->n_compared += n;
        at += n;
    }
    if (pseudonyms != NULL)
        explicit_bzero(pseudonyms, CONTACTS_A_LOOKUP * sizeof *pseudonyms);
    free(pseudonyms);
    free(records);
    return rc;
}

// Whether Redis leads on from where the log ends.
static int store_compare(struct verify *verify, struct err *err) {
    const struct consent_stamp *head = &verify->chain.head, *now = &verify->stamp;
    struct consent_entry entry;
    if (now->epoch < head->epoch) {
        problem(verify, "Redis stands at %" PRIu64 " and the log at %" PRIu64 ": openveil consent restore", now->epoch,
                head->epoch);
        return 0;
    }
    bool same = memcmp(now->hash, head->hash, sizeof now->hash) == 0;
    if (now->epoch == head->epoch || head->epoch == 0) {
        if (head->epoch != 0 && !same)
            problem(verify, "Redis and the log differ at %" PRIu64 ": openveil consent restore", head->epoch);
        return 0;
    }
    int rc = consent_store_entry(verify->store, verify->partition, head->epoch, &entry, err);
    if (rc == 0 && memcmp(entry.hash, head->hash, sizeof entry.hash) != 0) {
        // A repair may have joined both further on.
        rc = consent_store_entry(verify->store, verify->partition, head->epoch + 1, &entry, err);
        if (rc == 0 && !consent_entry_follows(&entry, head->hash))
            problem(verify, "Redis does not lead on from the log's %" PRIu64 ": openveil consent restore", head->epoch);
    }
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

static void report(struct verify *verify) {
    const struct evidence_chain *chain = &verify->chain;
    uint64_t broken = evidence_chain_break(chain);
    if (verify->json)
        printf("%s{\"partition\":%" PRIu32 ",\"log\":%" PRIu64 ",\"redis\":%" PRIu64 ",\"changes\":%" PRIu64
               ",\"erased\":%" PRIu64 ",\"baselines\":%" PRIu64 ",\"repeated\":%" PRIu64 ",\"forks\":%" PRIu64
               ",\"damaged\":%" PRIu64 ",\"break\":%" PRIu64 ",\"compared\":%" PRIu64 ",\"differ\":%" PRIu64 "}",
               verify->first ? "[" : ",", verify->partition, chain->head.epoch, verify->stamp.epoch, chain->changes,
               chain->erased, chain->baselines, chain->repeated, chain->forks, chain->damaged, broken,
               verify->n_compared, verify->n_differ);
    else
        printf("partition %" PRIu32 ": log at %" PRIu64 ", Redis at %" PRIu64 ", %" PRIu64 " changes (%" PRIu64
               " erased), %" PRIu64 " baselines, %" PRIu64 " lines repeated, %" PRIu64 " not of the chain, %" PRIu64
               " damaged, %" PRIu64 " contacts compared\n",
               verify->partition, chain->head.epoch, verify->stamp.epoch, chain->changes, chain->erased, chain->baselines,
               chain->repeated, chain->forks, chain->damaged, verify->n_compared);
    verify->first = false;
}

static int partition_verify(struct verify *verify, struct err *err) {
    verify->n_said = verify->n_erased = 0;
    verify->n_differ = verify->n_compared = verify->position = 0;
    // The order matters: what was confirmed before the log was read must be in it.
    static struct receipt before;
    before.epoch = UINT64_MAX;
    int rc = consent_receipt_read(verify->store, verify->partition, &before, err);
    if (rc == 0)
        rc = evidence_log_read(verify->log, verify->partition, on_line, verify, &verify->chain, err);
    if (rc == ERR_NOMEM)
        err_set(err, rc, "out of memory for what the log says of each contact");
    if (rc == 0)
        rc = consent_store_stamp(verify->store, verify->partition, &verify->stamp, err);
    uint64_t broken = evidence_chain_break(&verify->chain);
    if (rc == 0 && broken != 0)
        problem(verify, "broken at epoch %" PRIu64, broken);
    else if (rc == 0 && verify->chain.in_baseline)
        problem(verify, "broken at epoch %" PRIu64 ": the list of all records there was not finished",
                verify->chain.head.epoch);
    if (rc == 0 && before.log_epoch > verify->chain.head.epoch)
        problem(verify, "broken at epoch %" PRIu64 ": changes up to %" PRIu64 " were confirmed and are not in the log",
                verify->chain.head.epoch + 1, before.log_epoch);
    if (rc == 0)
        rc = store_compare(verify, err);
    if (rc == 0 && broken == 0 && verify->stamp.epoch >= verify->chain.head.epoch) {
        rc = consent_store_entries(verify->store, verify->partition, verify->chain.head.epoch, on_later, verify, err);
        if (rc == 0)
            rc = records_compare(verify, err);
    }
    if (rc == 0 && verify->n_differ > 0)
        problem(verify, "%" PRIu64 " of %" PRIu64 " contacts have another record in Redis than the log says: "
                "openveil consent restore", verify->n_differ, verify->n_compared);
    if (rc == 0)
        report(verify);
    return rc;
}

static int run_verify(const struct config *config, const struct cli_values *values) {
    static struct verify verify;
    struct err err;
    verify = (struct verify){.config = config, .json = cli_json(values), .first = true};
    int rc = consent_store_open(&verify.store, config, &err);
    if (rc == 0)
        rc = evidence_log_open(&verify.log, config, false, &err);
    for (verify.partition = 0; rc == 0 && verify.partition < config->kafka_partitions; verify.partition++)
        rc = partition_verify(&verify, &err);
    if (rc == 0 && verify.json)
        printf("]\n");
    evidence_log_close(verify.log);
    consent_store_close(verify.store);
    if (verify.said != NULL)
        explicit_bzero(verify.said, verify.room * sizeof *verify.said);
    free(verify.said);
    free(verify.erased);
    if (rc != 0)
        return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s", err.text);
    return verify.n_problems == 0 ? 0 : EXIT_FAILURE;
}

const struct cli_command cmd_consent_verify = {
    .words = "consent verify",
    .args = "",
    .summary = "prove the log of consent changes, and compare it with Redis",
    .description = "Reads the log outside Redis of every partition: each change must lead on from the one before (its hash),\n"
                   "also where a contact's content was erased; what was confirmed must be in it; Redis must lead on from its\n"
                   "end, and hold for each contact what the log and the change stream say last. Each problem is named with\n"
                   "its partition and, for the log, the first epoch that is missing or altered. Takes some 60 bytes of memory a\n"
                   "contact of a partition. Lines that are repeated or not of the chain come from an aggregator that lost its\n"
                   "partition while it wrote; they harm nothing.\n"
                   "Exit status 0: all is proved. 1: it is not. 69: Redis or Kafka cannot be reached.",
    .run = run_verify,
};
