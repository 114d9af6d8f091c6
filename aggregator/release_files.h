// The released lines of one tenant, read back from the release directory for commands. Owned by the caller, one thread.
// Limits: RELEASE_FILES_MAX lines of RECORD_VALUE_MAX bytes; other files in the directory are not looked at.
#ifndef OPENVEIL_RELEASE_FILES_H
#define OPENVEIL_RELEASE_FILES_H

#include "aggregator/release.h"

#define RELEASE_FILES_MAX 20000

struct json_t;
struct release_file {
    enum release_kind kind;
    uint32_t period_day;        // the day, or the month's first
    char period[DAY_TEXT_SIZE]; // as in the line
    char *line;                 // without its line feed
    struct json_t *json;        // the line, parsed; its kind and period are those of the file's name
    bool complete;
    bool budget_spent;
    struct fraction epsilon; // what it spent; 0/1 for nothing
    uint32_t threshold;
};
struct release_files {
    size_t n;
    struct release_file *files; // ascending periods, deliverability first
};

// What a file name says; false where it is not a released line's.
bool release_file_name(const char *name, enum release_kind *kind, uint32_t *period_day);
// `kind` 0: both. A directory that is not there has no lines. ERR_CORRUPT names the file that is not a released line.
int release_files_load(struct release_files *files, const char *dir, uint32_t tenant, int kind, struct err *err)
    MUST_CHECK;
// The one line of a period. ERR_NOT_FOUND; ERR_CORRUPT where the file holds something else, also another tenant's line.
int release_file_find(struct release_file *file, const char *dir, uint32_t tenant, enum release_kind kind,
                      uint32_t period_day, struct err *err) MUST_CHECK;
void release_file_free(struct release_file *file);
void release_files_free(struct release_files *files);
// By name: enum release_kind, or -1.
int release_kind_parse(const char *name);

#endif
