// Segment files: headers, commit groups, the scan of a damaged raw segment, sealed files.
#include "common/segment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define PARTITIONS 8
#define RAW_PAGES 8

static struct ledger *ledger, *decoded;
static uint8_t *header;
static uint8_t raw[RAW_PAGES * SEGMENT_PAGE];
static size_t raw_len, header_len;

static struct segment_head head_of(enum message_kind kind) {
    return (struct segment_head){.kind = kind, .edge = "edge-1", .epoch = 0xfeedface12345678u, .segment = 0x512b00000007u,
                                 .epoch_first = 0x512b00000001u, .partitions = PARTITIONS, .day = 20779,
                                 .rules_hash = {9, 8, 7}};
}

static void ledger_fill(size_t n_ranges) {
    memset(ledger, 0, sizeof *ledger);
    ledger->day = 20779;
    ledger->closed_from = 20777;
    ledger->counts = (struct edge_counts){.requests = 110, .recorded = 100, .drops = {7, 2, 1}};
    ledger->recorded_by_partition[0] = 60;
    ledger->recorded_by_partition[PARTITIONS - 1] = 40;
    ledger->n_ranges = n_ranges;
    for (size_t i = 0; i < n_ranges; i++)
        ledger->ranges[i] = (struct segment_range){.epoch = ~i, .first = 3 * i + 1, .last = 3 * i + 2};
}

static void assert_ledger_is_kept(void) {
    assert_memory_equal(decoded, ledger, offsetof(struct ledger, ranges));
    assert_memory_equal(decoded->ranges, ledger->ranges, ledger->n_ranges * sizeof *ledger->ranges);
}

static void raw_headers_round_trip(void **state) {
    (void)state;
    const size_t sizes[] = {0, 1, 100, 300, CLOSE_RANGES_MAX};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct segment_head head = head_of(MESSAGE_BLOCK), back;
        ledger_fill(sizes[i]);
        int64_t len = raw_header_encode(&head, ledger, header);
        assert_true(len >= SEGMENT_PAGE && len % SEGMENT_PAGE == 0);
        if (sizes[i] <= 100)
            assert_int_equal(len, SEGMENT_PAGE);
        assert_int_equal(raw_header_decode(header, (size_t)len, &back, decoded), len);
        assert_string_equal(back.edge, head.edge);
        assert_true(back.epoch == head.epoch && back.segment == head.segment && back.epoch_first == head.epoch_first);
        assert_true(back.partitions == head.partitions && back.day == head.day && !back.rehearsal);
        assert_memory_equal(back.rules_hash, head.rules_hash, RULES_HASH_SIZE);
        assert_ledger_is_kept();
    }
}

