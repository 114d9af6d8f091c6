#include "common/dir_watch.h"

#include "common/files.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

// Several events of one change (create, write, rename) become one call; a missed event is found a second later.
enum { SETTLE_MS = 50, LOOK_MS = 1000 };

struct dir_watch {
    uv_fs_event_t event;
    uv_timer_t settle;
    uv_timer_t look;
    int open_handles;
    bool watching; // inotify is on, for the directory that `seen` describes
    struct stat seen;
    dir_watch_fn changed;
    void *arg;
    char dir[PATH_SIZE];
};

static void watch_look(struct dir_watch *watch, struct stat *now) {
    if (stat(watch->dir, now) != 0)
        memset(now, 0, sizeof *now);
}

static void on_settled(uv_timer_t *timer) {
    struct dir_watch *watch = timer->data;
    watch_look(watch, &watch->seen); // before the call: what changes during it is seen as a change again
    watch->changed(watch->arg);
}

static void on_event(uv_fs_event_t *event, const char *name, int events, int status) {
    struct dir_watch *watch = event->data;
    (void)name;
    (void)events;
    (void)status;
    if (!uv_is_active((uv_handle_t *)&watch->settle))
        CHECK(uv_timer_start(&watch->settle, on_settled, SETTLE_MS, 0) == 0);
}

static void watch_begin(struct dir_watch *watch) {
    if (watch->watching)
        CHECK(uv_fs_event_stop(&watch->event) == 0);
    watch->watching = uv_fs_event_start(&watch->event, on_event, watch->dir, 0) == 0;
}

static void on_look(uv_timer_t *timer) {
    struct dir_watch *watch = timer->data;
    struct stat now;
    watch_look(watch, &now);
    bool same_dir = now.st_ino == watch->seen.st_ino && now.st_dev == watch->seen.st_dev;
    if (!same_dir || (!watch->watching && now.st_ino != 0))
        watch_begin(watch);
    if (same_dir && now.st_mtim.tv_sec == watch->seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == watch->seen.st_mtim.tv_nsec)
        return;
    watch->seen = now;
    watch->changed(watch->arg);
}

int dir_watch_start(struct dir_watch **out, struct uv_loop_s *loop, const char *dir, dir_watch_fn changed, void *arg,
                    struct err *err) {
    CHECK(changed != NULL);
    if (strlen(dir) >= PATH_SIZE)
        return err_set(err, ERR_LIMIT, "the path %.200s… is longer than %d bytes", dir, PATH_SIZE - 1);
    struct dir_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL)
        return err_set(err, ERR_NOMEM, "no memory to watch %s", dir);
    snprintf(watch->dir, sizeof watch->dir, "%s", dir);
    watch->changed = changed;
    watch->arg = arg;
    watch->open_handles = 3;
    watch->event.data = watch->settle.data = watch->look.data = watch;
    CHECK(uv_fs_event_init(loop, &watch->event) == 0 && uv_timer_init(loop, &watch->settle) == 0 &&
          uv_timer_init(loop, &watch->look) == 0);
    watch_look(watch, &watch->seen);
    watch_begin(watch);
    CHECK(uv_timer_start(&watch->look, on_look, LOOK_MS, LOOK_MS) == 0);
    *out = watch;
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    struct dir_watch *watch = handle->data;
    if (--watch->open_handles == 0)
        free(watch);
}

void dir_watch_stop(struct dir_watch *watch) {
    if (watch == NULL)
        return;
    uv_close((uv_handle_t *)&watch->event, on_closed);
    uv_close((uv_handle_t *)&watch->settle, on_closed);
    uv_close((uv_handle_t *)&watch->look, on_closed);
}
