#include "common/message.h"

#include "common/bytes.h"
#include "common/message_codec.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define MAGIC "OVM1"
#define MAGIC_SIZE 4
#define FLAG_REHEARSAL 1u
#define CHECKSUM_SIZE 8
#define RANGE_SIZE 24
#define ROW_SIZE 12
#define CLOSE_FIXED_SIZE (4 + 8 + 8 + 8 * EDGE_DROPS_STORED + 8 + 4)
#define IMPORT_FIXED_SIZE (4 + 4 + 4)

bool edge_id_valid(const char *edge) {
    size_t len = strnlen(edge, EDGE_ID_MAX + 1);
    if (len < 1 || len > EDGE_ID_MAX)
        return false;
    return strspn(edge, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

static bool head_valid(const struct message_head *head) {
    return head->kind >= MESSAGE_BLOCK && head->kind <= MESSAGE_RETIRE && edge_id_valid(head->edge) &&
           head->partitions >= 1 && head->partitions <= PARTITIONS_MAX && head->partition < head->partitions &&
           head->epoch_first <= head->segment;
}

uint8_t *message_begin(struct writer *w, const struct message_head *head) {
    CHECK(head_valid(head));
    uint8_t edge_len = (uint8_t)strlen(head->edge);
    write_bytes(w, MAGIC, MAGIC_SIZE);
    write_u8(w, (uint8_t)head->kind);
    write_u8(w, head->rehearsal ? FLAG_REHEARSAL : 0);
    write_u8(w, edge_len);
    write_bytes(w, head->edge, edge_len);
    write_u64(w, head->epoch);
    write_u64(w, head->segment);
    write_u64(w, head->epoch_first);
    write_u16(w, head->partition);
    write_u16(w, head->partitions);
    write_u32(w, head->day);
    return write_space(w, 4);
}

int64_t message_end(struct writer *w, uint8_t *start, uint8_t *body_len) {
    if (w->bad)
        return ERR_LIMIT;
    store_u32(body_len, (uint32_t)(w->at - (body_len + 4)));
    write_u64(w, XXH3_64bits(start, (size_t)(w->at - start)));
    return w->bad ? ERR_LIMIT : w->at - start;
}

int64_t message_encode_register(const struct message_head *head, uint8_t *out) {
    CHECK(head->kind == MESSAGE_REGISTER);
    struct writer w = writer_of(out, MESSAGE_BYTES_MAX);
    uint8_t *body_len = message_begin(&w, head);
    return message_end(&w, out, body_len);
}

// Ascending and apart, as the numbers of a spool's segments are; two epochs never share a number.
static bool range_follows(const struct segment_range *ranges, size_t i) {
    return ranges[i].first <= ranges[i].last && (i == 0 || ranges[i].first > ranges[i - 1].last);
}

int64_t message_encode_close(const struct message_head *head, const struct close_body *body, uint8_t *out) {
    CHECK(head->kind == MESSAGE_CLOSE);
    if (body->n_ranges > CLOSE_RANGES_MAX)
        return ERR_LIMIT;
    if (body->from_day > head->day || body->recorded_here > body->counts.recorded)
        return ERR_INVALID;
    struct writer w = writer_of(out, MESSAGE_BYTES_MAX);
    uint8_t *body_len = message_begin(&w, head);
    write_u32(&w, body->from_day);
    write_u64(&w, body->counts.requests);
    write_u64(&w, body->counts.recorded);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        write_u64(&w, body->counts.drops[i]);
    write_u64(&w, body->recorded_here);
    write_u32(&w, (uint32_t)body->n_ranges);
    for (size_t i = 0; i < body->n_ranges; i++) {
        if (!range_follows(body->ranges, i))
            return ERR_INVALID;
        write_u64(&w, body->ranges[i].epoch);
        write_u64(&w, body->ranges[i].first);
        write_u64(&w, body->ranges[i].last);
    }
    return message_end(&w, out, body_len);
}

int64_t message_encode_import(const struct message_head *head, const struct import_body *body, uint8_t *out) {
    CHECK(head->kind == MESSAGE_IMPORT);
    if (body->n_rows > IMPORT_ROWS_MAX)
        return ERR_LIMIT;
    struct writer w = writer_of(out, MESSAGE_BYTES_MAX);
    uint8_t *body_len = message_begin(&w, head);
    write_u32(&w, body->tenant);
    write_u32(&w, body->measured_since);
    write_u32(&w, (uint32_t)body->n_rows);
    for (size_t i = 0; i < body->n_rows; i++) {
        write_u64(&w, body->rows[i].pseudonym);
        write_u32(&w, body->rows[i].day);
    }
    return message_end(&w, out, body_len);
}

int64_t message_encode_retire(const struct message_head *head, const char *edge, uint8_t *out) {
    CHECK(head->kind == MESSAGE_RETIRE);
    if (!edge_id_valid(edge))
        return ERR_INVALID;
    struct writer w = writer_of(out, MESSAGE_BYTES_MAX);
    uint8_t *body_len = message_begin(&w, head);
    write_u8(&w, (uint8_t)strlen(edge));
    write_bytes(&w, edge, strlen(edge));
    return message_end(&w, out, body_len);
}

static int edge_read(struct reader *r, char edge[EDGE_ID_MAX + 1]) {
    size_t len = read_u8(r);
    const uint8_t *text = read_bytes(r, len);
    if (text == NULL || len > EDGE_ID_MAX || memchr(text, '\0', len) != NULL)
        return ERR_CORRUPT;
    memcpy(edge, text, len);
    edge[len] = '\0';
    return edge_id_valid(edge) ? 0 : ERR_CORRUPT;
}

int message_decode_head(const uint8_t *data, size_t len, struct message_head *head, const uint8_t **body,
                        size_t *body_len) {
    if (len > MESSAGE_BYTES_MAX)
        return ERR_LIMIT;
    if (len < MAGIC_SIZE + CHECKSUM_SIZE || memcmp(data, MAGIC, MAGIC_SIZE) != 0)
        return ERR_CORRUPT;
    if (load_u64(data + len - CHECKSUM_SIZE) != XXH3_64bits(data, len - CHECKSUM_SIZE))
        return ERR_CORRUPT;
    struct reader r = reader_of(data + MAGIC_SIZE, len - MAGIC_SIZE - CHECKSUM_SIZE);
    memset(head, 0, sizeof *head);
    head->kind = read_u8(&r);
    uint8_t flags = read_u8(&r);
    if (edge_read(&r, head->edge) != 0)
        return ERR_CORRUPT;
    head->epoch = read_u64(&r);
    head->segment = read_u64(&r);
    head->epoch_first = read_u64(&r);
    head->partition = read_u16(&r);
    head->partitions = read_u16(&r);
    head->day = read_u32(&r);
    *body_len = read_u32(&r);
    if (r.bad || flags > FLAG_REHEARSAL || *body_len != reader_left(&r) || !head_valid(head))
        return ERR_CORRUPT;
    head->rehearsal = flags != 0;
    *body = r.at;
    bool has_body = head->kind != MESSAGE_REGISTER;
    if (has_body != (*body_len > 0))
        return ERR_CORRUPT;
    if (head->kind == MESSAGE_CLOSE && (*body_len < CLOSE_FIXED_SIZE || load_u32(*body) > head->day))
        return ERR_CORRUPT;
    return 0;
}

int message_decode_close(struct message_codec *codec, const uint8_t *body, size_t body_len, struct close_body *close) {
    struct segment_range *ranges = message_codec_scratch(codec)->ranges;
    struct reader r = reader_of(body, body_len);
    memset(close, 0, sizeof *close);
    close->from_day = read_u32(&r);
    close->counts.requests = read_u64(&r);
    close->counts.recorded = read_u64(&r);
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        close->counts.drops[i] = read_u64(&r);
    close->recorded_here = read_u64(&r);
    close->n_ranges = read_u32(&r);
    close->ranges = ranges;
    if (r.bad || close->n_ranges > CLOSE_RANGES_MAX || reader_left(&r) != close->n_ranges * RANGE_SIZE ||
        close->recorded_here > close->counts.recorded)
        return ERR_CORRUPT;
    for (size_t i = 0; i < close->n_ranges; i++) {
        ranges[i].epoch = read_u64(&r);
        ranges[i].first = read_u64(&r);
        ranges[i].last = read_u64(&r);
        if (!range_follows(ranges, i))
            return ERR_CORRUPT;
    }
    CHECK(!r.bad && reader_left(&r) == 0);
    return 0;
}

int message_decode_import(struct message_codec *codec, const uint8_t *body, size_t body_len,
                          struct import_body *import) {
    struct import_row *rows = message_codec_scratch(codec)->rows;
    struct reader r = reader_of(body, body_len);
    memset(import, 0, sizeof *import);
    import->tenant = read_u32(&r);
    import->measured_since = read_u32(&r);
    import->n_rows = read_u32(&r);
    import->rows = rows;
    if (r.bad || import->n_rows > IMPORT_ROWS_MAX || reader_left(&r) != import->n_rows * ROW_SIZE)
        return ERR_CORRUPT;
    for (size_t i = 0; i < import->n_rows; i++) {
        rows[i].pseudonym = read_u64(&r);
        rows[i].day = read_u32(&r);
    }
    CHECK(!r.bad && reader_left(&r) == 0);
    return 0;
}

int message_decode_retire(const uint8_t *body, size_t body_len, char edge[EDGE_ID_MAX + 1]) {
    struct reader r = reader_of(body, body_len);
    if (edge_read(&r, edge) != 0 || reader_left(&r) != 0)
        return ERR_CORRUPT;
    return 0;
}
