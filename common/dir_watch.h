// Notices changes in a directory: keys, tenants and spool files appear without a restart. Owned by the uv loop's thread.
#ifndef OPENVEIL_DIR_WATCH_H
#define OPENVEIL_DIR_WATCH_H

#include "common/err.h"

// Calls back, from the uv loop, soon after a file in `dir` was created, renamed or removed (inotify, and a look at the
// directory's mtime every second where that is not to be had). The directory need not exist yet.
struct uv_loop_s;
struct dir_watch;
typedef void (*dir_watch_fn)(void *arg);
int dir_watch_start(struct dir_watch **watch, struct uv_loop_s *loop, const char *dir, dir_watch_fn changed, void *arg,
                    struct err *err) MUST_CHECK;
void dir_watch_stop(struct dir_watch *watch); // frees it once the loop has closed its handles; NULL is fine

#endif
