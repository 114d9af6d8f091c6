// Inside the engine: what its files (engine*.c) share. Nothing else includes this.
//
// A partition does one thing at a time: it decides a message, releases windows, or sweeps. What has to ask for consent is
// a task; while one is under way the partition's state is changed by nothing else, so an answer always meets the state
// that it was asked for. engine_turn (engine.c) is the one place that gives partitions their turns.
#ifndef OPENVEIL_ENGINE_PARTS_H
#define OPENVEIL_ENGINE_PARTS_H

#include "aggregator/aggregator_metrics.h"
#include "aggregator/announced.h"
#include "aggregator/consent_stream.h"
#include "aggregator/engine.h"
#include "aggregator/publisher.h"
#include "aggregator/state.h"
#include "common/log.h"
#include "common/tenant.h"

#include <stdatomic.h>
#include <uv.h>

#define QUEUE_MESSAGES_MAX 4096 // memory is touched only where messages wait
#define QUEUE_BYTES_MAX (8u << 20)
#define RETRY_MS_MIN 200
#define RETRY_MS_MAX 1000
#define TICK_MS 500
#define LOADS_MAX 2

struct partition;
struct task;
struct task_ops {
    // Every query is answered: apply, and end the task (task_end) or ask on (task_ask).
    void (*answered)(struct partition *partition, struct task *task);
    void (*free)(struct task *task);
};
struct task {
    const struct task_ops *ops;
    struct partition *partition;
    struct consent_query *queries;
    size_t n_queries;
    bool in_flight;
    bool orphan; // its partition was dropped: free it when the answer comes
    unsigned failures;
    bool knows;
    struct consent_stamp known;
};

enum partition_status { PARTITION_ABSENT, PARTITION_LOADING, PARTITION_RUNNING };

struct queued {
    int64_t position;
    size_t len;
    uint8_t *data;
};

struct partition {
    struct engine *engine;
    uint32_t number;
    enum partition_status status;
    struct state *state;
    struct load *load; // on a worker thread, perhaps for an ownership that is over
    bool load_wanted;
    int64_t load_at_ms;
    struct queued queue[QUEUE_MESSAGES_MAX];
    size_t queue_first, queue_count, queue_bytes;
    bool held_back;       // a message was refused: resume when there is room
    int64_t position;     // the next one to read
    struct announced announced;
    struct task *task;
    int64_t resume_at_ms; // 0: no pause
    // Days and releases.
    bool check_days;
    uint32_t settled_through; // every day up to it is complete or given up
    int64_t goal_wall_ms;     // when `goal_position` was the source's end; 0: never asked
    int64_t goal_position;
    uint32_t windows_done_for, months_done_for; // `settled_through` for which nothing is left to release
    size_t window_cursor, month_cursor;
    bool windows_found, months_found; // in the pass under way
    // Leaving, and the sweep.
    struct leavers *leavers; // engine_leave.c
    bool left_last;          // its last turn was for leavers
    uint32_t swept_on;
    bool sweep_turn;
    struct last_open_cursor sweep_cursor;
};

struct commit {
    uv_work_t work;
    uv_mutex_t mutex;
    uv_cond_t ended;
    bool at_worker; // handed to a worker thread and not yet back through the loop
    bool under_way; // its outcome is not yet taken in
    bool done;      // under `mutex`
    int rc;
    struct err err;
    struct batch *batch;
};

struct engine {
    struct engine_parts parts;
    uv_loop_t *loop;
    const struct config *config;
    struct last_open_limit contacts; // over all partitions
    struct tenant_table *tenants;
    uint32_t *tenant_partitions; // by index of the table
    uint64_t tenants_serial; // grows with every reload
    struct dir_watch *watch;
    struct partition *partitions;
    uint32_t n_partitions;
    bool ever_assigned;
    int n_loads;
    int64_t loading_since_ms, loading_told_ms; // 0: nothing is loading
    uint64_t loading_from;                     // contacts when it began
    uv_idle_t turn;
    uv_timer_t tick, wake, commit_timer;
    int64_t wake_at_ms;
    struct batch *filling, *spare;
    bool filling_has_lines;
    struct commit commit;
    struct publisher *publisher;
    struct consent_stream *changes; // NULL: not followed
    bool changes_lost;              // it cannot be read now
    struct message_codec *codec;
    uint8_t *value; // RECORD_VALUE_MAX bytes
    struct month_task *month;
    unsigned n_set_aside;
    bool stopping, failed, settings_logged;
};

