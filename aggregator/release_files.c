#include "aggregator/release_files.h"

#include "common/files.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define LINE_FILE_MAX (RECORD_VALUE_MAX - 8) // what fits a record again

int release_kind_parse(const char *name) {
    for (int kind = RELEASE_DELIVERABILITY; kind <= RELEASE_INACTIVITY; kind++)
        if (strcmp(name, release_kind_names[kind]) == 0)
            return kind;
    return -1;
}

bool release_file_name(const char *name, enum release_kind *kind, uint32_t *period_day) {
    char kind_name[16], day[DAY_TEXT_SIZE + 3];
    size_t kind_len = strcspn(name, "-"), len = strlen(name);
    if (kind_len >= sizeof kind_name || len <= kind_len + 6 || strcmp(name + len - 5, ".json") != 0)
        return false;
    memcpy(kind_name, name, kind_len);
    kind_name[kind_len] = '\0';
    int number = release_kind_parse(kind_name);
    size_t period_len = len - kind_len - 6;
    if (number < 0 || period_len != (number == RELEASE_INACTIVITY ? MONTH_TEXT_SIZE : DAY_TEXT_SIZE) - 1)
        return false;
    *kind = (enum release_kind)number;
    snprintf(day, sizeof day, "%.*s%s", (int)period_len, name + kind_len + 1, number == RELEASE_INACTIVITY ? "-01" : "");
    return day_parse(day, period_day) == 0;
}

// "0/1" is what a line says that spent nothing.
static int epsilon_parse(const char *text, struct fraction *epsilon) {
    *epsilon = (struct fraction){0, 1};
    return strcmp(text, "0/1") == 0 ? 0 : fraction_parse(text, epsilon);
}

static int line_parse(struct release_file *file, size_t len) {
    const char *schema, *kind, *period, *epsilon, *reason = NULL;
    int complete;
    json_int_t threshold;
    json_t *cells;
    file->json = json_loadb(file->line, len, JSON_REJECT_DUPLICATES, NULL);
    if (file->json == NULL)
        return ERR_CORRUPT;
    if (json_unpack(file->json, "{s:s, s:s, s:s, s:b, s:s, s:I, s?s, s:o}", "schema", &schema, "kind", &kind, "period",
                    &period, "complete", &complete, "epsilon", &epsilon, "threshold", &threshold, "reason", &reason,
                    "cells", &cells) != 0)
        return ERR_CORRUPT;
    if (strcmp(schema, "openveil.release.v1") != 0 || strcmp(kind, release_kind_names[file->kind]) != 0 ||
        strcmp(period, file->period) != 0 || !json_is_array(cells) || json_array_size(cells) > RELEASE_CELLS_MAX ||
        threshold < 0 || threshold > UINT32_MAX)
        return ERR_CORRUPT;
    file->complete = complete != 0;
    file->budget_spent = reason != NULL;
    file->threshold = (uint32_t)threshold;
    return epsilon_parse(epsilon, &file->epsilon) == 0 ? 0 : ERR_CORRUPT;
}

static int file_load(struct release_file *file, const char *dir, const char *name, struct err *err) {
    char path[PATH_SIZE];
    size_t len;
    int rc = path_join(path, dir, name, err);
    if (rc != 0 || (rc = file_read(path, LINE_FILE_MAX, &file->line, &len, err)) != 0)
        return rc;
    if (len > 0 && file->line[len - 1] == '\n')
        file->line[--len] = '\0';
    if (memchr(file->line, '\n', len) != NULL || line_parse(file, len) != 0)
        return err_set(err, ERR_CORRUPT, "%s is not a released line", path);
    return 0;
}

static int file_append(struct release_files *files, size_t *room, struct release_file file, struct err *err) {
    if (files->n == RELEASE_FILES_MAX)
        return err_set(err, ERR_LIMIT, "there are more than %d released lines", RELEASE_FILES_MAX);
    if (files->n == *room) {
        *room = *room == 0 ? 64 : *room * 2;
        struct release_file *more = realloc(files->files, *room * sizeof *more);
        if (more == NULL)
            return err_set(err, ERR_NOMEM, "no memory for %zu released lines", *room);
        files->files = more;
    }
    files->files[files->n++] = file;
    return 0;
}

static int in_order(const void *a, const void *b) {
    const struct release_file *left = a, *right = b;
    if (left->period_day != right->period_day)
        return left->period_day < right->period_day ? -1 : 1;
    return left->kind < right->kind ? -1 : left->kind > right->kind;
}

int release_files_load(struct release_files *files, const char *dir, uint32_t tenant, int kind, struct err *err) {
    char tenant_dir[PATH_SIZE], number[16];
    size_t room = 0;
    *files = (struct release_files){0};
    snprintf(number, sizeof number, "%" PRIu32, tenant);
    int rc = path_join(tenant_dir, dir, number, err);
    if (rc != 0)
        return rc;
    DIR *stream = opendir(tenant_dir);
    if (stream == NULL)
        return errno == ENOENT ? 0 : err_errno(err, ERR_IO, "cannot read the directory %s", tenant_dir);
    for (struct dirent *entry = readdir(stream); rc == 0 && entry != NULL; entry = readdir(stream)) {
        struct release_file file = {0};
        if (!release_file_name(entry->d_name, &file.kind, &file.period_day) || (kind != 0 && (int)file.kind != kind))
            continue;
        release_period_format(file.kind, file.period_day, file.period);
        if ((rc = file_append(files, &room, file, err)) == 0)
            rc = file_load(&files->files[files->n - 1], tenant_dir, entry->d_name, err);
    }
    closedir(stream);
    if (rc != 0)
        release_files_free(files);
    else if (files->n > 1)
        qsort(files->files, files->n, sizeof *files->files, in_order);
    return rc;
}

int release_file_find(struct release_file *file, const char *dir, uint32_t tenant, enum release_kind kind,
                      uint32_t period_day, struct err *err) {
    char name[96];
    json_int_t of_tenant;
    *file = (struct release_file){.kind = kind, .period_day = period_day};
    release_period_format(kind, period_day, file->period);
    snprintf(name, sizeof name, "%" PRIu32 "/%s-%s.json", tenant, release_kind_names[kind], file->period);
    int rc = file_load(file, dir, name, err);
    if (rc == 0 && (json_unpack(file->json, "{s:I}", "tenant", &of_tenant) != 0 || of_tenant != (json_int_t)tenant))
        rc = err_set(err, ERR_CORRUPT, "%s/%s is not a released line of tenant %" PRIu32, dir, name, tenant);
    if (rc != 0)
        release_file_free(file);
    return rc;
}

void release_file_free(struct release_file *file) {
    free(file->line);
    json_decref(file->json);
    *file = (struct release_file){0};
}

void release_files_free(struct release_files *files) {
    for (size_t i = 0; i < files->n; i++)
        release_file_free(&files->files[i]);
    free(files->files);
    *files = (struct release_files){0};
}
