#include "common/files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int path_join(char out[PATH_SIZE], const char *dir, const char *name, struct err *err) {
    int n = snprintf(out, PATH_SIZE, "%s/%s", dir, name);
    if (n < 0 || n >= PATH_SIZE)
        return err_set(err, ERR_LIMIT, "the path %.100s…/%.100s is longer than %d bytes", dir, name, PATH_SIZE - 1);
    return 0;
}

static int dir_create_one(const char *path, mode_t mode, struct err *err) {
    struct stat st;
    if (mkdir(path, mode) == 0)
        return 0;
    if (errno != EEXIST)
        return err_errno(err, ERR_IO, "cannot create the directory %s", path);
    if (stat(path, &st) != 0)
        return err_errno(err, ERR_IO, "cannot look at %s", path);
    if (!S_ISDIR(st.st_mode))
        return err_set(err, ERR_IO, "%s is in the way: it is not a directory", path);
    return 0;
}

int dir_create(const char *path, mode_t mode, struct err *err) {
    char part[PATH_SIZE];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part)
        return err_set(err, ERR_INVALID, "a directory's path must have 1 to %d bytes", PATH_SIZE - 1);
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    memcpy(part, path, len + 1);
    for (size_t i = 1; i < len; i++) {
        if (part[i] != '/')
            continue;
        part[i] = '\0';
        int rc = dir_create_one(part, 0755, err);
        if (rc != 0)
            return rc;
        part[i] = '/';
    }
    return dir_create_one(part, mode, err);
}

int file_times(const char *path, struct file_times *times) {
    struct statx st;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME | STATX_MTIME, &st) != 0)
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    times->written_s = st.stx_mtime.tv_sec;
    times->made_s = (st.stx_mask & STATX_BTIME) != 0 ? st.stx_btime.tv_sec : st.stx_mtime.tv_sec;
    return 0;
}

int dir_sync(const char *path, struct err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, ERR_IO, "cannot open the directory %s", path);
    int rc = fsync(fd);
    if (rc != 0)
        rc = err_errno(err, ERR_IO, "cannot sync the directory %s", path);
    close(fd);
    return rc;
}

int file_read(const char *path, size_t bytes_max, char **data, size_t *len, struct err *err) {
    struct stat st;
    int rc = 0;
    char *buffer = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s", path);
    if (fstat(fd, &st) != 0) {
        rc = err_errno(err, ERR_IO, "cannot look at %s", path);
        goto done;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > bytes_max) {
        rc = err_set(err, ERR_LIMIT, "%s must be a regular file of at most %zu bytes", path, bytes_max);
        goto done;
    }
    buffer = malloc((size_t)st.st_size + 1);
    if (buffer == NULL) {
        rc = err_set(err, ERR_NOMEM, "no memory to read %s", path);
        goto done;
    }
    if (read_full(fd, buffer, (size_t)st.st_size, 0) != 0) {
        rc = err_errno(err, ERR_IO, "cannot read %s", path);
        goto done;
    }
    buffer[st.st_size] = '\0';
    *data = buffer;
    *len = (size_t)st.st_size;
    buffer = NULL;
done:
    free(buffer);
    close(fd);
    return rc;
}

