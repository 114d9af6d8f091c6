// Spool files in memory: the first byte chooses raw (even) or sealed (odd), chunks follow (framing.h). What decodes is
// well-formed, encodes again and decodes to the same; the scan gives every intact group once, in order.
#include "tests/fuzz/framing.h"
#include "tests/fuzz/fuzz.h"

#define FILE_SIZE (1u << 20)

static uint8_t file[FILE_SIZE], again[FILE_SIZE * 2];
static struct ledger ledger, ledger_again;
static struct sealed sealed, sealed_again;

static void check_same_ledger(void) {
    CHECK(ledger.day == ledger_again.day && ledger.closed_from == ledger_again.closed_from);
    CHECK(memcmp(&ledger.counts, &ledger_again.counts, sizeof ledger.counts) == 0);
    CHECK(ledger.n_ranges == ledger_again.n_ranges && ledger.n_ranges <= CLOSE_RANGES_MAX);
    CHECK(memcmp(ledger.ranges, ledger_again.ranges, ledger.n_ranges * sizeof *ledger.ranges) == 0);
}

static void check_same_head(const struct segment_head *a, const struct segment_head *b) {
    CHECK(a->kind == b->kind && a->rehearsal == b->rehearsal && strcmp(a->edge, b->edge) == 0);
    CHECK(a->epoch == b->epoch && a->segment == b->segment && a->epoch_first == b->epoch_first);
    CHECK(a->partitions == b->partitions && a->day == b->day);
    CHECK(memcmp(a->rules_hash, b->rules_hash, RULES_HASH_SIZE) == 0);
}

struct seen {
    uint64_t next; // least sequence that may come
    const uint8_t *end;
    const uint8_t *last;
};

static int group_seen(void *arg, const struct group *group, const uint8_t *events) {
    struct seen *seen = arg;
    CHECK(group->sequence >= seen->next && events > seen->last);
    CHECK(group->n_events <= (size_t)(seen->end - events) / GROUP_EVENT_BYTES);
    seen->next = (uint64_t)group->sequence + 1;
    seen->last = events;
    for (uint32_t i = 0; i < group->n_events; i++) {
        struct event event;
        uint8_t stored[GROUP_EVENT_BYTES];
        group_event_load(events + (size_t)i * GROUP_EVENT_BYTES, &event);
        group_event_store(stored, &event);
        CHECK(memcmp(stored, events + (size_t)i * GROUP_EVENT_BYTES, GROUP_EVENT_BYTES) == 0);
    }
    return 0;
}

static void check_raw(const uint8_t *data, size_t len) {
    struct segment_head head, head_again;
    int64_t header_len = raw_header_decode(data, len, &head, &ledger);
    if (header_len < 0)
        return;
    CHECK(header_len <= (int64_t)len && header_len % SEGMENT_PAGE == 0);
    int64_t encoded = raw_header_encode(&head, &ledger, again);
    CHECK(encoded > 0 && raw_header_decode(again, (size_t)encoded, &head_again, &ledger_again) == encoded);
    check_same_head(&head, &head_again);
    check_same_ledger();
    struct seen seen = {.end = data + len, .last = data};
    CHECK(raw_scan(data, len, &head, (size_t)header_len, group_seen, &seen) >= 0);
}

static void check_sealed(const uint8_t *data, size_t len) {
    if (sealed_decode(data, len, &sealed, &ledger) != 0)
        return;
    size_t messages_len = 0;
    for (size_t i = 0; i < sealed.head.partitions; i++)
        messages_len += sealed.message_len[i];
    CHECK(sealed.messages >= data && sealed.messages + messages_len == data + len);
    CHECK(sealed_decode(data, len, &sealed_again, NULL) == 0 && sealed_again.messages == sealed.messages);
    int64_t encoded = sealed_encode(&sealed.head, &ledger, sealed.message_len, sealed.messages, messages_len, again,
                                    sizeof again);
    CHECK(encoded == (int64_t)len && memcmp(again, data, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1)
        return 0;
    struct reader r = reader_of(data + 1, size - 1);
    bool is_sealed = data[0] % 2 == 1;
    size_t len = is_sealed ? frame_sealed(&r, file, sizeof file) : frame_raw(&r, file, sizeof file);
    // Memory of exactly that size, so that a read beyond it is seen.
    uint8_t *exact = malloc(len + (len == 0));
    CHECK(exact != NULL);
    memcpy(exact, file, len);
    if (is_sealed)
        check_sealed(exact, len);
    else
        check_raw(exact, len);
    free(exact);
    return 0;
}
