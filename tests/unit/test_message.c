// Messages: round trips, same bytes for the same content, and no bytes that decode without having been written.
#include "common/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "common/bytes.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static struct message_codec *codec;
static uint8_t out[MESSAGE_BYTES_MAX];
static uint8_t again[MESSAGE_BYTES_MAX];
static const uint8_t rules[RULES_HASH_SIZE] = {1, 2, 3, 31};
static struct event events[BLOCK_EVENTS_MAX];
static struct event kept[BLOCK_EVENTS_MAX];

static uint64_t random_state = 1;
static uint64_t random_next(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static struct message_head head_of(enum message_kind kind) {
    return (struct message_head){.kind = kind, .edge = "edge-1.example", .epoch = 0x123456789abcdef0u, .segment = 77,
                                 .epoch_first = 70, .partition = 3, .partitions = 8, .day = 20779};
}

static void events_fill(size_t n, uint32_t tenants) {
    for (size_t i = 0; i < n; i++) {
        events[i] = (struct event){.pseudonym = random_next(), .tenant = (uint32_t)(random_next() % tenants) + 1,
                                   .sent_day = 20779 - (uint32_t)(random_next() % 3),
                                   .stream = (uint16_t)(random_next() % 4), .provider = (uint8_t)(random_next() % 14),
                                   .class_regime = CLASS_TRANSACTIONAL << 4, .fetch = random_next() % 3 == 0};
    }
}

static void shuffle(size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = random_next() % i;
        struct event moved = events[i - 1];
        events[i - 1] = events[j];
        events[j] = moved;
    }
}

static size_t encode_block(size_t n) {
    struct message_head head = head_of(MESSAGE_BLOCK);
    int64_t len = message_encode_block(codec, &head, rules, events, n, out);
    assert_true(len > 0);
    return (size_t)len;
}

static void assert_block_is_kept(const uint8_t *data, size_t len, size_t n) {
    struct message_head head;
    const uint8_t *body;
    size_t body_len, n_events;
    uint8_t hash[RULES_HASH_SIZE];
    const struct event *decoded;
    assert_int_equal(message_decode_head(data, len, &head, &body, &body_len), 0);
    struct message_head want = head_of(MESSAGE_BLOCK);
    assert_string_equal(head.edge, want.edge);
    assert_true(head.kind == want.kind && head.epoch == want.epoch && head.segment == want.segment);
    assert_true(head.epoch_first == want.epoch_first && head.partition == want.partition && !head.rehearsal);
    assert_true(head.partitions == want.partitions && head.day == want.day);
    assert_int_equal(message_decode_block(codec, &head, body, body_len, hash, &decoded, &n_events), 0);
    assert_memory_equal(hash, rules, sizeof hash);
    assert_int_equal(n_events, n);
    for (size_t i = 0; i < n; i++)
        assert_memory_equal(&decoded[i], &kept[i], offsetof(struct event, fetch) + 1);
}

static void blocks_come_back_sorted(void **state) {
    (void)state;
    const size_t sizes[] = {0, 1, 2, 3, 100, 1250, BLOCK_EVENTS_MAX};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        events_fill(sizes[i], sizes[i] == BLOCK_EVENTS_MAX ? UINT32_MAX : 5);
        size_t len = encode_block(sizes[i]); // sorts `events` in place
        memcpy(kept, events, sizes[i] * sizeof *events);
        assert_block_is_kept(out, len, sizes[i]);
        memcpy(again, out, len);
        shuffle(sizes[i]);
        assert_int_equal(encode_block(sizes[i]), len);
        assert_memory_equal(out, again, len);
    }
}

// Keyed hashes are the rule, but a sender may hand out what it likes.
static uint64_t odd_pseudonym(unsigned kind, size_t i) {
    switch (kind) {
    case 0:
        return i; // numbered
    case 1:
        return 7;
    case 2:
        return i % 2 == 0 ? 1 : UINT64_MAX;
    case 3:
        return random_next() % 1000 << 42 | random_next() % 3; // few leading bits
    default:
        return random_next() >> 40;
    }
}

