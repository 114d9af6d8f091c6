// The consent authority as programs use it: a blocking client for the command line (set, get, import) and an
// asynchronous one for the aggregator (pipelined look-ups on a uv loop). Both load the Redis Function library
// `openveil` (common/consent.lua) where it is missing or older, and refuse a store of the other mode (rehearsal or
// production).
// Errors: ERR_UNREACHABLE (away, loading, restored to an older state, emptied; neither yes nor no), ERR_REFUSED (a rule
// of FORMATS 4 forbids the change; `err` says which), ERR_INVALID.
#ifndef OPENVEIL_CONSENT_STORE_H
#define OPENVEIL_CONSENT_STORE_H

#include "common/config.h"
#include "common/consent.h"
#include "common/consent_entry.h"

// What a partition's store had reached: commits remember it, and a store that does not lead on from it is unreachable.
struct consent_stamp {
    uint64_t epoch;
    uint8_t hash[CONSENT_HASH_SIZE];
};

// A repair that was begun and not ended: the last epoch shared with the log, and the last one before it was begun.
struct consent_repair {
    bool begun;
    uint64_t shared;
    uint64_t last;
    uint8_t log_hash[CONSENT_HASH_SIZE]; // of the log's head then
};

// ---- blocking, one thread -------------------------------------------------------------------------------------------
struct consent_change {
    uint32_t tenant;
    uint64_t pseudonym;
    uint8_t state;
    uint32_t since;
    char notice[NOTICE_MAX + 1];
    bool has_change_id; // false: the receipt number counts as its id
    uint64_t change_id;
    int64_t result; // out: the receipt number (epoch), or a negative ERR_*
    char reason[120]; // out: why not
};
struct consent_store;
int consent_store_open(struct consent_store **store, const struct config *config, struct err *err) MUST_CHECK;
void consent_store_close(struct consent_store *store);
// Applies changes in order, pipelined and batched by partition; per-change outcome in `result`. Returns 0 when Redis
// has answered for all of them, ERR_UNREACHABLE otherwise (then some may have been applied; applying again is harmless).
int consent_store_apply(struct consent_store *store, struct consent_change *changes, size_t n,
                        struct err *err) MUST_CHECK;
int consent_store_get(struct consent_store *store, uint32_t tenant, uint64_t pseudonym, struct consent_record *record,
                      struct err *err) MUST_CHECK;
// From now on look-ups of `partition` must lead on from what the aggregator's state remembers, and are ERR_UNREACHABLE
// where they do not: for commands that hand out what they found.
void consent_store_known(struct consent_store *store, uint32_t partition, const struct consent_stamp *known);
// Many contacts of one tenant, pipelined. For list cleaning.
int consent_store_get_many(struct consent_store *store, uint32_t tenant, const uint64_t *pseudonyms, size_t n,
                           struct consent_record *records, struct err *err) MUST_CHECK;
// Before a large import of a tenant without any contact yet: chooses the bucket bits for `contacts`.
int consent_store_size_hint(struct consent_store *store, uint32_t tenant, uint64_t contacts,
                            struct err *err) MUST_CHECK;
// Every record of a tenant; `each` may have been called before an error.
typedef void (*consent_each_fn)(void *arg, uint64_t pseudonym, const struct consent_record *record);
int consent_store_scan(struct consent_store *store, uint32_t tenant, consent_each_fn each, void *arg,
                       struct err *err) MUST_CHECK;
// Removes all of a tenant, or cuts its buckets anew (in as many calls as it needs; again, with the same bits, after an
// error): the receipt, or a negative ERR_* with the reason in `err`.
int64_t consent_store_erase_tenant(struct consent_store *store, uint32_t tenant, struct err *err) MUST_CHECK;
int64_t consent_store_rebucket(struct consent_store *store, uint32_t tenant, uint32_t bits, struct err *err) MUST_CHECK;
// Removes what Redis knows about one contact: its record (with `keep_left`, not one that refused, withdrew or objected)
// and the content of its changes in the stream, where the chain's hashes stay. The receipt, or a negative ERR_*.
int64_t consent_store_forget(struct consent_store *store, uint32_t tenant, uint64_t pseudonym, bool keep_left,
                             struct err *err) MUST_CHECK;
// One step of copying the change stream, so that no byte stays of what was forgotten up to `since`, a receipt: 0 once that
// is so, above 0 while there is more to do, or a negative ERR_*.
int64_t consent_store_rewrite(struct consent_store *store, uint32_t partition, uint64_t since,
                              struct err *err) MUST_CHECK;
