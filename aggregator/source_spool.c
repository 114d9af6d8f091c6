#include "aggregator/source_spool.h"

#include "aggregator/spool_items.h"
#include "common/dir_watch.h"
#include "common/log.h"

#include <string.h>
#include <uv.h>

// Both directories are watched; the scan now and then is for file systems whose watches and times cannot be relied on.
enum { SCAN_MS = 5000, RETRY_MS = 1000, FILES_A_TURN = 4 };

// Positions: a file's number plus what was committed before this session, so that they grow over restarts.
struct part {
    bool based;
    bool running; // delivers; false before the first resume and after a message was not accepted
    int64_t base;
    uint64_t next;      // number of the file to deliver next
    uint64_t committed; // numbers below it are committed
};

struct source_spool {
    struct source source;
    struct source_hooks hooks;
    struct spool_items items;
    uint32_t partitions;
    struct part *parts;
    struct dir_watch *watches[SPOOL_DIRS];
    uv_idle_t idle;
    uv_timer_t timer;
    int open_handles;
    bool assigned;     // the hooks were told
    bool stopping;
    bool clean_up;     // a commit may have freed files
    bool waiting_told; // that the spool's directory is not there yet
};

// ---- deliver ---------------------------------------------------------------------------------------------------------

// A file that is gone, or of another partition, is passed over.
static void part_skip(struct source_spool *spool, uint32_t partition) {
    struct part *part = &spool->parts[partition];
    while (part->next < spool_items_end(&spool->items)) {
        const struct spool_item *item = spool_items_at(&spool->items, part->next);
        if (item != NULL && spool_item_has(item, partition))
            return;
        part->next++;
    }
}

// The oldest file that a running partition wants; false where none does.
static bool next_file(struct source_spool *spool, uint64_t *index) {
    bool found = false;
    for (uint32_t i = 0; i < spool->partitions; i++) {
        const struct part *part = &spool->parts[i];
        if (!part->running)
            continue;
        part_skip(spool, i);
        if (part->next < spool_items_end(&spool->items) && (!found || part->next < *index)) {
            *index = part->next;
            found = true;
        }
    }
    return found;
}

static void fail(struct source_spool *spool, const struct err *err) {
    for (uint32_t i = 0; i < spool->partitions; i++)
        spool->parts[i].running = false;
    spool->hooks.failed(spool->hooks.arg, err);
}

static void on_timer(uv_timer_t *timer);

// False: nothing more can be delivered in this turn.
static bool deliver_file(struct source_spool *spool, uint64_t index) {
    for (uint32_t i = 0; i < spool->partitions; i++) {
        struct part *part = &spool->parts[i];
        const uint8_t *data;
        size_t len;
        struct err err;
        if (!part->running || part->next != index || !spool_item_has(spool_items_at(&spool->items, index), i))
            continue;
        int rc = spool_items_message(&spool->items, index, i, &data, &len, &err);
        if (rc == ERR_NOT_FOUND) // whoever wants it passes over it
            return true;
        if (rc == ERR_REFUSED) {
            fail(spool, &err);
            return false;
        }
        if (rc != 0) {
            log_error("%s; next try in a second", err.text);
            CHECK(uv_timer_start(&spool->timer, on_timer, RETRY_MS, SCAN_MS) == 0);
            return false;
        }
        part->running = false; // the hook may call resume, whatever it returns
        if (spool->hooks.message(spool->hooks.arg, i, part->base + (int64_t)index, data, len)) {
            part->next = part->next == index ? index + 1 : part->next;
            part->running = true;
        }
        if (spool->stopping)
            return false;
    }
    return true;
}

static bool item_committed(const struct source_spool *spool, const struct spool_item *item, uint64_t index) {
    for (uint32_t i = 0; i < spool->partitions; i++)
        if (spool_item_has(item, i) && spool->parts[i].committed <= index)
            return false;
    return true;
}

