#include "aggregator/release.h"

#include "common/files.h"
#include "common/hmac.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

const char *const release_kind_names[3] = {
    [RELEASE_DELIVERABILITY] = "deliverability", [RELEASE_INACTIVITY] = "inactivity"};
const char *const inactivity_cell_names[INACTIVITY_CELLS] = {"0-30", "31-90", "91-180", "181-365", "none-recorded"};

int inactivity_cell_of(enum frozen_age age) {
    static const uint8_t cells[] = {[AGE_0_30] = 0, [AGE_31_89] = 1,   [AGE_90] = 1,  [AGE_91_179] = 2,
                                    [AGE_180] = 2, [AGE_181_364] = 3, [AGE_365] = 3, [AGE_NONE] = 4};
    CHECK(age < ARRAY_LEN(cells));
    return cells[age];
}

// ---- the grid ------------------------------------------------------------------------------------------------------
static const char *provider_name(const struct settings *settings, size_t number) {
    return number < PROVIDERS_BUILTIN ? provider_builtin_names[number] : settings->provider_names[number];
}

static size_t provider_count(const struct settings *settings) {
    size_t n = 0;
    for (size_t i = 0; i < PROVIDERS_MAX; i++)
        n += provider_name(settings, i) != NULL;
    return n;
}

int release_cell_count(const struct release_frame *frame, size_t *n_cells) {
    if (frame->kind == RELEASE_INACTIVITY) {
        *n_cells = INACTIVITY_CELLS;
        return 0;
    }
    CHECK(frame->kind == RELEASE_DELIVERABILITY && frame->version != NULL && frame->settings != NULL);
    *n_cells = frame->version->n_streams * provider_count(frame->settings) * 2;
    return *n_cells <= RELEASE_CELLS_MAX ? 0 : ERR_LIMIT;
}

int64_t release_cell_index(const struct release_frame *frame, const struct window_cell *cell) {
    CHECK(frame->kind == RELEASE_DELIVERABILITY && cell->fetch <= FETCH_MACHINE);
    const struct tenant_version *version = frame->version;
    size_t stream = 0, provider = 0;
    while (stream < version->n_streams && version->streams[stream].number != cell->stream)
        stream++;
    if (stream == version->n_streams)
        return -1;
    if (provider_name(frame->settings, cell->provider) != NULL)
        for (size_t i = 0; i < cell->provider; i++)
            provider += provider_name(frame->settings, i) != NULL;
    return (int64_t)((stream * provider_count(frame->settings) + provider) * 2 + cell->fetch);
}

bool window_cell_less(struct window_cell a, struct window_cell b) {
    if (a.fetch != b.fetch)
        return a.fetch < b.fetch;
    if (a.stream != b.stream)
        return a.stream < b.stream;
    return a.provider < b.provider;
}

// ---- the text ------------------------------------------------------------------------------------------------------
#define NAME_TEXT_MAX 63
#define CELL_TEXT_MAX 240
#define FRAME_TEXT_MAX (512 + DAY_RULES_MAX * (2 * RULES_HASH_SIZE + 3))
_Static_assert(FRAME_TEXT_MAX + RELEASE_CELLS_MAX * CELL_TEXT_MAX < RECORD_VALUE_MAX - 64,
               "the largest line does not fit a record");

struct text_out {
    char *text;
    size_t used;
    size_t size;
};

static void put(struct text_out *out, const char *format, ...) PRINTF_LIKE(2, 3);
static void put(struct text_out *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out->text + out->used, out->size - out->used, format, args);
    va_end(args);
    CHECK(n >= 0 && (size_t)n < out->size - out->used);
    out->used += (size_t)n;
}

// A name between quotes. Names come from checked configuration, so nothing ever needs escaping.
static const char *plain(const char *name) {
    size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    CHECK(len >= 1 && len <= NAME_TEXT_MAX && name[len] == '\0');
    return name;
}

static const char *flag(bool value) {
    return value ? "true" : "false";
}

void release_period_format(enum release_kind kind, uint32_t period_day, char text[DAY_TEXT_SIZE]) {
    if (kind == RELEASE_INACTIVITY)
        month_format(period_day, text);
    else
        day_format(period_day, text);
}

