#include "aggregator/journal_file.h"

#include "aggregator/contact_hash.h"
#include "aggregator/record.h"
#include "common/bytes.h"
#include "common/files.h"

#include <string.h>
#include <xxhash.h>

enum { JOURNAL_VERSION = 2, FOLLOW_WINDOW = 1 << 16 };
static const char frame_magic[4] = {'O', 'V', 'J', 'F'};
static const char *const head_magic[] = {"OVJL", "OVJS"};
static const char *const name_prefix[] = {"log-", "snapshot-"};

// ---- heads and names -------------------------------------------------------------------------------------------------

void journal_head_encode(const struct journal_head *head, uint8_t out[JOURNAL_HEAD_BYTES]) {
    struct writer w = writer_of(out, JOURNAL_HEAD_BYTES);
    write_bytes(&w, head_magic[head->kind], 4);
    write_u16(&w, JOURNAL_VERSION);
    write_u16(&w, head->rehearsal);
    write_u32(&w, head->partitions);
    write_u64(&w, head->generation);
    write_u64(&w, head->first_sequence);
    write_u32(&w, 0);
    write_u64(&w, XXH3_64bits(out, JOURNAL_HEAD_BYTES - 8));
    CHECK(!w.bad && w.at == w.end);
}

int journal_head_decode(const uint8_t in[JOURNAL_HEAD_BYTES], struct journal_head *head) {
    struct reader r = reader_of(in + 4, JOURNAL_HEAD_BYTES - 4);
    if (memcmp(in, head_magic[JOURNAL_LOG], 4) == 0)
        head->kind = JOURNAL_LOG;
    else if (memcmp(in, head_magic[JOURNAL_SNAPSHOT], 4) == 0)
        head->kind = JOURNAL_SNAPSHOT;
    else
        return ERR_CORRUPT;
    uint16_t version = read_u16(&r), rehearsal = read_u16(&r);
    head->rehearsal = rehearsal == 1;
    head->partitions = read_u32(&r);
    head->generation = read_u64(&r);
    head->first_sequence = read_u64(&r);
    uint32_t zero = read_u32(&r);
    if (version != JOURNAL_VERSION || rehearsal > 1 || zero != 0 || head->partitions < 1 ||
        head->partitions > UINT16_MAX || read_u64(&r) != XXH3_64bits(in, JOURNAL_HEAD_BYTES - 8))
        return ERR_CORRUPT;
    return 0;
}

void journal_name(enum journal_file_kind kind, uint64_t generation, char name[JOURNAL_NAME_SIZE]) {
    snprintf(name, JOURNAL_NAME_SIZE, "%s%016llx.ovj", name_prefix[kind], (unsigned long long)generation);
}

bool journal_name_parse(const char *name, enum journal_file_kind *kind, uint64_t *generation) {
    char back[JOURNAL_NAME_SIZE];
    *kind = strncmp(name, name_prefix[JOURNAL_LOG], 4) == 0 ? JOURNAL_LOG : JOURNAL_SNAPSHOT;
    size_t prefix = strlen(name_prefix[*kind]);
    if (strncmp(name, name_prefix[*kind], prefix) != 0)
        return false;
    *generation = strtoull(name + prefix, NULL, 16);
    journal_name(*kind, *generation, back);
    return strcmp(name, back) == 0;
}

void snapshot_table_encode(const struct snapshot_part *parts, uint32_t partitions, uint8_t *out) {
    size_t len = snapshot_table_bytes(partitions);
    struct writer w = writer_of(out, len);
    for (uint32_t i = 0; i < partitions; i++) {
        write_u64(&w, parts[i].start);
        write_u64(&w, parts[i].end);
        write_u64(&w, parts[i].records);
        write_u64(&w, (uint64_t)parts[i].position);
    }
    write_u64(&w, XXH3_64bits(out, len - 8));
    CHECK(!w.bad && w.at == w.end);
}

int snapshot_table_decode(const uint8_t *in, uint32_t partitions, uint64_t file_size, struct snapshot_part *parts) {
    size_t len = snapshot_table_bytes(partitions);
    struct reader r = reader_of(in, len);
    uint64_t at = JOURNAL_HEAD_BYTES + len;
    for (uint32_t i = 0; i < partitions; i++) {
        parts[i].start = read_u64(&r);
        parts[i].end = read_u64(&r);
        parts[i].records = read_u64(&r);
        parts[i].position = (int64_t)read_u64(&r);
        if (parts[i].start != at || parts[i].end < at || parts[i].end > file_size || parts[i].position < -1)
            return ERR_CORRUPT;
        at = parts[i].end;
    }
    return read_u64(&r) == XXH3_64bits(in, len - 8) && at == file_size ? 0 : ERR_CORRUPT;
}

