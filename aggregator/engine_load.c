// Loading a partition: the journal's records on a worker thread, then what a partition must have before it runs.
#include "aggregator/engine_parts.h"

#include "aggregator/state_load.h"
#include "common/files.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define LOAD_RETRY_MS 1000
#define LOADING_TELL_MS 5000

struct load {
    uv_work_t work;
    struct engine *engine;
    uint32_t number;
    struct state *state;
    struct state_load records;
    struct publisher *unpublished; // lines without a file; never run, only carried
    struct announced announced;
    int64_t position;
    int rc;
    struct err err;
    atomic_bool cancelled;
    _Atomic uint64_t done, total; // in the journal's own units
    _Atomic uint64_t contacts;
};

// ---- on the worker's thread -----------------------------------------------------------------------------------------

// A line whose file is missing: the process ended between its commit and its publication.
static int line_keep(struct load *load, const struct record_key *key, const uint8_t *value, size_t value_len) {
    char text[64], name[80], path[PATH_SIZE];
    release_key(key->tenant, (enum release_kind)key->release_kind, key->day, text);
    *strrchr(text, '/') = '-';
    snprintf(name, sizeof name, "%s.json", text);
    if (path_join(path, load->engine->config->release_dir, name, &load->err) != 0 || access(path, F_OK) == 0)
        return 0;
    struct release_record release = {
        .tenant = key->tenant, .kind = key->release_kind, .period_day = key->day};
    int rc = release_decode(value, value_len, &release);
    return rc != 0 ? rc : publisher_add(load->unpublished, &release);
}

static int load_record(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    struct load *load = arg;
    struct record_key at;
    int rc = state_load_record(&load->records, key, key_len, value, value_len);
    if (rc == 0 && key[0] == RECORD_RELEASE && value_len > 0 && key_decode(key, key_len, &at) == 0)
        rc = line_keep(load, &at, value, value_len);
    if (rc == 0 && key[0] == RECORD_ANNOUNCED)
        rc = announced_apply(&load->announced, key, key_len, value, value_len);
    return rc;
}

static int load_progress(void *arg, uint64_t done, uint64_t total) {
    struct load *load = arg;
    atomic_store_explicit(&load->done, done, memory_order_relaxed);
    atomic_store_explicit(&load->total, total, memory_order_relaxed);
    atomic_store_explicit(&load->contacts, last_open_count(state_last_open(load->state)), memory_order_relaxed);
    return atomic_load_explicit(&load->cancelled, memory_order_relaxed) ? ERR_AGAIN : 0;
}

static void load_on_worker(uv_work_t *work) {
    struct load *load = work->data;
    struct journal *journal = load->engine->parts.journal;
    load->rc = state_create_within(&load->state, &load->engine->contacts, 0);
    load->records.state = load->state;
    if (load->rc == 0)
        load->rc =
            journal->ops->load(journal, load->number, load_record, load_progress, load, &load->position, &load->err);
    if (load->rc == 0)
        load->rc = state_load_end(&load->records);
}

// ---- what a partition must have -------------------------------------------------------------------------------------

static bool meta_check(struct partition *partition) {
    const struct engine *engine = partition->engine;
    bool rehearsal;
    uint32_t partitions;
    uint8_t key[RECORD_KEY_MAX];
    if (!state_meta(partition->state, &rehearsal, &partitions))
        return partition_put(partition, key_meta(key), key,
                             meta_encode(engine->config->rehearsal, engine->n_partitions, engine->value));
    if (rehearsal != engine->config->rehearsal) {
        engine_fail(partition->engine, "the stored state belongs to %s and this process runs in %s",
                    rehearsal ? "a rehearsal" : "production", rehearsal ? "production" : "a rehearsal");
        return false;
    }
    if (partitions != engine->n_partitions) {
        engine_fail(partition->engine, "the stored state was made for %" PRIu32 " partitions: set [kafka] partitions = %" PRIu32,
                    partitions, partitions);
        return false;
    }
    return true;
}

