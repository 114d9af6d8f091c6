// How old the oldest thing in each store is, against how old it may be: the rows of `openveil audit --retention`.
// The rows are pure; what fills them only reads. One thread. Ages are in days: of the wall clock for days of opens, of the
// machine's clock for files and Kafka's records.
#ifndef OPENVEIL_RETENTION_H
#define OPENVEIL_RETENTION_H

#include "common/config.h"
#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Whatever is erased must be gone everywhere within so many days: also what waits to be read.
#define RETENTION_ERASED_DAYS 3
// Erasing by age runs once a day, so a day may pass between a limit and the erasure.
#define RETENTION_SWEEP_DAYS 1
#define RETENTION_NO_LIMIT UINT32_MAX

enum retention_store {
    RETENTION_LAST_OPEN, // contacts' last-open days
    RETENTION_WINDOWS,   // contacts in windows that are not yet released
    RETENTION_DAYS,      // ledgers of days
    RETENTION_SPOOL,     // segments with opens that nobody has taken
    RETENTION_INBOX,     // imports that nobody has taken
    RETENTION_EVENTS,    // the events topic
    RETENTION_JOURNAL,   // erased records whose bytes are still in the journal's files
    RETENTION_ASIDE,     // damaged files kept for a look
    RETENTION_RELEASES,  // released lines
    RETENTION_STORES
};

struct retention_row {
    uint64_t n;      // things in the store
    uint64_t n_over; // of them over their limit
    uint32_t age;    // of the one that is closest to its limit, or furthest over it
    uint32_t limit;  // that one's; RETENTION_NO_LIMIT: none
};
struct retention {
    struct retention_row rows[RETENTION_STORES];
};

// `n` more things, the oldest of them `age` days old.
void retention_add(struct retention *retention, enum retention_store store, uint64_t n, uint32_t age, uint32_t limit);
bool retention_over(const struct retention *retention);
const char *retention_store_name(enum retention_store store); // for programs
const char *retention_store_text(enum retention_store store); // for people
// The age on which a contact may last be in the window of a day of sending.
uint32_t retention_window_limit(uint32_t horizon_days, uint64_t deadline_hours);

// Fill the rows. What is not there has nothing in it. ERR_UNREACHABLE, ERR_IO, ERR_CORRUPT, ERR_INVALID.
int retention_read_state(struct retention *retention, const struct config *config, struct err *err) MUST_CHECK;
int retention_read_files(struct retention *retention, const struct config *config, struct err *err) MUST_CHECK;
int retention_read_events(struct retention *retention, const struct config *config, struct err *err) MUST_CHECK;

#endif
