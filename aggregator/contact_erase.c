#include "aggregator/contact_erase.h"

#include "common/evidence_log.h"
#include "common/token.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 200
#define PROGRESS_MS 5000

static uint32_t partition_here(const struct contact_erase *erase) {
    return partition_of(erase->tenant, (uint32_t)erase->config->kafka_partitions);
}

// ---- waiting --------------------------------------------------------------------------------------------------------

struct reached {
    uint64_t aggregator, log; // the newest epochs that they told
    bool has_log;
};

static void take_applied(void *arg, const char *who, uint64_t epoch, int64_t unix_ms) {
    struct reached *reached = arg;
    (void)unix_ms;
    if (strcmp(who, "log") == 0) {
        reached->has_log = true;
        reached->log = epoch > reached->log ? epoch : reached->log;
    } else if (strncmp(who, "aggregator/", strlen("aggregator/")) == 0) {
        reached->aggregator = epoch > reached->aggregator ? epoch : reached->aggregator;
    }
}

// A wait that the caller is told of now and then.
struct waiting {
    int64_t began_ms, told_ms;
};

static struct waiting waiting_begin(void) {
    int64_t now_ms = clock_monotonic_ms();
    return (struct waiting){now_ms, now_ms};
}

static void waiting_tell(struct waiting *waiting, const struct contact_erase *erase, const char *what) {
    int64_t now_ms = clock_monotonic_ms();
    if (now_ms - waiting->told_ms < PROGRESS_MS)
        return;
    waiting->told_ms = now_ms;
    erase->progress(what, (now_ms - waiting->began_ms) / 1000);
}

static bool waiting_over(const struct waiting *waiting, const struct contact_erase *erase) {
    return clock_monotonic_ms() - waiting->began_ms >= (int64_t)erase->wait_s * 1000;
}

// Until the aggregator (where `erased`) and the log have reached `epoch`. A log that never said anything is empty.
static int wait_for(const struct contact_erase *erase, uint64_t epoch, bool erased, struct err *err) {
    struct waiting waiting = waiting_begin();
    for (;;) {
        struct reached reached = {0};
        int rc = consent_store_applied(erase->store, partition_here(erase), take_applied, &reached, err);
        if (rc != 0)
            return rc;
        bool by_aggregator = !erased || reached.aggregator >= epoch;
        bool by_log = !reached.has_log || reached.log >= epoch;
        if (by_aggregator && by_log)
            return 0;
        const char *what = by_aggregator ? "the consent log" : "the aggregator";
        if (waiting_over(&waiting, erase))
            return err_set(err, ERR_AGAIN, "%s has not said in %" PRIu32 " s that it has gone on", what, erase->wait_s);
        waiting_tell(&waiting, erase, what);
        usleep(POLL_MS * 1000);
    }
}

// ---- leaving --------------------------------------------------------------------------------------------------------

static int change_make(const struct contact_erase *erase, uint8_t state, uint32_t since, uint64_t *receipt,
                       struct err *err) {
    struct consent_change change = {.tenant = erase->tenant,
                                    .pseudonym = erase->pseudonym,
                                    .state = state,
                                    .since = since,
                                    .notice = "-"};
    int rc = consent_store_apply(erase->store, &change, 1, err);
    if (rc == 0 && change.result < 0)
        rc = err_set(err, (int)change.result, "the contact cannot be withdrawn: %s", change.reason);
    if (rc == 0)
        *receipt = (uint64_t)change.result;
    return rc;
}

// Makes sure that the contact has left; `epoch` is one at which that held. `record` is what is known of it then.
static int leave(const struct contact_erase *erase, struct consent_record *record, uint64_t *epoch, struct err *err) {
    struct consent_stamp stamp;
    int rc = consent_store_get(erase->store, erase->tenant, erase->pseudonym, record, err);
    if (rc != 0)
        return rc;
    if (!record->unreadable && consent_state_leaves(record->state)) {
        rc = consent_store_stamp(erase->store, partition_here(erase), &stamp, err);
        *epoch = stamp.epoch;
        return rc;
    }
    uint32_t today = clock_today(&erase->config->clock);
    record->since = !record->unreadable && record->since > today ? record->since : today;
    record->state = CONSENT_WITHDRAWN;
    return change_make(erase, record->state, record->since, epoch, err);
}

static int evidence_erase_all(struct contact_erase *erase, struct err *err) {
    struct evidence_log *log;
    int rc = evidence_log_open(&log, erase->config, false, err);
    if (rc != 0)
        return rc;
    rc = evidence_log_erase(log, partition_here(erase), erase->tenant, &erase->pseudonym, &erase->n_evidence, err);
    evidence_log_close(log);
    return rc;
}

// What Redis keeps of what was forgotten up to `epoch`: in the nodes of its change stream, and in its append-only file.
static int redis_rewrite(struct contact_erase *erase, uint64_t epoch, struct err *err) {
    struct waiting waiting = waiting_begin();
    int64_t rc;
    while ((rc = consent_store_rewrite(erase->store, partition_here(erase), epoch, err)) > 0)
        waiting_tell(&waiting, erase, "Redis to copy its change stream");
    if (rc < 0)
        return (int)rc;
    for (waiting = waiting_begin();;) {
        rc = consent_store_rewrite_aof(erase->store, partition_here(erase), &erase->aof, err);
        if (rc != 0 || erase->aof != CONSENT_AOF_BUSY || waiting_over(&waiting, erase))
            return (int)rc;
        waiting_tell(&waiting, erase, "Redis to end a rewrite of its append-only file");
        usleep(POLL_MS * 1000);
    }
}

int contact_erase_run(struct contact_erase *erase, struct err *err) {
    struct consent_record record;
    uint64_t epoch = 0;
    CHECK(erase->progress != NULL);
    int rc = leave(erase, &record, &epoch, err);
    if (rc == 0)
        rc = wait_for(erase, epoch, true, err);
    if (rc != 0)
        return rc;
    int64_t forgotten = consent_store_forget(erase->store, erase->tenant, erase->pseudonym, false, err);
    if (forgotten < 0)
        return (int)forgotten;
    // What the log was about to take in is in it now.
    rc = wait_for(erase, (uint64_t)forgotten, false, err);
    if (rc == 0)
        rc = evidence_erase_all(erase, err);
    // As the first and only change of a contact of whom nothing else is known.
    if (rc == 0 && erase->keep_objection)
        rc = change_make(erase, record.state, record.since, &epoch, err);
    return rc == 0 ? redis_rewrite(erase, (uint64_t)forgotten, err) : rc;
}
