#include "ingest/drop_list.h"

#include "common/check.h"
#include "common/consent_follow.h"
#include "common/consent_store.h"
#include "common/log.h"

#include <pthread.h>
#include <stdlib.h>
#include <uv.h>

enum { LOOK_MS = 250, WHY_SIZE = 400 };

struct drop_list {
    struct drop_set *set;
    struct consent_follow *follow;
    size_t contacts_max;
    uv_loop_t loop;
    uv_async_t stop;
    uv_timer_t look;
    bool loop_ready;
    bool started;
    pthread_t thread;
    _Atomic bool in_use;
    _Atomic int64_t fresh_ms; // monotonic
    // The thread's own.
    bool full;
    bool told; // that it is not in use
    char why[WHY_SIZE];
};

static void in_use_set(struct drop_list *list, bool in_use) {
    bool before = atomic_exchange_explicit(&list->in_use, in_use, memory_order_relaxed);
    if (in_use && !before) {
        log_info("the drop list is in use: contacts that left are no longer recorded");
        list->told = false;
        list->why[0] = '\0';
    }
}

static void on_reset(void *arg) {
    struct drop_list *list = arg;
    in_use_set(list, false);
    list->full = false;
    drop_set_clear(list->set);
}

static void list_full(struct drop_list *list, const char *why) {
    log_error("the drop list is not in use, the aggregator decides: %s", why);
    list->full = list->told = true;
    in_use_set(list, false);
    drop_set_clear(list->set);
}

static void on_state(void *arg, uint32_t tenant, uint64_t pseudonym, uint8_t state) {
    struct drop_list *list = arg;
    if (list->full)
        return;
    if (!consent_state_leaves(state))
        drop_set_remove(list->set, tenant, pseudonym);
    else if (drop_set_count(list->set) >= list->contacts_max)
        list_full(list, "more contacts left than [ingest] drop_contacts_max");
    else if (drop_set_add(list->set, tenant, pseudonym) != 0)
        list_full(list, "out of memory");
}

static void on_fresh(void *arg) {
    struct drop_list *list = arg;
    if (list->full)
        return;
    atomic_store_explicit(&list->fresh_ms, clock_monotonic_ms(), memory_order_relaxed);
    in_use_set(list, true);
}

static void on_lost(void *arg, const char *why) {
    struct drop_list *list = arg;
    snprintf(list->why, sizeof list->why, "%s", why);
}

static bool on_applied(void *arg) {
    const struct drop_list *list = arg;
    return atomic_load_explicit(&list->in_use, memory_order_relaxed);
}

static int64_t age_ms(const struct drop_list *list) {
    return clock_monotonic_ms() - atomic_load_explicit(&list->fresh_ms, memory_order_relaxed);
}

static void on_look(uv_timer_t *timer) {
    struct drop_list *list = timer->data;
    if (list->full || age_ms(list) < DROP_LIST_STALE_MS)
        return;
    in_use_set(list, false);
    if (!list->told)
        log_warn("the drop list is not fresh, opens are recorded and the aggregator decides: %s",
                 list->why[0] == '\0' ? "Redis is being read" : list->why);
    list->told = true;
}

static void on_stop(uv_async_t *async) {
    struct drop_list *list = async->data;
    consent_follow_free(list->follow);
    list->follow = NULL;
    uv_close((uv_handle_t *)&list->look, NULL);
    uv_close((uv_handle_t *)&list->stop, NULL);
}

static void *list_main(void *arg) {
    struct drop_list *list = arg;
    (void)uv_run(&list->loop, UV_RUN_DEFAULT);
    CHECK(list->follow == NULL);
    return NULL;
}

static int loop_create(struct drop_list *list, const struct config *config, struct err *err) {
    char who[CONSENT_WHO_MAX + 1];
    snprintf(who, sizeof who, "edge/%s", config->ingest_edge_id);
    const struct consent_follow_hooks hooks = {.reset = on_reset,
                                               .state = on_state,
                                               .fresh = on_fresh,
                                               .lost = on_lost,
                                               .applied = on_applied,
                                               .who = who,
                                               .arg = list};
    if (uv_loop_init(&list->loop) != 0)
        return err_set(err, ERR_IO, "cannot make an event loop");
    list->loop_ready = true;
    int rc = consent_follow_start(&list->follow, &list->loop, config, &hooks, err);
    if (rc != 0)
        return rc;
    if (uv_async_init(&list->loop, &list->stop, on_stop) != 0)
        return err_set(err, ERR_IO, "cannot make an event loop's wake-up");
    CHECK(uv_timer_init(&list->loop, &list->look) == 0);
    CHECK(uv_timer_start(&list->look, on_look, LOOK_MS, LOOK_MS) == 0);
    list->stop.data = list->look.data = list;
    return 0;
}

int drop_list_start(struct drop_list **out, const struct config *config, size_t n_views, struct err *err) {
    if (config->ingest_drop_contacts_max == 0)
        return 0;
    struct drop_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the drop list");
    list->contacts_max = config->ingest_drop_contacts_max;
    atomic_init(&list->fresh_ms, clock_monotonic_ms());
    int rc = drop_set_create(&list->set, n_views, err);
    if (rc == 0)
        rc = loop_create(list, config, err);
    if (rc == 0 && pthread_create(&list->thread, NULL, list_main, list) != 0)
        rc = err_set(err, ERR_IO, "cannot start the drop list's thread");
    list->started = rc == 0;
    if (rc != 0) {
        drop_list_stop(list);
        return rc;
    }
    (void)pthread_setname_np(list->thread, "drop-list");
    *out = list;
    return 0;
}

struct drop_view drop_list_view(struct drop_list *list, size_t index) {
    if (list == NULL)
        return (struct drop_view){0};
    return (struct drop_view){.in_use = &list->in_use, .reader = drop_set_reader(list->set, index)};
}

void drop_list_stop(struct drop_list *list) {
    if (list == NULL)
        return;
    if (list->started) {
        CHECK(uv_async_send(&list->stop) == 0);
        CHECK(pthread_join(list->thread, NULL) == 0);
    } else if (list->loop_ready) {
        consent_follow_free(list->follow);
        if (list->stop.data != NULL) {
            uv_close((uv_handle_t *)&list->look, NULL);
            uv_close((uv_handle_t *)&list->stop, NULL);
        }
        (void)uv_run(&list->loop, UV_RUN_DEFAULT);
    }
    if (list->loop_ready)
        CHECK(uv_loop_close(&list->loop) == 0);
    drop_set_free(list->set);
    free(list);
}

struct drop_list_facts drop_list_facts(const struct drop_list *list) {
    if (list == NULL)
        return (struct drop_list_facts){0};
    return (struct drop_list_facts){
        .in_use = atomic_load_explicit(&list->in_use, memory_order_relaxed),
        .contacts = drop_set_count(list->set),
        .bytes = drop_set_bytes(list->set),
        .age_ms = age_ms(list),
    };
}
