// In-memory stand-ins for what the engine stands between: a source, a journal, a consent store. One instance of each a
// process. The journal and the consent store can be told to fail; what the journal holds outlives the engine.
#ifndef OPENVEIL_TESTS_ENGINE_DOUBLES_H
#define OPENVEIL_TESTS_ENGINE_DOUBLES_H

#include "aggregator/engine.h"
#include "aggregator/record.h"
#include "common/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define DOUBLE_PARTITIONS 2
#define DOUBLE_MESSAGES_MAX 4096
#define DOUBLE_CONTACTS_MAX 8192

// ---- source ---------------------------------------------------------------------------------------------------------

struct double_message {
    uint8_t *data;
    size_t len;
};
struct double_source {
    struct source source;
    struct source_hooks hooks;
    uv_idle_t idle;
    struct double_message messages[DOUBLE_PARTITIONS][DOUBLE_MESSAGES_MAX];
    size_t n[DOUBLE_PARTITIONS];
    size_t next[DOUBLE_PARTITIONS];
    bool open[DOUBLE_PARTITIONS];
    int64_t committed[DOUBLE_PARTITIONS];
    bool stopped;
    bool hides_end;
};
static struct double_source double_source;

static void double_source_deliver(uv_idle_t *idle) {
    struct double_source *s = &double_source;
    bool more = false;
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++) {
        if (!s->open[p] || s->next[p] == s->n[p])
            continue;
        const struct double_message *message = &s->messages[p][s->next[p]];
        s->open[p] = s->hooks.message(s->hooks.arg, p, (int64_t)s->next[p], message->data, message->len);
        if (s->open[p])
            s->next[p]++;
        more = true;
    }
    if (!more)
        uv_idle_stop(idle);
}

static inline void double_source_wake(void) {
    if (!double_source.stopped)
        uv_idle_start(&double_source.idle, double_source_deliver);
}

static int double_source_start(struct source *source, uv_loop_t *loop, const struct source_hooks *hooks,
                               struct err *err) {
    struct double_source *s = (struct double_source *)source;
    (void)err;
    s->hooks = *hooks;
    s->stopped = false;
    CHECK(uv_idle_init(loop, &s->idle) == 0);
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++) {
        s->open[p] = false;
        s->next[p] = 0;
        hooks->assigned(hooks->arg, p);
    }
    return 0;
}
static void double_source_resume(struct source *source, uint32_t partition, int64_t position) {
    (void)source;
    if (position != -2)
        double_source.next[partition] = position < 0 ? 0 : (size_t)position;
    double_source.open[partition] = true;
    double_source_wake();
}
static int double_source_end(struct source *source, uint32_t partition, int64_t *end) {
    (void)source;
    *end = (int64_t)double_source.n[partition];
    return double_source.hides_end ? ERR_UNREACHABLE : 0;
}
static void double_source_committed(struct source *source, uint32_t partition, int64_t position) {
    (void)source;
    CHECK(position >= double_source.committed[partition]);
    double_source.committed[partition] = position;
}
static void double_source_stop(struct source *source) {
    (void)source;
    double_source.stopped = true;
    uv_close((uv_handle_t *)&double_source.idle, NULL);
}
static const struct source_ops double_source_ops = {.start = double_source_start,
                                                    .resume = double_source_resume,
                                                    .end = double_source_end,
                                                    .committed = double_source_committed,
                                                    .stop = double_source_stop};

static inline void double_source_add(uint32_t partition, const uint8_t *data, size_t len) {
    struct double_source *s = &double_source;
    CHECK(s->n[partition] < DOUBLE_MESSAGES_MAX);
    uint8_t *copy = malloc(len);
    CHECK(copy != NULL);
    memcpy(copy, data, len);
    s->messages[partition][s->n[partition]++] = (struct double_message){copy, len};
}

// ---- journal --------------------------------------------------------------------------------------------------------

