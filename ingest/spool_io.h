// The system calls by which a spool changes its directory, as a table, so that a test can let any one of them fail; and
// the raw segment file, which is made once, filled with zeros, and used again and again. Any thread, one at a time a file.
// Errors: ERR_LIMIT where the disk is full, else ERR_IO, with a sentence in `err`.
#ifndef OPENVEIL_SPOOL_IO_H
#define OPENVEIL_SPOOL_IO_H

#include "common/files.h"

struct spool_io {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*pwrite)(int fd, const void *data, size_t len, off_t offset);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*fallocate)(int fd, off_t offset, off_t len); // as posix_fallocate: returns the error
};
extern const struct spool_io spool_io_real;

// ERR_LIMIT or ERR_IO by errno.
int io_error(void);
int io_write(const struct spool_io *io, int fd, const void *data, size_t len, off_t offset) MUST_CHECK;
int io_sync_dir(const struct spool_io *io, const char *dir, struct err *err) MUST_CHECK;
// A new file under its final name, durable, name and all.
int io_create(const struct spool_io *io, const char *dir, const char *name, const void *data, size_t len,
              struct err *err) MUST_CHECK;

struct raw_file {
    int fd;
    size_t size;
    size_t dirty; // bytes from the start that are not zeros any more
    char path[PATH_SIZE];
};

// A durable file of `size` zeros, <dir>/free-<number>.log.
int raw_file_create(const struct spool_io *io, const char *dir, uint64_t number, size_t size, struct raw_file *file,
                    struct err *err) MUST_CHECK;
int raw_file_rename(const struct spool_io *io, struct raw_file *file, const char *dir, const char *name, struct err *err)
    MUST_CHECK;
// Zeros over what was written: no outcome outlives its segment, and no group can be taken for one of the next segment.
int raw_file_wipe(const struct spool_io *io, struct raw_file *file, struct err *err) MUST_CHECK;
void raw_file_close(struct raw_file *file);
// Deletes it; a failure is left to the next start, which deletes what it does not need.
void raw_file_delete(const struct spool_io *io, struct raw_file *file);

#endif
