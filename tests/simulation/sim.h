// A deterministic simulation of everything around the aggregators: edges, a Kafka broker, Redis, disks and time. One
// schedule is one seed: it decides what happens next at every step, from one thread, so that a seed always gives the same
// run. The engines are the real ones, unchanged: the linker puts a libuv, a clock and a few disk functions of our own
// under them (sim_loop.c, sim_disk.c), and engine_parts takes the rest. What they decide and commit is compared with a
// plain model of FORMATS (sim_model*.c).
#ifndef OPENVEIL_TESTS_SIM_H
#define OPENVEIL_TESTS_SIM_H

#include "aggregator/decide.h"
#include "aggregator/engine.h"
#include "aggregator/record.h"
#include "common/tenant.h"
#include "ingest/ledger.h"

#include <string.h>
#include <uv.h>

#define SIM_PARTITIONS 3
#define SIM_SLOTS 2
#define SIM_EDGES 3
#define SIM_TENANTS 4
#define SIM_CONTACTS 8
#define SIM_DAYS 64 // from sim.base_day on
#define SIM_RULES 2
#define SIM_MEMBERS 16

struct slot;

// ---- chance, memory, words (sim.c) ----------------------------------------------------------------------------------

uint64_t sim_random(void);
uint32_t sim_below(uint32_t n);       // uniform enough, below n
bool sim_chance(uint32_t per_mille);
void *sim_alloc(size_t size);         // zeroed, until the schedule ends
void *sim_copy(const void *data, size_t size);
void sim_memory_reset(void); // ends a schedule's memory
// Grows an array of sim_alloc'ed elements so that one more fits.
void *sim_room(void *array, size_t n, size_t *room, size_t size);
_Noreturn void sim_fail(const char *format, ...) PRINTF_LIKE(1, 2);
void sim_trace(const char *format, ...) PRINTF_LIKE(1, 2);
static inline uint32_t sim_today(void);

// ---- what travels ---------------------------------------------------------------------------------------------------

struct sim_message {
    struct message_head head;
    int edge; // index; -1: nobody who registers
    size_t n_events;
    struct event *events; // as sorted by the encoder
    unsigned rules;
    struct close_body close;
    struct import_body import;
    int retires;          // edge
    bool damaged;         // to be set aside
    size_t len;
    uint8_t *bytes;
    bool processed;       // by the model, in a commit
    bool forgotten;       // came for the first time when its day was closed and its epoch over
};
struct log_entry {
    struct sim_message *message;
    int64_t ms; // when it was appended
    bool done;  // decided in a commit
};
struct sim_record {
    uint32_t key_len, value_len;
    uint8_t *bytes; // key, then value
};
// A partition of the events topic and of the state topic.
struct topic {
    struct log_entry *log;
    size_t n, room;
    size_t first; // what is before it was deleted
    struct sim_record *records;
    size_t n_records, records_room;
    int64_t position; // committed; -1: never
    int64_t loaded_generation;
};

// ---- aggregators ----------------------------------------------------------------------------------------------------