// engine.c
void engine_fail(struct engine *engine, const char *format, ...) PRINTF_LIKE(2, 3);
void engine_schedule(struct engine *engine); // turns soon
void partition_pause(struct partition *partition, int64_t ms);
// Puts a record; a failure ends the engine and returns false.
bool partition_put(struct partition *partition, size_t key_len, const uint8_t *key, size_t value_len);
bool partition_erase(struct partition *partition, size_t key_len, const uint8_t *key);
// What every partition learns alike (markers, days) is logged by the first one here only.
bool partition_speaks(const struct partition *partition);
uint32_t engine_today(const struct engine *engine);
void partition_drop(struct partition *partition); // forgets everything; the status is the caller's to set

// engine_load.c
void partition_load(struct partition *partition);
void load_cancel(struct partition *partition);
void loads_start(struct engine *engine);
void tenants_ensure(struct partition *partition);
// How far a start or a take-over is, for /ready and the log: contacts, percent, rate.
void loading_text(const struct engine *engine, char *text, size_t size);
void loading_tell(struct engine *engine); // to the log, now and then and at the end

// engine_commit.c
int commit_create(struct engine *engine);
void commit_destroy(struct engine *engine);
void commit_soon(struct engine *engine); // the filling batch has something
int commit_blocking(struct engine *engine, struct err *err); // everything decided so far
void commit_wait(struct engine *engine);
void engine_reload_all(struct engine *engine);

// engine_task.c
void task_start(struct partition *partition, struct task *task);
void task_ask(struct task *task);
void task_end(struct task *task);
void task_abandon(struct task *task);
void partition_stamp(struct partition *partition, const struct consent_stamp *stamp);

// engine_message.c, engine_block.c
bool message_take(struct partition *partition); // the queue's first; false: not now
// Whether the queue's first is a block, new, and of no later day than `today`.
bool message_is_block(struct partition *partition, uint32_t today, struct message_head *head, const uint8_t **body,
                      size_t *body_len);
void message_drop(struct partition *partition); // the queue's first
static inline const struct queued *queue_first(const struct partition *partition) {
    CHECK(partition->queue_count > 0);
    return &partition->queue[partition->queue_first];
}
bool message_is_seen(struct partition *partition, const struct message_head *head);
void message_done(struct partition *partition, const struct message_head *head, int64_t position);
// A block, and those that stand behind it in the queue as long as they are few events in all: asked for and decided as
// one. Takes them from the queue.
void blocks_begin(struct partition *partition, const struct message_head *head, const uint8_t *body, size_t body_len);
void import_begin(struct partition *partition, const struct message_head *head, const uint8_t *body, size_t body_len,
                  const struct queued *queued);
void message_set_aside(struct partition *partition, int64_t position, const uint8_t *data, size_t len, const char *why);
void message_position(struct partition *partition, int64_t position);

// engine_days.c
void days_complete(struct partition *partition);
void days_settle(struct partition *partition);
uint32_t edges_earliest(const struct state *state);
bool day_put(struct partition *partition, uint32_t day, const struct day_record *record);

// engine_release.c, engine_month.c, engine_line.c, engine_sweep.c
bool windows_begin(struct partition *partition); // true: a task was started
void windows_abandon(struct partition *partition);
void months_start(struct engine *engine);
void month_abandon(struct engine *engine, const struct partition *partition); // NULL: whichever's it is
bool sweep_begin(struct partition *partition);

// engine_leave.c
int leave_start(struct engine *engine, struct err *err) MUST_CHECK;
void leave_follow(struct partition *partition); // it runs from now on
void leave_drop(struct partition *partition);
bool leave_begin(struct partition *partition); // true: a task was started
void leave_tell(struct partition *partition);
void leave_commit_begins(struct partition *partition);
void leave_committed(struct partition *partition);
void leave_sweep_begun(struct partition *partition);
void leave_sweep_done(struct partition *partition);
// The last open and all places in windows; false: the engine has failed.
bool contact_erase(struct partition *partition, uint32_t tenant, uint64_t pseudonym);

struct line_job {
    uint32_t tenant;
    enum release_kind kind;
    uint32_t period_day, last_day;
    bool complete;
    const struct settings *settings;
    const struct tenant_version *version;
    uint64_t *counts;
    size_t n_counts;
};
// Draws, records and queues one line; the tenant's progress is the caller's. ERR_AGAIN: not now.
int line_draw(struct partition *partition, const struct line_job *job) MUST_CHECK;
// What is committed and not yet sent to the releases topic, into the filling batch.
void lines_send(struct partition *partition);
bool days_are_complete(const struct state *state, uint32_t first, uint32_t last);

#endif
