// The files of a spool. Two kinds, both named by the segment's number in 16 hex digits:
//   open-<number>.log    raw: a header, then commit groups at 4 KiB boundaries, in a preallocated, recycled file
//   sealed-<number>.seg  sealed: a header with the ledger, then one message (common/message.h) for every partition
// and recycled files free-<k>.log. The ledger in each header repeats, for every day not yet closed, the counters and the
// segments of each epoch, so that the state of a spool is what a scan of its files says. Only the edge creates files
// here; sealed ones are deleted by whoever consumed them (forwarder or single-node aggregator), never the newest.
// Pure codecs over memory plus two readers of whole files; any thread. Any bytes are safe to decode.
#ifndef OPENVEIL_SEGMENT_H
#define OPENVEIL_SEGMENT_H

#include "common/err.h"
#include "common/files.h"
#include "common/message.h"

#define SEGMENT_PAGE 4096
#define SEGMENT_HEADER_BYTES_MAX (1u << 20)
#define SEALED_BYTES_MAX (64u << 20)
#define LEDGER_PARTITIONS_MAX PARTITIONS_MAX

// What is known of the one day that is not closed, and of all days before it.
struct ledger {
    uint32_t day;         // the open day
    uint32_t closed_from; // the first day that this edge has not yet announced as closed (== day unless it was off)
    struct edge_counts counts;
    uint64_t recorded_by_partition[LEDGER_PARTITIONS_MAX];
    size_t n_ranges;
    struct segment_range ranges[CLOSE_RANGES_MAX];
};

struct segment_head {
    enum message_kind kind; // a raw segment is always MESSAGE_BLOCK
    bool rehearsal;
    char edge[EDGE_ID_MAX + 1];
    uint64_t epoch;
    uint64_t segment;
    uint64_t epoch_first;
    uint16_t partitions;
    uint32_t day;
    uint8_t rules_hash[RULES_HASH_SIZE]; // of the fetch-class file in force when the segment began
};

// Raw segment: the header fills whole pages; `ledger` is the state before this segment. Returns its length (a multiple
// of SEGMENT_PAGE) or ERR_LIMIT. `out` holds SEGMENT_HEADER_BYTES_MAX.
int64_t raw_header_encode(const struct segment_head *head, const struct ledger *ledger, uint8_t *out) MUST_CHECK;
int64_t raw_header_decode(const uint8_t *data, size_t len, struct segment_head *head, struct ledger *ledger) MUST_CHECK;

// A commit group: header 4+8+8+4+4+4*EDGE_DROPS_STORED+8 bytes ("OVG1", epoch, segment, sequence, events, drops,
// XXH3-64 of the events, seeded with that of the fields before), then 21 bytes an event; padded with zeros to a page.
#define GROUP_HEADER_BYTES (4 + 8 + 8 + 4 + 4 + 4 * EDGE_DROPS_STORED + 8)
#define GROUP_EVENT_BYTES 21
#define GROUP_EVENTS_MAX BLOCK_EVENTS_MAX
static inline size_t group_bytes(size_t n_events) {
    size_t used = GROUP_HEADER_BYTES + n_events * GROUP_EVENT_BYTES;
    return (used + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
}
struct group {
    uint32_t sequence; // 0, 1, 2 … within the segment
    uint32_t n_events;
    uint32_t drops[EDGE_DROPS_STORED];
};
static inline void group_event_store(uint8_t *out, const struct event *event);
static inline void group_event_load(const uint8_t *in, struct event *event);
// Seals a group in place: `out` already holds n_events stored events from GROUP_HEADER_BYTES on; fills header, padding
// and checksum. Returns group_bytes(n_events).
size_t group_encode(uint64_t epoch, uint64_t segment, const struct group *group, uint8_t *out);
// One group at `data`: its length in bytes, 0 where there is no group of this segment, ERR_CORRUPT where one was begun
// but its bytes are not what was written.
int64_t group_decode(const uint8_t *data, size_t len, uint64_t epoch, uint64_t segment, struct group *group) MUST_CHECK;

// Walks all groups of a raw segment in memory, in any order of damage: calls `each` for every intact group. Returns the
// number of groups that were damaged although a later one is intact (0: only, at most, a torn tail), or a negative
// ERR_* from `each`.
typedef int (*group_fn)(void *arg, const struct group *group, const uint8_t *events);
int64_t raw_scan(const uint8_t *data, size_t len, const struct segment_head *head, size_t header_len, group_fn each,
                 void *arg) MUST_CHECK;

// Sealed segment: header with the ledger *after* this segment, a table of `partitions` lengths, then the messages.
// `messages` are consecutive in memory. Returns the whole file's length; `out` holds SEALED_BYTES_MAX.
int64_t sealed_encode(const struct segment_head *head, const struct ledger *ledger, const uint32_t *message_len,
                      const uint8_t *messages, size_t messages_len, uint8_t *out, size_t out_size) MUST_CHECK;
struct sealed {
    struct segment_head head;
    uint32_t message_len[LEDGER_PARTITIONS_MAX];
    const uint8_t *messages; // points into the decoded bytes
};
// `ledger` may be NULL. The messages' own checksums are not looked at here.
int sealed_decode(const uint8_t *data, size_t len, struct sealed *sealed, struct ledger *ledger) MUST_CHECK;

#define SEGMENT_NAME_SIZE 32
void raw_name(uint64_t segment, char name[SEGMENT_NAME_SIZE]);
void sealed_name(uint64_t segment, char name[SEGMENT_NAME_SIZE]);
// The number in a file name of that kind; false where it is another file.
bool raw_name_parse(const char *name, uint64_t *segment);
bool sealed_name_parse(const char *name, uint64_t *segment);

#include "common/bytes.h"
static inline void group_event_store(uint8_t *out, const struct event *event) {
    store_u64(out, event->pseudonym);
    store_u32(out + 8, event->tenant);
    store_u32(out + 12, event->sent_day);
    store_u16(out + 16, event->stream);
    out[18] = event->provider;
    out[19] = event->class_regime;
    out[20] = event->fetch;
}
static inline void group_event_load(const uint8_t *in, struct event *event) {
    *event = (struct event){.pseudonym = load_u64(in), .tenant = load_u32(in + 8), .sent_day = load_u32(in + 12),
                            .stream = load_u16(in + 16), .provider = in[18], .class_regime = in[19], .fetch = in[20]};
}

#endif
