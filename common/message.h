// The messages between edge and aggregator: what a Kafka record's value holds, and what a sealed segment file holds one
// of per partition. A message is self-contained and checksummed. Its identity is (edge, epoch, segment, partition);
// a resend has the same bytes. Every sealed segment has one message for every partition, also an empty block, so that
// an aggregator knows from the numbers alone whether one is missing.
//
// Layout (big-endian): "OVM1", kind 1, flags 1 (bit 0 rehearsal), edge length 1, edge, epoch 8, segment 8,
// epoch_first 8, partition 2, partitions 2, day 4, body length 4, body, XXH3-64 of everything before it.
// Pure functions over memory; any thread. Everything is bounded and checked: a message that decodes is well-formed.
#ifndef OPENVEIL_MESSAGE_H
#define OPENVEIL_MESSAGE_H

#include "common/err.h"
#include "common/event.h"
#include "common/reasons.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EDGE_ID_MAX 63
#define RULES_HASH_SIZE 32
#define BLOCK_EVENTS_MAX 65536
#define MESSAGE_BYTES_MAX (2u << 20)
#define CLOSE_RANGES_MAX 16384
#define IMPORT_ROWS_MAX 65536
#define PARTITIONS_MAX 1024

enum message_kind {
    MESSAGE_BLOCK = 1,    // events of one segment and partition, of one UTC day
    MESSAGE_REGISTER = 2, // this edge takes part from `day` on
    MESSAGE_CLOSE = 3,    // this edge will send nothing more for the days up to `day`
    MESSAGE_IMPORT = 4,   // last-open days brought in by `openveil last-open import`
    MESSAGE_RETIRE = 5,   // the operator ends an edge that is gone for good
};

struct message_head {
    enum message_kind kind;
    bool rehearsal;
    char edge[EDGE_ID_MAX + 1];
    uint64_t epoch;       // 64 random bits a boot
    uint64_t segment;     // grows by one per sealed segment, across the epochs of a spool
    uint64_t epoch_first; // the first segment of this epoch: numbers from it on have no gap
    uint16_t partition;
    uint16_t partitions;
    uint32_t day;
};

// Segments of one day: first..last of one epoch, both included.
struct segment_range {
    uint64_t epoch;
    uint64_t first;
    uint64_t last;
};

// Counts of one edge and day, over all its partitions unless said otherwise.
struct edge_counts {
    uint64_t requests;
    uint64_t recorded;
    uint64_t drops[EDGE_DROPS_STORED];
};

struct close_body {
    uint32_t from_day; // all days from_day..head.day are closed; only head.day can have ranges and counts
    struct edge_counts counts;
    uint64_t recorded_here; // in this message's partition
    size_t n_ranges;
    const struct segment_range *ranges; // decode: points into the caller's scratch
};

struct import_row {
    uint64_t pseudonym;
    uint32_t day;
};

struct import_body {
    uint32_t tenant;
    uint32_t measured_since; // DAY_NONE: not declared
    size_t n_rows;
    const struct import_row *rows; // decode: points into the caller's scratch
};

// Scratch memory for encoding and decoding, reused from message to message; one per thread.
struct message_codec;
int message_codec_create(struct message_codec **codec) MUST_CHECK;
void message_codec_free(struct message_codec *codec);

// Encoders write to `out` (MESSAGE_BYTES_MAX bytes) and return the length, or a negative ERR_*.
// Blocks: `events` are sorted here (by every field), at most BLOCK_EVENTS_MAX; 0 is allowed. Layout of the body:
// rules hash 32, events 4, raw length 4, the low bytes of the pseudonyms, then zstd of columns: tenant runs, kinds (day −
// sent, stream, provider, class and regime, fetch), the pseudonyms' high bytes, each event's kind. The same events give
// the same bytes.
int64_t message_encode_block(struct message_codec *codec, const struct message_head *head,
                             const uint8_t rules_hash[RULES_HASH_SIZE], struct event *events, size_t n_events,
                             uint8_t *out) MUST_CHECK;
int64_t message_encode_register(const struct message_head *head, uint8_t *out) MUST_CHECK;
int64_t message_encode_close(const struct message_head *head, const struct close_body *body, uint8_t *out) MUST_CHECK;
int64_t message_encode_import(const struct message_head *head, const struct import_body *body, uint8_t *out) MUST_CHECK;
int64_t message_encode_retire(const struct message_head *head, const char *edge, uint8_t *out) MUST_CHECK;

// Checks the checksum and the head. ERR_CORRUPT: not ours or damaged; ERR_LIMIT: larger than MESSAGE_BYTES_MAX.
// `body` and `body_len` point into `data`.
int message_decode_head(const uint8_t *data, size_t len, struct message_head *head, const uint8_t **body,
                        size_t *body_len) MUST_CHECK;
// The events of a block: they live in the codec until its next call. ERR_CORRUPT where the body is not one.
int message_decode_block(struct message_codec *codec, const struct message_head *head, const uint8_t *body,
                         size_t body_len, uint8_t rules_hash[RULES_HASH_SIZE], const struct event **events,
                         size_t *n_events) MUST_CHECK;
int message_decode_close(struct message_codec *codec, const uint8_t *body, size_t body_len, struct close_body *close)
    MUST_CHECK;
int message_decode_import(struct message_codec *codec, const uint8_t *body, size_t body_len, struct import_body *import)
    MUST_CHECK;
int message_decode_retire(const uint8_t *body, size_t body_len, char edge[EDGE_ID_MAX + 1]) MUST_CHECK;

// 1..63 of [A-Za-z0-9._-].
bool edge_id_valid(const char *edge);
// A known class and regime, and not a scanner's fetch: what may stand in a block.
static inline bool event_valid(const struct event *event) {
    return event_class(event) >= CLASS_TRANSACTIONAL && event_class(event) <= CLASS_PROSPECTING &&
           event_regime(event) <= REGIME_AGGREGATE && event->fetch < FETCH_SCANNER;
}

#endif