// Asks the partition's server to write its append-only file anew, where it has one; it does so after this has returned.
enum consent_aof {
    CONSENT_AOF_OFF,     // it has none
    CONSENT_AOF_ASKED,
    CONSENT_AOF_BUSY,    // it writes one already, which was begun before: ask again
    CONSENT_AOF_REFUSED, // as a rule because the user may not
};
int consent_store_rewrite_aof(struct consent_store *store, uint32_t partition, enum consent_aof *aof,
                              struct err *err) MUST_CHECK;
typedef void (*consent_entry_fn)(void *arg, const struct consent_entry *entry);
typedef void (*consent_applied_fn)(void *arg, const char *who, uint64_t epoch, int64_t unix_ms);
// The blocking forms of consent_client_stamp, _read_applied, _tenants and _entries, of which this one gives all there are.
int consent_store_stamp(struct consent_store *store, uint32_t partition, struct consent_stamp *stamp,
                        struct err *err) MUST_CHECK;
// What common/consent_restore.h is made of: where the store stands and whether a repair was begun, whether it leads on
// from a stamp (ERR_UNREACHABLE: no, or it cannot be asked), entering changes again, the beginning of a repair (the receipt:
// what was before has lower epochs), its end.
int consent_store_repair(struct consent_store *store, uint32_t partition, struct consent_stamp *stamp,
                         struct consent_repair *repair, struct err *err) MUST_CHECK;
int consent_store_leads_on(struct consent_store *store, uint32_t partition, const struct consent_stamp *known,
                           struct err *err) MUST_CHECK;
int consent_store_enter(struct consent_store *store, struct consent_change *changes, size_t n, struct err *err) MUST_CHECK;
int64_t consent_store_join(struct consent_store *store, uint32_t partition, uint64_t shared,
                           const struct consent_stamp *log, struct err *err) MUST_CHECK;
int64_t consent_store_joined(struct consent_store *store, uint32_t partition, struct err *err) MUST_CHECK;
int consent_store_applied(struct consent_store *store, uint32_t partition, consent_applied_fn each, void *arg,
                          struct err *err) MUST_CHECK;
typedef void (*consent_tenant_fn)(void *arg, uint32_t tenant);
// The entry of one epoch; ERR_NOT_FOUND where the stream does not have it.
int consent_store_entry(struct consent_store *store, uint32_t partition, uint64_t epoch, struct consent_entry *entry,
                        struct err *err) MUST_CHECK;
int consent_store_tenants(struct consent_store *store, uint32_t partition, consent_tenant_fn each, void *arg,
                          struct err *err) MUST_CHECK;
int consent_store_entries(struct consent_store *store, uint32_t partition, uint64_t epoch, consent_entry_fn each,
                          void *arg, struct err *err) MUST_CHECK;
// Adds a notice to every partition; adding it again, after an error, is harmless.
struct consent_notice;
int consent_store_notice_add(struct consent_store *store, const struct consent_notice *notice, struct err *err)
    MUST_CHECK;
// The notices of the first partition, in the caller's memory (free); ascending versions.
int consent_store_notices(struct consent_store *store, struct consent_notice **notices, size_t *n, struct err *err)
    MUST_CHECK;

// ---- asynchronous, on the thread of its uv loop ---------------------------------------------------------------------
struct consent_client;
struct consent_query {
    uint32_t tenant;
    uint64_t pseudonym;
    struct consent_record record; // out
};
// status 0: every record is filled and `stamp` is the partition's epoch and hash at the end of the look-up.
// ERR_UNREACHABLE: nothing is known; ask again later. Never called from inside consent_client_lookup.
typedef void (*consent_done_fn)(void *arg, int status, const struct consent_stamp *stamp);
struct uv_loop_s;
int consent_client_create(struct consent_client **client, struct uv_loop_s *loop, const struct config *config,
                          struct err *err) MUST_CHECK;
void consent_client_free(struct consent_client *client); // pending look-ups end with ERR_UNREACHABLE first
// Looks up `n` contacts of one partition (any tenants in it) between two reads of the partition's epoch on one
// connection; repeated inside where the epoch moved under a changed bucket layout. `known` (may be NULL) is what was
// committed: the store must lead on from it, and from what this client itself saw last. `queries` stay the caller's and
// must live until `done`. ERR_LIMIT beyond CONSENT_LOOKUP_MAX contacts or CONSENT_JOBS_MAX look-ups at once. With
// n == 0 only the stamp is read. While Redis is away a look-up waits for [redis] timeout_ms before it is unreachable.
#define CONSENT_LOOKUP_MAX (1u << 20)
#define CONSENT_JOBS_MAX 1024
int consent_client_lookup(struct consent_client *client, uint32_t partition, struct consent_query *queries, size_t n,
                          const struct consent_stamp *known, consent_done_fn done, void *arg) MUST_CHECK;
