// Big-endian loads and stores, and bounded cursors over byte buffers. A cursor that would leave its buffer sets `bad`
// and from then on yields zeros or writes nothing, so a codec checks once at its end. No allocation, any thread.
#ifndef OPENVEIL_BYTES_H
#define OPENVEIL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void store_u16(uint8_t *p, uint16_t v) {
    v = __builtin_bswap16(v);
    memcpy(p, &v, 2);
}
static inline void store_u32(uint8_t *p, uint32_t v) {
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}
static inline void store_u64(uint8_t *p, uint64_t v) {
    v = __builtin_bswap64(v);
    memcpy(p, &v, 8);
}
static inline uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return __builtin_bswap16(v);
}
static inline uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}
static inline uint64_t load_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return __builtin_bswap64(v);
}

struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool bad;
};

struct writer {
    uint8_t *at;
    uint8_t *end;
    bool bad;
};

static inline struct reader reader_of(const void *data, size_t len) {
    return (struct reader){.at = data, .end = (const uint8_t *)data + len};
}
static inline struct writer writer_of(void *data, size_t len) {
    return (struct writer){.at = data, .end = (uint8_t *)data + len};
}
static inline size_t reader_left(const struct reader *r) {
    return r->bad ? 0 : (size_t)(r->end - r->at);
}
// The next `len` bytes, or NULL (and `bad`) where fewer are left.
static inline const uint8_t *read_bytes(struct reader *r, size_t len) {
    if (r->bad || (size_t)(r->end - r->at) < len) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += len;
    return p;
}
static inline uint8_t read_u8(struct reader *r) {
    const uint8_t *p = read_bytes(r, 1);
    return p == NULL ? 0 : *p;
}
static inline uint16_t read_u16(struct reader *r) {
    const uint8_t *p = read_bytes(r, 2);
    return p == NULL ? 0 : load_u16(p);
}
static inline uint32_t read_u32(struct reader *r) {
    const uint8_t *p = read_bytes(r, 4);
    return p == NULL ? 0 : load_u32(p);
}
static inline uint64_t read_u64(struct reader *r) {
    const uint8_t *p = read_bytes(r, 8);
    return p == NULL ? 0 : load_u64(p);
}
static inline uint8_t *write_space(struct writer *w, size_t len) {
    if (w->bad || (size_t)(w->end - w->at) < len) {
        w->bad = true;
        return NULL;
    }
    uint8_t *p = w->at;
    w->at += len;
    return p;
}
static inline void write_bytes(struct writer *w, const void *data, size_t len) {
    uint8_t *p = write_space(w, len);
    if (p != NULL && len > 0)
        memcpy(p, data, len);
}
static inline void write_u8(struct writer *w, uint8_t v) {
    write_bytes(w, &v, 1);
}
static inline void write_u16(struct writer *w, uint16_t v) {
    v = __builtin_bswap16(v);
    write_bytes(w, &v, sizeof v);
}
static inline void write_u32(struct writer *w, uint32_t v) {
    v = __builtin_bswap32(v);
    write_bytes(w, &v, sizeof v);
}
static inline void write_u64(struct writer *w, uint64_t v) {
    v = __builtin_bswap64(v);
    write_bytes(w, &v, sizeof v);
}

// Numbers as text, without a terminating zero: the length. What a pipeline writes a million times a second.
#define DECIMAL_MAX 20
static inline size_t write_decimal(char *out, uint64_t value) {
    char digits[DECIMAL_MAX];
    size_t n = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    for (size_t i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    return n;
}
static inline size_t write_hex(char *out, uint64_t value) {
    size_t n = 1;
    while (n < 16 && value >> 4 * n != 0)
        n++;
    for (size_t i = 0; i < n; i++)
        out[i] = "0123456789abcdef"[value >> 4 * (n - 1 - i) & 15];
    return n;
}

#endif