static bool names_equal(const char *a, const char *b) {
    return (a == NULL && b == NULL) || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool settings_equal(const struct settings *a, const struct settings *b) {
    for (unsigned i = PROVIDERS_BUILTIN; i < PROVIDERS_MAX; i++)
        if (!names_equal(a->provider_names[i], b->provider_names[i]))
            return false;
    return a->epsilon.numerator == b->epsilon.numerator && a->epsilon.denominator == b->epsilon.denominator &&
           a->threshold == b->threshold && a->horizon_days == b->horizon_days;
}

// Changed settings hold from tomorrow on, the first ones for all days.
static bool settings_check(struct partition *partition) {
    struct engine *engine = partition->engine;
    struct settings wanted = {.epsilon = engine->config->release_epsilon,
                              .threshold = (uint32_t)engine->config->release_threshold,
                              .horizon_days = (uint32_t)engine->config->release_horizon_days};
    for (unsigned i = PROVIDERS_BUILTIN; i < PROVIDERS_MAX; i++)
        wanted.provider_names[i] = engine->config->provider_names[i]; // lent, not owned
    const struct settings *newest = state_settings_newest(partition->state);
    if (newest != NULL && settings_equal(newest, &wanted))
        return true;
    uint32_t from_day = newest == NULL ? 0 : engine_today(engine) + 1;
    if (newest != NULL && !engine->settings_logged) {
        char text[DAY_TEXT_SIZE];
        day_format(from_day, text);
        log_info("changed [release] settings hold from %s on; days before keep those they began with", text);
        engine->settings_logged = true;
    }
    uint8_t key[RECORD_KEY_MAX];
    return partition_put(partition, key_settings(key, from_day), key, settings_encode(&wanted, engine->value));
}

// The first day of which a tenant that is new here can be measured: not one that is over already.
static uint32_t day_after_settled(const struct state *state) {
    for (size_t i = state_day_count(state); i-- > 0;) {
        uint32_t day;
        if (state_day_at(state, i, &day)->flags != 0)
            return day + 1;
    }
    return DAY_NONE;
}

static bool tenant_ensure(struct partition *partition, const struct tenant *tenant, uint32_t earliest) {
    const struct tenant_state *known = state_tenant(partition->state, tenant->id);
    const struct tenant_record *record = known == NULL ? NULL : tenant_state_record(known);
    if (record != NULL && record->first_measured != DAY_NONE)
        return true;
    uint32_t first = tenant_first_day(tenant) > earliest ? tenant_first_day(tenant) : earliest;
    struct tenant_record fresh = {.first_measured = first, .next_window = first, .next_month = day_month_start(first)};
    if (record != NULL)
        fresh.measured_since = record->measured_since;
    uint8_t key[RECORD_KEY_MAX];
    return partition_put(partition, key_tenant(key, tenant->id), key, tenant_encode(&fresh, partition->engine->value));
}

void tenants_ensure(struct partition *partition) {
    const struct engine *engine = partition->engine;
    uint32_t earliest = edges_earliest(partition->state);
    if (earliest == DAY_NONE)
        return;
    uint32_t open = day_after_settled(partition->state);
    if (open > earliest)
        earliest = open;
    for (size_t i = 0; i < tenant_table_count(engine->tenants); i++) {
        const struct tenant *tenant = tenant_table_at(engine->tenants, i);
        if (engine->tenant_partitions[i] == partition->number &&
            !tenant_ensure(partition, tenant, earliest))
            return;
    }
    partition->windows_done_for = partition->months_done_for = DAY_NONE;
    partition->window_cursor = partition->month_cursor = 0;
}

// ---- on the loop's thread -------------------------------------------------------------------------------------------

static void load_free(struct load *load) {
    state_free(load->state);
    publisher_free(load->unpublished);
    announced_clear(&load->announced);
    free(load);
}

static void partition_run(struct partition *partition, struct load *load) {
    struct engine *engine = partition->engine;
    partition->state = load->state;
    load->state = NULL;
    partition->position = load->position;
    partition->status = PARTITION_RUNNING;
    partition->check_days = true;
    partition->announced = load->announced;
    load->announced = (struct announced){0};
    publisher_move(engine->publisher, load->unpublished);
    publisher_run(engine->publisher);
    if (!meta_check(partition) || !settings_check(partition))
        return;
    tenants_ensure(partition);
    lines_send(partition);
    leave_follow(partition);
    if (engine->parts.owns != NULL)
        engine->parts.owns(engine->parts.arg, partition->number, true);
    if (engine->failed)
        return;
    log_debug("partition %" PRIu32 " is loaded: %zu edges, %zu days, %zu tenants", partition->number,
             state_edge_count(partition->state), state_day_count(partition->state), state_tenant_count(partition->state));
    engine->parts.source->ops->resume(engine->parts.source, partition->number, partition->position);
    engine_schedule(engine);
}

static void load_does_not_fit(struct engine *engine, const struct load *load) {
    uint64_t here = last_open_count(state_last_open(load->state)), total = atomic_load(&load->total);
    uint64_t done = atomic_load(&load->done), others = atomic_load(&engine->contacts.taken);
    char all[64] = "";
    others = others > here ? others - here : 0;
    if (done > 0 && total > done)
        snprintf(all, sizeof all, " after about %" PRIu64 " %% of it", done * 100 / total);
    engine_fail(engine,
                "the stored state does not fit [aggregator] contacts_max = %" PRIu64 ": partition %" PRIu32 " had %" PRIu64
                " contacts%s, and other partitions hold %" PRIu64 "; raise it and start again",
                engine->contacts.contacts_max, load->number, here, all, others);
}

static void load_failed(struct partition *partition, const struct load *load) {
    struct engine *engine = partition->engine;
    if (load->rc == ERR_LIMIT) {
        load_does_not_fit(engine, load);
        return;
    }
    engine_fail(engine, "cannot load the state of partition %" PRIu32 ": %s", load->number,
                load->rc == ERR_CORRUPT && load->err.text[0] == '\0' ? "a record is not of this version" : load->err.text);
}

static void load_after(uv_work_t *work, int status) {
    struct load *load = work->data;
    struct engine *engine = load->engine;
    struct partition *partition = &engine->partitions[load->number];
    CHECK(partition->load == load && engine->n_loads > 0);
    partition->load = NULL;
    engine->n_loads--;
    bool wanted = partition->status == PARTITION_LOADING && !atomic_load(&load->cancelled) && !engine->stopping;
    if (wanted && status == 0 && load->rc == 0) {
        partition_run(partition, load);
    } else if (wanted && load->rc == ERR_UNREACHABLE) {
        log_warn("partition %" PRIu32 " cannot be loaded yet: %s", load->number, load->err.text);
        partition->load_wanted = true;
        partition->load_at_ms = clock_monotonic_ms() + LOAD_RETRY_MS;
    } else if (wanted) {
        load_failed(partition, load);
    }
    load_free(load);
    loads_start(engine);
}

static int load_start(struct partition *partition) {
    struct engine *engine = partition->engine;
    struct load *load = calloc(1, sizeof *load);
    if (load == NULL)
        return ERR_NOMEM;
    load->engine = engine;
    load->number = partition->number;
    load->position = -1;
    load->work.data = load;
    if (publisher_create(&load->unpublished, engine->loop, engine->config->release_dir) != 0 ||
        uv_queue_work(engine->loop, &load->work, load_on_worker, load_after) != 0) {
        load_free(load);
        return ERR_NOMEM;
    }
    partition->load = load;
    engine->n_loads++;
    return 0;
}

// At most LOADS_MAX at once, so that worker threads are left for commits.
void loads_start(struct engine *engine) {
    int64_t now_ms = clock_monotonic_ms();
    for (uint32_t p = 0; p < engine->n_partitions && engine->n_loads < LOADS_MAX && !engine->stopping; p++) {
        struct partition *partition = &engine->partitions[p];
        if (!partition->load_wanted || partition->load != NULL || now_ms < partition->load_at_ms)
            continue;
        partition->load_wanted = false;
        if (load_start(partition) != 0) {
            engine_fail(engine, "no memory to load partition %" PRIu32, p);
            return;
        }
    }
}

void load_cancel(struct partition *partition) {
    partition->load_wanted = false;
    if (partition->load != NULL)
        atomic_store(&partition->load->cancelled, true);
}

// ---- progress -------------------------------------------------------------------------------------------------------

struct loading {
    uint32_t owned, loaded;
    uint64_t contacts;
    double part; // of all that is owned; partitions weigh the same
};

static struct loading loading_now(const struct engine *engine) {
    struct loading now = {.owned = 0};
    for (uint32_t p = 0; p < engine->n_partitions; p++) {
        const struct partition *partition = &engine->partitions[p];
        const struct load *load = partition->load;
        now.owned += partition->status != PARTITION_ABSENT;
        if (partition->status == PARTITION_RUNNING) {
            now.loaded++;
            now.part += 1;
            now.contacts += last_open_count(state_last_open(partition->state));
        } else if (partition->status == PARTITION_LOADING && load != NULL) {
            uint64_t done = atomic_load(&load->done), total = atomic_load(&load->total);
            now.contacts += atomic_load(&load->contacts);
            now.part += total == 0 ? 0 : done >= total ? 1 : (double)done / (double)total;
        }
    }
    now.part = now.owned == 0 ? 0 : now.part / now.owned;
    return now;
}

void loading_text(const struct engine *engine, char *text, size_t size) {
    struct loading now = loading_now(engine);
    int64_t ms = clock_monotonic_ms() - engine->loading_since_ms;
    uint64_t fresh = now.contacts > engine->loading_from ? now.contacts - engine->loading_from : 0;
    snprintf(text, size, "loading the state: %" PRIu32 " of %" PRIu32 " partitions, %" PRIu64 " contacts, about %.0f %%, %" PRIu64
             " contacts a second", now.loaded, now.owned, now.contacts, now.part * 100,
             ms <= 0 ? 0 : fresh * 1000 / (uint64_t)ms);
}

static void loading_begin(struct engine *engine) {
    if (engine->loading_since_ms != 0)
        return;
    engine->loading_since_ms = engine->loading_told_ms = clock_monotonic_ms();
    engine->loading_from = loading_now(engine).contacts;
}

void loading_tell(struct engine *engine) {
    char text[192];
    int64_t now_ms = clock_monotonic_ms();
    if (engine->loading_since_ms == 0)
        return;
    struct loading now = loading_now(engine);
    if (now.owned == 0) {
        engine->loading_since_ms = 0;
    } else if (now.loaded == now.owned) {
        log_info("the state of %" PRIu32 " partitions is loaded: %" PRIu64 " contacts, in %.1f s", now.owned, now.contacts,
                 (double)(now_ms - engine->loading_since_ms) / 1000);
        engine->loading_since_ms = 0;
    } else if (now_ms - engine->loading_told_ms >= LOADING_TELL_MS) {
        engine->loading_told_ms = now_ms;
        loading_text(engine, text, sizeof text);
        log_info("%s", text);
    }
}

void partition_load(struct partition *partition) {
    CHECK(partition->state == NULL);
    partition->status = PARTITION_LOADING;
    partition->load_wanted = true;
    partition->load_at_ms = 0;
    if (partition->load != NULL)
        atomic_store(&partition->load->cancelled, true); // its answer may be older than what was committed since
    loading_begin(partition->engine);
    loads_start(partition->engine);
}
