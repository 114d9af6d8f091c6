// Messages between edge and aggregator. The first byte says what the rest is: 0 a whole message, whose length of the body
// and checksum are set right here, because no fuzzer guesses those; 1 the columns of a block before compression, after
// its number of events, all low bytes of the pseudonyms being 0; 2 the body of a close, 3 of an import, 4 of a
// retirement; 5 a whole message as it is.
#include "tests/fuzz/framing.h"
#include "tests/fuzz/fuzz.h"

#include <zstd.h>

#define INPUT_MAX 65536

static struct message_codec *codec;
static uint8_t input[INPUT_MAX + FRAMING_CHECKSUM_SIZE], again[MESSAGE_BYTES_MAX], packed[MESSAGE_BYTES_MAX];
static struct event events_copy[BLOCK_EVENTS_MAX];
static struct segment_range ranges_copy[CLOSE_RANGES_MAX];

static void check_block(const struct message_head *head, const uint8_t *body, size_t len) {
    uint8_t rules[RULES_HASH_SIZE], rules_back[RULES_HASH_SIZE];
    const struct event *events;
    size_t n, n_back, body_len;
    struct message_head head_back;
    const uint8_t *body_back;
    if (message_decode_block(codec, head, body, len, rules, &events, &n) != 0)
        return;
    CHECK(n <= BLOCK_EVENTS_MAX);
    for (size_t i = 0; i < n; i++)
        CHECK(event_valid(&events[i]));
    memcpy(events_copy, events, n * sizeof *events);
    int64_t encoded = message_encode_block(codec, head, rules, events_copy, n, again);
    CHECK(encoded > 0);
    CHECK(message_decode_head(again, (size_t)encoded, &head_back, &body_back, &body_len) == 0);
    CHECK(message_decode_block(codec, &head_back, body_back, body_len, rules_back, &events, &n_back) == 0);
    CHECK(n_back == n && memcmp(rules, rules_back, sizeof rules) == 0);
    for (size_t i = 0; i < n; i++)
        CHECK(events[i].pseudonym == events_copy[i].pseudonym && events[i].tenant == events_copy[i].tenant &&
              events[i].sent_day == events_copy[i].sent_day && events[i].fetch == events_copy[i].fetch);
}

// Every other kind has exactly one encoding.
static void check_same(int64_t encoded, const uint8_t *body, size_t len) {
    struct message_head head;
    const uint8_t *body_back;
    size_t len_back;
    CHECK(encoded > 0);
    CHECK(message_decode_head(again, (size_t)encoded, &head, &body_back, &len_back) == 0);
    CHECK(len_back == len && memcmp(body_back, body, len) == 0);
}

static void check_close(const struct message_head *head, const uint8_t *body, size_t len) {
    struct close_body close;
    if (message_decode_close(codec, body, len, &close) != 0)
        return;
    CHECK(close.n_ranges <= CLOSE_RANGES_MAX);
    memcpy(ranges_copy, close.ranges, close.n_ranges * sizeof *close.ranges);
    close.ranges = ranges_copy;
    struct message_head after = *head;
    if (close.from_day > after.day)
        after.day = close.from_day; // the head's day is only known where there is a head
    check_same(message_encode_close(&after, &close, again), body, len);
}

static void check_import(const struct message_head *head, const uint8_t *body, size_t len) {
    struct import_body import;
    if (message_decode_import(codec, body, len, &import) == 0)
        check_same(message_encode_import(head, &import, again), body, len);
}

static void check_retire(const struct message_head *head, const uint8_t *body, size_t len) {
    char edge[EDGE_ID_MAX + 1];
    if (message_decode_retire(body, len, edge) != 0)
        return;
    CHECK(edge_id_valid(edge));
    check_same(message_encode_retire(head, edge, again), body, len);
}

static void check_body(const struct message_head *head, const uint8_t *body, size_t len) {
    switch (head->kind) {
    case MESSAGE_BLOCK:
        check_block(head, body, len);
        break;
    case MESSAGE_CLOSE:
        check_close(head, body, len);
        break;
    case MESSAGE_IMPORT:
        check_import(head, body, len);
        break;
    case MESSAGE_RETIRE:
        check_retire(head, body, len);
        break;
    default:
        CHECK(head->kind == MESSAGE_REGISTER && len == 0);
    }
}

static void check_message(const uint8_t *data, size_t len) {
    struct message_head head;
    const uint8_t *body;
    size_t body_len;
    if (message_decode_head(data, len, &head, &body, &body_len) != 0)
        return;
    CHECK(body >= data && body + body_len <= data + len && edge_id_valid(head.edge));
    CHECK(head.partition < head.partitions && head.epoch_first <= head.segment);
    check_body(&head, body, body_len);
}

static void check_columns(const struct message_head *head, const uint8_t *data, size_t len) {
    if (len < 4)
        return;
    size_t n_events = load_u32(data);
    size_t low = n_events > BLOCK_EVENTS_MAX ? 0 : 5 * n_events;
    size_t fixed = RULES_HASH_SIZE + 8 + low;
    memset(packed, 0, fixed);
    memcpy(packed + RULES_HASH_SIZE, data, 4);
    store_u32(packed + RULES_HASH_SIZE + 4, (uint32_t)len - 4);
    size_t n = len == 4 ? 0 : ZSTD_compress(packed + fixed, sizeof packed - fixed, data + 4, len - 4, 1);
    CHECK(!ZSTD_isError(n));
    check_block(head, packed, fixed + n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const enum message_kind kinds[] = {0, MESSAGE_BLOCK, MESSAGE_CLOSE, MESSAGE_IMPORT, MESSAGE_RETIRE};
    if (codec == NULL)
        CHECK(message_codec_create(&codec) == 0);
    if (size < 1 || size > INPUT_MAX)
        return 0;
    unsigned what = data[0];
    struct message_head head = {.edge = "e", .segment = 7, .epoch_first = 7, .partitions = 8, .day = 20779};
    if (what == 0) {
        memcpy(input, data + 1, size - 1);
        check_message(input, frame_message(input, size - 1));
        return 0;
    }
    if (what >= ARRAY_LEN(kinds))
        check_message(data + 1, size - 1);
    else if ((head.kind = kinds[what]) == MESSAGE_BLOCK)
        check_columns(&head, data + 1, size - 1);
    else
        check_body(&head, data + 1, size - 1);
    return 0;
}