static void clean_up(struct source_spool *spool) {
    uint64_t committed_max = 0;
    for (uint32_t i = 0; i < spool->partitions; i++)
        committed_max = spool->parts[i].committed > committed_max ? spool->parts[i].committed : committed_max;
    for (uint64_t i = spool->items.first; i < committed_max && i < spool_items_end(&spool->items); i++) {
        const struct spool_item *item = spool_items_at(&spool->items, i);
        if (!item->gone && !item->newest && item_committed(spool, item, i))
            spool_items_remove(&spool->items, i);
    }
    spool_items_forget(&spool->items);
    spool->clean_up = false;
}

static void on_idle(uv_idle_t *idle) {
    struct source_spool *spool = idle->data;
    uint64_t index = 0;
    if (!spool->assigned) {
        spool->assigned = true;
        for (uint32_t i = 0; i < spool->partitions && !spool->stopping; i++)
            spool->hooks.assigned(spool->hooks.arg, i);
    }
    if (spool->clean_up && !spool->stopping)
        clean_up(spool);
    bool more = true;
    for (int i = 0; i < FILES_A_TURN && more && !spool->stopping; i++)
        more = next_file(spool, &index) && deliver_file(spool, index);
    if (!more && !spool->stopping)
        CHECK(uv_idle_stop(&spool->idle) == 0);
}

static void wake(struct source_spool *spool) {
    if (!spool->stopping)
        CHECK(uv_idle_start(&spool->idle, on_idle) == 0);
}

// ---- new files -------------------------------------------------------------------------------------------------------

static int scan(struct source_spool *spool, struct err *err) {
    int rc = spool_items_scan(&spool->items, err);
    spool->clean_up = true; // a newer segment lets the one before it go
    wake(spool);
    return rc;
}

static void on_change(void *arg) {
    struct source_spool *spool = arg;
    struct err err;
    int rc = scan(spool, &err);
    if (rc == ERR_REFUSED || rc == ERR_LIMIT)
        fail(spool, &err);
    else if (rc != 0 && rc != ERR_NOT_FOUND)
        log_error("%s; next try in %d seconds", err.text, SCAN_MS / 1000);
    else if (rc == ERR_NOT_FOUND && !spool->waiting_told)
        log_info("%s is not there yet: waiting for an edge", spool->items.dirs[SPOOL_SEALED]);
    spool->waiting_told = rc == ERR_NOT_FOUND;
}

static void on_timer(uv_timer_t *timer) {
    on_change(timer->data);
}

// ---- the interface ---------------------------------------------------------------------------------------------------

static void spool_stop(struct source *source);

