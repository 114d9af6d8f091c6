#include "common/segment.h"

#include <assert.h>
#include <inttypes.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define RAW_MAGIC "OVR1"
#define SEALED_MAGIC "OVS1"
#define GROUP_MAGIC "OVG1"
#define MAGIC_SIZE 4
#define CHECKSUM_SIZE 8
#define FLAG_REHEARSAL 1u
#define RANGE_SIZE 24
// No edge counts so many in a day: a header that says so is damaged, and more can be added to what is read.
#define LEDGER_REQUESTS_MAX ((uint64_t)1 << 60)
#define GROUP_CHECKSUM_AT (GROUP_HEADER_BYTES - CHECKSUM_SIZE)
#define HEAD_SIZE_MAX (4 + 4 + 3 + EDGE_ID_MAX + 8 + 8 + 8 + 2 + 4 + RULES_HASH_SIZE)
#define LEDGER_FIXED_SIZE (4 + 4 + 8 + 8 + 8 * EDGE_DROPS_STORED)
#define LEDGER_SIZE_MAX (LEDGER_FIXED_SIZE + 8 * LEDGER_PARTITIONS_MAX + 4 + RANGE_SIZE * CLOSE_RANGES_MAX)

static_assert(HEAD_SIZE_MAX + LEDGER_SIZE_MAX + 4 * LEDGER_PARTITIONS_MAX + CHECKSUM_SIZE + SEGMENT_PAGE <
                  SEGMENT_HEADER_BYTES_MAX,
              "the largest ledger fits a header");

static bool head_valid(const struct segment_head *head) {
    return head->kind >= MESSAGE_BLOCK && head->kind <= MESSAGE_CLOSE && edge_id_valid(head->edge) &&
           head->partitions >= 1 && head->partitions <= LEDGER_PARTITIONS_MAX && head->epoch_first <= head->segment;
}

// Adds to a sum of counts that must not pass `most`.
static bool count_add(uint64_t *sum, uint64_t count, uint64_t most) {
    if (count > most - *sum)
        return false;
    *sum += count;
    return true;
}

// Every outcome is in exactly one place, also of each partition.
static bool ledger_valid(const struct ledger *ledger, uint16_t partitions) {
    const struct edge_counts *counts = &ledger->counts;
    uint64_t requests = 0, recorded = 0;
    bool fits = count_add(&requests, counts->recorded, counts->requests);
    for (size_t i = 0; i < EDGE_DROPS_STORED && fits; i++)
        fits = count_add(&requests, counts->drops[i], counts->requests);
    for (size_t i = 0; i < partitions && fits; i++)
        fits = count_add(&recorded, ledger->recorded_by_partition[i], counts->recorded);
    if (!fits || requests != counts->requests || recorded != counts->recorded || ledger->closed_from > ledger->day)
        return false;
    for (size_t i = 0; i < ledger->n_ranges; i++) {
        const struct segment_range *range = &ledger->ranges[i];
        if (range->first > range->last || (i > 0 && range->first <= range[-1].last))
            return false;
    }
    return true;
}

// Magic, room for the header's length, head and ledger; returns where the length goes.
static uint8_t *header_write(struct writer *w, const char *magic, const struct segment_head *head,
                             const struct ledger *ledger) {
    CHECK(head_valid(head));
    CHECK(ledger->n_ranges <= CLOSE_RANGES_MAX && ledger_valid(ledger, head->partitions));
    uint8_t edge_len = (uint8_t)strlen(head->edge);
    write_bytes(w, magic, MAGIC_SIZE);
    uint8_t *header_len = write_space(w, 4);
    write_u8(w, (uint8_t)head->kind);
    write_u8(w, head->rehearsal ? FLAG_REHEARSAL : 0);
    write_u8(w, edge_len);
    write_bytes(w, head->edge, edge_len);
    write_u64(w, head->epoch);
    write_u64(w, head->segment);
    write_u64(w, head->epoch_first);
    write_u16(w, head->partitions);
    write_u32(w, head->day);
    write_bytes(w, head->rules_hash, RULES_HASH_SIZE);
    write_u32(w, ledger->day);
    write_u32(w, ledger->closed_from);
    write_u64(w, ledger->counts.requests);
    write_u64(w, ledger->counts.recorded);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        write_u64(w, ledger->counts.drops[i]);
    for (size_t i = 0; i < head->partitions; i++)
        write_u64(w, ledger->recorded_by_partition[i]);
    write_u32(w, (uint32_t)ledger->n_ranges);
    for (size_t i = 0; i < ledger->n_ranges; i++) {
        write_u64(w, ledger->ranges[i].epoch);
        write_u64(w, ledger->ranges[i].first);
        write_u64(w, ledger->ranges[i].last);
    }
    return header_len;
}