static void damaged_headers_are_refused(void **state) {
    (void)state;
    struct segment_head head = head_of(MESSAGE_BLOCK), back;
    ledger_fill(2);
    size_t len = (size_t)raw_header_encode(&head, ledger, header);
    for (size_t bit = 0; bit < len * 8; bit++) {
        header[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(raw_header_decode(header, len, &back, decoded), ERR_CORRUPT);
        header[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(raw_header_decode(header, cut, &back, decoded), ERR_CORRUPT);
}

static struct event event_of(uint32_t i) {
    return (struct event){.pseudonym = 0x0102030405060708u * (i + 1), .tenant = i, .sent_day = 20779 - i % 3,
                          .stream = (uint16_t)(i * 7), .provider = (uint8_t)i, .class_regime = 0x12, .fetch = i & 1};
}

static size_t group_fill(uint8_t *out, uint32_t sequence, uint32_t n_events) {
    struct segment_head head = head_of(MESSAGE_BLOCK);
    struct group group = {.sequence = sequence, .n_events = n_events, .drops = {n_events, sequence}};
    for (uint32_t i = 0; i < n_events; i++) {
        struct event event = event_of(i);
        group_event_store(out + GROUP_HEADER_BYTES + i * GROUP_EVENT_BYTES, &event);
    }
    return group_encode(head.epoch, head.segment, &group, out);
}

// A header page and two groups, the first of two pages; the rest of the file is zeros.
static void raw_fill(void) {
    struct segment_head head = head_of(MESSAGE_BLOCK);
    ledger_fill(1);
    memset(raw, 0, sizeof raw);
    header_len = (size_t)raw_header_encode(&head, ledger, header);
    memcpy(raw, header, header_len);
    raw_len = header_len + group_fill(raw + header_len, 0, 300);
    raw_len += group_fill(raw + raw_len, 1, 5);
    assert_int_equal(raw_len, 4 * SEGMENT_PAGE);
}

struct seen {
    bool group[3];
    int fail;
};

static int group_seen(void *arg, const struct group *group, const uint8_t *events) {
    struct seen *seen = arg;
    assert_in_range(group->sequence, 0, 1);
    assert_false(seen->group[group->sequence]);
    seen->group[group->sequence] = true;
    assert_int_equal(group->n_events, group->sequence == 0 ? 300 : 5);
    assert_int_equal(group->drops[0], group->n_events);
    assert_int_equal(group->drops[1], group->sequence);
    for (uint32_t i = 0; i < group->n_events; i++) {
        struct event event, want = event_of(i);
        group_event_load(events + i * GROUP_EVENT_BYTES, &event);
        assert_memory_equal(&event, &want, offsetof(struct event, fetch) + 1);
    }
    return seen->fail;
}

static int64_t scan(const uint8_t *data, size_t len, struct seen *seen) {
    struct segment_head head = head_of(MESSAGE_BLOCK);
    *seen = (struct seen){.fail = seen->fail};
    return raw_scan(data, len, &head, header_len, group_seen, seen);
}

static void scan_finds_all_groups(void **state) {
    (void)state;
    struct seen seen = {0};
    raw_fill();
    assert_int_equal(scan(raw, sizeof raw, &seen), 0);
    assert_true(seen.group[0] && seen.group[1]);
    seen.fail = ERR_NOMEM;
    assert_int_equal(scan(raw, sizeof raw, &seen), ERR_NOMEM);
    struct segment_head other = head_of(MESSAGE_BLOCK);
    other.segment++;
    assert_int_equal(raw_scan(raw, sizeof raw, &other, header_len, group_seen, &(struct seen){0}), 0);
}

static void truncation_loses_the_tail_only(void **state) {
    (void)state;
    struct seen seen = {0};
    raw_fill();
    size_t first_end = header_len + group_bytes(300);
    for (size_t cut = header_len; cut <= raw_len; cut++) {
        uint8_t *exact = malloc(cut);
        assert_non_null(exact);
        memcpy(exact, raw, cut);
        assert_int_equal(scan(exact, cut, &seen), 0);
        assert_int_equal(seen.group[0], cut >= first_end);
        assert_int_equal(seen.group[1], cut >= raw_len);
        free(exact);
    }
}

static void bit_flips_lose_their_group_only(void **state) {
    (void)state;
    struct seen seen = {0};
    raw_fill();
    size_t second_at = header_len + group_bytes(300);
    size_t first_used = header_len + GROUP_HEADER_BYTES + 300 * GROUP_EVENT_BYTES;
    size_t second_used = second_at + GROUP_HEADER_BYTES + 5 * GROUP_EVENT_BYTES;
    for (size_t bit = header_len * 8; bit < raw_len * 8; bit++) {
        size_t at = bit / 8;
        raw[at] ^= (uint8_t)(1u << bit % 8);
        int64_t damaged = scan(raw, sizeof raw, &seen);
        assert_int_equal(seen.group[0], at >= first_used);
        assert_int_equal(seen.group[1], at < second_at || at >= second_used);
        assert_int_equal(damaged, at < first_used ? 1 : 0); // a damaged last group looks like a torn tail
        raw[at] ^= (uint8_t)(1u << bit % 8);
    }
}

static void groups_have_limits(void **state) {
    (void)state;
    size_t size = group_bytes(GROUP_EVENTS_MAX);
    uint8_t *large = malloc(size);
    assert_non_null(large);
    assert_int_equal(group_fill(large, 3, GROUP_EVENTS_MAX), size);
    struct segment_head head = head_of(MESSAGE_BLOCK);
    struct group group;
    assert_int_equal(group_decode(large, size, head.epoch, head.segment, &group), size);
    assert_int_equal(group.n_events, GROUP_EVENTS_MAX);
    assert_int_equal(group_decode(large, size - 1, head.epoch, head.segment, &group), ERR_CORRUPT);
    store_u32(large + 24, UINT32_MAX);
    assert_int_equal(group_decode(large, size, head.epoch, head.segment, &group), ERR_CORRUPT);
    assert_int_equal(group_fill(large, 0, 0), SEGMENT_PAGE); // counters alone
    assert_int_equal(group_decode(large, SEGMENT_PAGE, head.epoch, head.segment, &group), SEGMENT_PAGE);
    free(large);
}

static void sealed_files_round_trip(void **state) {
    (void)state;
    struct segment_head head = head_of(MESSAGE_CLOSE);
    uint32_t message_len[PARTITIONS];
    uint8_t messages[PARTITIONS * 10];
    static uint8_t out[SEGMENT_PAGE];
    size_t total = 0;
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        message_len[i] = i + 1;
        memset(messages + total, (int)i, i + 1);
        total += i + 1;
    }
    ledger_fill(3);
    size_t len = (size_t)sealed_encode(&head, ledger, message_len, messages, total, out, sizeof out);
    assert_in_range(len, total, sizeof out);
    struct sealed *sealed = malloc(sizeof *sealed);
    assert_non_null(sealed);
    assert_int_equal(sealed_decode(out, len, sealed, decoded), 0);
    assert_int_equal(sealed->head.kind, MESSAGE_CLOSE);
    assert_true(sealed->head.segment == head.segment && sealed->head.day == head.day);
    assert_memory_equal(sealed->message_len, message_len, sizeof message_len);
    assert_memory_equal(sealed->messages, messages, total);
    assert_ledger_is_kept();
    assert_int_equal(sealed_decode(out, len, sealed, NULL), 0);
    for (size_t bit = 0; bit < (len - total) * 8; bit++) {
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(sealed_decode(out, len, sealed, bit & 1 ? decoded : NULL), ERR_CORRUPT);
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(sealed_decode(out, cut, sealed, cut & 1 ? decoded : NULL), ERR_CORRUPT);
    assert_int_equal(sealed_decode(out, len + 1, sealed, NULL), ERR_CORRUPT);
    assert_int_equal(sealed_encode(&head, ledger, message_len, messages, total, out, len - 1), ERR_LIMIT);
    free(sealed);
}

static void file_names(void **state) {
    (void)state;
    char name[SEGMENT_NAME_SIZE];
    uint64_t segment = 0;
    raw_name(0x0123456789abcdefu, name);
    assert_string_equal(name, "open-0123456789abcdef.log");
    assert_true(raw_name_parse(name, &segment) && segment == 0x0123456789abcdefu);
    assert_false(sealed_name_parse(name, &segment));
    sealed_name(UINT64_MAX, name);
    assert_string_equal(name, "sealed-ffffffffffffffff.seg");
    assert_true(sealed_name_parse(name, &segment) && segment == UINT64_MAX);
    const char *bad[] = {"", "open-", "open-1.log", "open-0123456789ABCDEF.log", "open-0123456789abcdef.log.tmp",
                         "open-0123456789abcdef0.log", "sealed-0123456789abcdef.seg.tmp", "free-0.log"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(raw_name_parse(bad[i], &segment) || sealed_name_parse(bad[i], &segment));
}

static int set_up(void **state) {
    (void)state;
    ledger = calloc(1, sizeof *ledger);
    decoded = calloc(1, sizeof *decoded);
    header = malloc(SEGMENT_HEADER_BYTES_MAX);
    return ledger == NULL || decoded == NULL || header == NULL;
}

static int tear_down(void **state) {
    (void)state;
    free(ledger);
    free(decoded);
    free(header);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_headers_round_trip),
        cmocka_unit_test(damaged_headers_are_refused),
        cmocka_unit_test(scan_finds_all_groups),
        cmocka_unit_test(truncation_loses_the_tail_only),
        cmocka_unit_test(bit_flips_lose_their_group_only),
        cmocka_unit_test(groups_have_limits),
        cmocka_unit_test(sealed_files_round_trip),
        cmocka_unit_test(file_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