struct double_record {
    uint32_t partition;
    size_t key_len, value_len;
    uint8_t *bytes; // key, then value
};
struct double_records {
    struct double_record *records;
    size_t n, room;
};
struct double_journal {
    struct journal journal;
    pthread_mutex_t mutex;
    struct double_records state; // what is committed
    struct double_records sent;  // what a reader of the releases topic may have seen, committed or not
    size_t n_sent;               // so many of them are committed
    bool loses_sent;             // every commit with a line to send is aborted
    int64_t position[DOUBLE_PARTITIONS];
    int fails_with; // every commit from now on
    size_t n_commits;
};
static struct double_journal double_journal = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static int double_journal_load(struct journal *journal, uint32_t partition, journal_record_fn each,
                               journal_progress_fn progress, void *arg, int64_t *position, struct err *err) {
    struct double_journal *j = (struct double_journal *)journal;
    int rc = progress(arg, 30, 100);
    (void)err;
    pthread_mutex_lock(&j->mutex);
    for (size_t i = 0; i < j->state.n && rc == 0; i++) {
        const struct double_record *r = &j->state.records[i];
        if (r->partition == partition)
            rc = each(arg, r->bytes, r->key_len, r->bytes + r->key_len, r->value_len);
    }
    *position = j->position[partition];
    pthread_mutex_unlock(&j->mutex);
    return rc;
}
static void double_records_append(struct double_records *to, const struct batch_record *record) {
    if (to->n == to->room) {
        to->room = to->room == 0 ? 1024 : to->room * 2;
        to->records = realloc(to->records, to->room * sizeof *to->records);
        CHECK(to->records != NULL);
    }
    uint8_t *bytes = malloc(record->key_len + record->value_len);
    CHECK(bytes != NULL);
    memcpy(bytes, record->key, record->key_len);
    memcpy(bytes + record->key_len, record->value, record->value_len);
    to->records[to->n++] = (struct double_record){record->partition, record->key_len, record->value_len, bytes};
}
static void double_records_free(struct double_records *records) {
    for (size_t i = 0; i < records->n; i++)
        free(records->records[i].bytes);
    free(records->records);
    *records = (struct double_records){0};
}
// The lines that a commit sends, seen whether or not it succeeds; their number.
static size_t double_journal_send(struct double_journal *j, const struct batch *batch) {
    size_t n = 0;
    for (size_t i = 0; i < batch_count(batch); i++) {
        struct batch_record record = batch_at(batch, i);
        if (!record.release)
            continue;
        double_records_append(&j->sent, &record);
        n++;
    }
    return n;
}
static int double_journal_commit(struct journal *journal, const struct batch *batch, struct err *err) {
    struct double_journal *j = (struct double_journal *)journal;
    pthread_mutex_lock(&j->mutex);
    size_t n_lines = double_journal_send(j, batch);
    int rc = j->loses_sent && n_lines > 0 ? ERR_AGAIN : j->fails_with;
    for (size_t i = 0; i < batch_count(batch) && rc == 0; i++) {
        struct batch_record record = batch_at(batch, i);
        if (!record.release)
            double_records_append(&j->state, &record);
    }
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS && rc == 0; p++)
        if (batch_position(batch, p) >= 0)
            j->position[p] = batch_position(batch, p);
    j->n_commits += rc == 0;
    j->n_sent += rc == 0 ? n_lines : 0;
    pthread_mutex_unlock(&j->mutex);
    return rc == 0 ? 0 : err_set(err, rc, "the test wants it so");
}
static void double_journal_close(struct journal *journal) {
    (void)journal;
}
static const struct journal_ops double_journal_ops = {
    .sends_lines = true, .load = double_journal_load, .commit = double_journal_commit, .close = double_journal_close};

static inline void double_journal_fail(int rc) {
    pthread_mutex_lock(&double_journal.mutex);
    double_journal.fails_with = rc;
    pthread_mutex_unlock(&double_journal.mutex);
}

static inline size_t double_journal_commits(void) {
    pthread_mutex_lock(&double_journal.mutex);
    size_t n = double_journal.n_commits;
    pthread_mutex_unlock(&double_journal.mutex);
    return n;
}

// ---- consent --------------------------------------------------------------------------------------------------------

struct double_contact {
    uint32_t tenant;
    uint64_t pseudonym;
    struct consent_record record;
};
struct double_answer {
    struct double_answer *next;
    uint32_t tenant; // of a scan
    struct consent_query *queries;
    size_t n;
    consent_each_fn each;
    consent_done_fn done;
    void *arg;
};
struct double_consent {
    uv_idle_t idle;
    struct double_contact contacts[DOUBLE_CONTACTS_MAX];
    size_t n;
    struct double_answer *first, **end;
    bool away;
    uint64_t epoch;
    size_t n_asked;
    uint64_t applied[DOUBLE_PARTITIONS];
};
static struct double_consent double_consent;

