// A small world for tests of the engine: a tenant whose contacts are known to the consent double, edges that seal, close
// and lose segments, and a plain model of what must come out, byte for byte, because engine and model draw the same
// noise. Days are counted from FIRST_DAY.
#ifndef OPENVEIL_TESTS_ENGINE_WORLD_H
#define OPENVEIL_TESTS_ENGINE_WORLD_H

#include "engine_doubles.h"
#include "aggregator/decide.h"
#include "aggregator/state.h"
#include "common/files.h"
#include "common/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#define TENANT 7u
#define FIRST_DAY 20779u // 2026-11-22
#define CONTACTS 400
#define EDGES 2

static char dir[64];
static struct config config;
static uv_loop_t loop;
static struct engine *engine;
static uint32_t partition; // the tenant's
static struct message_codec *codec;
static const uint8_t rules_hash[RULES_HASH_SIZE] = {0xab};
static char failure[sizeof(struct err)];

// ---- the world around -----------------------------------------------------------------------------------------------

static inline void today_is(uint32_t day) {
    struct clock real = clock_real();
    config.clock = clock_rehearsed(clock_now_ms(&real) / 1000, day, DAY_SECONDS);
}

static inline int fixed_noise_open(void *arg, struct noise_source *source, void **line) {
    static const uint8_t seed[32] = {1};
    struct noise_stream *stream;
    (void)arg;
    int rc = noise_stream_create_seeded(&stream, seed);
    if (rc == 0) {
        *source = noise_stream_source(stream);
        *line = stream;
    }
    return rc;
}
static inline void fixed_noise_close(void *arg, void *line) {
    (void)arg;
    noise_stream_free(line);
}
static const struct noise_ops fixed_noise = {.open = fixed_noise_open, .close = fixed_noise_close};

static inline void on_failed(void *arg, const struct err *err) {
    (void)arg;
    snprintf(failure, sizeof failure, "%s", err->text);
}

static inline void engine_begin(void) {
    struct err err = {0};
    assert_int_equal(uv_loop_init(&loop), 0);
    const struct engine_parts parts = {.loop = &loop,
                                       .config = &config,
                                       .source = &double_source.source,
                                       .journal = &double_journal.journal,
                                       .consent = double_consent_ops(&loop),
                                       .noise = &fixed_noise,
                                       .failed = on_failed};
    failure[0] = '\0';
    if (engine_create(&engine, &parts, &err) != 0 || engine_start(engine, &err) != 0)
        fail_msg("%s", err.text);
}

static inline void engine_end(void) {
    struct err err;
    if (engine_stop(engine, &err) != 0)
        print_message("%s\n", err.text);
    double_consent_close();
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    engine_free(engine);
    engine = NULL;
}

// A crash: what was not committed is gone, and a new process reads on.
static inline void engine_crash(void) {
    double_journal_fail(ERR_AGAIN);
    engine_end();
    double_journal_fail(0);
    engine_begin();
}

static inline void run_until(bool (*reached)(void), const char *what) {
    int64_t end_ms = clock_monotonic_ms() + 20000;
    double_source_wake();
    while (!reached()) {
        if (clock_monotonic_ms() > end_ms || failure[0] != '\0')
            fail_msg("%s did not happen: %s", what, failure);
        uv_run(&loop, UV_RUN_ONCE);
    }
}

static inline bool all_committed(void) {
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++)
        if (double_source.committed[p] != (int64_t)double_source.n[p])
            return false;
    return true;
}

static inline void run_for(int64_t ms) {
    int64_t end_ms = clock_monotonic_ms() + ms;
    while (clock_monotonic_ms() < end_ms)
        uv_run(&loop, UV_RUN_ONCE);
}

// What the journal holds now, as a state of its own.
static inline struct state *committed_state(void) {
    struct state *state;
    assert_int_equal(state_create(&state, 100000), 0);
    pthread_mutex_lock(&double_journal.mutex);
    for (size_t i = 0; i < double_journal.state.n; i++) {
        const struct double_record *r = &double_journal.state.records[i];
        if (r->partition == partition)
            assert_int_equal(state_apply(state, r->bytes, r->key_len, r->bytes + r->key_len, r->value_len), 0);
    }
    pthread_mutex_unlock(&double_journal.mutex);
    return state;
}

static inline void setup_config(void) {
    char text[1000];
    struct err err = {0};
    snprintf(text, sizeof text,
             "[kafka]\npartitions = %d\n[aggregator]\nstate_dir = %s/state\ncommit_ms = 20\n"
             "[release]\ndir = %s/releases\nepsilon = 1/1\nthreshold = 11\n[tenants]\ndir = %s/tenants\n",
             DOUBLE_PARTITIONS, dir, dir, dir);
    if (config_parse(&config, "test", text, strlen(text), false, &err) != 0)
        fail_msg("%s", err.text);
}