// The header's length where its checksum holds, or ERR_CORRUPT. Both kinds end with that checksum.
static int64_t header_check(const uint8_t *data, size_t len, const char *magic) {
    if (len < MAGIC_SIZE + 4 || memcmp(data, magic, MAGIC_SIZE) != 0)
        return ERR_CORRUPT;
    size_t header_len = load_u32(data + MAGIC_SIZE);
    if (header_len < MAGIC_SIZE + 4 + CHECKSUM_SIZE || header_len > len || header_len > SEGMENT_HEADER_BYTES_MAX)
        return ERR_CORRUPT;
    size_t hashed = header_len - CHECKSUM_SIZE;
    return load_u64(data + hashed) == XXH3_64bits(data, hashed) ? (int64_t)header_len : ERR_CORRUPT;
}

static int head_read(struct reader *r, struct segment_head *head) {
    memset(head, 0, sizeof *head);
    head->kind = read_u8(r);
    uint8_t flags = read_u8(r);
    size_t edge_len = read_u8(r);
    const uint8_t *edge = read_bytes(r, edge_len);
    if (edge == NULL || edge_len > EDGE_ID_MAX || flags > FLAG_REHEARSAL)
        return ERR_CORRUPT;
    memcpy(head->edge, edge, edge_len);
    head->rehearsal = flags != 0;
    head->epoch = read_u64(r);
    head->segment = read_u64(r);
    head->epoch_first = read_u64(r);
    head->partitions = read_u16(r);
    head->day = read_u32(r);
    const uint8_t *rules_hash = read_bytes(r, RULES_HASH_SIZE);
    if (rules_hash == NULL || strlen(head->edge) != edge_len || !head_valid(head))
        return ERR_CORRUPT;
    memcpy(head->rules_hash, rules_hash, RULES_HASH_SIZE);
    return 0;
}

static int ledger_read(struct reader *r, uint16_t partitions, struct ledger *ledger) {
    memset(ledger, 0, offsetof(struct ledger, ranges));
    ledger->day = read_u32(r);
    ledger->closed_from = read_u32(r);
    ledger->counts.requests = read_u64(r);
    ledger->counts.recorded = read_u64(r);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        ledger->counts.drops[i] = read_u64(r);
    for (size_t i = 0; i < partitions; i++)
        ledger->recorded_by_partition[i] = read_u64(r);
    ledger->n_ranges = read_u32(r);
    if (r->bad || ledger->n_ranges > CLOSE_RANGES_MAX || reader_left(r) < ledger->n_ranges * RANGE_SIZE)
        return ERR_CORRUPT;
    for (size_t i = 0; i < ledger->n_ranges; i++) {
        ledger->ranges[i].epoch = read_u64(r);
        ledger->ranges[i].first = read_u64(r);
        ledger->ranges[i].last = read_u64(r);
    }
    return ledger_valid(ledger, partitions) && ledger->counts.requests <= LEDGER_REQUESTS_MAX ? 0 : ERR_CORRUPT;
}

// Steps over a ledger that nobody asked for.
static void ledger_skip(struct reader *r, uint16_t partitions) {
    read_bytes(r, LEDGER_FIXED_SIZE + 8 * (size_t)partitions);
    size_t n_ranges = read_u32(r);
    read_bytes(r, n_ranges * RANGE_SIZE);
}

