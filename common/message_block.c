// The body of a block: sorted events in columns. What events have beside tenant and pseudonym (day of sending, stream,
// provider, class and regime, fetch) repeats, so it stands once in a table of kinds and each event has a number there.
// Pseudonyms are differences to the one before in the same tenant. Numbers wider than a byte are planes: all highest bytes,
// then all next ones …, so that what repeats stands together. The low planes of keyed hashes are as good as random: they
// stand before the rest, which is compressed.
#include "common/message_codec.h"

#include "common/hmac.h"

#include <assert.h>
#include <stdlib.h>
#include <zstd.h>

#define ZSTD_LEVEL (-1) // what is left to compress has short alphabets and no strings
#define PSEUDONYM_SIZE 8
#define LOW_PLANES 5
#define HIGH_PLANES (PSEUDONYM_SIZE - LOW_PLANES)
#define BLOCK_FIXED_SIZE (RULES_HASH_SIZE + 4 + 4)
#define RAW_FIXED_SIZE (4 + 4) // numbers of runs and kinds
#define RUN_SIZE (4 + 4)
#define KIND_SIZE (4 + 2 + 1 + 1 + 1)
#define KIND_NUMBER_SIZE_MAX 2
#define EVENT_SIZE_MAX (RUN_SIZE + KIND_SIZE + HIGH_PLANES + KIND_NUMBER_SIZE_MAX)
#define RAW_SIZE_MAX (RAW_FIXED_SIZE + BLOCK_EVENTS_MAX * EVENT_SIZE_MAX)
#define KIND_SLOT_BITS 17

static_assert(ZSTD_COMPRESSBOUND(RAW_SIZE_MAX) + LOW_PLANES * BLOCK_EVENTS_MAX + 256 < MESSAGE_BYTES_MAX,
              "a full block fits a message");
static_assert(BLOCK_EVENTS_MAX <= 1u << 8 * KIND_NUMBER_SIZE_MAX && 2 * BLOCK_EVENTS_MAX <= 1u << KIND_SLOT_BITS,
              "any number of kinds fits");

// The kinds of one block; large, but untouched memory costs nothing.
struct kinds {
    uint64_t multiplier; // random and odd, so that no sender can make its kinds collide
    size_t n;
    uint64_t key[BLOCK_EVENTS_MAX];
    uint32_t slot[BLOCK_EVENTS_MAX];       // where each is in `slots`
    uint32_t slots[1u << KIND_SLOT_BITS];  // number of a kind and 1, or 0
    uint16_t number_of[BLOCK_EVENTS_MAX];  // by event
    struct event decoded[BLOCK_EVENTS_MAX]; // an event of each kind
};

struct message_codec {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    uint8_t *raw;
    union message_scratch *scratch;
    struct kinds *kinds;
};