static inline void setup_tenant(void) {
    char basis[] = "test";
    struct err err = {0};
    struct tenant_version version = {.from_day = FIRST_DAY - 10,
                                     .inactive_days = 180,
                                     .exemption_basis = basis,
                                     .n_streams = 2,
                                     .streams = {{3, "receipts"}, {4, "resets"}}};
    const struct tenant tenant = {.id = TENANT, .n_versions = 1, .versions = &version};
    if (tenant_store(&tenant, config.tenants_dir, true, &err) != 0)
        fail_msg("%s", err.text);
    partition = partition_of(TENANT, DOUBLE_PARTITIONS);
}

static inline int begin(void **state) {
    (void)state;
    log_set_level(LOG_ERROR);
    strcpy(dir, "/tmp/openveil-engine-XXXXXX");
    assert_non_null(mkdtemp(dir));
    doubles_reset();
    setup_config();
    setup_tenant();
    today_is(FIRST_DAY);
    assert_int_equal(message_codec_create(&codec), 0);
    for (uint64_t c = 0; c < CONTACTS; c++)
        if (c % 10 != 9) // every tenth never answered
            double_consent_set(TENANT, c,
                               (struct consent_record){.state = CONSENT_INFORMED,
                                                       .since = FIRST_DAY - 400,
                                                       .allowed_since = FIRST_DAY - 400});
    engine_begin();
    return 0;
}

static inline int finish(void **state) {
    char command[100];
    (void)state;
    engine_end();
    message_codec_free(codec);
    config_free(&config);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

// ---- edges ----------------------------------------------------------------------------------------------------------

struct edge {
    uint64_t epoch, epoch_first;
    uint64_t segment;
    size_t n_ranges; // of the open day, the current one not yet among them
    struct segment_range ranges[8];
    uint64_t first_of_day;
    struct edge_counts counts;
    uint64_t here[DOUBLE_PARTITIONS];
};
static struct edge edges[EDGES];
static uint8_t out[MESSAGE_BYTES_MAX];

static inline struct message_head head_of(unsigned e, enum message_kind kind, uint32_t day, uint32_t p) {
    struct message_head head = {.kind = kind,
                                .epoch = edges[e].epoch,
                                .epoch_first = edges[e].epoch_first,
                                .segment = edges[e].segment,
                                .partition = (uint16_t)p,
                                .partitions = DOUBLE_PARTITIONS,
                                .day = day};
    snprintf(head.edge, sizeof head.edge, "edge-%u", e);
    return head;
}

static inline void edge_register_all(uint32_t day) {
    for (unsigned e = 0; e < EDGES; e++) {
        edges[e] = (struct edge){.epoch = 100 + e, .epoch_first = 1, .segment = 1};
        for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++) {
            struct message_head head = head_of(e, MESSAGE_REGISTER, day, p);
            double_source_add(p, out, (size_t)message_encode_register(&head, out));
        }
        edges[e].segment = edges[e].first_of_day = 2;
    }
}

// A sealed segment: a block for every partition, the events in their tenant's. `lost`: it never arrives.
static inline void edge_block(unsigned e, uint32_t day, struct event *events, size_t n, bool lost) {
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++) {
        struct message_head head = head_of(e, MESSAGE_BLOCK, day, p);
        int64_t len = message_encode_block(codec, &head, rules_hash, events, p == partition ? n : 0, out);
        assert_true(len > 0);
        if (!lost)
            double_source_add(p, out, (size_t)len);
    }
    edges[e].segment++;
    edges[e].counts.requests += n;
    edges[e].counts.recorded += n;
    edges[e].here[partition] += n;
}

static inline void edge_range(struct edge *edge) {
    CHECK(edge->n_ranges < ARRAY_LEN(edge->ranges));
    if (edge->segment > edge->first_of_day)
        edge->ranges[edge->n_ranges++] =
            (struct segment_range){edge->epoch, edge->first_of_day, edge->segment - 1};
    edge->first_of_day = edge->segment;
}

static inline void edge_boot(unsigned e) {
    edge_range(&edges[e]);
    edges[e].epoch += 100;
    edges[e].epoch_first = edges[e].segment;
}

static inline void edge_close(unsigned e, uint32_t day) {
    struct edge *edge = &edges[e];
    edge_range(edge);
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++) {
        struct message_head head = head_of(e, MESSAGE_CLOSE, day, p);
        const struct close_body body = {.from_day = day,
                                        .counts = edge->counts,
                                        .recorded_here = edge->here[p],
                                        .n_ranges = edge->n_ranges,
                                        .ranges = edge->ranges};
        double_source_add(p, out, (size_t)message_encode_close(&head, &body, out));
    }
    edge->segment++;
    edge->first_of_day = edge->segment;
    edge->n_ranges = 0;
    edge->counts = (struct edge_counts){0};
    memset(edge->here, 0, sizeof edge->here);
}

// ---- the model ------------------------------------------------------------------------------------------------------

static struct {
    bool has[3][CONTACTS]; // by day of sending from FIRST_DAY on
    struct window_cell cell[3][CONTACTS];
    uint32_t last_open[CONTACTS];
} model;