int64_t raw_header_encode(const struct segment_head *head, const struct ledger *ledger, uint8_t *out) {
    CHECK(head->kind == MESSAGE_BLOCK);
    struct writer w = writer_of(out, SEGMENT_HEADER_BYTES_MAX);
    uint8_t *header_len = header_write(&w, RAW_MAGIC, head, ledger);
    if (w.bad)
        return ERR_LIMIT;
    size_t used = (size_t)(w.at - out) + CHECKSUM_SIZE;
    size_t len = (used + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
    CHECK(len <= SEGMENT_HEADER_BYTES_MAX);
    store_u32(header_len, (uint32_t)len);
    memset(w.at, 0, len - used);
    store_u64(out + len - CHECKSUM_SIZE, XXH3_64bits(out, len - CHECKSUM_SIZE));
    return (int64_t)len;
}

int64_t raw_header_decode(const uint8_t *data, size_t len, struct segment_head *head, struct ledger *ledger) {
    int64_t header_len = header_check(data, len, RAW_MAGIC);
    if (header_len < 0 || header_len % SEGMENT_PAGE != 0)
        return ERR_CORRUPT;
    struct reader r = reader_of(data + MAGIC_SIZE + 4, (size_t)header_len - MAGIC_SIZE - 4 - CHECKSUM_SIZE);
    if (head_read(&r, head) != 0 || head->kind != MESSAGE_BLOCK || ledger_read(&r, head->partitions, ledger) != 0)
        return ERR_CORRUPT;
    return header_len;
}

static uint64_t group_checksum(const uint8_t *group, uint32_t n_events) {
    return XXH3_64bits_withSeed(group + GROUP_HEADER_BYTES, (size_t)n_events * GROUP_EVENT_BYTES,
                                XXH3_64bits(group, GROUP_CHECKSUM_AT));
}

size_t group_encode(uint64_t epoch, uint64_t segment, const struct group *group, uint8_t *out) {
    CHECK(group->n_events <= GROUP_EVENTS_MAX);
    memcpy(out, GROUP_MAGIC, MAGIC_SIZE);
    store_u64(out + 4, epoch);
    store_u64(out + 12, segment);
    store_u32(out + 20, group->sequence);
    store_u32(out + 24, group->n_events);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        store_u32(out + 28 + 4 * i, group->drops[i]);
    static_assert(28 + 4 * EDGE_DROPS_STORED == GROUP_CHECKSUM_AT, "the drops end where the checksum begins");
    store_u64(out + GROUP_CHECKSUM_AT, group_checksum(out, group->n_events));
    size_t used = GROUP_HEADER_BYTES + (size_t)group->n_events * GROUP_EVENT_BYTES;
    size_t len = group_bytes(group->n_events);
    memset(out + used, 0, len - used);
    return len;
}

int64_t group_decode(const uint8_t *data, size_t len, uint64_t epoch, uint64_t segment, struct group *group) {
    struct reader r = reader_of(data, len);
    const uint8_t *magic = read_bytes(&r, MAGIC_SIZE);
    if (magic == NULL || memcmp(magic, GROUP_MAGIC, MAGIC_SIZE) != 0)
        return 0;
    if (read_u64(&r) != epoch || read_u64(&r) != segment)
        return 0;
    group->sequence = read_u32(&r);
    group->n_events = read_u32(&r);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        group->drops[i] = read_u32(&r);
    uint64_t checksum = read_u64(&r);
    if (r.bad || group->n_events > GROUP_EVENTS_MAX || group_bytes(group->n_events) > len)
        return ERR_CORRUPT;
    if (checksum != group_checksum(data, group->n_events))
        return ERR_CORRUPT;
    return (int64_t)group_bytes(group->n_events);
}

int64_t raw_scan(const uint8_t *data, size_t len, const struct segment_head *head, size_t header_len, group_fn each,
                 void *arg) {
    CHECK(header_len % SEGMENT_PAGE == 0);
    uint64_t expected = 0; // wider than a sequence: nothing follows the last one
    int64_t damaged = 0;
    for (size_t at = header_len; at < len;) {
        struct group group;
        int64_t group_len = group_decode(data + at, len - at, head->epoch, head->segment, &group);
        // Past a damaged group the next one begins at some later page; a sequence that goes back is none of ours.
        if (group_len <= 0 || group.sequence < expected) {
            at += SEGMENT_PAGE;
            continue;
        }
        int rc = each(arg, &group, data + at + GROUP_HEADER_BYTES);
        if (rc < 0)
            return rc;
        damaged += (int64_t)(group.sequence - expected);
        expected = (uint64_t)group.sequence + 1;
        at += (size_t)group_len;
    }
    return damaged;
}

int64_t sealed_encode(const struct segment_head *head, const struct ledger *ledger, const uint32_t *message_len,
                      const uint8_t *messages, size_t messages_len, uint8_t *out, size_t out_size) {
    struct writer w = writer_of(out, out_size);
    uint8_t *header_len = header_write(&w, SEALED_MAGIC, head, ledger);
    size_t total = 0;
    for (size_t i = 0; i < head->partitions; i++) {
        CHECK(message_len[i] > 0);
        write_u32(&w, message_len[i]);
        total += message_len[i];
    }
    CHECK(total == messages_len);
    if (w.bad)
        return ERR_LIMIT;
    size_t hashed = (size_t)(w.at - out);
    store_u32(header_len, (uint32_t)(hashed + CHECKSUM_SIZE));
    write_u64(&w, XXH3_64bits(out, hashed));
    write_bytes(&w, messages, messages_len);
    return w.bad || w.at - out > SEALED_BYTES_MAX ? ERR_LIMIT : w.at - out;
}

int sealed_decode(const uint8_t *data, size_t len, struct sealed *sealed, struct ledger *ledger) {
    int64_t header_len = header_check(data, len, SEALED_MAGIC);
    if (header_len < 0)
        return ERR_CORRUPT;
    struct reader r = reader_of(data + MAGIC_SIZE + 4, (size_t)header_len - MAGIC_SIZE - 4 - CHECKSUM_SIZE);
    if (head_read(&r, &sealed->head) != 0)
        return ERR_CORRUPT;
    if (ledger == NULL)
        ledger_skip(&r, sealed->head.partitions);
    else if (ledger_read(&r, sealed->head.partitions, ledger) != 0)
        return ERR_CORRUPT;
    uint64_t total = 0;
    memset(sealed->message_len, 0, sizeof sealed->message_len);
    for (size_t i = 0; i < sealed->head.partitions; i++) {
        sealed->message_len[i] = read_u32(&r);
        total += sealed->message_len[i];
        if (sealed->message_len[i] == 0 || sealed->message_len[i] > MESSAGE_BYTES_MAX)
            return ERR_CORRUPT;
    }
    if (r.bad || reader_left(&r) != 0 || total != len - (size_t)header_len)
        return ERR_CORRUPT;
    sealed->messages = data + header_len;
    return 0;
}

void raw_name(uint64_t segment, char name[SEGMENT_NAME_SIZE]) {
    snprintf(name, SEGMENT_NAME_SIZE, "open-%016" PRIx64 ".log", segment);
}

void sealed_name(uint64_t segment, char name[SEGMENT_NAME_SIZE]) {
    snprintf(name, SEGMENT_NAME_SIZE, "sealed-%016" PRIx64 ".seg", segment);
}

static bool name_parse(const char *name, const char *prefix, const char *suffix, uint64_t *segment) {
    size_t prefix_len = strlen(prefix);
    if (strncmp(name, prefix, prefix_len) != 0 || strspn(name + prefix_len, "0123456789abcdef") != 16 ||
        strcmp(name + prefix_len + 16, suffix) != 0)
        return false;
    *segment = strtoull(name + prefix_len, NULL, 16);
    return true;
}

bool raw_name_parse(const char *name, uint64_t *segment) {
    return name_parse(name, "open-", ".log", segment);
}

bool sealed_name_parse(const char *name, uint64_t *segment) {
    return name_parse(name, "sealed-", ".seg", segment);
}
