// The body of a block: sorted events in columns. Numbers wider than a byte are stored as planes (all highest bytes, then
// all next ones …), pseudonyms as differences to the one before in the same tenant: what repeats stands together.
#include "common/message_codec.h"

#include <assert.h>
#include <stdlib.h>
#include <zstd.h>

#define ZSTD_LEVEL 3
#define BLOCK_FIXED_SIZE (RULES_HASH_SIZE + 4 + 4)
#define RUN_SIZE (4 + 4)
#define EVENT_COLUMNS_SIZE (8 + 4 + 2 + 1 + 1 + 1)
#define RAW_SIZE_MAX (4 + BLOCK_EVENTS_MAX * (RUN_SIZE + EVENT_COLUMNS_SIZE))

static_assert(ZSTD_COMPRESSBOUND(RAW_SIZE_MAX) + 256 < MESSAGE_BYTES_MAX, "a full block fits a message");

struct message_codec {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    uint8_t *raw;
    union message_scratch *scratch;
};

int message_codec_create(struct message_codec **codec) {
    struct message_codec *made = calloc(1, sizeof *made);
    if (made == NULL)
        return ERR_NOMEM;
    made->compressor = ZSTD_createCCtx();
    made->decompressor = ZSTD_createDCtx();
    made->raw = malloc(RAW_SIZE_MAX);
    made->scratch = malloc(sizeof *made->scratch);
    if (made->compressor == NULL || made->decompressor == NULL || made->raw == NULL || made->scratch == NULL) {
        message_codec_free(made);
        return ERR_NOMEM;
    }
    *codec = made;
    return 0;
}

void message_codec_free(struct message_codec *codec) {
    if (codec == NULL)
        return;
    ZSTD_freeCCtx(codec->compressor);
    ZSTD_freeDCtx(codec->decompressor);
    free(codec->raw);
    free(codec->scratch);
    free(codec);
}

union message_scratch *message_codec_scratch(struct message_codec *codec) {
    return codec->scratch;
}

// A column of n numbers of `width` bytes, one plane of n bytes for each.
static void column_set(uint8_t *column, size_t n, size_t i, size_t width, uint64_t value) {
    for (size_t plane = width; plane-- > 0; value >>= 8)
        column[plane * n + i] = (uint8_t)value;
}

static uint64_t column_get(const uint8_t *column, size_t n, size_t i, size_t width) {
    uint64_t value = 0;
    for (size_t plane = 0; plane < width; plane++)
        value = value << 8 | column[plane * n + i];
    return value;
}

// Where each column begins in the raw bytes: 4 bytes of the number of runs, then these.
struct columns {
    size_t tenant, count, pseudonym, age, stream, provider, class_regime, fetch, end;
};

static struct columns columns_of(size_t n_runs, size_t n_events) {
    struct columns at = {.tenant = 4};
    at.count = at.tenant + 4 * n_runs;
    at.pseudonym = at.count + 4 * n_runs;
    at.age = at.pseudonym + 8 * n_events;
    at.stream = at.age + 4 * n_events;
    at.provider = at.stream + 2 * n_events;
    at.class_regime = at.provider + n_events;
    at.fetch = at.class_regime + n_events;
    at.end = at.fetch + n_events;
    CHECK(at.end <= RAW_SIZE_MAX);
    return at;
}

static inline int order_u64(uint64_t a, uint64_t b) {
    return a < b ? -1 : a > b;
}

static int event_order(const void *left, const void *right) {
    const struct event *a = left;
    const struct event *b = right;
    if (a->tenant != b->tenant)
        return order_u64(a->tenant, b->tenant);
    if (a->pseudonym != b->pseudonym)
        return order_u64(a->pseudonym, b->pseudonym);
    if (a->sent_day != b->sent_day)
        return order_u64(a->sent_day, b->sent_day);
    if (a->stream != b->stream)
        return order_u64(a->stream, b->stream);
    if (a->provider != b->provider)
        return order_u64(a->provider, b->provider);
    if (a->class_regime != b->class_regime)
        return order_u64(a->class_regime, b->class_regime);
    return order_u64(a->fetch, b->fetch);
}

// Pseudonyms are keyed hashes, so a few leading bits leave next to nothing to sort: events are distributed digit by digit
// (least significant first: Knuth, TAOCP 3, 5.2.5) by tenant and those bits, and what is still equal then is sorted by
// comparing. Events of few pseudonyms, or of a sender that numbers them, cost a comparison sort and no more.
#define DIGIT_BITS 11
#define DIGITS 5
#define DIGIT_VALUES (1u << DIGIT_BITS)
#define SORT_SMALL 64

static inline uint32_t event_digit(const struct event *event, unsigned digit) {
    uint32_t value = digit < 2 ? (uint32_t)(event->pseudonym >> (64 - 2 * DIGIT_BITS + digit * DIGIT_BITS))
                               : event->tenant >> (digit - 2) * DIGIT_BITS;
    return value % DIGIT_VALUES;
}