static inline struct event open_of(uint64_t contact, uint32_t sent_day, uint16_t stream, uint8_t fetch) {
    return (struct event){.tenant = TENANT,
                          .pseudonym = contact,
                          .sent_day = sent_day,
                          .stream = stream,
                          .provider = (uint8_t)(contact % 14),
                          .class_regime = CLASS_TRANSACTIONAL << 4,
                          .fetch = fetch};
}

static inline void model_take(const struct event *event, uint32_t day) {
    if (event->pseudonym % 10 == 9)
        return;
    if (model.last_open[event->pseudonym] < day)
        model.last_open[event->pseudonym] = day;
    uint32_t w = event->sent_day - FIRST_DAY;
    if (event->sent_day < FIRST_DAY || day - event->sent_day > 1 || w >= 3 || event->stream > 4)
        return;
    struct window_cell cell = {event->stream, event->provider, event->fetch, event->class_regime};
    if (!model.has[w][event->pseudonym] || window_cell_less(cell, model.cell[w][event->pseudonym]))
        model.cell[w][event->pseudonym] = cell;
    model.has[w][event->pseudonym] = true;
}

// The line that must come out, drawn from the model's exact counts.
static inline char *model_line(uint32_t sent_day, bool complete) {
    static struct stream streams[2] = {{3, "receipts"}, {4, "resets"}};
    static uint8_t rules[1][RULES_HASH_SIZE];
    struct tenant_version version = {.n_streams = 2};
    const struct settings settings = {.epsilon = {1, 1}, .threshold = 11, .horizon_days = 1};
    memcpy(version.streams, streams, sizeof streams);
    memcpy(rules[0], rules_hash, sizeof rules_hash);
    const struct release_frame frame = {.tenant = TENANT,
                                        .kind = RELEASE_DELIVERABILITY,
                                        .period_day = sent_day,
                                        .complete = complete,
                                        .settings = &settings,
                                        .version = &version,
                                        .n_rules = 1,
                                        .rules = (const uint8_t(*)[RULES_HASH_SIZE])rules};
    uint64_t counts[2 * 14 * 2] = {0};
    for (uint64_t c = 0; c < CONTACTS; c++)
        if (model.has[sent_day - FIRST_DAY][c])
            counts[release_cell_index(&frame, &model.cell[sent_day - FIRST_DAY][c])]++;
    struct noise_source source;
    void *stream = NULL;
    char *line;
    size_t len;
    assert_int_equal(fixed_noise_open(NULL, &source, &stream), 0);
    assert_int_equal(release_line(&frame, &source, counts, ARRAY_LEN(counts), &line, &len), 0);
    fixed_noise_close(NULL, stream);
    return line;
}

static char awaited[PATH_SIZE];
static inline bool file_is_there(void) {
    return access(awaited, F_OK) == 0;
}

static inline void check_release(uint32_t sent_day, bool complete) {
    char day[DAY_TEXT_SIZE], *text;
    size_t len;
    struct err err;
    day_format(sent_day, day);
    snprintf(awaited, sizeof awaited, "%s/%u/deliverability-%s.json", config.release_dir, TENANT, day);
    run_until(file_is_there, awaited);
    assert_int_equal(file_read(awaited, 1 << 20, &text, &len, &err), 0);
    char *line = model_line(sent_day, complete);
    assert_int_equal(len, strlen(line) + 1);
    assert_memory_equal(text, line, len - 1);
    free(line);
    free(text);
}

static inline void check_ledger(const struct state *state, uint32_t day, uint8_t flags) {
    const struct day_record *record = state_day(state, day);
    assert_non_null(record);
    assert_int_equal(record->flags, flags);
    uint64_t ends = record->counted + record->repeated;
    for (int i = 0; i < AGG_DROPS; i++)
        ends += record->drops[i];
    assert_int_equal(record->received, ends);
    if (flags == DAY_COMPLETE) {
        assert_int_equal(record->received, record->recorded_here);
        assert_int_equal(record->n_edges_closed, EDGES);
    }
}

static inline void check_last_opens(const struct state *state) {
    for (uint64_t c = 0; c < CONTACTS; c++) {
        struct last_open last_open = {0};
        last_open_get(state_last_open(state), TENANT, c, &last_open);
        assert_int_equal(last_open.day, model.last_open[c]);
    }
}

// A block of random opens on `day`, taken by the model unless it gets lost.
static inline void random_block(unsigned e, uint32_t day, uint32_t *seed, bool lost) {
    struct event events[60];
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        *seed = *seed * 1664525 + 1013904223;
        uint32_t sent = *seed >> 28 == 0 ? day - 3 : day - (*seed >> 8) % 2;
        events[i] = open_of((*seed >> 12) % CONTACTS, sent, (uint16_t)(3 + (*seed >> 9) % 3), (*seed >> 20) % 2);
        if (!lost)
            model_take(&events[i], day);
    }
    edge_block(e, day, events, ARRAY_LEN(events), lost);
}

#define WORLD_TEST(name) cmocka_unit_test_setup_teardown(name, begin, finish)

#endif
