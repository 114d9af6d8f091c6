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

static void rows_store(uint8_t *raw, const struct columns *at, uint32_t day, const struct event *events, size_t n) {
    uint64_t before = 0;
    for (size_t i = 0; i < n; i++) {
        const struct event *event = &events[i];
        if (i == 0 || event->tenant != events[i - 1].tenant)
            before = 0;
        column_set(raw + at->pseudonym, n, i, 8, event->pseudonym - before);
        column_set(raw + at->age, n, i, 4, day - event->sent_day);
        column_set(raw + at->stream, n, i, 2, event->stream);
        raw[at->provider + i] = event->provider;
        raw[at->class_regime + i] = event->class_regime;
        raw[at->fetch + i] = event->fetch;
        before = event->pseudonym;
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
    qsort(events, n_events, sizeof *events, event_order);
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