static struct consent_record *double_consent_find(uint32_t tenant, uint64_t pseudonym) {
    for (size_t i = 0; i < double_consent.n; i++)
        if (double_consent.contacts[i].tenant == tenant && double_consent.contacts[i].pseudonym == pseudonym)
            return &double_consent.contacts[i].record;
    return NULL;
}
static inline void double_consent_set(uint32_t tenant, uint64_t pseudonym, struct consent_record record) {
    struct consent_record *there = double_consent_find(tenant, pseudonym);
    double_consent.epoch++;
    if (there == NULL) {
        CHECK(double_consent.n < DOUBLE_CONTACTS_MAX);
        double_consent.contacts[double_consent.n++] = (struct double_contact){tenant, pseudonym, record};
    } else {
        *there = record;
    }
}
static void double_consent_answer(uv_idle_t *idle) {
    struct double_answer *answer = double_consent.first;
    if (answer == NULL) {
        uv_idle_stop(idle);
        return;
    }
    double_consent.first = answer->next;
    if (answer->next == NULL)
        double_consent.end = &double_consent.first;
    struct consent_stamp stamp = {.epoch = double_consent.epoch, .hash = {(uint8_t)double_consent.epoch}};
    for (size_t i = 0; i < answer->n && !double_consent.away; i++) {
        const struct consent_record *record =
            double_consent_find(answer->queries[i].tenant, answer->queries[i].pseudonym);
        answer->queries[i].record = record == NULL ? (struct consent_record){0} : *record;
    }
    for (size_t i = 0; answer->each != NULL && i < double_consent.n && !double_consent.away; i++)
        if (double_consent.contacts[i].tenant == answer->tenant)
            answer->each(answer->arg, double_consent.contacts[i].pseudonym, &double_consent.contacts[i].record);
    answer->done(answer->arg, double_consent.away ? ERR_UNREACHABLE : 0, &stamp);
    free(answer);
}
static int double_consent_ask(struct double_answer question) {
    struct double_answer *answer = malloc(sizeof *answer);
    CHECK(answer != NULL);
    *answer = question;
    answer->next = NULL;
    *double_consent.end = answer;
    double_consent.end = &answer->next;
    return uv_idle_start(&double_consent.idle, double_consent_answer);
}
static int double_consent_lookup(void *arg, uint32_t partition, struct consent_query *queries, size_t n,
                                 const struct consent_stamp *known, consent_done_fn done, void *done_arg) {
    (void)arg;
    (void)partition;
    CHECK(known == NULL || known->epoch <= double_consent.epoch);
    double_consent.n_asked += n;
    return double_consent_ask((struct double_answer){.queries = queries, .n = n, .done = done, .arg = done_arg});
}
static int double_consent_scan(void *arg, uint32_t partition, uint32_t tenant, const struct consent_stamp *known,
                               consent_each_fn each, consent_done_fn done, void *done_arg) {
    (void)arg;
    (void)partition;
    (void)known;
    return double_consent_ask((struct double_answer){.tenant = tenant, .each = each, .done = done, .arg = done_arg});
}
static int double_consent_applied(void *arg, uint32_t partition, uint64_t epoch, consent_done_fn done,
                                  void *done_arg) {
    (void)arg;
    CHECK(partition < DOUBLE_PARTITIONS && epoch > double_consent.applied[partition]);
    double_consent.applied[partition] = epoch;
    return double_consent_ask((struct double_answer){.done = done, .arg = done_arg});
}
static bool double_consent_connected(void *arg) {
    (void)arg;
    return !double_consent.away;
}

// ---- all three ------------------------------------------------------------------------------------------------------

// Forgets everything of the test before.
static inline void doubles_reset(void) {
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++)
        for (size_t i = 0; i < double_source.n[p]; i++)
            free(double_source.messages[p][i].data);
    double_records_free(&double_journal.state);
    double_records_free(&double_journal.sent);
    memset(&double_source, 0, sizeof double_source);
    double_source.source.ops = &double_source_ops;
    double_journal.journal.ops = &double_journal_ops;
    double_journal.n_sent = 0;
    double_journal.loses_sent = false;
    double_journal.fails_with = 0;
    for (uint32_t p = 0; p < DOUBLE_PARTITIONS; p++)
        double_journal.position[p] = -1;
    memset(&double_consent, 0, sizeof double_consent);
    double_consent.end = &double_consent.first;
    double_consent.epoch = 1;
}
static inline struct consent_ops double_consent_ops(uv_loop_t *loop) {
    CHECK(uv_idle_init(loop, &double_consent.idle) == 0);
    return (struct consent_ops){
        .lookup = double_consent_lookup, .scan = double_consent_scan, .applied = double_consent_applied,
        .connected = double_consent_connected};
}
// Pending answers are given before it closes, as the real client does.
static inline void double_consent_close(void) {
    double_consent.away = true;
    while (double_consent.first != NULL)
        double_consent_answer(&double_consent.idle);
    double_consent.away = false;
    uv_close((uv_handle_t *)&double_consent.idle, NULL);
}

#endif
