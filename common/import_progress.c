#include "common/import_progress.h"

#include "common/files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 400
#define HEAD "openveil import 1\n"

static int progress_text(const struct import_progress *progress, char text[TEXT_MAX]) {
    return snprintf(text, TEXT_MAX,
                    HEAD "tenant %" PRIu32 "\ninput %016" PRIx64 "\nlines %" PRIu64 "\ndone %" PRIu64 "\nrefused %" PRIu64
                    "\nstayed %" PRIu64 "\nrejects_bytes %" PRIu64 "\n",
                    progress->tenant, progress->input, progress->n_lines, progress->n_done, progress->n_refused,
                    progress->n_stayed, progress->rejects_bytes);
}

int import_progress_read(struct import_progress *progress, const char *path, struct err *err) {
    char *text = NULL, again[TEXT_MAX];
    size_t len;
    int rc = file_read(path, TEXT_MAX, &text, &len, err);
    if (rc != 0)
        return rc;
    *progress = (struct import_progress){0};
    int n = sscanf(text,
                   HEAD "tenant %" SCNu32 " input %" SCNx64 " lines %" SCNu64 " done %" SCNu64 " refused %" SCNu64
                   " stayed %" SCNu64 " rejects_bytes %" SCNu64,
                   &progress->tenant, &progress->input, &progress->n_lines, &progress->n_done, &progress->n_refused,
                   &progress->n_stayed, &progress->rejects_bytes);
    // Only what we would write is ours.
    bool good = n == 7 && progress_text(progress, again) > 0 && strcmp(text, again) == 0 &&
                progress->n_done <= progress->n_lines && progress->n_refused <= progress->n_done &&
                progress->n_stayed <= progress->n_done - progress->n_refused;
    free(text);
    return good ? 0 : err_set(err, ERR_INVALID, "%s is not the progress of an import", path);
}

int import_progress_write(const struct import_progress *progress, const char *path, struct err *err) {
    char text[TEXT_MAX];
    int len = progress_text(progress, text);
    CHECK(len > 0 && len < TEXT_MAX);
    return file_replace(path, 0600, text, (size_t)len, err);
}