int message_codec_create(struct message_codec **codec) {
    struct message_codec *made = calloc(1, sizeof *made);
    if (made == NULL)
        return ERR_NOMEM;
    made->compressor = ZSTD_createCCtx();
    made->decompressor = ZSTD_createDCtx();
    made->raw = malloc(RAW_SIZE_MAX);
    made->scratch = malloc(sizeof *made->scratch);
    made->kinds = calloc(1, sizeof *made->kinds);
    if (made->compressor == NULL || made->decompressor == NULL || made->raw == NULL || made->scratch == NULL ||
        made->kinds == NULL) {
        message_codec_free(made);
        return ERR_NOMEM;
    }
    bytes_random(&made->kinds->multiplier, sizeof made->kinds->multiplier);
    made->kinds->multiplier |= 1;
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
    free(codec->kinds);
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

// Where each column begins in the raw bytes.
struct columns {
    size_t tenant, count, age, stream, provider, class_regime, fetch, pseudonym, kind, end;
    size_t kind_width;
};

static struct columns columns_of(size_t n_runs, size_t n_kinds, size_t n_events) {
    struct columns at = {.tenant = RAW_FIXED_SIZE, .kind_width = n_kinds > 256 ? 2 : 1};
    at.count = at.tenant + 4 * n_runs;
    at.age = at.count + 4 * n_runs;
    at.stream = at.age + 4 * n_kinds;
    at.provider = at.stream + 2 * n_kinds;
    at.class_regime = at.provider + n_kinds;
    at.fetch = at.class_regime + n_kinds;
    at.pseudonym = at.fetch + n_kinds;
    at.kind = at.pseudonym + HIGH_PLANES * n_events;
    at.end = at.kind + at.kind_width * n_events;
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
// (least significant first: Knuth, TAOCP 3, 5.2.5) by those bits and tenant, and then each moves a few places at most.
// Where that is not so, because a sender numbers its pseudonyms or few of them come often, all are sorted by comparing.
#define DIGIT_BITS 11
#define DIGIT_VALUES (1u << DIGIT_BITS)
#define DIGITS_MAX 5
#define SORT_SMALL 64
#define PLACES_MOVED_MAX 24
#define ONE_DIGIT_EVENTS (4 * DIGIT_VALUES) // more of one tenant leave too many in a place

static bool sort_nearly_sorted(struct event *events, size_t n) {
    for (size_t i = 1; i < n; i++) {
        if (event_order(&events[i - 1], &events[i]) <= 0)
            continue;
        struct event event = events[i];
        size_t at = i, end = i < PLACES_MOVED_MAX ? 0 : i - PLACES_MOVED_MAX;
        for (; at > end && event_order(&events[at - 1], &event) > 0; at--)
            events[at] = events[at - 1];
        events[at] = event;
        if (at == end && at > 0 && event_order(&events[at - 1], &event) > 0)
            return false;
    }
    return true;
}

static inline uint32_t digit_of(uint64_t value, unsigned shift) {
    return (uint32_t)(value >> shift) % DIGIT_VALUES;
}

// Compiled for each of the two fields that a digit may be of.
static inline __attribute__((always_inline)) void distribute(const struct event *from, struct event *to, size_t n,
                                                             uint32_t next[DIGIT_VALUES], bool by_tenant,
                                                             unsigned shift) {
    uint32_t sum = 0;
    for (size_t i = 0; i < DIGIT_VALUES; i++) {
        uint32_t count = next[i];
        next[i] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        to[next[digit_of(by_tenant ? from[i].tenant : from[i].pseudonym, shift)]++] = from[i];
}

// `scratch` holds n events too.
static void events_sort(struct event *events, struct event *scratch, size_t n) {
    static const unsigned shifts[DIGITS_MAX] = {64 - 2 * DIGIT_BITS, 64 - DIGIT_BITS, 0, DIGIT_BITS, 2 * DIGIT_BITS};
    uint32_t counts[DIGITS_MAX][DIGIT_VALUES];
    struct event *from = events, *to = scratch;
    if (n <= SORT_SMALL) {
        qsort(events, n, sizeof *events, event_order);
        return;
    }
    uint32_t tenants = 0;
    for (size_t i = 0; i < n; i++)
        tenants |= events[i].tenant;
    unsigned first = n > ONE_DIGIT_EVENTS ? 0 : 1, end = 3;
    while (end < DIGITS_MAX && tenants >> shifts[end] != 0)
        end++;
    memset(counts[first], 0, (end - first) * sizeof counts[0]);
    for (size_t i = 0; i < n; i++)
        for (unsigned digit = first; digit < end; digit++)
            counts[digit][digit_of(digit < 2 ? events[i].pseudonym : events[i].tenant, shifts[digit])]++;
    for (unsigned digit = first; digit < end; digit++) {
        if (counts[digit][digit_of(digit < 2 ? from->pseudonym : from->tenant, shifts[digit])] == n)
            continue; // all have this one
        if (digit < 2)
            distribute(from, to, n, counts[digit], false, shifts[digit]);
        else
            distribute(from, to, n, counts[digit], true, shifts[digit]);
        struct event *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != events)
        memcpy(events, from, n * sizeof *events);
    if (!sort_nearly_sorted(events, n))
        qsort(events, n, sizeof *events, event_order);
}

// Everything but tenant and pseudonym in one number: a valid event's class leaves a bit for the fetch.
static_assert(FETCH_SCANNER == 2 && CLASS_PROSPECTING < 8, "fetch and class fit a byte");
static inline uint64_t kind_key(const struct event *event) {
    return (uint64_t)event->sent_day << 32 | (uint64_t)event->stream << 16 | (uint64_t)event->provider << 8 |
           event->class_regime | (uint64_t)event->fetch << 7;
}

// Numbers the kinds in the order of their first event.
static void kinds_find(struct kinds *kinds, const struct event *events, size_t n) {
    const size_t mask = (1u << KIND_SLOT_BITS) - 1;
    kinds->n = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t key = kind_key(&events[i]);
        size_t slot = key * kinds->multiplier >> (64 - KIND_SLOT_BITS);
        while (kinds->slots[slot] != 0 && kinds->key[kinds->slots[slot] - 1] != key)
            slot = (slot + 1) & mask;
        if (kinds->slots[slot] == 0) {
            kinds->key[kinds->n] = key;
            kinds->slot[kinds->n] = (uint32_t)slot;
            kinds->slots[slot] = (uint32_t)++kinds->n;
        }
        kinds->number_of[i] = (uint16_t)(kinds->slots[slot] - 1);
    }
    for (size_t i = 0; i < kinds->n; i++)
        kinds->slots[kinds->slot[i]] = 0;
    CHECK(kinds->n >= 1 && kinds->n <= n);
}

static void kinds_store(const struct kinds *kinds, uint8_t *raw, const struct columns *at, uint32_t day) {
    for (size_t i = 0; i < kinds->n; i++) {
        uint64_t key = kinds->key[i];
        column_set(raw + at->age, kinds->n, i, 4, day - (uint32_t)(key >> 32));
        column_set(raw + at->stream, kinds->n, i, 2, key >> 16 & 0xffff);
        raw[at->provider + i] = (uint8_t)(key >> 8);
        raw[at->class_regime + i] = key & 0x7f;
        raw[at->fetch + i] = key >> 7 & 1;
    }
}

// A few rows at a time, plane by plane: one byte in each of the planes for every row would be as many cache lines, of
// which the next row's may be the same set.
#define ROWS_AT_ONCE 64

// `planes` of the planes of `width` bytes wide numbers, from plane `from` on.
static void planes_store(uint8_t *column, size_t n, size_t first, size_t rows, const uint64_t *values, size_t width,
                         size_t from, size_t planes) {
    for (size_t plane = 0; plane < planes; plane++) {
        uint8_t bytes[ROWS_AT_ONCE];
        size_t shift = 8 * (width - 1 - from - plane);
        for (size_t i = 0; i < ROWS_AT_ONCE; i++) // all of them: compilers make a few instructions of that
            bytes[i] = (uint8_t)(values[i] >> shift);
        memcpy(column + plane * n + first, bytes, rows);
    }
}

static void rows_store(struct message_codec *codec, const struct columns *at, const struct event *events, size_t n,
                       uint8_t *low) {
    const struct kinds *kinds = codec->kinds;
    uint64_t difference[ROWS_AT_ONCE] = {0}, kind[ROWS_AT_ONCE] = {0};
    for (size_t first = 0; first < n; first += ROWS_AT_ONCE) {
        size_t rows = n - first < ROWS_AT_ONCE ? n - first : ROWS_AT_ONCE;
        for (size_t i = 0; i < rows; i++) {
            const struct event *event = &events[first + i];
            bool follows = first + i > 0 && event->tenant == event[-1].tenant;
            difference[i] = event->pseudonym - (follows ? event[-1].pseudonym : 0);
            kind[i] = kinds->number_of[first + i];
        }
        planes_store(codec->raw + at->pseudonym, n, first, rows, difference, PSEUDONYM_SIZE, 0, HIGH_PLANES);
        planes_store(low, n, first, rows, difference, PSEUDONYM_SIZE, HIGH_PLANES, LOW_PLANES);
        planes_store(codec->raw + at->kind, n, first, rows, kind, at->kind_width, 0, at->kind_width);
    }
}

// Fills `low` and codec->raw from sorted events and returns the latter's length.
static size_t columns_store(struct message_codec *codec, uint32_t day, const struct event *events, size_t n,
                            uint8_t *low) {
    size_t n_runs = 0;
    for (size_t i = 0; i < n; i++)
        n_runs += i == 0 || events[i].tenant != events[i - 1].tenant;
    kinds_find(codec->kinds, events, n);
    struct columns at = columns_of(n_runs, codec->kinds->n, n);
    uint8_t *raw = codec->raw;
    store_u32(raw, (uint32_t)n_runs);
    store_u32(raw + 4, (uint32_t)codec->kinds->n);
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
    kinds_store(codec->kinds, raw, &at, day);
    rows_store(codec, &at, events, n, low);
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
    uint8_t *raw_len_at = write_space(&w, 4);
    uint8_t *low = write_space(&w, LOW_PLANES * n_events);
    CHECK(!w.bad);
    size_t raw_len = columns_store(codec, head->day, events, n_events, low);
    store_u32(raw_len_at, (uint32_t)raw_len);
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

static int kinds_load(struct kinds *kinds, const uint8_t *raw, const struct columns *at, uint32_t day) {
    for (size_t i = 0; i < kinds->n; i++) {
        struct event *event = &kinds->decoded[i];
        event->sent_day = day - (uint32_t)column_get(raw + at->age, kinds->n, i, 4);
        event->stream = (uint16_t)column_get(raw + at->stream, kinds->n, i, 2);
        event->provider = raw[at->provider + i];
        event->class_regime = raw[at->class_regime + i];
        event->fetch = raw[at->fetch + i];
        if (!event_valid(event))
            return ERR_CORRUPT;
    }
    return 0;
}

static int rows_load(const struct message_codec *codec, const struct columns *at, const uint8_t *low,
                     struct event *events, size_t n) {
    const uint8_t *raw = codec->raw;
    uint64_t before = 0;
    for (size_t i = 0; i < n; i++) {
        struct event *event = &events[i];
        uint32_t tenant = event->tenant;
        size_t kind = column_get(raw + at->kind, n, i, at->kind_width);
        uint64_t difference = column_get(raw + at->pseudonym, n, i, HIGH_PLANES) << 8 * LOW_PLANES |
                              column_get(low, n, i, LOW_PLANES);
        if (kind >= codec->kinds->n)
            return ERR_CORRUPT;
        *event = codec->kinds->decoded[kind];
        event->tenant = tenant;
        if (i == 0 || tenant != event[-1].tenant)
            before = 0;
        if (__builtin_add_overflow(before, difference, &event->pseudonym) ||
            (i > 0 && event_order(event - 1, event) > 0))
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
    *events = out;
    *n_events = n;
    if (n == 0)
        return raw_len == 0 && body_len == BLOCK_FIXED_SIZE ? 0 : ERR_CORRUPT;
    // The bounds come first: nothing is unpacked beyond what a block of n events can take.
    if (n > BLOCK_EVENTS_MAX || raw_len < RAW_FIXED_SIZE + RUN_SIZE + KIND_SIZE ||
        raw_len > RAW_FIXED_SIZE + n * EVENT_SIZE_MAX || body_len - BLOCK_FIXED_SIZE < LOW_PLANES * n)
        return ERR_CORRUPT;
    const uint8_t *low = body + BLOCK_FIXED_SIZE;
    const uint8_t *packed = low + LOW_PLANES * n;
    size_t packed_len = body_len - BLOCK_FIXED_SIZE - LOW_PLANES * n;
    if (ZSTD_findFrameCompressedSize(packed, packed_len) != packed_len ||
        ZSTD_decompressDCtx(codec->decompressor, codec->raw, raw_len, packed, packed_len) != raw_len)
        return ERR_CORRUPT;
    size_t n_runs = load_u32(codec->raw);
    codec->kinds->n = load_u32(codec->raw + 4);
    if (n_runs < 1 || n_runs > n || codec->kinds->n < 1 || codec->kinds->n > n)
        return ERR_CORRUPT;
    struct columns at = columns_of(n_runs, codec->kinds->n, n);
    if (at.end != raw_len || runs_load(codec->raw, &at, n_runs, out, n) != 0 ||
        kinds_load(codec->kinds, codec->raw, &at, head->day) != 0)
        return ERR_CORRUPT;
    return rows_load(codec, &at, low, out, n);
}