struct sim_answers {
    const struct sim_answers *before; // of the same partition, since its last message
    size_t n;
    struct consent_query *queries;
};
enum decision_kind {
    DECIDED_MESSAGE,
    DECIDED_LINE,
    DECIDED_ERASURE,
    DECIDED_DAY,
    DECIDED_TENANT,
    DECIDED_SETTINGS,
    DECIDED_SCAN_BEGIN,
    DECIDED_SCAN_CONTACT,
};
// Something that an engine decided, and what it could know at that moment. It counts when its batch is committed.
struct sim_decision {
    enum decision_kind kind;
    const struct batch *batch; // NULL: of a scan
    uint32_t partition;
    int64_t now_ms, began_ms;
    const struct sim_table *table;
    const struct config *config;
    const struct sim_answers *answers; // NULL: asked nobody
    int64_t index;                     // of the message; of a scan: its number
    struct record_key key;
    size_t len;
    const uint8_t *value;
    struct consent_record record;
};
enum part_state { PART_AWAY, PART_LOADS, PART_RUNS, PART_HELD };
struct part {
    enum part_state state;
    size_t next;
    bool based;
    int64_t base;      // position of the log's first entry
    int64_t committed; // -1
    int64_t began_ms;  // when the blocks that wait for consent were taken
    const struct sim_answers *answers;
};
struct sim_handle {
    uv_handle_t *handle;
    bool is_timer, active;
    void (*run)(void *handle);
    int64_t due_ms, repeat_ms;
};
struct sim_work {
    uv_work_t *work;
    uv_work_cb run;
    uv_after_work_cb after;
    bool ran;
};
struct sim_question {
    uint32_t partition, tenant;
    struct consent_query *queries;
    size_t n, at;
    int64_t scan;
    consent_each_fn each;
    consent_done_fn done;
    void *arg;
};
#define SLOT_HANDLES 8
#define SLOT_WORKS 16
#define SLOT_QUESTIONS 16
struct slot {
    struct source source;
    struct journal journal;
    unsigned number;
    bool alive, paused;
    bool dead;   // being torn down without a word to anybody
    bool failed; // it said that it can't go on
    bool may_fail;
    struct engine *engine;
    uv_loop_t loop;
    const struct config *config;
    struct sim_handle handles[SLOT_HANDLES];
    size_t n_handles;
    struct sim_work works[SLOT_WORKS];
    size_t n_works;
    struct sim_question questions[SLOT_QUESTIONS];
    size_t n_questions;
    void (*tenants_changed)(void *arg);
    void *tenants_arg;
    bool tenants_pending;
    const struct sim_table *table;
    // Its side of the group.
    struct source_hooks hooks;
    uint64_t member; // 0: none
    bool assign_pending;
    int64_t generation; // captured with the assignment; 0: forgotten
    struct part parts[SIM_PARTITIONS];
    // What it decided and has not committed.
    struct sim_decision *decisions;
    size_t n_decisions, decisions_room;
    const struct sim_answers *answers; // of the call-back under way
    uint32_t scan_tenant;
    int64_t scan; // its number
    uint64_t scan_counts[INACTIVITY_CELLS];
};

struct group_member {
    uint64_t id;
    unsigned slot;
    bool ready; // gave back what it had
};
struct coordinator {
    int64_t generation;
    bool rebalancing;
    struct group_member members[SIM_MEMBERS];
    size_t n_members;
    int owner[SIM_PARTITIONS]; // index of a slot
};

// ---- the others -----------------------------------------------------------------------------------------------------

struct sim_table {
    size_t n;
    struct tenant tenants[SIM_TENANTS];
};
struct sim_tenant {
    uint32_t id;
    uint32_t partition;
    uint64_t pseudonyms[SIM_CONTACTS];
    struct consent_record records[SIM_CONTACTS];
};
struct sim_segment {
    uint64_t number;
    bool damaged; // on the edge's disk
    struct sim_message *messages[SIM_PARTITIONS];
};
struct sim_edge {
    char id[16];
    bool on;
    bool empty; // its spool
    bool ready; // its registration is everywhere, so people come to it
    bool gone;  // for good
    int64_t skew_ms;
    uint64_t epoch, epoch_first, next;
    struct ledger *ledger;
    unsigned rules;
    struct tally tally; // of the open segment
    struct event *events;
    size_t n_events, events_room;
    struct sim_segment *sealed;
    size_t n_sealed, sealed_room;
    size_t acknowledged;
    size_t sent[SIM_PARTITIONS]; // index of the next one to send
};
struct sim_file {
    char path[96];
    size_t len;
    const uint8_t *bytes;
};
struct sim_waiting {
    uint32_t partition;
    struct sim_message *message;
};