static int spool_start(struct source *source, struct uv_loop_s *loop, const struct source_hooks *hooks, struct err *err) {
    struct source_spool *spool = (struct source_spool *)source;
    int rc = 0;
    spool->hooks = *hooks;
    CHECK(uv_idle_init(loop, &spool->idle) == 0 && uv_timer_init(loop, &spool->timer) == 0);
    spool->open_handles = 2;
    spool->idle.data = spool->timer.data = spool;
    CHECK(uv_timer_start(&spool->timer, on_timer, SCAN_MS, SCAN_MS) == 0);
    for (size_t i = 0; i < SPOOL_DIRS && rc == 0; i++)
        rc = dir_watch_start(&spool->watches[i], loop, spool->items.dirs[i], on_change, spool, err);
    if (rc == 0)
        rc = scan(spool, err);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

static void spool_resume(struct source *source, uint32_t partition, int64_t position) {
    struct source_spool *spool = (struct source_spool *)source;
    CHECK(partition < spool->partitions && position >= -2);
    struct part *part = &spool->parts[partition];
    if (!part->based) {
        part->based = true;
        part->base = position < 0 ? 0 : position;
        part->next = part->committed = spool->items.first;
        part->base -= (int64_t)spool->items.first;
    } else if (position != -2) {
        uint64_t next = position < part->base ? 0 : (uint64_t)(position - part->base);
        part->next = next < spool->items.first ? spool->items.first : next;
    }
    part->running = true;
    wake(spool);
}

static int spool_end(struct source *source, uint32_t partition, int64_t *end) {
    struct source_spool *spool = (struct source_spool *)source;
    const struct part *part = &spool->parts[partition];
    struct err err;
    CHECK(partition < spool->partitions);
    if (!part->based || scan(spool, &err) != 0)
        return ERR_UNREACHABLE;
    uint64_t index = spool_items_end(&spool->items);
    for (; index > spool->items.first; index--) {
        const uint8_t *data;
        size_t len;
        // A damaged newest file must not be waited for: nothing will ever be delivered from it.
        if (!spool_item_has(spool_items_at(&spool->items, index - 1), partition))
            continue;
        int rc = spool_items_message(&spool->items, index - 1, partition, &data, &len, &err);
        if (rc == 0)
            break;
        if (rc != ERR_NOT_FOUND)
            return ERR_UNREACHABLE;
    }
    *end = part->base + (int64_t)index;
    return 0;
}

static void spool_committed(struct source *source, uint32_t partition, int64_t position) {
    struct source_spool *spool = (struct source_spool *)source;
    CHECK(partition < spool->partitions);
    struct part *part = &spool->parts[partition];
    if (!part->based || position < part->base)
        return;
    uint64_t committed = (uint64_t)(position - part->base);
    CHECK(committed <= spool_items_end(&spool->items));
    part->committed = committed > part->committed ? committed : part->committed;
    spool->clean_up = true;
    wake(spool);
}

static void spool_free(struct source_spool *spool) {
    spool_items_free(&spool->items);
    free(spool->parts);
    free(spool);
}

static void on_closed(uv_handle_t *handle) {
    struct source_spool *spool = handle->data;
    if (--spool->open_handles == 0)
        spool_free(spool);
}

static void spool_stop(struct source *source) {
    struct source_spool *spool = (struct source_spool *)source;
    CHECK(!spool->stopping);
    spool->stopping = true;
    for (size_t i = 0; i < SPOOL_DIRS; i++)
        dir_watch_stop(spool->watches[i]);
    if (spool->open_handles == 0) { // never started
        spool_free(spool);
        return;
    }
    uv_close((uv_handle_t *)&spool->idle, on_closed);
    uv_close((uv_handle_t *)&spool->timer, on_closed);
}

static const struct source_ops spool_ops = {spool_start, spool_resume, spool_end, spool_committed, spool_stop};

int source_spool_create(struct source **source, const struct config *config, struct err *err) {
    struct source_spool *spool = calloc(1, sizeof *spool);
    uint32_t partitions = (uint32_t)config->kafka_partitions;
    struct part *parts = calloc(partitions, sizeof *parts);
    int rc = spool == NULL || parts == NULL ? err_set(err, ERR_NOMEM, "no memory for the spool's reader") : 0;
    if (rc == 0)
        rc = path_join(spool->items.dirs[SPOOL_INBOX], config->aggregator_state_dir, "inbox", err);
    if (rc == 0 && strlen(config->spool_dir) >= PATH_SIZE)
        rc = err_set(err, ERR_LIMIT, "[spool] dir is longer than %d bytes", PATH_SIZE - 1);
    if (rc != 0) {
        free(parts);
        free(spool);
        return rc;
    }
    snprintf(spool->items.dirs[SPOOL_SEALED], PATH_SIZE, "%s", config->spool_dir);
    spool->items.rehearsal = config->rehearsal;
    spool->items.partitions = spool->partitions = partitions;
    spool->parts = parts;
    spool->source.ops = &spool_ops;
    *source = &spool->source;
    return 0;
}

uint64_t source_spool_corrupt(const struct source *source) {
    return ((const struct source_spool *)source)->items.corrupt;
}