int write_full(int fd, const void *data, size_t len, off_t offset) {
    const char *at = data;
    while (len > 0) {
        ssize_t n = pwrite(fd, at, len, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ERR_IO;
        at += n;
        offset += n;
        len -= (size_t)n;
    }
    return 0;
}

int read_full(int fd, void *data, size_t len, off_t offset) {
    char *at = data;
    while (len > 0) {
        ssize_t n = pread(fd, at, len, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ERR_IO;
        if (n == 0)
            return ERR_AGAIN;
        at += n;
        offset += n;
        len -= (size_t)n;
    }
    return 0;
}

static int sync_parent(const char *path, struct err *err) {
    char dir[PATH_SIZE];
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return dir_sync(".", err);
    size_t len = slash == path ? 1 : (size_t)(slash - path);
    CHECK(len < sizeof dir);
    memcpy(dir, path, len);
    dir[len] = '\0';
    return dir_sync(dir, err);
}

static int temporary_write(const char *temporary, mode_t mode, const void *data, size_t len, struct err *err) {
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        return err_errno(err, ERR_IO, "cannot create %s", temporary);
    int rc = 0;
    if (fchmod(fd, mode) != 0 || write_full(fd, data, len, 0) != 0 || fsync(fd) != 0)
        rc = err_errno(err, ERR_IO, "cannot write %s", temporary);
    if (close(fd) != 0 && rc == 0)
        rc = err_errno(err, ERR_IO, "cannot close %s", temporary);
    if (rc != 0)
        unlink(temporary);
    return rc;
}

static int temporary_name(char temporary[PATH_SIZE], const char *path, struct err *err) {
    int n = snprintf(temporary, PATH_SIZE, "%s.tmp.%d", path, (int)getpid());
    if (n < 0 || n >= PATH_SIZE)
        return err_set(err, ERR_LIMIT, "the path %.200s… is too long", path);
    return 0;
}

int file_replace(const char *path, mode_t mode, const void *data, size_t len, struct err *err) {
    char temporary[PATH_SIZE];
    int rc = temporary_name(temporary, path, err);
    if (rc == 0)
        rc = temporary_write(temporary, mode, data, len, err);
    if (rc != 0)
        return rc;
    if (rename(temporary, path) == 0)
        return sync_parent(path, err);
    rc = err_errno(err, ERR_IO, "cannot rename %s to %s", temporary, path);
    unlink(temporary);
    return rc;
}

int file_create(const char *path, mode_t mode, const void *data, size_t len, struct err *err) {
    char temporary[PATH_SIZE];
    int rc = temporary_name(temporary, path, err);
    if (rc == 0)
        rc = temporary_write(temporary, mode, data, len, err);
    if (rc != 0)
        return rc;
    if (link(temporary, path) != 0) // unlike rename, fails where the name is taken
        rc = errno == EEXIST ? err_set(err, ERR_EXISTS, "%s exists already", path)
                             : err_errno(err, ERR_IO, "cannot create %s", path);
    unlink(temporary);
    return rc == 0 ? sync_parent(path, err) : rc;
}

int dir_mark(const char *path, bool rehearsal, struct err *err) {
    char mark[PATH_SIZE];
    char *text = NULL;
    size_t len = 0;
    const char *mode = rehearsal ? "rehearsal\n" : "production\n";
    int rc = dir_create(path, 0700, err);
    if (rc != 0)
        return rc;
    if ((rc = path_join(mark, path, "openveil-mode", err)) != 0)
        return rc;
    rc = file_read(mark, 64, &text, &len, err);
    if (rc == ERR_NOT_FOUND)
        return file_replace(mark, 0644, mode, strlen(mode), err);
    if (rc != 0)
        return rc;
    if (strcmp(text, mode) != 0)
        rc = err_set(err, ERR_REFUSED,
                     "%s belongs to %s and this process runs in %s: use another directory, or start %s --rehearsal", path,
                     rehearsal ? "production" : "a rehearsal", rehearsal ? "a rehearsal" : "production",
                     rehearsal ? "without" : "with");
    free(text);
    return rc;
}

int dir_lock(const char *path, struct err *err) {
    char lock[PATH_SIZE];
    int rc = path_join(lock, path, "lock", err);
    if (rc != 0)
        return rc;
    int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(err, ERR_IO, "cannot open %s", lock);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        rc = errno == EWOULDBLOCK
                 ? err_set(err, ERR_EXISTS, "another process already works in %s", path)
                 : err_errno(err, ERR_IO, "cannot lock %s", lock);
        close(fd);
        return rc;
    }
    return fd;
}

int file_temporary(const char *name, struct err *err) {
    char path[PATH_SIZE];
    const char *dir = getenv("TMPDIR");
    if (dir == NULL || dir[0] == '\0')
        dir = "/var/tmp";
    int n = snprintf(path, sizeof path, "%s/openveil-%s-XXXXXX", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return err_set(err, ERR_LIMIT, "the path in TMPDIR is longer than %d bytes", PATH_SIZE);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, ERR_IO, "cannot make a temporary file %s (TMPDIR says where)", path);
    if (unlink(path) != 0) {
        close(fd);
        return err_errno(err, ERR_IO, "cannot remove the name of the temporary file %s", path);
    }
    return fd;
}
