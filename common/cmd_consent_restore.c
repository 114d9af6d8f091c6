// `openveil consent restore`: a Redis that lost consent changes gets them back from the log.
#include "common/commands.h"
#include "common/consent_restore.h"

#include <inttypes.h>
#include <jansson.h>

#define PROGRESS_MS 1000

struct restoring {
    bool json;
    bool dry_run;
    int64_t said_ms;
    json_t *list;
};

static void on_progress(void *arg, uint32_t partition, uint64_t changes) {
    struct restoring *restoring = arg;
    if (clock_monotonic_ms() - restoring->said_ms < PROGRESS_MS)
        return;
    restoring->said_ms = clock_monotonic_ms();
    fprintf(stderr, "partition %" PRIu32 ": %" PRIu64 " changes\n", partition, changes);
}

static void say(struct restoring *restoring, uint32_t partition, const struct consent_restored *restored) {
    const char *outcome = !restored->logged   ? "no log"
                          : !restored->needed ? "leads on"
                          : restoring->dry_run ? "to be restored"
                                               : "restored";
    if (restored->broken != 0)
        fprintf(stderr, "partition %" PRIu32 ": the log breaks at epoch %" PRIu64 ": openveil consent verify\n", partition,
                restored->broken);
    if (restoring->json) {
        json_t *row = json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "partition", (json_int_t)partition,
                                "outcome", outcome, "shared", (json_int_t)restored->shared, "log_epoch",
                                (json_int_t)restored->log.epoch, "redis_epoch", (json_int_t)restored->store.epoch,
                                "changes", (json_int_t)restored->changes, "erased", (json_int_t)restored->erased, "applied",
                                (json_int_t)restored->applied, "refused", (json_int_t)restored->refused, "entered",
                                (json_int_t)restored->entered);
        CHECK(row != NULL && json_array_append_new(restoring->list, row) == 0);
    } else if (!restored->needed) {
        printf("partition %" PRIu32 ": %s\n", partition, outcome);
    } else {
        printf("partition %" PRIu32 ": %s; shared epoch %" PRIu64 ", log %" PRIu64 ", Redis %" PRIu64 "; changes of the log %"
               PRIu64 " (and %" PRIu64 " erased): applied %" PRIu64 ", refused %" PRIu64 "; only in Redis %" PRIu64 "\n",
               partition, outcome, restored->shared, restored->log.epoch, restored->store.epoch, restored->changes,
               restored->erased, restored->applied, restored->refused, restored->entered);
    }
}

static int run_restore(const struct config *config, const struct cli_values *values) {
    struct restoring restoring = {.json = cli_json(values), .dry_run = cli_flag(values, "dry-run")};
    struct consent_store *store = NULL;
    struct evidence_log *log = NULL;
    struct err err;
    restoring.list = json_array();
    CHECK(restoring.list != NULL);
    int rc = evidence_log_open(&log, config, false, &err);
    if (rc == 0)
        rc = consent_store_open(&store, config, &err);
    for (uint32_t partition = 0; rc == 0 && partition < (uint32_t)config->kafka_partitions; partition++) {
        struct consent_restored restored;
        rc = consent_restore(store, log, partition, restoring.dry_run, on_progress, &restoring, &restored, &err);
        if (rc == 0)
            say(&restoring, partition, &restored);
    }
    consent_store_close(store);
    evidence_log_close(log);
    if (restoring.json && rc == 0) {
        json_dumpf(restoring.list, stdout, JSON_INDENT(1));
        putchar('\n');
    }
    json_decref(restoring.list);
    return rc == 0 ? 0 : cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s", err.text);
}

static const struct cli_option restore_options[] = {
    {"dry-run", NULL, "only say what would be done", false, false},
};
const struct cli_command cmd_consent_restore = {
    .words = "consent restore",
    .args = "",
    .summary = "repair a Redis that was emptied, restored to an older state or lost writes, from the log of changes",
    .description = "For each partition: finds the last change that Redis and the log share, applies the log's later ones again\n"
                   "(the later day, then leaving, then the higher change id decides), keeps what only Redis has, and makes the\n"
                   "store lead on, so that counting resumes. A partition that leads on already is left alone. Run it again\n"
                   "after an interruption. Contacts that were erased do not come back; a restored backup may still hold\n"
                   "them: erase them again. Exit status 69: Redis or the log cannot be reached.",
    .options = restore_options,
    .n_options = ARRAY_LEN(restore_options),
    .run = run_restore,
};
