// The records of the aggregator's state, as the journal keeps them: a key of one kind letter and fields, and a value.
// Each partition has its own set; a tenant's records lie in its partition. Pure codecs: any bytes are safe to decode,
// ERR_CORRUPT where they are not a record of this version. Big-endian.
//
//   key                              value
//   'M'                              version 1, rehearsal 1, partitions 2
//   'G' from day 4                   release settings from that day on (struct settings)
//   'E' edge id                      what is known of an edge (struct edge_record)
//   'D' day 4                        the day's ledger in this partition (struct day_record)
//   'L' tenant 4, pseudonym 8        last open: day 2, frozen age 1
//   'W' tenant 4, sent day 4, pseudonym 8   a contact's cell in an open window: stream 2, provider 1, fetch 1, class_regime 1
//   'T' tenant 4                     the tenant's progress (struct tenant_record)
//   'R' tenant 4, kind 1, period day 4      a released line: ε spent 4/4, then the line
//   'A' tenant 4, kind 1, period day 4      the same line, committed and not yet sent to the releases topic (Kafka)
//   'C'                              consent stamp: epoch 8, hash 20
#ifndef OPENVEIL_RECORD_H
#define OPENVEIL_RECORD_H

#include "aggregator/batch.h"
#include "common/config.h"
#include "common/consent_store.h"
#include "common/message.h"

#define RECORD_VERSION 2
#define LAST_OPEN_KEEP_DAYS 400
#define HORIZON_DAYS_MAX 6
#define EDGE_EPOCHS_MAX 64
#define DAY_RULES_MAX 16

enum record_kind {
    RECORD_META = 'M',
    RECORD_SETTINGS = 'G',
    RECORD_EDGE = 'E',
    RECORD_DAY = 'D',
    RECORD_LAST_OPEN = 'L',
    RECORD_WINDOW = 'W',
    RECORD_TENANT = 'T',
    RECORD_RELEASE = 'R',
    RECORD_ANNOUNCED = 'A',
    RECORD_CONSENT = 'C',
};

struct settings {
    uint32_t from_day;
    struct fraction epsilon;
    uint32_t threshold;
    uint32_t horizon_days;
    char *provider_names[PROVIDERS_MAX]; // 14.. only where configured; owned
};

// Segments first..next-1 of this epoch are in, but for the gaps.
#define EDGE_GAPS_MAX 16
struct edge_epoch {
    uint64_t epoch;
    uint64_t first;
    uint64_t next;
    size_t n_gaps;
    struct segment_range gaps[EDGE_GAPS_MAX]; // missing segments; `epoch` repeats
};
struct edge_record {
    uint32_t registered_day; // DAY_NONE: never registered (an import)
    uint64_t registered_epoch; // the boot that registered it last
    uint32_t closed_through; // the last day it closed; registered_day - 1 at first
    uint32_t incomplete_through; // the last day that can't become complete, because something is lost; DAY_NONE: none
    uint64_t incomplete_days;    // bit i: so is that day less i; days more than 63 before it all are
    uint32_t retired_on; // the day on which the operator ended it; DAY_NONE: it takes part
    // Segments of boots whose epochs had to make room for newer ones before their days were closed: known by their numbers
    // alone, which grow from boot to boot of one spool. Both 0: none.
    uint64_t forgotten_first, forgotten_next;
    bool renumbered; // a new spool began numbers anew while days were open, so that a number alone says nothing
    size_t n_epochs;
    struct edge_epoch epochs[EDGE_EPOCHS_MAX]; // oldest first; forgotten when all their days are closed
};

#define DAY_COMPLETE 1u // every edge registered on or before it closed it, and every listed block is in
#define DAY_GIVEN_UP 2u // its deadline passed, and nothing was waiting to be read
struct day_record {
    uint8_t flags;
    uint64_t received; // events in blocks of this day, of this partition
    uint64_t counted;
    uint64_t repeated;
    uint64_t drops[AGG_DROPS_STORED];
    struct edge_counts edges;  // summed over the edges' close markers; the same in every partition
    uint64_t recorded_here;    // summed over the close markers: what should have been received
    uint32_t n_edges_closed;
    size_t n_rules;
    uint8_t rules[DAY_RULES_MAX][RULES_HASH_SIZE]; // sorted
};

// How old the last open was when the month before it was renewed ended: enough for FORMATS 6 and 7, and no more.
enum frozen_age { AGE_0_30, AGE_31_89, AGE_90, AGE_91_179, AGE_180, AGE_181_364, AGE_365, AGE_NONE };
struct last_open {
    uint16_t day;       // the newest open's day
    uint8_t frozen_age; // as of the eve of the month that `day` lies in (enum frozen_age)
};