// What somebody else has seen of a partition, for instance the log of changes: from now on look-ups must lead on from it.
void consent_client_known(struct consent_client *client, uint32_t partition, const struct consent_stamp *known);
// Every record of a tenant, bucket by bucket; `each` may be called many times before `done`, also where that then says
// ERR_UNREACHABLE. `each` must not call the client.
int consent_client_scan(struct consent_client *client, uint32_t partition, uint32_t tenant,
                        const struct consent_stamp *known, consent_each_fn each, consent_done_fn done,
                        void *arg) MUST_CHECK;
// The notices of a partition: `notices`, ascending versions, is valid during the call.
typedef void (*consent_notices_fn)(void *arg, const struct consent_notice *notices, size_t n);
int consent_client_notices(struct consent_client *client, uint32_t partition, consent_notices_fn each,
                           consent_done_fn done, void *arg) MUST_CHECK;
// Applies up to CONSENT_CHANGES_MAX changes of tenants in one partition, in order, in one step of Redis: the outcome of
// each is in its `result`. `today` refuses days after tomorrow. Status 0: Redis answered; ERR_UNREACHABLE: it may or
// may not have applied them, and applying again is harmless; ERR_REFUSED: the store is of the other mode. No stamp.
#define CONSENT_CHANGES_MAX 1000
int consent_client_apply(struct consent_client *client, uint32_t partition, struct consent_change *changes, size_t n,
                         uint32_t today, consent_done_fn done, void *arg) MUST_CHECK;
// The same for a repair: every change becomes an entry of the stream, also one that changes nothing any more.
int consent_client_enter(struct consent_client *client, uint32_t partition, struct consent_change *changes, size_t n,
                         uint32_t today, consent_done_fn done, void *arg) MUST_CHECK;
// Chooses the bucket bits of a tenant that has no contact yet; does nothing for others.
int consent_client_size_hint(struct consent_client *client, uint32_t partition, uint32_t tenant, uint64_t contacts,
                             consent_done_fn done, void *arg) MUST_CHECK;
// Calls a Function of the library about more than one contact: FCALL function 1 ov:{partition}:meta MODE TODAY words…;
// the outcome is in `result` and `reason`, as that of a change. Status as that of consent_client_apply.
#define CONSENT_CALL_WORDS_MAX 8
#define CONSENT_CALL_MORE_MAX 500
struct consent_call {
    const char *function;
    const char *words[CONSENT_CALL_WORDS_MAX];
    size_t n_words;
    const uint64_t *more; // further words, numbers; the caller's
    size_t n_more;
    int64_t result;
    char reason[120];
};
int consent_client_call(struct consent_client *client, uint32_t partition, struct consent_call *call, uint32_t today,
                        consent_done_fn done, void *arg) MUST_CHECK;
// As consent_store_rewrite_aof; `aof` stays the caller's until `done`. No stamp.
int consent_client_rewrite_aof(struct consent_client *client, uint32_t partition, enum consent_aof *aof,
                               consent_done_fn done, void *arg) MUST_CHECK;
// Remembers in Redis that `who` (`log`, `edge/<id>`, `aggregator/<id>`; copied) has applied all changes up to `epoch`.
#define CONSENT_WHO_MAX 79
int consent_client_applied(struct consent_client *client, uint32_t partition, const char *who, uint64_t epoch,
                           consent_done_fn done, void *arg) MUST_CHECK;
// The stamp alone, without asking whether it leads on from anything, also while a repair is under way; `repair` (the
// caller's until `done`) says whether one is.
int consent_client_stamp(struct consent_client *client, uint32_t partition, struct consent_repair *repair,
                         consent_done_fn done, void *arg) MUST_CHECK;
// Up to `max` changes after `epoch` that the stream still holds, oldest first. `each` may have been called before an error.
#define CONSENT_ENTRIES_MAX 5000
int consent_client_entries(struct consent_client *client, uint32_t partition, uint64_t epoch, size_t max,
                           consent_entry_fn each, consent_done_fn done, void *arg) MUST_CHECK;
// Who has applied which epochs, and when (ms since 1970), oldest first.
int consent_client_read_applied(struct consent_client *client, uint32_t partition, consent_applied_fn each,
                                consent_done_fn done, void *arg) MUST_CHECK;
// To the servers of all partitions, or of some.
// Every tenant that has a contact, in no order.
int consent_client_tenants(struct consent_client *client, uint32_t partition, consent_tenant_fn each,
                           consent_done_fn done, void *arg) MUST_CHECK;
bool consent_client_connected(const struct consent_client *client);
bool consent_client_partly_connected(const struct consent_client *client);
// What last went wrong, a sentence for people; empty where nothing did. Valid until the loop's next turn.
const char *consent_client_problem(const struct consent_client *client);
// Problems are no longer logged (by default they are, at most one a second, the same one once a minute).
void consent_client_quiet(struct consent_client *client);

#endif
