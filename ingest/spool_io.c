#include "ingest/spool_io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define ZEROS_SIZE (256u << 10)
#define NAME_SIZE 64

static int open_file(const char *path, int flags, mode_t mode) {
    return open(path, flags, mode);
}

const struct spool_io spool_io_real = {
    .open = open_file,
    .pwrite = pwrite,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .rename = rename,
    .unlink = unlink,
    .fallocate = posix_fallocate,
};

int io_error(void) {
    return errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO;
}

int io_write(const struct spool_io *io, int fd, const void *data, size_t len, off_t offset) {
    const char *at = data;
    while (len > 0) {
        ssize_t n = io->pwrite(fd, at, len, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return io_error();
        CHECK((size_t)n <= len);
        at += n;
        offset += n;
        len -= (size_t)n;
    }
    return 0;
}

int io_sync_dir(const struct spool_io *io, const char *dir, struct err *err) {
    int fd = io->open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(err, io_error(), "cannot open the directory %s", dir);
    int rc = 0;
    if (io->fsync(fd) != 0)
        rc = err_errno(err, ERR_IO, "cannot sync the directory %s", dir);
    close(fd);
    return rc;
}

int io_create(const struct spool_io *io, const char *dir, const char *name, const void *data, size_t len,
              struct err *err) {
    char path[PATH_SIZE], temporary[PATH_SIZE], temporary_name[NAME_SIZE];
    int n = snprintf(temporary_name, sizeof temporary_name, "%s.tmp", name);
    CHECK(n > 0 && (size_t)n < sizeof temporary_name);
    int rc = path_join(path, dir, name, err);
    if (rc == 0)
        rc = path_join(temporary, dir, temporary_name, err);
    if (rc != 0)
        return rc;
    int fd = io->open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(err, io_error(), "cannot create %s", temporary);
    rc = io_write(io, fd, data, len, 0);
    if (rc != 0)
        rc = err_errno(err, rc, "cannot write %s", temporary);
    else if (io->fsync(fd) != 0)
        rc = err_errno(err, io_error(), "cannot sync %s", temporary);
    close(fd);
    if (rc == 0 && io->rename(temporary, path) != 0)
        rc = err_errno(err, io_error(), "cannot rename %s", temporary);
    if (rc != 0) {
        io->unlink(temporary);
        return rc;
    }
    return io_sync_dir(io, dir, err);
}

static int zero_range(const struct spool_io *io, int fd, size_t len) {
    static const uint8_t zeros[ZEROS_SIZE];
    for (size_t at = 0; at < len; at += ZEROS_SIZE) {
        size_t part = len - at < ZEROS_SIZE ? len - at : ZEROS_SIZE;
        int rc = io_write(io, fd, zeros, part, (off_t)at);
        if (rc != 0)
            return rc;
    }
    return io->fsync(fd) == 0 ? 0 : io_error();
}

int raw_file_create(const struct spool_io *io, const char *dir, uint64_t number, size_t size, struct raw_file *file,
                    struct err *err) {
    char name[NAME_SIZE];
    *file = (struct raw_file){.fd = -1, .size = size};
    snprintf(name, sizeof name, "free-%" PRIu64 ".log", number);
    int rc = path_join(file->path, dir, name, err);
    if (rc != 0)
        return rc;
    file->fd = io->open(file->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file->fd < 0)
        return err_errno(err, io_error(), "cannot create %s", file->path);
    int error = io->fallocate(file->fd, 0, (off_t)size);
    if (error != 0) {
        errno = error;
        rc = err_errno(err, io_error(), "cannot reserve %zu bytes for %s", size, file->path);
    } else if ((rc = zero_range(io, file->fd, size)) != 0) {
        rc = err_errno(err, rc, "cannot fill %s", file->path);
    }
    if (rc != 0)
        raw_file_delete(io, file);
    return rc;
}

int raw_file_rename(const struct spool_io *io, struct raw_file *file, const char *dir, const char *name,
                    struct err *err) {
    char path[PATH_SIZE];
    int rc = path_join(path, dir, name, err);
    if (rc != 0)
        return rc;
    if (io->rename(file->path, path) != 0)
        return err_errno(err, io_error(), "cannot rename %s to %s", file->path, path);
    memcpy(file->path, path, sizeof path);
    return 0;
}

int raw_file_wipe(const struct spool_io *io, struct raw_file *file, struct err *err) {
    int rc = zero_range(io, file->fd, file->dirty);
    if (rc != 0)
        return err_errno(err, rc, "cannot wipe %s", file->path);
    file->dirty = 0;
    return 0;
}

void raw_file_close(struct raw_file *file) {
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

void raw_file_delete(const struct spool_io *io, struct raw_file *file) {
    if (file->fd < 0)
        return;
    io->unlink(file->path);
    raw_file_close(file);
}
