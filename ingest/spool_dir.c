#include "ingest/spool_dir.h"

#include "common/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_UNIT 512 // of st_blocks

int numbers_add(struct numbers *numbers, uint64_t number) {
    if (numbers->n == numbers->size) {
        size_t size = numbers->size == 0 ? 64 : 2 * numbers->size;
        uint64_t *at = realloc(numbers->at, size * sizeof *at);
        if (at == NULL)
            return ERR_NOMEM;
        numbers->at = at;
        numbers->size = size;
    }
    numbers->at[numbers->n++] = number;
    return 0;
}

void numbers_free(struct numbers *numbers) {
    free(numbers->at);
    *numbers = (struct numbers){0};
}

static int number_order(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

static int list_one(int dir_fd, const char *name, struct spool_listing *listing) {
    struct stat st;
    uint64_t number;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
        return 0;
    listing->bytes += (uint64_t)st.st_blocks * BLOCK_UNIT;
    if (raw_name_parse(name, &number) && number <= SEGMENT_NUMBER_MAX)
        return numbers_add(&listing->raw, number);
    if (sealed_name_parse(name, &number) && number <= SEGMENT_NUMBER_MAX)
        return numbers_add(&listing->sealed, number);
    return 0;
}

int spool_list(const char *dir, struct spool_listing *listing, struct err *err) {
    *listing = (struct spool_listing){0};
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return err_errno(err, ERR_IO, "cannot list %s", dir);
    int rc = 0;
    struct dirent *entry;
    while (rc == 0 && (errno = 0, entry = readdir(stream)) != NULL)
        rc = list_one(dirfd(stream), entry->d_name, listing);
    if (rc != 0)
        rc = err_set(err, rc, "no memory to list %s", dir);
    else if (errno != 0)
        rc = err_errno(err, ERR_IO, "cannot list %s", dir);
    closedir(stream);
    if (rc != 0) {
        spool_listing_free(listing);
        return rc;
    }
    if (listing->raw.n > 1)
        qsort(listing->raw.at, listing->raw.n, sizeof(uint64_t), number_order);
    if (listing->sealed.n > 1)
        qsort(listing->sealed.at, listing->sealed.n, sizeof(uint64_t), number_order);
    return 0;
}

void spool_listing_free(struct spool_listing *listing) {
    numbers_free(&listing->raw);
    numbers_free(&listing->sealed);
    listing->bytes = 0;
}

static bool is_leftover(const char *name) {
    const char *suffix = strrchr(name, '.');
    if (suffix == NULL)
        return false;
    return strcmp(suffix, ".tmp") == 0 || (strncmp(name, "free-", 5) == 0 && strcmp(suffix, ".log") == 0);
}

int spool_clean(const struct spool_io *io, const char *dir, struct err *err) {
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return err_errno(err, ERR_IO, "cannot list %s", dir);
    int rc = 0;
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(stream)) != NULL) {
        char path[PATH_SIZE];
        if (!is_leftover(entry->d_name))
            continue;
        rc = path_join(path, dir, entry->d_name, err);
        // What is not a file of ours (a directory of that name, say) stays where it is.
        if (rc == 0 && io->unlink(path) != 0 && errno != ENOENT && errno != EISDIR && errno != EPERM)
            rc = err_errno(err, ERR_IO, "cannot delete %s", path);
    }
    closedir(stream);
    return rc;
}

int spool_put_aside(const struct spool_io *io, const char *dir, const char *name, struct err *err) {
    char from[PATH_SIZE], corner[PATH_SIZE], to[PATH_SIZE];
    size_t kept = 0;
    int rc = path_join(from, dir, name, err);
    if (rc == 0)
        rc = path_join(corner, dir, "corrupt", err);
    if (rc == 0)
        rc = path_join(to, corner, name, err);
    if (rc == 0)
        rc = dir_create(corner, 0700, err);
    if (rc != 0)
        return rc;
    DIR *stream = opendir(corner);
    if (stream == NULL)
        return err_errno(err, ERR_IO, "cannot list %s", corner);
    struct dirent *entry;
    while ((entry = readdir(stream)) != NULL)
        kept += entry->d_name[0] != '.';
    closedir(stream);
    bool room = kept < CORRUPT_FILES_MAX;
    if ((room ? io->rename(from, to) : io->unlink(from)) != 0 && errno != ENOENT)
        return err_errno(err, io_error(), "cannot put %s aside", from);
    return 0;
}
