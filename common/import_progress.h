// How far an import has come, in the file of --resume: so that one that was killed goes on instead of beginning again.
// One thread.
#ifndef OPENVEIL_IMPORT_PROGRESS_H
#define OPENVEIL_IMPORT_PROGRESS_H

#include "common/err.h"

#include <stdint.h>

struct import_progress {
    uint32_t tenant;
    uint64_t input; // hash of all lines and of what they mean
    uint64_t n_lines;
    uint64_t n_done;
    uint64_t n_refused; // of these
    uint64_t n_stayed;
    uint64_t rejects_bytes; // of the file of rejects that belong to them
};

// ERR_NOT_FOUND where there is no such file; ERR_INVALID where it is not one of these.
int import_progress_read(struct import_progress *progress, const char *path, struct err *err) MUST_CHECK;
int import_progress_write(const struct import_progress *progress, const char *path, struct err *err) MUST_CHECK;

#endif
