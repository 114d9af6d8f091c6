// Who has applied a change, and when (ov:{p}:applied): what a receipt is asked for. "log" is the log outside Redis, and means
// confirmed. Blocking; on the thread of the store.
#ifndef OPENVEIL_CONSENT_RECEIPT_H
#define OPENVEIL_CONSENT_RECEIPT_H

#include "common/consent_store.h"

#define RECEIPT_LOG "log"
#define RECEIPT_APPLIED_MAX 256 // further edges and aggregators are left out
struct receipt_applied {
    char who[CONSENT_WHO_MAX + 1]; // edge/<id>, aggregator/<id>
    int64_t unix_ms;
};
struct receipt {
    uint64_t epoch;        // in: the receipt's number
    int64_t confirmed_ms;  // 0: not yet
    uint64_t log_epoch;    // up to which the log has told; 0: never
    int64_t log_ms;        // when it last told
    struct receipt_applied applied[RECEIPT_APPLIED_MAX]; // in the order of the first telling
    size_t n_applied;
};

// Fills all but `epoch`. Times are the first at which the change was told as applied that Redis still knows.
int consent_receipt_read(struct consent_store *store, uint32_t partition, struct receipt *receipt, struct err *err)
    MUST_CHECK;
// Until it is confirmed: 0, ERR_AGAIN after `timeout_ms`, ERR_UNREACHABLE.
int consent_receipt_wait(struct consent_store *store, uint32_t partition, struct receipt *receipt, int64_t timeout_ms,
                         struct err *err) MUST_CHECK;
// Waits while a log that is at work has more than RECEIPT_LOG_BEHIND changes up to `epoch` before it, so that the change
// stream is not trimmed before the log has them. 0; ERR_AGAIN where the log has not moved for RECEIPT_LOG_STILL_MS.
#define RECEIPT_LOG_BEHIND 100000u
#define RECEIPT_LOG_STILL_MS 30000
int consent_receipt_pace(struct consent_store *store, uint32_t partition, uint64_t epoch, struct err *err) MUST_CHECK;

#endif
