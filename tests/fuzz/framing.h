// Lengths and checksums that a fuzzer would never guess, set by the targets: of messages, and of spool files built from
// chunks. A chunk is a length of two bytes, whose top bit says "leave it as it is", and that many bytes.
//   raw file     the header, then commit groups, each a chunk, padded to a page
//   sealed file  the header up to the table of lengths, then messages without their checksum
#ifndef OPENVEIL_FRAMING_H
#define OPENVEIL_FRAMING_H

#include "common/bytes.h"
#include "common/segment.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define FRAMING_CHECKSUM_SIZE 8
#define CHUNK_AS_IS 0x8000u

struct chunk {
    const uint8_t *at;
    size_t len;
    bool as_is;
};

// False where nothing is left; a chunk longer than what is left gets that.
static inline bool chunk_take(struct reader *r, struct chunk *chunk) {
    uint16_t head = read_u16(r);
    size_t left = reader_left(r);
    if (r->bad)
        return false;
    chunk->as_is = (head & CHUNK_AS_IS) != 0;
    chunk->len = head & ~CHUNK_AS_IS;
    if (chunk->len > left)
        chunk->len = left;
    chunk->at = read_bytes(r, chunk->len);
    return true;
}

// `data` has room for the checksum after `len` bytes. Returns the length with it.
static inline size_t frame_message(uint8_t *data, size_t len) {
    // Magic, kind, flags, length of the edge's name, the name; epoch, segment, first, partition, partitions, day.
    size_t body_len_at = len < 7 ? len : 7 + (size_t)data[6] + 8 + 8 + 8 + 2 + 2 + 4;
    if (body_len_at + 4 <= len)
        store_u32(data + body_len_at, (uint32_t)(len - body_len_at - 4));
    store_u64(data + len, XXH3_64bits(data, len));
    return len + FRAMING_CHECKSUM_SIZE;
}

static inline void frame_group(uint8_t *page, size_t len) {
    size_t hashed = GROUP_HEADER_BYTES - FRAMING_CHECKSUM_SIZE, n_events_at = 4 + 8 + 8 + 4;
    uint32_t n_events = load_u32(page + n_events_at);
    if (n_events > (len - GROUP_HEADER_BYTES) / GROUP_EVENT_BYTES)
        return;
    store_u64(page + hashed, XXH3_64bits_withSeed(page + GROUP_HEADER_BYTES, (size_t)n_events * GROUP_EVENT_BYTES,
                                                  XXH3_64bits(page, hashed)));
}

// Returns the file's length; chunks that do not fit `size` any more are left out.
static inline size_t frame_raw(struct reader *r, uint8_t *out, size_t size) {
    struct chunk chunk;
    size_t at = 0;
    while (chunk_take(r, &chunk)) {
        size_t padded = (chunk.len + FRAMING_CHECKSUM_SIZE + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
        if (padded > size - at)
            break;
        memcpy(out + at, chunk.at, chunk.len);
        memset(out + at + chunk.len, 0, padded - chunk.len);
        if (at == 0 && !chunk.as_is) {
            store_u32(out + 4, (uint32_t)padded);
            store_u64(out + padded - FRAMING_CHECKSUM_SIZE, XXH3_64bits(out, padded - FRAMING_CHECKSUM_SIZE));
        } else if (!chunk.as_is) {
            frame_group(out + at, padded);
        }
        at += padded;
    }
    return at;
}

static inline size_t frame_sealed(struct reader *r, uint8_t *out, size_t size) {
    struct chunk head, messages[8];
    size_t n = 0;
    if (!chunk_take(r, &head))
        return 0;
    while (n < ARRAY_LEN(messages) && chunk_take(r, &messages[n]))
        n++;
    CHECK(size >= 0x8000u * (ARRAY_LEN(messages) + 2));
    memcpy(out, head.at, head.len);
    if (head.as_is || head.len < 8)
        return head.len;
    size_t table = head.len, hashed = head.len + 4 * n, at = hashed + FRAMING_CHECKSUM_SIZE;
    for (size_t i = 0; i < n; i++) {
        memcpy(out + at, messages[i].at, messages[i].len);
        size_t len = messages[i].as_is ? messages[i].len : frame_message(out + at, messages[i].len);
        store_u32(out + table + 4 * i, (uint32_t)len);
        at += len;
    }
    store_u32(out + 4, (uint32_t)(hashed + FRAMING_CHECKSUM_SIZE));
    store_u64(out + hashed, XXH3_64bits(out, hashed));
    return at;
}

#endif