// ---- frames ----------------------------------------------------------------------------------------------------------

size_t frame_seal(uint8_t *out, uint64_t sequence, size_t payload_len) {
    CHECK(payload_len <= FRAME_BYTES_MAX - FRAME_HEAD_BYTES - FRAME_SUM_BYTES);
    memcpy(out, frame_magic, 4);
    store_u32(out + 4, (uint32_t)payload_len);
    store_u64(out + 8, sequence);
    store_u32(out + 16, (uint32_t)XXH3_64bits(out, 16));
    size_t len = FRAME_HEAD_BYTES + payload_len;
    store_u64(out + len, XXH3_64bits(out, len));
    return len + FRAME_SUM_BYTES;
}

int64_t frame_head_parse(const uint8_t head[FRAME_HEAD_BYTES], uint64_t *sequence) {
    uint32_t payload_len = load_u32(head + 4);
    if (memcmp(head, frame_magic, 4) != 0 || load_u32(head + 16) != (uint32_t)XXH3_64bits(head, 16) ||
        payload_len > FRAME_BYTES_MAX - FRAME_HEAD_BYTES - FRAME_SUM_BYTES)
        return ERR_CORRUPT;
    *sequence = load_u64(head + 8);
    return (int64_t)payload_len + FRAME_HEAD_BYTES + FRAME_SUM_BYTES;
}

int frame_check(const uint8_t *frame, size_t frame_len) {
    CHECK(frame_len >= FRAME_HEAD_BYTES + FRAME_SUM_BYTES);
    size_t len = frame_len - FRAME_SUM_BYTES;
    return load_u64(frame + len) == XXH3_64bits(frame, len) ? 0 : ERR_CORRUPT;
}

static struct frame_record record_read(struct reader *r) {
    struct frame_record record = {.at = r->at};
    record.partition = read_u16(r);
    record.key_len = read_u8(r);
    record.value_len = read_u32(r);
    record.key = read_bytes(r, record.key_len);
    record.value = read_bytes(r, record.value_len);
    return record;
}

int frame_walk(const uint8_t *payload, size_t len, const struct frame_hooks *hooks) {
    struct reader r = reader_of(payload, len);
    int rc = 0;
    uint32_t n = read_u32(&r);
    if (r.bad || n > reader_left(&r) / 10)
        return ERR_CORRUPT;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t partition = read_u16(&r);
        int64_t position = (int64_t)read_u64(&r);
        if (position < 0)
            return ERR_CORRUPT;
        if (hooks->position != NULL && (rc = hooks->position(hooks->arg, partition, position)) != 0)
            return rc;
    }
    while (hooks->record != NULL && reader_left(&r) > 0) {
        struct frame_record record = record_read(&r);
        if (r.bad || record.key_len < 1 || record.key_len > RECORD_KEY_MAX || record.value_len > RECORD_VALUE_MAX)
            return ERR_CORRUPT;
        if ((rc = hooks->record(hooks->arg, &record)) != 0)
            return rc;
    }
    return 0;
}

struct frame_record frame_record_at(const uint8_t *at) {
    struct reader r = reader_of(at, FRAME_RECORD_BYTES + RECORD_KEY_MAX + RECORD_VALUE_MAX);
    struct frame_record record = record_read(&r);
    CHECK(!r.bad && record.key_len >= 1);
    return record;
}

size_t frame_record_write(uint8_t *out, const struct frame_record *record) {
    size_t len = FRAME_RECORD_BYTES + record->key_len + record->value_len;
    struct writer w = writer_of(out, len);
    write_u16(&w, (uint16_t)record->partition);
    write_u8(&w, (uint8_t)record->key_len);
    write_u32(&w, record->value_len);
    write_bytes(&w, record->key, record->key_len);
    write_bytes(&w, record->value, record->value_len);
    CHECK(!w.bad && w.at == w.end);
    return len;
}

static int last_open_compare(const uint8_t *a, const uint8_t *b) {
    int order = memcmp(a, b, LAST_OPEN_KEY_BYTES - 8);
    uint64_t left = contact_hash(load_u64(a + LAST_OPEN_KEY_BYTES - 8));
    uint64_t right = contact_hash(load_u64(b + LAST_OPEN_KEY_BYTES - 8));
    return order != 0 ? order : left < right ? -1 : left > right;
}

