// Lines of a file or of standard input, one at a time and bounded: for the lists that commands take. One thread.
#ifndef OPENVEIL_LINES_H
#define OPENVEIL_LINES_H

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>

#define LINE_BYTES_MAX 4096

struct lines; // opaque
// `path` NULL or "-": standard input.
int lines_open(struct lines **lines, const char *path, struct err *err) MUST_CHECK;
void lines_close(struct lines *lines);
// 1: the next line without its line feed, NUL-terminated, the caller's to change until the next call; a NUL inside it
// counts to `len`. 0: no more. ERR_LIMIT: longer than LINE_BYTES_MAX; ERR_IO. The last line may lack its line feed.
int lines_next(struct lines *lines, char **line, size_t *len, struct err *err) MUST_CHECK;
// After ERR_LIMIT: passes over the line that was too long, so that the next call gives the one behind it.
int lines_skip(struct lines *lines, struct err *err) MUST_CHECK;
uint64_t lines_number(const struct lines *lines); // of the line last given, from 1
// Cuts a line at its tabs: the number of fields, at most `max` (then the last holds the rest).
size_t line_fields(char *line, size_t len, char **fields, size_t *lens, size_t max);

#endif
