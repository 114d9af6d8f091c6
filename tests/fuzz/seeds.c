// Writes the binary seeds of the fuzz targets, or checks that the committed ones are what it would write: a format that
// changes must take its seeds with it. Text seeds are files of their own beside them.
//   fuzz-seeds CORPUS            writes
//   fuzz-seeds --check CORPUS    1 where a file differs
#include "aggregator/journal_file.h"
#include "aggregator/record.h"
#include "common/bytes.h"
#include "common/files.h"
#include "common/segment.h"

#define SEED_MAX 4096
#define DAY 20779

static const char *corpus;
static bool check_only;
static unsigned n_differ;
static uint8_t out[SEGMENT_HEADER_BYTES_MAX];
static struct ledger ledger; // zeros but for what a seed sets

static void seed(const char *target, const char *name, const struct writer *w, const uint8_t *start) {
    char dir[PATH_SIZE], path[PATH_SIZE], *data = NULL;
    struct err err = {0};
    size_t len = (size_t)(w->at - start), have = 0;
    CHECK(!w->bad && path_join(dir, corpus, target, &err) == 0 && path_join(path, dir, name, &err) == 0);
    if (!check_only) {
        if (dir_create(dir, 0755, &err) == 0 && file_replace(path, 0644, start, len, &err) == 0)
            return;
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    if (file_read(path, SEED_MAX, &data, &have, &err) != 0 || have != len || memcmp(data, start, len) != 0) {
        fprintf(stderr, "%s is not what fuzz-seeds writes\n", path);
        n_differ++;
    }
    free(data);
}

// ---- peer_address ----

static void seed_peer_address(void) {
    static const char lines[] = "10.0.0.0/8,::1\n10.0.0.1\n";
    static const char request[] = "GET /p/x.gif HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    static const uint8_t v4[] = {192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80};
    uint8_t buffer[SEED_MAX];
    for (int v6 = 0; v6 < 2; v6++) {
        struct writer w = writer_of(buffer, sizeof buffer);
        write_bytes(&w, lines, strlen(lines));
        write_bytes(&w, "\r\n\r\n\0\r\nQUIT\n\x21", 13);
        write_u8(&w, v6 ? 0x21 : 0x11);
        write_u16(&w, v6 ? 36 + 7 : 12);
        for (uint8_t i = 0; v6 && i < 36; i++)
            write_u8(&w, i < 2 ? 0x20 : i);
        if (v6)
            write_bytes(&w, "\x04\0\x04noop", 7); // an extension
        else
            write_bytes(&w, v4, sizeof v4);
        write_bytes(&w, request, strlen(request));
        seed("peer_address", v6 ? "proxy-v2-tcp6" : "proxy-v2-tcp4", &w, buffer);
    }
    struct writer w = writer_of(buffer, sizeof buffer);
    write_bytes(&w, lines, strlen(lines));
    write_bytes(&w, "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 16);
    write_bytes(&w, request, strlen(request));
    seed("peer_address", "proxy-v2-local", &w, buffer);
}

// ---- message ----

static struct message_head message_head_of(enum message_kind kind) {
    return (struct message_head){.kind = kind, .edge = "e", .epoch = 0x1122334455667788u, .segment = 7,
                                 .epoch_first = 3, .partition = 1, .partitions = 2, .day = DAY - 4};
}

// As a whole message, without its checksum.
static void seed_message(const char *name, int64_t len, const uint8_t *message) {
    uint8_t buffer[SEED_MAX];
    struct writer w = writer_of(buffer, sizeof buffer);
    CHECK(len > 8);
    write_u8(&w, 0);
    write_bytes(&w, message, (size_t)len - 8);
    seed("message", name, &w, buffer);
}

// And its body alone.
static void seed_body(const char *name, uint8_t what, int64_t len, const uint8_t *message) {
    struct message_head head;
    const uint8_t *body;
    size_t body_len;
    uint8_t buffer[SEED_MAX];
    struct writer w = writer_of(buffer, sizeof buffer);
    CHECK(message_decode_head(message, (size_t)len, &head, &body, &body_len) == 0);
    write_u8(&w, what);
    write_bytes(&w, body, body_len);
    seed("message", name, &w, buffer);
}

static const struct segment_range ranges[] = {{.epoch = 9, .first = 3, .last = 5}, {.epoch = 10, .first = 6, .last = 6}};

static void seed_messages(void) {
    static const struct import_row rows[] = {{.pseudonym = 0x0102030405060708u, .day = DAY - 3}, {.pseudonym = 9, .day = 1}};
    struct close_body close = {.from_day = DAY - 5, .recorded_here = 3, .n_ranges = 2, .ranges = ranges,
                               .counts = {.requests = 6, .recorded = 5, .drops = {1}}};
    struct import_body import = {.tenant = 7, .measured_since = DAY - 400, .n_rows = 2, .rows = rows};
    struct message_codec *codec;
    static const uint8_t rules[RULES_HASH_SIZE] = {42};
    struct message_head head = message_head_of(MESSAGE_REGISTER);
    static uint8_t message[MESSAGE_BYTES_MAX];
    CHECK(message_codec_create(&codec) == 0);
    seed_message("register", message_encode_register(&head, message), message);
    head.kind = MESSAGE_BLOCK;
    seed_message("block-empty", message_encode_block(codec, &head, rules, NULL, 0, message), message);
    message_codec_free(codec);
    head.kind = MESSAGE_CLOSE;
    int64_t len = message_encode_close(&head, &close, message);
    seed_message("close", len, message);
    seed_body("body-close", 2, len, message);
    head.kind = MESSAGE_IMPORT;
    head.rehearsal = true;
    len = message_encode_import(&head, &import, message);
    seed_message("import", len, message);
    seed_body("body-import", 3, len, message);
    head.kind = MESSAGE_RETIRE;
    len = message_encode_retire(&head, "edge-1.example", message);
    seed_message("retire", len, message);
    seed_body("body-retire", 4, len, message);
}

static void write_column(struct writer *w, size_t width, uint64_t first, uint64_t second) {
    for (size_t plane = width; plane-- > 0;) {
        write_u8(w, (uint8_t)(first >> 8 * plane));
        write_u8(w, (uint8_t)(second >> 8 * plane));
    }
}

// Two events before compression, the low bytes of their pseudonyms 0: of one tenant and kind, then of two.
static void seed_columns(void) {
    for (uint32_t n = 1; n <= 2; n++) {
        uint8_t buffer[SEED_MAX];
        struct writer w = writer_of(buffer, sizeof buffer);
        write_u8(&w, 1);
        write_u32(&w, 2); // events
        write_u32(&w, n); // tenants
        write_u32(&w, n); // kinds
        if (n == 1) {
            write_u32(&w, 7);
            write_u32(&w, 2);
            write_bytes(&w, "\0\0\0\2\0\3\1\x10\0", 9);
        } else {
            write_column(&w, 4, 7, 0x01000008);
            write_column(&w, 4, 1, 1);
            write_column(&w, 4, 0, 2);
            write_column(&w, 2, 3, 0xffff);
            write_column(&w, 1, 1, 255);
            write_column(&w, 1, 0x10, 0x31);
            write_column(&w, 1, FETCH_PERSON, FETCH_MACHINE);
        }
        write_column(&w, 3, 0xd1c060, n == 1 ? 5 : 6);
        write_column(&w, 1, 0, n - 1);
        seed("message", n == 1 ? "columns-one-tenant" : "columns-two-tenants", &w, buffer);
    }
}

// ---- segment ----

static struct segment_head segment_head_of(enum message_kind kind, uint64_t segment) {
    return (struct segment_head){.kind = kind, .edge = "e", .epoch = 0x1122334455667788u, .segment = segment,
                                 .epoch_first = 3, .partitions = 2, .day = DAY - 4, .rules_hash = {42}};
}

static void ledger_set(void) {
    memset(&ledger, 0, sizeof ledger);
    ledger.day = DAY - 4;
    ledger.closed_from = DAY - 5;
    ledger.counts = (struct edge_counts){.requests = 6, .recorded = 5, .drops = {1}};
    ledger.recorded_by_partition[0] = 2;
    ledger.recorded_by_partition[1] = 3;
    ledger.n_ranges = 2;
    memcpy(ledger.ranges, ranges, sizeof ranges);
}

static void write_chunk(struct writer *w, const void *data, size_t len) {
    write_u16(w, (uint16_t)len);
    write_bytes(w, data, len);
}

// A header's bytes that are not padding: what is left of the page when its checksum is taken away and zeros are cut.
static void write_raw_header(struct writer *w, uint64_t segment, uint32_t day) {
    struct segment_head head = segment_head_of(MESSAGE_BLOCK, segment);
    head.day = day;
    int64_t len = raw_header_encode(&head, &ledger, out);
    CHECK(len == SEGMENT_PAGE);
    size_t used = SEGMENT_PAGE - 8;
    while (out[used - 1] == 0)
        used--;
    write_chunk(w, out, used);
}

static void write_group(struct writer *w, uint64_t segment, uint32_t sequence, uint32_t n_events) {
    struct group group = {.sequence = sequence, .n_events = n_events, .drops = {sequence}};
    for (uint32_t i = 0; i < n_events; i++) {
        struct event event = {.pseudonym = 0x0102030405060708u * (i + 1), .tenant = i + 1, .sent_day = DAY - 1,
                              .stream = 3, .provider = 1, .class_regime = CLASS_TRANSACTIONAL << 4, .fetch = i & 1};
        group_event_store(out + GROUP_HEADER_BYTES + (size_t)i * GROUP_EVENT_BYTES, &event);
    }
    CHECK(group_encode(0x1122334455667788u, segment, &group, out) == SEGMENT_PAGE);
    write_chunk(w, out, GROUP_HEADER_BYTES + (size_t)n_events * GROUP_EVENT_BYTES);
}

// The header up to its table, and one empty block for each of two partitions.
static void write_sealed(struct writer *w, enum message_kind kind, uint64_t segment) {
    struct segment_head head = segment_head_of(kind, segment);
    static uint8_t messages[2][MESSAGE_BYTES_MAX];
    uint32_t lens[2];
    for (uint16_t i = 0; i < 2; i++) {
        struct message_head message = message_head_of(kind);
        message.segment = segment;
        message.partition = i;
        int64_t len = message_encode_register(&message, messages[i]);
        CHECK(kind == MESSAGE_REGISTER && len > 8);
        lens[i] = (uint32_t)len;
    }
    memcpy(messages[0] + lens[0], messages[1], lens[1]);
    int64_t len = sealed_encode(&head, &ledger, lens, messages[0], lens[0] + lens[1], out, sizeof out);
    size_t table = (size_t)len - lens[0] - lens[1] - 8 - 8;
    write_chunk(w, out, table);
    for (size_t i = 0; i < 2; i++)
        write_chunk(w, messages[i], lens[i] - 8);
}

static void seed_segments(void) {
    uint8_t buffer[SEED_MAX];
    struct writer w = writer_of(buffer, sizeof buffer);
    ledger_set();
    write_u8(&w, 0);
    write_raw_header(&w, 7, DAY - 4);
    write_group(&w, 7, 0, 2);
    write_group(&w, 7, 2, 1); // the one between is lost
    seed("segment", "raw", &w, buffer);
    w = writer_of(buffer, sizeof buffer);
    write_u8(&w, 0);
    write_raw_header(&w, 7, DAY - 4);
    write_group(&w, 7, UINT32_MAX, 1);
    write_group(&w, 7, 0, 1); // goes back
    seed("segment", "raw-last-sequence", &w, buffer);
    w = writer_of(buffer, sizeof buffer);
    write_u8(&w, 1);
    write_sealed(&w, MESSAGE_REGISTER, 7);
    seed("segment", "sealed", &w, buffer);
}

// ---- spool ----

// A file's kind and number, and its length later.
static uint8_t *file_begin(struct writer *w, uint8_t kind, uint8_t number) {
    write_u8(w, kind);
    write_u8(w, number);
    return write_space(w, 2);
}

static void file_end(const struct writer *w, uint8_t *len) {
    CHECK(!w->bad);
    store_u16(len, (uint16_t)(w->at - len - 2));
}

// A sealed segment and a raw one of the same day, or of a later one so that close markers come between.
static void seed_spool(const char *name, uint32_t day, bool with_sealed) {
    uint8_t buffer[SEED_MAX];
    struct writer w = writer_of(buffer, sizeof buffer);
    ledger_set();
    if (with_sealed) {
        uint8_t *len = file_begin(&w, 1, 6);
        write_sealed(&w, MESSAGE_REGISTER, 6);
        file_end(&w, len);
    }
    uint8_t closes = day == DAY - 4 ? 0 : 2;
    if (closes > 0) { // a day that is over, then empty ones
        memset(&ledger, 0, offsetof(struct ledger, ranges));
        ledger.closed_from = day;
    }
    ledger.day = day;
    uint8_t *len = file_begin(&w, 0, (uint8_t)(7 + closes));
    write_raw_header(&w, 7u + closes, day);
    write_group(&w, 7u + closes, 0, 2);
    write_group(&w, 7u + closes, 1, 1);
    file_end(&w, len);
    len = file_begin(&w, 2, 1); // a leftover
    write_chunk(&w, "x", 1);
    file_end(&w, len);
    seed("spool", name, &w, buffer);
}

static void seed_spools(void) {
    seed_spool("next-segment", DAY - 4, true);
    seed_spool("days-later", DAY - 1, true);
    seed_spool("raw-alone", DAY - 4, false);
}

// ---- record ----

static void seed_record(uint8_t selector, const char *name, size_t len) {
    uint8_t buffer[SEED_MAX];
    struct writer w = writer_of(buffer, sizeof buffer);
    write_u8(&w, selector);
    write_bytes(&w, out, len);
    seed("record", name, &w, buffer);
}

static void seed_keys(void) {
    seed_record(0, "key-meta", key_meta(out));
    seed_record(0, "key-settings", key_settings(out, DAY));
    seed_record(0, "key-edge", key_edge(out, "edge-1.example"));
    seed_record(0, "key-day", key_day(out, DAY));
    seed_record(0, "key-last-open", key_last_open(out, 7, 0xd1c0605349147485u));
    seed_record(0, "key-window", key_window(out, 7, DAY, 0xd1c0605349147485u));
    seed_record(0, "key-tenant", key_tenant(out, 7));
    seed_record(0, "key-release", key_release(out, 7, RELEASE_INACTIVITY, DAY));
    seed_record(0, "key-announced", key_announced(out, 7, RELEASE_DELIVERABILITY, DAY));
    seed_record(0, "key-consent", key_consent(out));
}

static void seed_values(void) {
    static char name[] = "zimbra";
    struct settings settings = {.epsilon = {1, 4}, .threshold = 40, .horizon_days = 1, .provider_names = {[20] = name}};
    struct edge_record edge = {.registered_day = DAY, .closed_through = DAY + 3, .n_epochs = 1,
                               .epochs = {{.epoch = 9, .first = 3, .next = 9, .n_gaps = 1,
                                           .gaps = {{.epoch = 9, .first = 5, .last = 6}}}}};
    struct day_record day = {.flags = DAY_COMPLETE, .received = 5, .counted = 3, .repeated = 1, .drops = {1},
                             .edges = {.requests = 6, .recorded = 5, .drops = {1}}, .recorded_here = 5,
                             .n_edges_closed = 1, .n_rules = 2, .rules = {{1}, {2}}};
    struct tenant_record tenant = {.first_measured = DAY, .next_window = DAY, .next_month = DAY + 9};
    static const char line[] = "{\"schema\":\"openveil.release.v1\"}";
    struct release_record release = {.spent = {1, 4}, .line = (const uint8_t *)line, .line_len = strlen(line)};
    struct consent_stamp stamp = {.epoch = 9, .hash = {1, 2, 3}};
    seed_record(1, "meta", meta_encode(true, 8, out));
    seed_record(2, "settings", settings_encode(&settings, out));
    seed_record(3, "edge", edge_encode(&edge, out));
    seed_record(4, "day", day_encode(&day, out));
    seed_record(5, "last-open", last_open_encode((struct last_open){.day = DAY, .frozen_age = AGE_91_179}, out));
    seed_record(6, "window", window_encode((struct window_cell){.stream = 3, .provider = 1, .class_regime = 0x10}, out));
    seed_record(7, "tenant", tenant_encode(&tenant, out));
    seed_record(8, "release", release_encode(&release, out));
    seed_record(9, "stamp", stamp_encode(&stamp, out));
}

// ---- state ----

static uint8_t payload[SEED_MAX];
static struct writer payload_writer;

static void state_record(const uint8_t *key, size_t key_len, size_t value_len) {
    struct frame_record record = {.partition = 1, .key_len = (uint32_t)key_len, .value_len = (uint32_t)value_len,
                                  .key = key, .value = out};
    uint8_t *at = write_space(&payload_writer, FRAME_RECORD_BYTES + key_len + value_len);
    CHECK(at != NULL && frame_record_write(at, &record) == FRAME_RECORD_BYTES + key_len + value_len);
}

static void seed_state(void) {
    uint8_t key[RECORD_KEY_MAX];
    struct window_cell cell = {.stream = 3, .provider = 1, .class_regime = 0x10};
    struct settings settings = {.epsilon = {1, 4}, .threshold = 40, .horizon_days = 1};
    struct edge_record edge = {.registered_day = DAY, .closed_through = DAY - 1};
    struct day_record day = {.flags = DAY_COMPLETE, .received = 5, .counted = 5};
    struct tenant_record tenant = {.first_measured = DAY, .next_window = DAY, .next_month = DAY + 9};
    struct release_record release = {.spent = {1, 4}, .line = (const uint8_t *)"{}", .line_len = 2};
    struct consent_stamp stamp = {.epoch = 9};
    payload_writer = writer_of(payload, sizeof payload);
    write_u32(&payload_writer, 1);
    write_u16(&payload_writer, 1);
    write_u64(&payload_writer, 8);
    state_record(key, key_meta(key), meta_encode(false, 8, out));
    state_record(key, key_settings(key, DAY), settings_encode(&settings, out));
    state_record(key, key_edge(key, "e"), edge_encode(&edge, out));
    state_record(key, key_day(key, DAY), day_encode(&day, out));
    state_record(key, key_last_open(key, 7, 9), last_open_encode((struct last_open){.day = DAY}, out));
    state_record(key, key_last_open(key, 0, 0), last_open_encode((struct last_open){.day = DAY}, out));
    state_record(key, key_last_open(key, 7, 9), 0);
    state_record(key, key_window(key, 7, DAY, 9), window_encode(cell, out));
    state_record(key, key_window(key, 7, DAY, 0), window_encode(cell, out));
    state_record(key, key_window(key, 7, DAY, 9), 0);
    state_record(key, key_tenant(key, 7), tenant_encode(&tenant, out));
    state_record(key, key_release(key, 7, RELEASE_DELIVERABILITY, DAY), release_encode(&release, out));
    state_record(key, key_consent(key), stamp_encode(&stamp, out));
    seed("state", "every-kind", &payload_writer, payload);
}

static void seed_consent(void) {
    struct consent_record informed = {.state = CONSENT_INFORMED, .since = DAY, .allowed_since = DAY - 1, .notice = "v1"};
    struct consent_record granted = {.state = CONSENT_GRANTED, .since = DAY, .allowed_since = DAY - 9,
                                     .granted_since = DAY - 1, .notice = "v2"};
    struct consent_record objected = {.state = CONSENT_OBJECTED, .since = DAY, .notice = "v3"};
    const struct consent_record *const records[] = {&informed, &granted, &objected};
    for (size_t i = 0; i < ARRAY_LEN(records); i++) {
        uint8_t buffer[CONSENT_RECORD_MAX];
        struct writer w = writer_of(buffer, sizeof buffer);
        w.at += consent_record_encode(records[i], buffer);
        seed("consent", consent_state_names[records[i]->state], &w, buffer);
    }
}

int main(int argc, char **argv) {
    check_only = argc == 3 && strcmp(argv[1], "--check") == 0;
    if (argc != (check_only ? 3 : 2)) {
        fprintf(stderr, "usage: %s [--check] CORPUS\n", argv[0]);
        return 64;
    }
    corpus = argv[argc - 1];
    seed_peer_address();
    seed_messages();
    seed_columns();
    seed_segments();
    seed_spools();
    seed_keys();
    seed_values();
    seed_state();
    seed_consent();
    return n_differ == 0 ? 0 : 1;
}