static void odd_pseudonyms_come_back_sorted(void **state) {
    (void)state;
    const size_t sizes[] = {64, 65, 3000};
    for (unsigned kind = 0; kind < 5; kind++) {
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            size_t n = sizes[i];
            events_fill(n, kind == 3 ? 1 : 3000000);
            for (size_t j = 0; j < n; j++)
                events[j].pseudonym = odd_pseudonym(kind, j);
            shuffle(n);
            size_t len = encode_block(n);
            memcpy(kept, events, n * sizeof *events);
            assert_block_is_kept(out, len, n);
            memcpy(again, out, len);
            shuffle(n);
            assert_int_equal(encode_block(n), len);
            assert_memory_equal(out, again, len);
        }
    }
}

static void every_field_may_be_extreme(void **state) {
    (void)state;
    for (size_t i = 0; i < 64; i++)
        events[i] = (struct event){.pseudonym = i & 1 ? UINT64_MAX : 0, .tenant = i & 2 ? UINT32_MAX : 0,
                                   .sent_day = i & 4 ? UINT32_MAX : 0, .stream = i & 8 ? UINT16_MAX : 0,
                                   .provider = i & 16 ? UINT8_MAX : 0, .fetch = i & 32 ? FETCH_MACHINE : FETCH_PERSON,
                                   .class_regime = CLASS_PROSPECTING << 4 | REGIME_AGGREGATE};
    size_t len = encode_block(64);
    memcpy(kept, events, 64 * sizeof *events);
    assert_block_is_kept(out, len, 64);
}

static void sizes_are_bounded(void **state) {
    (void)state;
    events_fill(1250, 50);
    size_t small = encode_block(1250);
    print_message("1250 events of 50 tenants: %.2f bytes an event\n", (double)small / 1250);
    assert_true(small < 1250 * 12);
    for (size_t i = 0; i < BLOCK_EVENTS_MAX; i++)
        events[i] = (struct event){.pseudonym = random_next(), .tenant = (uint32_t)random_next(),
                                   .sent_day = (uint32_t)random_next(), .stream = (uint16_t)random_next(),
                                   .provider = (uint8_t)random_next(), .class_regime = 0x12, .fetch = random_next() & 1};
    size_t large = encode_block(BLOCK_EVENTS_MAX);
    print_message("%d random events: %zu bytes of %u\n", BLOCK_EVENTS_MAX, large, MESSAGE_BYTES_MAX);
    assert_true(large < MESSAGE_BYTES_MAX * 9 / 10);
    struct message_head head = head_of(MESSAGE_BLOCK);
    assert_int_equal(message_encode_block(codec, &head, rules, events, BLOCK_EVENTS_MAX + 1, out), ERR_LIMIT);
}

static void bad_events_are_not_encoded(void **state) {
    (void)state;
    struct message_head head = head_of(MESSAGE_BLOCK);
    const uint8_t class_regimes[] = {0x00, 0x40, 0x13, 0xff};
    for (size_t i = 0; i < ARRAY_LEN(class_regimes); i++) {
        events_fill(2, 1);
        events[1].class_regime = class_regimes[i];
        assert_int_equal(message_encode_block(codec, &head, rules, events, 2, out), ERR_INVALID);
    }
    events_fill(2, 1);
    events[0].fetch = FETCH_SCANNER;
    assert_int_equal(message_encode_block(codec, &head, rules, events, 2, out), ERR_INVALID);
}

static int decode_head_only(const uint8_t *data, size_t len) {
    struct message_head head;
    const uint8_t *body;
    size_t body_len;
    return message_decode_head(data, len, &head, &body, &body_len);
}

static void damage_is_refused(void **state) {
    (void)state;
    events_fill(60, 7);
    size_t len = encode_block(60);
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *exact = malloc(cut + 1); // so that a sanitizer sees any read past the end
        assert_non_null(exact);
        memcpy(exact, out, cut);
        assert_int_equal(decode_head_only(exact, cut), ERR_CORRUPT);
        free(exact);
    }
    for (size_t bit = 0; bit < len * 8; bit++) {
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(decode_head_only(out, len), ERR_CORRUPT);
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(decode_head_only(out, len), 0);
    out[len] = 0;
    assert_int_equal(decode_head_only(out, len + 1), ERR_CORRUPT);
    assert_int_equal(decode_head_only(out, MESSAGE_BYTES_MAX + 1ul), ERR_LIMIT);
}

