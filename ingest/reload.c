#include "ingest/reload.h"

#include "common/check.h"
#include "common/cli.h"
#include "common/dir_watch.h"
#include "common/keys.h"
#include "common/log.h"
#include "common/tenant.h"
#include "ingest/fetch_class.h"
#include "ingest/pixel.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define LOOK_MS_MAX 60000 // the wall clock may be set while we wait for midnight

struct reload {
    const struct config *config;
    struct snapshot *keys;
    struct snapshot *classes;
    struct snapshot *next_classes; // in force from next_day on; NULL: no change is waiting
    uint32_t next_day;
    struct spool *spool;
    struct worker **workers;
    size_t n_workers;
    struct dir_watch *keys_watch;
    struct dir_watch *tenants_watch;
    uv_timer_t midnight;
    bool watching;
};

static void keys_object_free(void *object) {
    pixel_keys_free(object);
}

static void classes_object_free(void *object) {
    fetch_classes_free(object);
}

static int keys_snapshot(const struct config *config, struct snapshot **snapshot, struct err *err) {
    struct keys masters = {0};
    struct tenant_table *tenants = NULL;
    struct pixel_keys *keys = NULL;
    int result = keys_load(&masters, config->keys_dir, false, err);
    if (result == 0)
        result = tenant_table_load(&tenants, config->tenants_dir, err);
    if (result == 0)
        result = pixel_keys_create(&keys, &masters, tenants, err);
    keys_wipe(&masters);
    tenant_table_free(tenants);
    if (result != 0)
        return result;
    *snapshot = snapshot_create(keys, keys_object_free);
    if (*snapshot != NULL)
        return 0;
    pixel_keys_free(keys);
    return err_set(err, ERR_NOMEM, "no memory for token keys");
}

static int classes_snapshot(const char *path, struct snapshot **snapshot, struct err *err) {
    struct fetch_classes *classes = NULL;
    int result = fetch_classes_load(&classes, path, err);
    if (result != 0)
        return result;
    *snapshot = snapshot_create(classes, classes_object_free);
    if (*snapshot != NULL)
        return 0;
    fetch_classes_free(classes);
    return err_set(err, ERR_NOMEM, "no memory for fetch classes");
}

int reload_create(struct reload **out, const struct config *config, struct err *err) {
    struct reload *reload = calloc(1, sizeof *reload);
    if (reload == NULL)
        return err_set(err, ERR_NOMEM, "no memory to load token keys");
    reload->config = config;
    int result = keys_snapshot(config, &reload->keys, err);
    if (result == 0)
        result = classes_snapshot(config->ingest_fetch_classes, &reload->classes, err);
    if (result != 0) {
        reload_free(reload);
        return result;
    }
    *out = reload;
    return 0;
}

struct snapshot *reload_keys(const struct reload *reload) {
    return reload->keys;
}

struct snapshot *reload_classes(const struct reload *reload) {
    return reload->classes;
}

size_t reload_n_keys(const struct reload *reload) {
    return pixel_keys_count(reload->keys->object);
}

static const uint8_t *hash_of(const struct snapshot *classes) {
    return fetch_classes_hash(classes->object);
}

const uint8_t *reload_rules_hash(const struct reload *reload) {
    return hash_of(reload->classes);
}

static int keys_replace(struct reload *reload, struct err *err) {
    struct snapshot *keys;
    int result = keys_snapshot(reload->config, &keys, err);
    if (result != 0)
        return result;
    snapshot_drop(reload->keys);
    reload->keys = keys;
    for (size_t i = 0; i < reload->n_workers; i++)
        worker_set_keys(reload->workers[i], keys);
    return 0;
}

static void keys_again(void *arg) {
    struct reload *reload = arg;
    struct err err;
    if (keys_replace(reload, &err) != 0)
        log_error("token keys and tenants are not loaded again, those in force stay: %s", err.text);
    else
        log_info("loaded again: %zu token keys of tenants", reload_n_keys(reload));
}

