#include "common/consent_receipt.h"

#include "common/clock.h"

#include <string.h>
#include <time.h>

#define POLL_MS_MAX 50

static void on_applied(void *arg, const char *who, uint64_t epoch, int64_t unix_ms) {
    struct receipt *receipt = arg;
    if (strcmp(who, RECEIPT_LOG) == 0) {
        receipt->log_epoch = epoch;
        receipt->log_ms = unix_ms;
        if (epoch >= receipt->epoch && receipt->confirmed_ms == 0)
            receipt->confirmed_ms = unix_ms;
        return;
    }
    if (epoch < receipt->epoch)
        return;
    for (size_t i = 0; i < receipt->n_applied; i++)
        if (strcmp(receipt->applied[i].who, who) == 0)
            return;
    if (receipt->n_applied == RECEIPT_APPLIED_MAX)
        return;
    struct receipt_applied *applied = &receipt->applied[receipt->n_applied++];
    snprintf(applied->who, sizeof applied->who, "%s", who);
    applied->unix_ms = unix_ms;
}

int consent_receipt_read(struct consent_store *store, uint32_t partition, struct receipt *receipt, struct err *err) {
    *receipt = (struct receipt){.epoch = receipt->epoch};
    return consent_store_applied(store, partition, on_applied, receipt, err);
}

static void pause_for(long ms) {
    const struct timespec pause = {.tv_nsec = ms * 1000 * 1000};
    nanosleep(&pause, NULL);
}

int consent_receipt_pace(struct consent_store *store, uint32_t partition, uint64_t epoch, struct err *err) {
    static _Thread_local struct receipt receipt;
    int64_t moved_ms = clock_monotonic_ms();
    uint64_t before = 0;
    for (;;) {
        receipt.epoch = epoch;
        int rc = consent_receipt_read(store, partition, &receipt, err);
        if (rc != 0 || receipt.log_epoch == 0 || receipt.log_epoch + RECEIPT_LOG_BEHIND >= epoch)
            return rc;
        if (receipt.log_epoch != before)
            moved_ms = clock_monotonic_ms();
        before = receipt.log_epoch;
        if (clock_monotonic_ms() - moved_ms >= RECEIPT_LOG_STILL_MS)
            return err_set(err, ERR_AGAIN, "the log outside Redis does not move");
        pause_for(POLL_MS_MAX);
    }
}

int consent_receipt_wait(struct consent_store *store, uint32_t partition, struct receipt *receipt, int64_t timeout_ms,
                         struct err *err) {
    int64_t until_ms = clock_monotonic_ms() + timeout_ms;
    for (long pause_ms = 1;; pause_ms = pause_ms < POLL_MS_MAX ? pause_ms + 1 : POLL_MS_MAX) {
        int rc = consent_receipt_read(store, partition, receipt, err);
        if (rc != 0 || receipt->confirmed_ms != 0)
            return rc;
        if (clock_monotonic_ms() >= until_ms)
            return err_set(err, ERR_AGAIN, "the change is recorded and not yet confirmed: no log outside Redis has it");
        pause_for(pause_ms);
    }
}