// What somebody who can compute the checksum could send: no bound may depend on its honesty.
static void hostile_bodies_are_refused(void **state) {
    (void)state;
    events_fill(60, 7);
    size_t len = encode_block(60), tried = 0;
    for (size_t at = 0; at < len - 8; at++) {
        const uint8_t values[] = {0x00, 0x01, 0x7f, 0xff, (uint8_t)random_next()};
        for (size_t v = 0; v < ARRAY_LEN(values); v++) {
            memcpy(again, out, len);
            again[at] = values[v];
            store_u64(again + len - 8, XXH3_64bits(again, len - 8));
            struct message_head head;
            const uint8_t *body;
            const struct event *decoded;
            size_t body_len, n_events;
            uint8_t hash[RULES_HASH_SIZE];
            if (message_decode_head(again, len, &head, &body, &body_len) != 0)
                continue;
            int rc = message_decode_block(codec, &head, body, body_len, hash, &decoded, &n_events);
            assert_true(rc == 0 || rc == ERR_CORRUPT);
            for (size_t i = 0; rc == 0 && i < n_events; i++)
                assert_true(event_valid(&decoded[i]));
            tried++;
        }
    }
    assert_true(tried > 1000);
    struct message_head head = head_of(MESSAGE_BLOCK);
    uint8_t body[RULES_HASH_SIZE + 8 + 16] = {0};
    uint8_t hash[RULES_HASH_SIZE];
    const struct event *decoded;
    size_t n_events;
    const uint32_t numbers[][2] = {{1, 0}, {0, 1}, {UINT32_MAX, UINT32_MAX}, {65537, 100}, {65536, UINT32_MAX}, {1, 29}};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        store_u32(body + RULES_HASH_SIZE, numbers[i][0]);
        store_u32(body + RULES_HASH_SIZE + 4, numbers[i][1]);
        for (size_t n = 0; n <= sizeof body; n++) {
            bool empty_block = numbers[i][0] == 0 && numbers[i][1] == 0 && n == RULES_HASH_SIZE + 8;
            int rc = message_decode_block(codec, &head, body, n, hash, &decoded, &n_events);
            assert_int_equal(rc, empty_block ? 0 : ERR_CORRUPT);
        }
    }
}

static void registers_round_trip(void **state) {
    (void)state;
    struct message_head head = head_of(MESSAGE_REGISTER), back;
    head.rehearsal = true;
    memset(head.edge, 'e', EDGE_ID_MAX);
    const uint8_t *body;
    size_t body_len;
    int64_t len = message_encode_register(&head, out);
    assert_true(len > 0);
    assert_int_equal(message_decode_head(out, (size_t)len, &back, &body, &body_len), 0);
    assert_true(back.kind == MESSAGE_REGISTER && back.rehearsal && body_len == 0);
    assert_string_equal(back.edge, head.edge);
}

static void closes_round_trip(void **state) {
    (void)state;
    static struct segment_range ranges[CLOSE_RANGES_MAX];
    for (size_t i = 0; i < CLOSE_RANGES_MAX; i++)
        ranges[i] = (struct segment_range){.epoch = random_next(), .first = 10 * i, .last = 10 * i + i % 10};
    struct message_head head = head_of(MESSAGE_CLOSE), back;
    struct close_body body = {.from_day = head.day - 2, .recorded_here = 5, .n_ranges = CLOSE_RANGES_MAX, .ranges = ranges,
                              .counts = {.requests = 107, .recorded = 7, .drops = {90, 9, 1}}};
    struct close_body decoded;
    const uint8_t *data;
    size_t data_len;
    int64_t len = message_encode_close(&head, &body, out);
    assert_true(len > 0);
    assert_int_equal(message_decode_head(out, (size_t)len, &back, &data, &data_len), 0);
    assert_int_equal(message_decode_close(codec, data, data_len, &decoded), 0);
    assert_int_equal(decoded.from_day, body.from_day);
    assert_memory_equal(&decoded.counts, &body.counts, sizeof body.counts);
    assert_int_equal(decoded.recorded_here, 5);
    assert_int_equal(decoded.n_ranges, CLOSE_RANGES_MAX);
    assert_memory_equal(decoded.ranges, ranges, sizeof ranges);
    for (size_t cut = 0; cut < 200; cut++)
        assert_int_equal(message_decode_close(codec, data, cut, &decoded), ERR_CORRUPT);
    body.n_ranges++;
    assert_int_equal(message_encode_close(&head, &body, out), ERR_LIMIT);
    body.n_ranges = 2;
    ranges[1].first = ranges[0].last;
    assert_int_equal(message_encode_close(&head, &body, out), ERR_INVALID);
    body.n_ranges = 0;
    body.from_day = head.day + 1;
    assert_int_equal(message_encode_close(&head, &body, out), ERR_INVALID);
}