static void on_midnight(uv_timer_t *timer);

static void wait_for_midnight(struct reload *reload) {
    int64_t left = clock_real_ms_until(&reload->config->clock, day_start_ms(reload->next_day));
    CHECK(left > 0);
    uint64_t wait = left < LOOK_MS_MAX ? (uint64_t)left : LOOK_MS_MAX;
    CHECK(uv_timer_start(&reload->midnight, on_midnight, wait, 0) == 0);
}

static void on_midnight(uv_timer_t *timer) {
    struct reload *reload = timer->data;
    if (reload->next_classes == NULL)
        return;
    if (clock_today(&reload->config->clock) < reload->next_day) {
        wait_for_midnight(reload);
        return;
    }
    snapshot_drop(reload->classes);
    reload->classes = reload->next_classes;
    reload->next_classes = NULL;
    for (size_t i = 0; i < reload->n_workers; i++)
        worker_set_classes(reload->workers[i], reload->classes);
    log_info("the new fetch classes are in force");
}

static void classes_again(struct reload *reload, const char *path) {
    struct snapshot *classes;
    struct err err;
    if (classes_snapshot(path, &classes, &err) != 0) {
        log_error("fetch classes are not loaded again, those in force stay: %s", err.text);
        return;
    }
    if (fetch_classes_shrunk(reload->classes->object, classes->object)) {
        log_error("fetch classes are not loaded again: the file lost more than half of its rules; restart to force it");
        snapshot_drop(classes);
        return;
    }
    snapshot_drop(reload->next_classes);
    reload->next_classes = NULL;
    spool_set_rules(reload->spool, hash_of(classes));
    if (memcmp(hash_of(classes), hash_of(reload->classes), RULES_HASH_SIZE) == 0) {
        snapshot_drop(classes);
        return;
    }
    reload->next_classes = classes;
    reload->next_day = clock_today(&reload->config->clock) + 1;
    wait_for_midnight(reload);
    log_info("new fetch classes loaded; they hold from the next UTC day on");
}

void reload_now(struct reload *reload) {
    struct config config = {0};
    struct err err;
    keys_again(reload);
    if (config_load(&config, reload->config->path, reload->config->rehearsal, &err) != 0) {
        log_error("the configuration is not read again: %s", err.text);
    } else {
        cli_apply_log_level(&config);
        classes_again(reload, config.ingest_fetch_classes);
        log_info("read again: log level, fetch classes, keys, tenants; everything else needs a restart");
    }
    config_free(&config);
}

int reload_watch(struct reload *reload, struct uv_loop_s *loop, struct spool *spool, struct worker **workers,
                 size_t n_workers, struct err *err) {
    const struct config *config = reload->config;
    CHECK(!reload->watching);
    reload->spool = spool;
    reload->workers = workers;
    reload->n_workers = n_workers;
    CHECK(uv_timer_init(loop, &reload->midnight) == 0);
    reload->midnight.data = reload;
    reload->watching = true;
    int result = dir_watch_start(&reload->keys_watch, loop, config->keys_dir, keys_again, reload, err);
    if (result == 0)
        result = dir_watch_start(&reload->tenants_watch, loop, config->tenants_dir, keys_again, reload, err);
    // What changed between the first load and the watch.
    return result == 0 ? keys_replace(reload, err) : result;
}

void reload_stop(struct reload *reload) {
    if (reload == NULL || !reload->watching)
        return;
    reload->watching = false;
    uv_close((uv_handle_t *)&reload->midnight, NULL);
    dir_watch_stop(reload->keys_watch);
    dir_watch_stop(reload->tenants_watch);
}

void reload_free(struct reload *reload) {
    if (reload == NULL)
        return;
    CHECK(!reload->watching);
    snapshot_drop(reload->keys);
    snapshot_drop(reload->classes);
    snapshot_drop(reload->next_classes);
    free(reload);
}
