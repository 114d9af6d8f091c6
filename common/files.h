// Small files and directories on disk: read whole and bounded, replace atomically, mark and lock directories.
// Threads: any. Errors: ERR_IO, ERR_LIMIT, ERR_INVALID, ERR_NOT_FOUND, with a sentence in `err`.
#ifndef OPENVEIL_FILES_H
#define OPENVEIL_FILES_H

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PATH_SIZE 1024

// Joins with a slash; ERR_LIMIT where the result would not fit PATH_SIZE.
int path_join(char out[PATH_SIZE], const char *dir, const char *name, struct err *err) MUST_CHECK;
// Creates `path` and its missing parents (0755), the last one with `mode`; an existing directory is success.
int dir_create(const char *path, mode_t mode, struct err *err) MUST_CHECK;
// When a file was made (where the file system does not know: last written) and last written, in seconds since 1970 of the
// machine's clock. ERR_NOT_FOUND, ERR_IO.
struct file_times {
    int64_t made_s;
    int64_t written_s;
};
int file_times(const char *path, struct file_times *times) MUST_CHECK;
// fsync of a directory, so that names created or renamed in it survive a power cut.
int dir_sync(const char *path, struct err *err) MUST_CHECK;
// The whole file, NUL-terminated, to be freed by the caller. ERR_LIMIT above `bytes_max`; ERR_NOT_FOUND where absent.
int file_read(const char *path, size_t bytes_max, char **data, size_t *len, struct err *err) MUST_CHECK;
// Replaces `path`: temporary file, write, fsync, rename, fsync of the directory. A reader sees the old or the new bytes.
int file_replace(const char *path, mode_t mode, const void *data, size_t len, struct err *err) MUST_CHECK;
// Creates `path` in the same way, but never replaces: ERR_EXISTS where there is such a file.
int file_create(const char *path, mode_t mode, const void *data, size_t len, struct err *err) MUST_CHECK;
// pread/pwrite until all is done; ERR_IO otherwise. read_full: ERR_AGAIN where the file ends before `len`.
int write_full(int fd, const void *data, size_t len, off_t offset) MUST_CHECK;
int read_full(int fd, void *data, size_t len, off_t offset) MUST_CHECK;
// An empty file without a name in TMPDIR (/var/tmp where it is not set), mode 0600: gone with the fd, which is >= 0 and
// the caller's. For what must not stay in memory nor be found afterwards.
int file_temporary(const char *name, struct err *err) MUST_CHECK;

// A data directory carries a file `openveil-mode` that says `production` or `rehearsal`: created (with the directory,
// 0700) where absent, ERR_REFUSED where it says the other, so that rehearsed days can never meet real data.
int dir_mark(const char *path, bool rehearsal, struct err *err) MUST_CHECK;
// Takes the exclusive lock of a directory (flock on `<path>/lock`), kept until the process ends or the returned fd is
// closed. ERR_EXISTS where another process has it. The fd is >= 0.
int dir_lock(const char *path, struct err *err) MUST_CHECK;

#endif