static void imports_and_retirements_round_trip(void **state) {
    (void)state;
    static struct import_row rows[IMPORT_ROWS_MAX];
    for (size_t i = 0; i < IMPORT_ROWS_MAX; i++)
        rows[i] = (struct import_row){.pseudonym = random_next(), .day = (uint32_t)i};
    struct message_head head = head_of(MESSAGE_IMPORT), back;
    struct import_body body = {.tenant = 7, .measured_since = 20000, .n_rows = IMPORT_ROWS_MAX, .rows = rows}, decoded;
    const uint8_t *data;
    size_t data_len;
    int64_t len = message_encode_import(&head, &body, out);
    assert_true(len > 0);
    assert_int_equal(message_decode_head(out, (size_t)len, &back, &data, &data_len), 0);
    assert_int_equal(message_decode_import(codec, data, data_len, &decoded), 0);
    assert_true(decoded.tenant == 7 && decoded.measured_since == 20000 && decoded.n_rows == IMPORT_ROWS_MAX);
    for (size_t i = 0; i < IMPORT_ROWS_MAX; i++)
        assert_true(decoded.rows[i].pseudonym == rows[i].pseudonym && decoded.rows[i].day == rows[i].day);
    assert_int_equal(message_decode_import(codec, data, data_len - 1, &decoded), ERR_CORRUPT);
    body.n_rows++;
    assert_int_equal(message_encode_import(&head, &body, out), ERR_LIMIT);

    char edge[EDGE_ID_MAX + 1];
    head = head_of(MESSAGE_RETIRE);
    len = message_encode_retire(&head, "gone-7", out);
    assert_true(len > 0);
    assert_int_equal(message_decode_head(out, (size_t)len, &back, &data, &data_len), 0);
    assert_int_equal(message_decode_retire(data, data_len, edge), 0);
    assert_string_equal(edge, "gone-7");
    assert_int_equal(message_decode_retire(data, data_len - 1, edge), ERR_CORRUPT);
    assert_int_equal(message_encode_retire(&head, "two words", out), ERR_INVALID);
}

static void edge_ids(void **state) {
    (void)state;
    assert_true(edge_id_valid("a"));
    assert_true(edge_id_valid("Edge_1.example-2"));
    assert_false(edge_id_valid(""));
    assert_false(edge_id_valid("a/b"));
    assert_false(edge_id_valid("é"));
    char text[EDGE_ID_MAX + 2];
    memset(text, 'x', sizeof text);
    text[EDGE_ID_MAX + 1] = '\0';
    assert_false(edge_id_valid(text));
    text[EDGE_ID_MAX] = '\0';
    assert_true(edge_id_valid(text));
}

static int set_up(void **state) {
    (void)state;
    return message_codec_create(&codec);
}

static int tear_down(void **state) {
    (void)state;
    message_codec_free(codec);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_back_sorted),
        cmocka_unit_test(odd_pseudonyms_come_back_sorted),
        cmocka_unit_test(every_field_may_be_extreme),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(bad_events_are_not_encoded),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(hostile_bodies_are_refused),
        cmocka_unit_test(registers_round_trip),
        cmocka_unit_test(closes_round_trip),
        cmocka_unit_test(imports_and_retirements_round_trip),
        cmocka_unit_test(edge_ids),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
