#include "common/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

struct lines {
    int fd;
    bool ended;
    uint64_t number;
    size_t at;   // next byte to give
    size_t used; // bytes read
    char buffer[256 * 1024 + 1]; // one more, for the NUL of a last line without a line feed
};

int lines_open(struct lines **out, const char *path, struct err *err) {
    struct lines *lines = calloc(1, sizeof *lines);
    if (lines == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    lines->fd = STDIN_FILENO;
    if (path != NULL && strcmp(path, "-") != 0)
        lines->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (lines->fd < 0) {
        free(lines);
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s", path);
    }
    *out = lines;
    return 0;
}

void lines_close(struct lines *lines) {
    if (lines == NULL)
        return;
    if (lines->fd != STDIN_FILENO)
        close(lines->fd);
    explicit_bzero(lines->buffer, sizeof lines->buffer); // contacts
    free(lines);
}

static int lines_fill(struct lines *lines, struct err *err) {
    memmove(lines->buffer, lines->buffer + lines->at, lines->used - lines->at);
    lines->used -= lines->at;
    lines->at = 0;
    CHECK(lines->used < sizeof lines->buffer - 1);
    ssize_t n;
    do
        n = read(lines->fd, lines->buffer + lines->used, sizeof lines->buffer - 1 - lines->used);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_errno(err, ERR_IO, "cannot read after line %llu", (unsigned long long)lines->number);
    lines->used += (size_t)n;
    lines->ended = n == 0;
    return 0;
}

int lines_next(struct lines *lines, char **line, size_t *len, struct err *err) {
    char *start, *feed;
    size_t left;
    for (;;) {
        start = lines->buffer + lines->at;
        left = lines->used - lines->at;
        feed = memchr(start, '\n', left);
        if (feed != NULL || lines->ended || left > LINE_BYTES_MAX)
            break;
        int rc = lines_fill(lines, err);
        if (rc != 0)
            return rc;
    }
    if (feed == NULL && left == 0)
        return 0;
    lines->number++;
    *len = feed != NULL ? (size_t)(feed - start) : left;
    if (*len > LINE_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "line %llu is longer than %d bytes", (unsigned long long)lines->number,
                       LINE_BYTES_MAX);
    lines->at += *len + (feed != NULL);
    start[*len] = '\0';
    *line = start;
    return 1;
}

int lines_skip(struct lines *lines, struct err *err) {
    for (;;) {
        char *start = lines->buffer + lines->at;
        const char *feed = memchr(start, '\n', lines->used - lines->at);
        lines->at = feed != NULL ? (size_t)(feed + 1 - lines->buffer) : lines->used;
        if (feed != NULL || lines->ended)
            return 0;
        int rc = lines_fill(lines, err);
        if (rc != 0)
            return rc;
    }
}

uint64_t lines_number(const struct lines *lines) {
    return lines->number;
}

size_t line_fields(char *line, size_t len, char **fields, size_t *lens, size_t max) {
    size_t n = 0;
    CHECK(max > 0);
    for (;;) {
        char *tab = n + 1 < max ? memchr(line, '\t', len) : NULL;
        fields[n] = line;
        lens[n++] = tab != NULL ? (size_t)(tab - line) : len;
        if (tab == NULL)
            return n;
        *tab = '\0';
        len -= (size_t)(tab - line) + 1;
        line = tab + 1;
    }
}
