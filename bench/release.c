// What a release costs and how far it is from the truth, by the aggregator's own release_line:
//   bench-release cells SECONDS    lines of the largest grid over and over: "cells=N cpu_s=S"
//   bench-release error CELLS      cells with 0, 1, … 399 contacts: "error=E", the mean distance of what is released
//                                  (nothing counts as 0) from the count
#include "aggregator/release.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define STREAMS 32
#define PROVIDERS 64
#define CELLS (STREAMS * PROVIDERS * 2)
#define COUNTS 400
_Static_assert(CELLS == RELEASE_CELLS_MAX, "the largest grid");

static char provider_names[PROVIDERS][16];
static struct settings settings = {.epsilon = {1, 4}, .threshold = 40, .horizon_days = 1};
static struct tenant_version version = {.n_streams = STREAMS};
static const uint8_t rules[1][RULES_HASH_SIZE] = {{1}};
static struct release_frame frame = {.tenant = 7,
                                     .kind = RELEASE_DELIVERABILITY,
                                     .period_day = 20779,
                                     .complete = true,
                                     .settings = &settings,
                                     .version = &version,
                                     .n_rules = 1,
                                     .rules = rules};

static void grid_create(void) {
    size_t n_cells;
    for (size_t i = PROVIDERS_BUILTIN; i < PROVIDERS; i++) {
        snprintf(provider_names[i], sizeof provider_names[i], "provider-%zu", i);
        settings.provider_names[i] = provider_names[i];
    }
    for (size_t i = 0; i < STREAMS; i++) {
        version.streams[i].number = (uint16_t)(i + 1);
        snprintf(version.streams[i].name, sizeof version.streams[i].name, "stream-%zu", i);
    }
    CHECK(release_cell_count(&frame, &n_cells) == 0 && n_cells == CELLS);
}

// The counts of the `round`-th line; the caller frees it.
static char *line_of(uint64_t round) {
    static uint64_t counts[CELLS];
    struct noise_stream *stream;
    char *line;
    size_t len;
    for (size_t i = 0; i < CELLS; i++)
        counts[i] = (round * CELLS + i) % COUNTS;
    CHECK(noise_stream_create(&stream) == 0);
    struct noise_source source = noise_stream_source(stream);
    CHECK(release_line(&frame, &source, counts, CELLS, &line, &len) == 0);
    noise_stream_free(stream);
    return line;
}

static double cpu_s(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void measure_cells(double seconds) {
    double start = cpu_s(), spent = 0;
    uint64_t round = 0;
    for (; spent < seconds; round++) {
        free(line_of(round));
        spent = cpu_s() - start;
    }
    printf("cells=%" PRIu64 " cpu_s=%.6f\n", round * CELLS, spent);
}

static void measure_error(uint64_t n_cells) {
    uint64_t total = 0, seen = 0;
    for (uint64_t round = 0; seen < n_cells; round++) {
        char *line = line_of(round);
        for (const char *at = strstr(line, "\"contacts\":"); at != NULL; at = strstr(at, "\"contacts\":"), seen++) {
            at += strlen("\"contacts\":");
            int64_t released = *at == 'n' ? 0 : strtoll(at, NULL, 10);
            total += (uint64_t)llabs(released - (int64_t)(seen % COUNTS));
        }
        free(line);
    }
    printf("error=%.6f\n", (double)total / (double)seen);
}

int main(int argc, char **argv) {
    grid_create();
    if (argc == 3 && strcmp(argv[1], "cells") == 0)
        measure_cells(strtod(argv[2], NULL));
    else if (argc == 3 && strcmp(argv[1], "error") == 0)
        measure_error(strtoull(argv[2], NULL, 10));
    else
        return fprintf(stderr, "usage: bench-release cells SECONDS | error CELLS\n"), 64;
    return 0;
}