static void put_frame(struct text_out *out, const struct release_frame *frame) {
    char period[DAY_TEXT_SIZE];
    const struct settings *settings = frame->settings;
    struct fraction epsilon = frame->budget_spent ? (struct fraction){0, 1} : settings->epsilon;
    release_period_format(frame->kind, frame->period_day, period);
    put(out, "{\"schema\":\"openveil.release.v1\",\"kind\":\"%s\",\"tenant\":%" PRIu32 ",\"period\":\"%s\",",
        release_kind_names[frame->kind], frame->tenant, period);
    put(out, "\"complete\":%s,\"rehearsal\":%s,\"mechanism\":\"discrete-laplace\",", flag(frame->complete),
        flag(frame->rehearsal));
    put(out, "\"epsilon\":\"%" PRIu32 "/%" PRIu32 "\",\"threshold\":%" PRIu32 ",%s\"rules\":[", epsilon.numerator,
        epsilon.denominator, settings->threshold, frame->budget_spent ? "\"reason\":\"budget\"," : "");
    for (size_t i = 0; i < frame->n_rules; i++) {
        char hex[2 * RULES_HASH_SIZE + 1];
        hex_encode(frame->rules[i], RULES_HASH_SIZE, hex);
        put(out, "%s\"%s\"", i == 0 ? "" : ",", hex);
    }
    put(out, "],\"cells\":[");
}

// `released` is a noisy number, or -1 where it is withheld.
static void put_contacts(struct text_out *out, int64_t released, bool last) {
    if (released < 0)
        put(out, "\"contacts\":null}%s", last ? "" : ",");
    else
        put(out, "\"contacts\":%" PRId64 "}%s", released, last ? "" : ",");
}

static void put_deliverability(struct text_out *out, const struct release_frame *frame, const int64_t *released,
                               size_t n_cells) {
    static const char *const fetch_names[] = {[FETCH_PERSON] = "person", [FETCH_MACHINE] = "machine"};
    size_t cell = 0;
    for (size_t s = 0; s < frame->version->n_streams; s++) {
        const struct stream *stream = &frame->version->streams[s];
        for (size_t p = 0; p < PROVIDERS_MAX; p++) {
            const char *provider = provider_name(frame->settings, p);
            if (provider == NULL)
                continue;
            for (unsigned fetch = FETCH_PERSON; fetch <= FETCH_MACHINE; fetch++, cell++) {
                put(out, "{\"stream\":%u,\"stream_name\":\"%s\",\"provider\":\"%s\",\"fetch\":\"%s\",", stream->number,
                    plain(stream->name), plain(provider), fetch_names[fetch]);
                put_contacts(out, released[cell], cell + 1 == n_cells);
            }
        }
    }
    CHECK(cell == n_cells);
}

static void put_inactivity(struct text_out *out, const int64_t *released) {
    for (size_t cell = 0; cell < INACTIVITY_CELLS; cell++) {
        put(out, "{\"days_since_open\":\"%s\",", inactivity_cell_names[cell]);
        put_contacts(out, released[cell], cell + 1 == INACTIVITY_CELLS);
    }
}

// ---- the line ------------------------------------------------------------------------------------------------------
// Every cell's noise is drawn before anything is compared or written: how long a draw takes depends on its size.
static int draw_cells(const struct release_frame *frame, const struct noise_source *noise, const uint64_t *counts,
                      int64_t *released, size_t n_cells) {
    for (size_t i = 0; i < n_cells; i++) {
        if (frame->budget_spent) {
            released[i] = -1;
            continue;
        }
        int64_t drawn;
        int rc = noise_discrete_laplace(noise, frame->settings->epsilon, &drawn);
        if (rc != 0)
            return rc;
        CHECK(counts[i] <= UINT32_MAX && drawn < INT64_MAX / 2 && drawn > INT64_MIN / 2);
        released[i] = (int64_t)counts[i] + drawn;
    }
    for (size_t i = 0; i < n_cells; i++)
        if (released[i] < (int64_t)frame->settings->threshold)
            released[i] = -1;
    return 0;
}

int release_line(const struct release_frame *frame, const struct noise_source *noise, uint64_t *counts, size_t n_cells,
                 char **line, size_t *len) {
    size_t expected;
    struct text_out out = {0};
    int64_t *released = NULL;
    CHECK(frame->n_rules <= DAY_RULES_MAX);
    int rc = release_cell_count(frame, &expected);
    if (rc != 0)
        goto done;
    CHECK(n_cells == expected);
    out.size = FRAME_TEXT_MAX + n_cells * CELL_TEXT_MAX;
    out.text = malloc(out.size);
    released = calloc(n_cells + 1, sizeof *released);
    if (out.text == NULL || released == NULL) {
        rc = ERR_NOMEM;
        goto done;
    }
    if ((rc = draw_cells(frame, noise, counts, released, n_cells)) != 0)
        goto done;
    put_frame(&out, frame);
    if (frame->kind == RELEASE_INACTIVITY)
        put_inactivity(&out, released);
    else
        put_deliverability(&out, frame, released, n_cells);
    put(&out, "]}");
    *line = out.text;
    *len = out.used;
    out.text = NULL;
done:
    bytes_wipe(counts, n_cells * sizeof *counts);
    if (released != NULL)
        bytes_wipe(released, n_cells * sizeof *released); // withheld numbers too were in here
    free(released);
    free(out.text);
    return rc;
}