struct sim {
    uint64_t seed, random;
    bool verbose;
    int64_t now_ms;
    uint32_t first_day, base_day;
    uint32_t n_partitions, n_slots, n_edges;
    bool local; // one aggregator with a journal on its disk
    bool calm;  // no more faults
    bool redis_away, disk_full, commits_fail, loads_fail;
    struct config configs[2 * SIM_SLOTS]; // of each slot, before and after a change of settings
    bool reconfigured;
    struct slot slots[SIM_SLOTS];
    struct slot *current;
    struct topic topics[SIM_PARTITIONS];
    struct coordinator group;
    uint64_t members; // so far
    int64_t scans;    // so far
    struct sim_tenant tenants[SIM_TENANTS];
    const struct sim_table *table; // on disk now
    uint64_t consent_epoch;
    struct sim_edge edges[SIM_EDGES];
    unsigned others; // senders that are no edges, so far
    struct sim_waiting *waiting;
    size_t n_waiting, waiting_room;
    struct sim_file *files;
    size_t n_files, files_room;
    struct sim_record *lines; // the releases topic
    size_t n_lines, lines_room;
    uint64_t n_messages, n_commits, n_refused, n_released, n_outcomes[OUTCOMES], n_duplicates; // for the summary
};
extern struct sim sim;

static inline uint32_t sim_today(void) {
    return (uint32_t)(sim.now_ms / (DAY_SECONDS * 1000));
}
static inline uint32_t day_of_ms(int64_t ms) {
    return (uint32_t)(ms / (DAY_SECONDS * 1000));
}

// ---- sim_loop.c: one slot's event loop ------------------------------------------------------------------------------

// Runs one thing that the slot has to do, chosen by chance; false where there is none.
bool slot_step(struct slot *slot);
void slot_start(struct slot *slot);
void slot_stop(struct slot *slot); // as on SIGTERM
void slot_kill(struct slot *slot);

// ---- sim_kafka.c ----------------------------------------------------------------------------------------------------

void topic_append(uint32_t partition, struct sim_message *message);
void source_prepare(struct slot *slot);
// What the slot's side of the group and its fetcher can do now; `run` false: only says whether there is something.
enum kafka_step { KAFKA_REVOKE, KAFKA_ASSIGN, KAFKA_LOST, KAFKA_DELIVER, KAFKA_DELETE, KAFKA_STEPS };
bool slot_kafka(struct slot *slot, enum kafka_step step, uint32_t partition, bool run);
// The coordinator: ends a rebalance that everybody is ready for, or throws out somebody who is dead or asleep.
bool group_complete(void);
bool group_expire(void);
void group_leave(struct slot *slot);
bool slot_owns(const struct slot *slot, uint32_t partition);

// ---- sim_journal.c --------------------------------------------------------------------------------------------------

void journal_prepare(struct slot *slot);
void topic_compact(struct topic *topic);
struct sim_decision *decision_add(struct slot *slot, enum decision_kind kind, uint32_t partition);

// ---- sim_consent.c --------------------------------------------------------------------------------------------------

struct consent_ops sim_consent_ops(struct slot *slot);
void consent_begin(void);
void consent_change(void);
void slot_answer(struct slot *slot, size_t question);
void slot_unanswer(struct slot *slot); // all that is open ends

// ---- sim_disk.c -----------------------------------------------------------------------------------------------------

void disk_begin(void);
void tenants_change(void);
const struct sim_file *disk_find(const char *path);
extern const struct noise_ops sim_noise;

// ---- sim_edge.c -----------------------------------------------------------------------------------------------------

void edges_begin(void);
void edge_boot(struct sim_edge *edge);
void edge_crash(struct sim_edge *edge);
void edge_lose_spool(struct sim_edge *edge);
void edge_open_mail(struct sim_edge *edge); // one request
void edge_seal(struct sim_edge *edge);
void edge_turn_day(struct sim_edge *edge);
bool edge_forward(struct sim_edge *edge, uint32_t partition);
void edge_resend(struct sim_edge *edge);
void edge_damage(struct sim_edge *edge);
void send_retirement(unsigned edge);
void send_import(void);
void send_nonsense(void);
void send_again(void); // something that was sent long ago
bool waiting_send(void);

// ---- sim_model.c, sim_days.c, sim_lines.c, sim_check.c --------------------------------------------------------------

void model_begin(void);
// A batch was committed: applies the decisions that are in it, and compares its records.
void model_commit(struct slot *slot, const struct batch *batch);
void model_settled(void);  // nobody has anything to do: nothing may be due
void model_finished(void); // and everything is in: compares all committed state

#endif