struct window_cell {
    uint16_t stream;
    uint8_t provider;
    uint8_t fetch;
    uint8_t class_regime;
};

struct tenant_record {
    uint32_t first_measured; // first day measured here
    uint32_t next_window;    // the next day of sending to release
    uint32_t next_month;     // first day of the next month whose inactivity line is to be released
    uint32_t measured_since; // declared with an import; DAY_NONE
};

enum release_kind { RELEASE_DELIVERABILITY = 1, RELEASE_INACTIVITY = 2 };
struct release_record {
    uint32_t tenant;
    uint8_t kind;
    uint32_t period_day;     // the day, or the month's first
    struct fraction spent;   // numerator 0: nothing
    const uint8_t *line;     // without the line feed; decode: points into the value
    size_t line_len;
};

// Keys: each writes at most RECORD_KEY_MAX bytes and returns the length.
size_t key_meta(uint8_t *key);
size_t key_settings(uint8_t *key, uint32_t from_day);
size_t key_edge(uint8_t *key, const char *edge);
size_t key_day(uint8_t *key, uint32_t day);
size_t key_last_open(uint8_t *key, uint32_t tenant, uint64_t pseudonym);
size_t key_window(uint8_t *key, uint32_t tenant, uint32_t sent_day, uint64_t pseudonym);
size_t key_tenant(uint8_t *key, uint32_t tenant);
size_t key_release(uint8_t *key, uint32_t tenant, uint8_t kind, uint32_t period_day);
size_t key_announced(uint8_t *key, uint32_t tenant, uint8_t kind, uint32_t period_day);
size_t key_consent(uint8_t *key);
// What a key says; fields that its kind does not have are 0. ERR_CORRUPT where it is none.
struct record_key {
    enum record_kind kind;
    char edge[EDGE_ID_MAX + 1];
    uint32_t tenant;
    uint32_t day; // from day, day, sent day or period day
    uint64_t pseudonym;
    uint8_t release_kind;
};
int key_decode(const uint8_t *key, size_t len, struct record_key *out) MUST_CHECK;
// The same of a key that begins with RECORD_LAST_OPEN: nearly all of what a start reads.
#define LAST_OPEN_KEY_BYTES 13
int key_decode_last_open(const uint8_t *key, size_t len, uint32_t *tenant, uint64_t *pseudonym) MUST_CHECK;

// Values: encode into `out` (RECORD_VALUE_MAX bytes) and return the length; decode returns 0 or ERR_CORRUPT.
size_t meta_encode(bool rehearsal, uint32_t partitions, uint8_t *out);
int meta_decode(const uint8_t *value, size_t len, bool *rehearsal, uint32_t *partitions) MUST_CHECK;
size_t settings_encode(const struct settings *settings, uint8_t *out);
int settings_decode(const uint8_t *value, size_t len, struct settings *settings) MUST_CHECK; // from_day is the key's
void settings_free(struct settings *settings); // what settings_decode allocated
size_t edge_encode(const struct edge_record *edge, uint8_t *out);
int edge_decode(const uint8_t *value, size_t len, struct edge_record *edge) MUST_CHECK;
size_t day_encode(const struct day_record *day, uint8_t *out);
int day_decode(const uint8_t *value, size_t len, struct day_record *day) MUST_CHECK;
size_t last_open_encode(struct last_open last_open, uint8_t *out);
int last_open_decode(const uint8_t *value, size_t len, struct last_open *last_open) MUST_CHECK;
size_t window_encode(struct window_cell cell, uint8_t *out);
int window_decode(const uint8_t *value, size_t len, struct window_cell *cell) MUST_CHECK;
size_t tenant_encode(const struct tenant_record *tenant, uint8_t *out);
int tenant_decode(const uint8_t *value, size_t len, struct tenant_record *tenant) MUST_CHECK;
size_t release_encode(const struct release_record *release, uint8_t *out);
int release_decode(const uint8_t *value, size_t len, struct release_record *release) MUST_CHECK;
size_t stamp_encode(const struct consent_stamp *stamp, uint8_t *out);
int stamp_decode(const uint8_t *value, size_t len, struct consent_stamp *stamp) MUST_CHECK;

// Days since the last open, as of the end of `as_of` (a month's last day); the frozen age counts where the open came
// later. AGE_NONE where nothing is known by then.
enum frozen_age last_open_age_on(struct last_open last_open, uint32_t as_of);
// The record after an open on `day` (newer or older than what is there); false where nothing changes.
bool last_open_raise(struct last_open *last_open, bool exists, uint32_t day);
// The class of an exact age in days.
enum frozen_age age_of_days(uint32_t days);

#endif