// ---- the month's budget --------------------------------------------------------------------------------------------
// Whole numbers of any length needed here, least significant limb first: sums of fractions stay exact whatever their
// denominators.
#define BUDGET_TERMS_MAX 64
#define LIMBS (BUDGET_TERMS_MAX + 4)
struct whole {
    uint32_t limbs[LIMBS];
};

static struct whole whole_times(const struct whole *a, uint32_t factor) {
    struct whole out;
    uint64_t carry = 0;
    for (size_t i = 0; i < LIMBS; i++) {
        carry += (uint64_t)a->limbs[i] * factor;
        out.limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    CHECK(carry == 0);
    return out;
}

static struct whole whole_plus(const struct whole *a, const struct whole *b) {
    struct whole out;
    uint64_t carry = 0;
    for (size_t i = 0; i < LIMBS; i++) {
        carry += (uint64_t)a->limbs[i] + b->limbs[i];
        out.limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    CHECK(carry == 0);
    return out;
}

static bool whole_at_most(const struct whole *a, const struct whole *b) {
    for (size_t i = LIMBS; i-- > 0;)
        if (a->limbs[i] != b->limbs[i])
            return a->limbs[i] < b->limbs[i];
    return true;
}

// numerator/denominator += term
static void fraction_add(struct whole *numerator, struct whole *denominator, struct fraction term) {
    struct whole scaled = whole_times(numerator, term.denominator);
    struct whole added = whole_times(denominator, term.numerator);
    *numerator = whole_plus(&scaled, &added);
    *denominator = whole_times(denominator, term.denominator);
}

bool release_budget_fits(const struct fraction *spent, size_t n_spent, struct fraction epsilon) {
    struct whole numerator = {{0}}, denominator = {{1}};
    if (n_spent >= BUDGET_TERMS_MAX || epsilon.denominator == 0)
        return false;
    for (size_t i = 0; i < n_spent; i++) {
        if (spent[i].numerator == 0)
            continue;
        if (spent[i].denominator == 0)
            return false;
        fraction_add(&numerator, &denominator, spent[i]);
    }
    fraction_add(&numerator, &denominator, epsilon);
    struct whole limit = whole_times(&denominator, RELEASE_BUDGET_A_MONTH);
    return whole_at_most(&numerator, &limit);
}

// ---- publishing ----------------------------------------------------------------------------------------------------
void release_key(uint32_t tenant, enum release_kind kind, uint32_t period_day, char key[64]) {
    char period[DAY_TEXT_SIZE];
    CHECK(kind == RELEASE_DELIVERABILITY || kind == RELEASE_INACTIVITY);
    release_period_format(kind, period_day, period);
    snprintf(key, 64, "%" PRIu32 "/%s/%s", tenant, release_kind_names[kind], period);
}

// 0 where the file holds these bytes, ERR_NOT_FOUND where there is none, ERR_REFUSED where it holds others.
static int file_compare(const char *path, const char *bytes, size_t len, struct err *err) {
    char *there = NULL;
    size_t there_len = 0;
    int rc = file_read(path, RECORD_VALUE_MAX, &there, &there_len, err);
    bool differs = rc == ERR_LIMIT || (rc == 0 && (there_len != len || memcmp(there, bytes, len) != 0));
    free(there);
    if (differs)
        return err_set(err, ERR_REFUSED,
                       "%s holds another line than the one that was drawn: a line is drawn once, move the file away",
                       path);
    return rc;
}

int release_publish(const char *dir, const struct release_record *release, struct err *err) {
    char period[DAY_TEXT_SIZE], tenant_dir[PATH_SIZE], path[PATH_SIZE], name[64];
    CHECK(release->kind == RELEASE_DELIVERABILITY || release->kind == RELEASE_INACTIVITY);
    snprintf(name, sizeof name, "%" PRIu32, release->tenant);
    int rc = path_join(tenant_dir, dir, name, err);
    if (rc != 0)
        return rc;
    release_period_format(release->kind, release->period_day, period);
    snprintf(name, sizeof name, "%s-%s.json", release_kind_names[release->kind], period);
    if ((rc = path_join(path, tenant_dir, name, err)) != 0)
        return rc;
    char *bytes = malloc(release->line_len + 1);
    if (bytes == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a released line");
    memcpy(bytes, release->line, release->line_len);
    bytes[release->line_len] = '\n';
    rc = file_compare(path, bytes, release->line_len + 1, err);
    if (rc == ERR_NOT_FOUND) {
        rc = dir_create(tenant_dir, 0755, err);
        if (rc == 0)
            rc = file_replace(path, 0644, bytes, release->line_len + 1, err);
    }
    free(bytes);
    return rc;
}