static inline bool same_digits(const struct event *a, const struct event *b) {
    return a->tenant == b->tenant && (a->pseudonym ^ b->pseudonym) >> (64 - 2 * DIGIT_BITS) == 0;
}

static void sort_equal_digits(struct event *events, size_t n) {
    for (size_t first = 0, end; first < n; first = end) {
        for (end = first + 1; end < n && same_digits(&events[first], &events[end]); end++)
            ;
        if (end - first == 2 && event_order(&events[first], &events[first + 1]) > 0) {
            struct event larger = events[first];
            events[first] = events[first + 1];
            events[first + 1] = larger;
        } else if (end - first > 2) {
            qsort(&events[first], end - first, sizeof *events, event_order);
        }
    }
}

// `scratch` holds n events too.
static void events_sort(struct event *events, struct event *scratch, size_t n) {
    uint32_t next[DIGITS][DIGIT_VALUES];
    struct event *from = events, *to = scratch;
    if (n <= SORT_SMALL) {
        qsort(events, n, sizeof *events, event_order);
        return;
    }
    CHECK(n <= BLOCK_EVENTS_MAX);
    memset(next, 0, sizeof next);
    for (size_t i = 0; i < n; i++)
        for (unsigned digit = 0; digit < DIGITS; digit++)
            next[digit][event_digit(&events[i], digit)]++;
    for (unsigned digit = 0; digit < DIGITS; digit++) {
        uint32_t *counts = next[digit], sum = 0;
        if (counts[event_digit(from, digit)] == n)
            continue; // all have this one
        for (size_t i = 0; i < DIGIT_VALUES; i++) {
            uint32_t count = counts[i];
            counts[i] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            to[counts[event_digit(&from[i], digit)]++] = from[i];
        struct event *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != events)
        memcpy(events, from, n * sizeof *events);
    sort_equal_digits(events, n);
}

// A few rows at a time, plane by plane: one byte in each of 17 planes for every row would be 17 cache lines of which the
// next row's may be the same set.
#define ROWS_AT_ONCE 64

static void planes_store(uint8_t *column, size_t n, size_t first, size_t rows, size_t width, const uint64_t *values) {
    for (size_t plane = 0; plane < width; plane++) {
        uint8_t *to = column + plane * n + first;
        size_t shift = 8 * (width - 1 - plane);
        for (size_t i = 0; i < rows; i++)
            to[i] = (uint8_t)(values[i] >> shift);
    }
}

static void rows_store(uint8_t *raw, const struct columns *at, uint32_t day, const struct event *events, size_t n) {
    uint64_t difference[ROWS_AT_ONCE], age[ROWS_AT_ONCE], stream[ROWS_AT_ONCE];
    for (size_t first = 0; first < n; first += ROWS_AT_ONCE) {
        size_t rows = n - first < ROWS_AT_ONCE ? n - first : ROWS_AT_ONCE;
        for (size_t i = 0; i < rows; i++) {
            const struct event *event = &events[first + i];
            bool follows = first + i > 0 && event->tenant == event[-1].tenant;
            difference[i] = event->pseudonym - (follows ? event[-1].pseudonym : 0);
            age[i] = day - event->sent_day;
            stream[i] = event->stream;
            raw[at->provider + first + i] = event->provider;
            raw[at->class_regime + first + i] = event->class_regime;
            raw[at->fetch + first + i] = event->fetch;
        }
        planes_store(raw + at->pseudonym, n, first, rows, 8, difference);
        planes_store(raw + at->age, n, first, rows, 4, age);
        planes_store(raw + at->stream, n, first, rows, 2, stream);
    }
}

// Fills codec->raw from sorted events and returns its length.
static size_t columns_store(struct message_codec *codec, uint32_t day, const struct event *events, size_t n) {
    size_t n_runs = 0;
    for (size_t i = 0; i < n; i++)
        n_runs += i == 0 || events[i].tenant != events[i - 1].tenant;
    struct columns at = columns_of(n_runs, n);
    uint8_t *raw = codec->raw;
    store_u32(raw, (uint32_t)n_runs);
    size_t run = 0;
    for (size_t i = 0, first = 0; i < n; i++) {
        if (i + 1 < n && events[i + 1].tenant == events[i].tenant)
            continue;
        column_set(raw + at.tenant, n_runs, run, 4, events[i].tenant);
        column_set(raw + at.count, n_runs, run, 4, i + 1 - first);
        first = i + 1;
        run++;
    }
    CHECK(run == n_runs);
    rows_store(raw, &at, day, events, n);
    return at.end;
}

int64_t message_encode_block(struct message_codec *codec, const struct message_head *head,
                             const uint8_t rules_hash[RULES_HASH_SIZE], struct event *events, size_t n_events,
                             uint8_t *out) {
    CHECK(head->kind == MESSAGE_BLOCK);
    if (n_events > BLOCK_EVENTS_MAX)
        return ERR_LIMIT;
    for (size_t i = 0; i < n_events; i++) {
        if (!event_valid(&events[i]))
            return ERR_INVALID;
    }
    struct writer w = writer_of(out, MESSAGE_BYTES_MAX);
    uint8_t *body_len = message_begin(&w, head);
    write_bytes(&w, rules_hash, RULES_HASH_SIZE);
    write_u32(&w, (uint32_t)n_events);
    if (n_events == 0) {
        write_u32(&w, 0);
        return message_end(&w, out, body_len);
    }
    events_sort(events, codec->scratch->events, n_events);
    size_t raw_len = columns_store(codec, head->day, events, n_events);
    write_u32(&w, (uint32_t)raw_len);
    CHECK(!w.bad);
    size_t packed = ZSTD_compressCCtx(codec->compressor, w.at, (size_t)(w.end - w.at), codec->raw, raw_len, ZSTD_LEVEL);
    if (ZSTD_isError(packed))
        return ERR_NOMEM;
    CHECK(write_space(&w, packed) != NULL);
    return message_end(&w, out, body_len);
}

// Tenants ascend and their counts add up to n; fills every event's tenant.
static int runs_load(const uint8_t *raw, const struct columns *at, size_t n_runs, struct event *events, size_t n) {
    size_t i = 0;
    for (size_t run = 0; run < n_runs; run++) {
        uint32_t tenant = (uint32_t)column_get(raw + at->tenant, n_runs, run, 4);
        uint64_t count = column_get(raw + at->count, n_runs, run, 4);
        if (count == 0 || count > n - i || (i > 0 && tenant <= events[i - 1].tenant))
            return ERR_CORRUPT;
        for (size_t end = i + count; i < end; i++)
            events[i].tenant = tenant;
    }
    return i == n ? 0 : ERR_CORRUPT;
}

static int rows_load(const uint8_t *raw, const struct columns *at, uint32_t day, struct event *events, size_t n) {
    uint64_t before = 0;
    for (size_t i = 0; i < n; i++) {
        struct event *event = &events[i];
        if (i == 0 || event->tenant != events[i - 1].tenant)
            before = 0;
        if (__builtin_add_overflow(before, column_get(raw + at->pseudonym, n, i, 8), &event->pseudonym))
            return ERR_CORRUPT;
        event->sent_day = day - (uint32_t)column_get(raw + at->age, n, i, 4);
        event->stream = (uint16_t)column_get(raw + at->stream, n, i, 2);
        event->provider = raw[at->provider + i];
        event->class_regime = raw[at->class_regime + i];
        event->fetch = raw[at->fetch + i];
        if (!event_valid(event) || (i > 0 && event_order(event - 1, event) > 0))
            return ERR_CORRUPT;
        before = event->pseudonym;
    }
    return 0;
}

int message_decode_block(struct message_codec *codec, const struct message_head *head, const uint8_t *body,
                         size_t body_len, uint8_t rules_hash[RULES_HASH_SIZE], const struct event **events,
                         size_t *n_events) {
    struct event *out = codec->scratch->events;
    if (head->kind != MESSAGE_BLOCK || body_len < BLOCK_FIXED_SIZE)
        return ERR_CORRUPT;
    memcpy(rules_hash, body, RULES_HASH_SIZE);
    size_t n = load_u32(body + RULES_HASH_SIZE);
    size_t raw_len = load_u32(body + RULES_HASH_SIZE + 4);
    const uint8_t *packed = body + BLOCK_FIXED_SIZE;
    size_t packed_len = body_len - BLOCK_FIXED_SIZE;
    *events = out;
    *n_events = n;
    if (n == 0)
        return raw_len == 0 && packed_len == 0 ? 0 : ERR_CORRUPT;
    // The bound comes first: nothing is unpacked beyond what a block of n events can take.
    if (n > BLOCK_EVENTS_MAX || raw_len < 4 + RUN_SIZE || raw_len > 4 + n * (RUN_SIZE + EVENT_COLUMNS_SIZE))
        return ERR_CORRUPT;
    if (ZSTD_findFrameCompressedSize(packed, packed_len) != packed_len ||
        ZSTD_decompressDCtx(codec->decompressor, codec->raw, raw_len, packed, packed_len) != raw_len)
        return ERR_CORRUPT;
    size_t n_runs = load_u32(codec->raw);
    if (n_runs < 1 || n_runs > n)
        return ERR_CORRUPT;
    struct columns at = columns_of(n_runs, n);
    if (at.end != raw_len || runs_load(codec->raw, &at, n_runs, out, n) != 0)
        return ERR_CORRUPT;
    return rows_load(codec->raw, &at, head->day, out, n);
}