int frame_key_compare(const struct frame_record *a, const struct frame_record *b) {
    if (a->key[0] == RECORD_LAST_OPEN && b->key[0] == RECORD_LAST_OPEN && a->key_len == LAST_OPEN_KEY_BYTES &&
        b->key_len == LAST_OPEN_KEY_BYTES)
        return last_open_compare(a->key, b->key);
    size_t common = a->key_len < b->key_len ? a->key_len : b->key_len;
    int order = memcmp(a->key, b->key, common);
    if (order != 0)
        return order;
    return a->key_len < b->key_len ? -1 : a->key_len > b->key_len;
}

static int reader_room(struct frame_reader *reader, size_t room) {
    if (room <= reader->room)
        return 0;
    room = room < (1u << 20) ? 1u << 20 : room;
    uint8_t *buffer = realloc(reader->buffer, room);
    if (buffer == NULL)
        return ERR_NOMEM;
    reader->buffer = buffer;
    reader->room = room;
    return 0;
}

// A file that ends early was torn, or is being written.
static int reader_bytes(const struct frame_reader *reader, void *out, size_t len, uint64_t at) {
    int rc = read_full(reader->fd, out, len, (off_t)at);
    return rc == ERR_AGAIN ? ERR_CORRUPT : rc;
}

int frame_reader_next(struct frame_reader *reader, const uint8_t **payload, size_t *len) {
    uint8_t head[FRAME_HEAD_BYTES];
    uint64_t sequence;
    uint64_t left = reader->end - reader->at;
    CHECK(reader->at <= reader->end);
    if (left == 0)
        return 0;
    if (left < FRAME_HEAD_BYTES + FRAME_SUM_BYTES)
        return ERR_CORRUPT;
    int rc = reader_bytes(reader, head, sizeof head, reader->at);
    if (rc != 0)
        return rc;
    int64_t frame_len = frame_head_parse(head, &sequence);
    if (frame_len < 0 || (uint64_t)frame_len > left || sequence != reader->sequence)
        return ERR_CORRUPT;
    if ((rc = reader_room(reader, (size_t)frame_len)) != 0 ||
        (rc = reader_bytes(reader, reader->buffer, (size_t)frame_len, reader->at)) != 0)
        return rc;
    // The head again: a writer may have been at work between the two reads.
    if (memcmp(reader->buffer, head, sizeof head) != 0 || frame_check(reader->buffer, (size_t)frame_len) != 0)
        return ERR_CORRUPT;
    reader->at += (uint64_t)frame_len;
    reader->sequence++;
    *payload = reader->buffer + FRAME_HEAD_BYTES;
    *len = (size_t)frame_len - FRAME_HEAD_BYTES - FRAME_SUM_BYTES;
    return 1;
}

// Whether the frame that seems to begin at `at` is whole and later than `reader`'s.
static int later_frame_at(const struct frame_reader *reader, uint64_t at, bool *whole) {
    uint8_t head[FRAME_HEAD_BYTES];
    const uint8_t *payload;
    size_t len;
    struct frame_reader probe = {.fd = reader->fd, .at = at, .end = reader->end};
    int rc = reader_bytes(&probe, head, sizeof head, at);
    if (rc == 0 && frame_head_parse(head, &probe.sequence) >= 0 && probe.sequence > reader->sequence)
        rc = frame_reader_next(&probe, &payload, &len);
    *whole = rc == 1;
    frame_reader_free(&probe);
    return rc == 1 || rc == ERR_CORRUPT ? 0 : rc;
}

int frame_follows(const struct frame_reader *reader, bool *follows) {
    uint8_t *window = malloc(FOLLOW_WINDOW);
    int rc = window == NULL ? ERR_NOMEM : 0;
    uint64_t at = reader->at + 1;
    *follows = false;
    while (rc == 0 && !*follows && at + FRAME_HEAD_BYTES + FRAME_SUM_BYTES <= reader->end) {
        size_t len = reader->end - at < FOLLOW_WINDOW ? (size_t)(reader->end - at) : FOLLOW_WINDOW;
        if ((rc = reader_bytes(reader, window, len, at)) != 0)
            break;
        const uint8_t *found = memmem(window, len, frame_magic, sizeof frame_magic);
        if (found == NULL) {
            at += len - sizeof frame_magic + 1;
            continue;
        }
        at += (uint64_t)(found - window);
        rc = later_frame_at(reader, at, follows);
        at++;
    }
    free(window);
    return rc == ERR_CORRUPT ? 0 : rc; // it was made shorter meanwhile
}

void frame_reader_free(struct frame_reader *reader) {
    free(reader->buffer);
    reader->buffer = NULL;
    reader->room = 0;
}
