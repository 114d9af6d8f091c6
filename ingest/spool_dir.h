// What lies in a spool's directory: a listing, and the corner where damaged files are put. Any thread.
#ifndef OPENVEIL_SPOOL_DIR_H
#define OPENVEIL_SPOOL_DIR_H

#include "ingest/spool_io.h"

// Numbers begin at a day << 32 and grow by one: a file that claims more is none of ours.
#define SEGMENT_NUMBER_MAX ((uint64_t)1 << 62)
// Damaged files beyond this number are deleted instead of kept.
#define CORRUPT_FILES_MAX 16

struct numbers {
    uint64_t *at; // ascending
    size_t n;
    size_t size;
};
int numbers_add(struct numbers *numbers, uint64_t number) MUST_CHECK; // at its end; ERR_NOMEM
void numbers_free(struct numbers *numbers);

struct spool_listing {
    struct numbers raw;
    struct numbers sealed;
    uint64_t bytes; // disk space of all files
};
// Files that vanish meanwhile are no error.
int spool_list(const char *dir, struct spool_listing *listing, struct err *err) MUST_CHECK;
void spool_listing_free(struct spool_listing *listing);
// Deletes what an earlier process was preparing: *.tmp and free-*.log.
int spool_clean(const struct spool_io *io, const char *dir, struct err *err) MUST_CHECK;
// Moves <dir>/<name> to <dir>/corrupt/.
int spool_put_aside(const struct spool_io *io, const char *dir, const char *name, struct err *err) MUST_CHECK;

#endif
