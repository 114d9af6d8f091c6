// The libuv that the engines see: the few functions that they call, over tables of the slot whose loop it is. Nothing
// runs by itself; slot_step picks one of the things that could run now. Work for threads runs whole, in one step, and its
// end is told in a later one. Time is sim.now_ms.
#include "sim.h"

#include <time.h>

#define BOOT_MS 1000000000000 // when the monotonic clock was 0

int __wrap_clock_gettime(clockid_t id, struct timespec *now);

int __wrap_clock_gettime(clockid_t id, struct timespec *now) {
    int64_t ms = id == CLOCK_REALTIME ? sim.now_ms : sim.now_ms - BOOT_MS;
    *now = (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    return 0;
}

// ---- handles --------------------------------------------------------------------------------------------------------

static struct slot *slot_of(const uv_loop_t *loop) {
    for (unsigned i = 0; i < sim.n_slots; i++)
        if (&sim.slots[i].loop == loop)
            return &sim.slots[i];
    CHECK(!"a loop of ours");
    return NULL;
}

static void handle_add(uv_loop_t *loop, uv_handle_t *handle, bool is_timer) {
    struct slot *slot = slot_of(loop);
    CHECK(slot->n_handles < SLOT_HANDLES);
    handle->loop = loop;
    slot->handles[slot->n_handles++] = (struct sim_handle){.handle = handle, .is_timer = is_timer};
}

static struct sim_handle *handle_find(const uv_handle_t *handle) {
    struct slot *slot = slot_of(handle->loop);
    for (size_t i = 0; i < slot->n_handles; i++)
        if (slot->handles[i].handle == handle)
            return &slot->handles[i];
    CHECK(!"a handle that is open");
    return NULL;
}

int uv_idle_init(uv_loop_t *loop, uv_idle_t *idle) {
    handle_add(loop, (uv_handle_t *)idle, false);
    return 0;
}

int uv_idle_start(uv_idle_t *idle, uv_idle_cb run) {
    struct sim_handle *handle = handle_find((uv_handle_t *)idle);
    handle->run = (void (*)(void *))run;
    handle->active = true;
    return 0;
}

int uv_idle_stop(uv_idle_t *idle) {
    handle_find((uv_handle_t *)idle)->active = false;
    return 0;
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer) {
    handle_add(loop, (uv_handle_t *)timer, true);
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb run, uint64_t timeout_ms, uint64_t repeat_ms) {
    struct sim_handle *handle = handle_find((uv_handle_t *)timer);
    handle->run = (void (*)(void *))run;
    handle->active = true;
    handle->due_ms = sim.now_ms + (int64_t)timeout_ms;
    handle->repeat_ms = (int64_t)repeat_ms;
    return 0;
}

int uv_timer_stop(uv_timer_t *timer) {
    handle_find((uv_handle_t *)timer)->active = false;
    return 0;
}

int uv_is_active(const uv_handle_t *handle) {
    return handle_find(handle)->active;
}

void uv_close(uv_handle_t *handle, uv_close_cb closed) {
    struct slot *slot = slot_of(handle->loop);
    struct sim_handle *entry = handle_find(handle);
    CHECK(closed == NULL); // the engine's are part of it
    *entry = slot->handles[--slot->n_handles];
}

static void handle_run(struct sim_handle *handle) {
    if (handle->is_timer) {
        handle->active = handle->repeat_ms > 0;
        handle->due_ms = sim.now_ms + handle->repeat_ms;
    }
    handle->run(handle->handle);
}

// ---- threads --------------------------------------------------------------------------------------------------------

int uv_queue_work(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb after) {
    struct slot *slot = slot_of(loop);
    CHECK(slot->n_works < SLOT_WORKS);
    work->loop = loop;
    slot->works[slot->n_works++] = (struct sim_work){.work = work, .run = run, .after = after};
    return 0;
}

static void work_run(struct slot *slot, size_t at) {
    CHECK(at < slot->n_works && !slot->works[at].ran);
    slot->works[at].ran = true;
    slot->works[at].run(slot->works[at].work);
}

static void work_after(struct slot *slot, size_t at) {
    struct sim_work work = slot->works[at];
    CHECK(work.ran);
    slot->n_works--;
    memmove(&slot->works[at], &slot->works[at + 1], (slot->n_works - at) * sizeof slot->works[0]);
    work.after(work.work, 0);
}

int uv_mutex_init(uv_mutex_t *mutex) {
    (void)mutex;
    return 0;
}
void uv_mutex_destroy(uv_mutex_t *mutex) {
    (void)mutex;
}
void uv_mutex_lock(uv_mutex_t *mutex) {
    (void)mutex;
}
void uv_mutex_unlock(uv_mutex_t *mutex) {
    (void)mutex;
}
int uv_cond_init(uv_cond_t *cond) {
    (void)cond;
    return 0;
}
void uv_cond_destroy(uv_cond_t *cond) {
    (void)cond;
}
void uv_cond_signal(uv_cond_t *cond) {
    (void)cond;
}

// Who waits lets the threads run.
void uv_cond_wait(uv_cond_t *cond, uv_mutex_t *mutex) {
    struct slot *slot = sim.current;
    (void)cond;
    (void)mutex;
    for (size_t i = 0; i < slot->n_works; i++)
        if (!slot->works[i].ran) {
            work_run(slot, i);
            return;
        }
    sim_fail("aggregator %u waits for a thread that has nothing to do", slot->number);
}

// ---- one step -------------------------------------------------------------------------------------------------------

enum task { TASK_HANDLE, TASK_WORK, TASK_ANSWER, TASK_TENANTS, TASK_KAFKA };
struct choice {
    enum task task;
    size_t at;
    enum kafka_step step;
};
#define CHOICES_MAX 64

static size_t slot_choices(struct slot *slot, struct choice *choices) {
    size_t n = 0;
    for (size_t i = 0; i < slot->n_handles; i++)
        if (slot->handles[i].active && (!slot->handles[i].is_timer || slot->handles[i].due_ms <= sim.now_ms))
            choices[n++] = (struct choice){.task = TASK_HANDLE, .at = i};
    for (size_t i = 0; i < slot->n_works; i++)
        choices[n++] = (struct choice){.task = TASK_WORK, .at = i};
    for (size_t i = 0; i < slot->n_questions; i++)
        choices[n++] = (struct choice){.task = TASK_ANSWER, .at = i};
    if (slot->tenants_pending)
        choices[n++] = (struct choice){.task = TASK_TENANTS};
    for (enum kafka_step step = 0; step < KAFKA_STEPS; step++)
        for (uint32_t p = 0; p < sim.n_partitions; p++)
            if (slot_kafka(slot, step, p, false))
                choices[n++] = (struct choice){.task = TASK_KAFKA, .at = p, .step = step};
    CHECK(n <= CHOICES_MAX);
    return n;
}

bool slot_step(struct slot *slot) {
    struct choice choices[CHOICES_MAX];
    if (!slot->alive || slot->paused)
        return false;
    size_t n = slot_choices(slot, choices);
    if (n == 0)
        return false;
    const struct choice *choice = &choices[sim_below((uint32_t)n)];
    sim.current = slot;
    switch (choice->task) {
    case TASK_HANDLE:
        handle_run(&slot->handles[choice->at]);
        break;
    case TASK_WORK:
        if (slot->works[choice->at].ran)
            work_after(slot, choice->at);
        else
            work_run(slot, choice->at);
        break;
    case TASK_ANSWER:
        slot_answer(slot, choice->at);
        break;
    case TASK_TENANTS:
        slot->tenants_pending = false;
        slot->tenants_changed(slot->tenants_arg);
        break;
    case TASK_KAFKA:
        slot_kafka(slot, choice->step, (uint32_t)choice->at, true);
        break;
    }
    sim.current = NULL;
    if (slot->failed)
        slot_kill(slot); // its process exits, and is started again
    return true;
}

// ---- life -----------------------------------------------------------------------------------------------------------

static void on_failed(void *arg, const struct err *err) {
    struct slot *slot = arg;
    if (slot->dead)
        return;
    sim_trace("aggregator %u cannot go on: %s", slot->number, err->text);
    if (!slot->may_fail)
        sim_fail("aggregator %u cannot go on: %s", slot->number, err->text);
    slot->failed = true;
}

void slot_start(struct slot *slot) {
    struct err err = {0};
    unsigned number = slot->number;
    CHECK(!slot->alive);
    *slot = (struct slot){.number = number, .alive = true, .config = &sim.configs[2 * number + sim.reconfigured]};
    sim_trace("aggregator %u starts", number);
    sim.current = slot;
    source_prepare(slot);
    journal_prepare(slot);
    const struct engine_parts parts = {.loop = &slot->loop,
                                       .config = slot->config,
                                       .source = &slot->source,
                                       .journal = &slot->journal,
                                       .consent = sim_consent_ops(slot),
                                       .noise = &sim_noise,
                                       .failed = on_failed,
                                       .arg = slot};
    if (engine_create(&slot->engine, &parts, &err) != 0 || engine_start(slot->engine, &err) != 0)
        sim_fail("aggregator %u does not start: %s", number, err.text);
    sim.current = NULL;
}

static void slot_end(struct slot *slot) {
    struct err err;
    sim.current = slot;
    (void)!engine_stop(slot->engine, &err);
    slot_unanswer(slot);
    while (slot->n_works > 0) {
        if (!slot->works[0].ran)
            work_run(slot, 0);
        work_after(slot, 0);
    }
    CHECK(slot->n_handles == 0);
    engine_free(slot->engine);
    slot->n_decisions = 0;
    slot->alive = false;
    sim.current = NULL;
}

void slot_stop(struct slot *slot) {
    sim_trace("aggregator %u stops", slot->number);
    slot_end(slot);
    group_leave(slot);
}

// From here on nothing that it says or does reaches anybody.
void slot_kill(struct slot *slot) {
    sim_trace("aggregator %u is killed", slot->number);
    slot->dead = true;
    slot_end(slot);
    if (sim.local)
        group_leave(slot);
}
