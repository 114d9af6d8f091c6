#include "aggregator/verify.h"

#include "aggregator/release_files.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#define MONTH_LINES_MAX 64

struct verified {
    enum release_kind kind;
    uint32_t period_day;
    struct fraction spent;
};

struct found {
    size_t n; // all; the first VERIFY_KEPT_MAX are kept
    struct verify_finding kept[VERIFY_KEPT_MAX];
};

struct verify {
    struct verify_terms terms;
    struct found found[VERIFY_PROMISES];
    size_t n_lines, room;
    struct verified *lines;
    const char *name; // of the file that is being looked at
};

static const struct {
    const char *name;
    const char *text;
} promises[VERIFY_PROMISES] = {
    [VERIFY_FILES] = {"files", "nothing but released lines lies in the tenant's directory"},
    [VERIFY_ONCE] = {"once", "each period has one line, and its file holds nothing else"},
    [VERIFY_MEMBERS] = {"members", "each line has exactly the members that are published, and no other"},
    [VERIFY_NAMED] = {"named", "each line is of the tenant, kind and period that its file is named after"},
    [VERIFY_OVER] = {"over", "no line is of a period that is not over, or from before the tenant's first day"},
    [VERIFY_GAPLESS] = {"gapless", "no period is left out between the first and the last"},
    [VERIFY_GRID] = {"grid", "each line shows every cell of its day's grid, also the empty ones, in the fixed order"},
    [VERIFY_NOISE] = {"noise", "each line carries discrete Laplace noise with a reduced epsilon of at most 1"},
    [VERIFY_BUDGET] = {"budget", "the lines of a calendar month spend at most 8 in all; beyond it no number is shown"},
    [VERIFY_THRESHOLD] = {"threshold", "no number is below its line's threshold, and no threshold below 11"},
    [VERIFY_RULES] = {"rules", "each line names the files of fetch-class rules by their SHA-256, each once, sorted"},
    [VERIFY_MODE] = {"mode", "rehearsed lines say so, and lie apart from those of production"},
    [VERIFY_COMMITTED] = {"committed", "each file holds the one line that was committed, and no committed line is missing"},
    [VERIFY_SETTINGS] = {"settings", "each line has the epsilon, threshold and providers in force on its first day"},
};

// ---- what is found ---------------------------------------------------------------------------------------------------

static void add_finding(struct verify *verify, enum verify_promise promise, const char *file, const char *why) {
    struct found *found = &verify->found[promise];
    if (found->n++ >= VERIFY_KEPT_MAX)
        return;
    struct verify_finding *finding = &found->kept[found->n - 1];
    snprintf(finding->file, sizeof finding->file, "%.*s", VERIFY_FILE_SIZE - 1, file);
    for (char *at = finding->file; *at != '\0'; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
    snprintf(finding->why, sizeof finding->why, "%s", why);
}

static void in_line(void *arg, enum verify_promise promise, const char *why) {
    struct verify *verify = arg;
    add_finding(verify, promise, verify->name, why);
}

static void about(struct verify *verify, enum verify_promise promise, enum release_kind kind, uint32_t period_day,
                  const char *format, ...) PRINTF_LIKE(5, 6);
static void about(struct verify *verify, enum verify_promise promise, enum release_kind kind, uint32_t period_day,
                  const char *format, ...) {
    char file[VERIFY_FILE_SIZE], period[DAY_TEXT_SIZE], why[200];
    va_list args;
    release_period_format(kind, period_day, period);
    snprintf(file, sizeof file, "%s-%s.json", release_kind_names[kind], period);
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    add_finding(verify, promise, file, why);
}

// ---- one file --------------------------------------------------------------------------------------------------------

int verify_committed_order(const void *a, const void *b) {
    const struct verify_committed *left = a, *right = b;
    if (left->kind != right->kind)
        return left->kind < right->kind ? -1 : 1;
    return left->period_day < right->period_day ? -1 : left->period_day > right->period_day;
}

static const struct settings *settings_on(const struct verify_terms *terms, uint32_t day) {
    const struct settings *found = NULL;
    for (size_t i = 0; i < terms->n_settings && terms->settings[i].from_day <= day; i++)
        found = &terms->settings[i];
    return found;
}

static uint32_t period_end(enum release_kind kind, uint32_t period_day) {
    return kind == RELEASE_INACTIVITY ? day_next_month_start(period_day) - 1 : period_day;
}

static void over_check(struct verify *verify, const struct verified *line, const struct settings *settings) {
    uint32_t last = period_end(line->kind, line->period_day);
    if (last < tenant_first_day(verify->terms.tenant))
        about(verify, VERIFY_OVER, line->kind, line->period_day, "is of a time before the tenant's first day");
    if (line->kind == RELEASE_DELIVERABILITY && settings != NULL)
        last += settings->horizon_days;
    if (last >= verify->terms.today)
        about(verify, VERIFY_OVER, line->kind, line->period_day, "was released before its last day was over");
}

static void committed_check(struct verify *verify, const struct verified *line, const char *data, size_t len) {
    struct verify_committed wanted = {.kind = line->kind, .period_day = line->period_day};
    uint8_t hash[SHA256_SIZE];
    struct verify_committed *committed =
        verify->terms.n_committed == 0 ? NULL
                                       : bsearch(&wanted, verify->terms.committed, verify->terms.n_committed,
                                                 sizeof wanted, verify_committed_order);
    if (committed == NULL) {
        about(verify, VERIFY_COMMITTED, line->kind, line->period_day, "was never committed");
        return;
    }
    committed->published = true;
    sha256(data, len > 0 && data[len - 1] == '\n' ? len - 1 : len, hash);
    if (memcmp(hash, committed->hash, sizeof hash) != 0)
        about(verify, VERIFY_COMMITTED, line->kind, line->period_day, "is another line than the one that was committed");
    if (committed->spent.numerator != line->spent.numerator ||
        (line->spent.numerator != 0 && committed->spent.denominator != line->spent.denominator))
        about(verify, VERIFY_COMMITTED, line->kind, line->period_day,
              "says another epsilon than the %" PRIu32 "/%" PRIu32 " that were booked", committed->spent.numerator,
              committed->spent.denominator);
}

static int add_line(struct verify *verify, const struct verified *line) {
    if (verify->n_lines == VERIFY_LINES_MAX)
        return ERR_LIMIT;
    if (verify->n_lines == verify->room) {
        size_t room = verify->room == 0 ? 64 : 2 * verify->room;
        struct verified *lines = realloc(verify->lines, room * sizeof *lines);
        if (lines == NULL)
            return ERR_NOMEM;
        verify->lines = lines;
        verify->room = room;
    }
    verify->lines[verify->n_lines++] = *line;
    return 0;
}

int verify_file(struct verify *verify, const char *name, const char *data, size_t len) {
    struct verified line;
    if (!release_file_name(name, &line.kind, &line.period_day)) {
        add_finding(verify, VERIFY_FILES, name, "is not a released line");
        return 0;
    }
    const struct settings *settings = settings_on(&verify->terms, line.period_day);
    const struct verify_frame frame = {.kind = line.kind,
                                       .period_day = line.period_day,
                                       .tenant = verify->terms.tenant,
                                       .rehearsal = verify->terms.rehearsal,
                                       .settings = settings};
    verify->name = name;
    verify_line(&frame, data, len, in_line, verify, &line.spent);
    over_check(verify, &line, settings);
    if (verify->terms.has_ledger)
        committed_check(verify, &line, data, len);
    if (verify->terms.has_ledger && settings == NULL)
        about(verify, VERIFY_SETTINGS, line.kind, line.period_day, "is from before any settings were recorded");
    return add_line(verify, &line);
}

void verify_unreadable(struct verify *verify, const char *name, const char *why) {
    add_finding(verify, VERIFY_FILES, name, why);
}

// ---- all files -------------------------------------------------------------------------------------------------------

static int in_order(const void *a, const void *b) {
    const struct verified *left = a, *right = b;
    if (left->period_day != right->period_day)
        return left->period_day < right->period_day ? -1 : 1;
    return left->kind < right->kind ? -1 : left->kind > right->kind;
}

static void gaps_check(struct verify *verify, enum release_kind kind) {
    const struct verified *before = NULL;
    for (size_t i = 0; i < verify->n_lines; i++) {
        const struct verified *line = &verify->lines[i];
        if (line->kind != kind)
            continue;
        uint32_t next = before == NULL ? line->period_day : period_end(kind, before->period_day) + 1;
        if (line->period_day != next) {
            char period[DAY_TEXT_SIZE];
            release_period_format(kind, line->period_day, period);
            about(verify, VERIFY_GAPLESS, kind, next, "is missing, and the next line is that of %s", period);
        }
        before = line;
    }
}

// The lines first..end-1 are those of one calendar month.
static void month_check(struct verify *verify, size_t first, size_t end) {
    struct fraction spent[MONTH_LINES_MAX];
    char month[MONTH_TEXT_SIZE], why[100];
    size_t n = 0;
    bool over = false;
    for (size_t i = first; i < end; i++) {
        if (verify->lines[i].spent.numerator == 0)
            continue;
        CHECK(n < MONTH_LINES_MAX); // a file for each day and one for the month
        over |= !release_budget_fits(spent, n, verify->lines[i].spent);
        spent[n++] = verify->lines[i].spent;
    }
    if (!over)
        return;
    month_format(verify->lines[first].period_day, month);
    snprintf(why, sizeof why, "has %zu lines that spend more than %d in all", n, RELEASE_BUDGET_A_MONTH);
    add_finding(verify, VERIFY_BUDGET, month, why);
}

static void budget_check(struct verify *verify) {
    for (size_t first = 0, end; first < verify->n_lines; first = end) {
        uint32_t month = day_month_start(verify->lines[first].period_day);
        for (end = first; end < verify->n_lines && day_month_start(verify->lines[end].period_day) == month;)
            end++;
        month_check(verify, first, end);
    }
}

void verify_end(struct verify *verify) {
    CHECK(verify->n_lines <= VERIFY_LINES_MAX);
    if (verify->n_lines > 1)
        qsort(verify->lines, verify->n_lines, sizeof *verify->lines, in_order);
    gaps_check(verify, RELEASE_DELIVERABILITY);
    gaps_check(verify, RELEASE_INACTIVITY);
    budget_check(verify);
    for (size_t i = 0; i < verify->terms.n_committed; i++) {
        const struct verify_committed *committed = &verify->terms.committed[i];
        if (!committed->published)
            about(verify, VERIFY_COMMITTED, committed->kind, committed->period_day, "was committed and is not there");
    }
}

// ---- the report ------------------------------------------------------------------------------------------------------

const char *verify_promise_text(enum verify_promise promise) {
    CHECK(promise < VERIFY_PROMISES);
    return promises[promise].text;
}

const char *verify_promise_name(enum verify_promise promise) {
    CHECK(promise < VERIFY_PROMISES);
    return promises[promise].name;
}

bool verify_promise_checked(const struct verify *verify, enum verify_promise promise) {
    return verify->terms.has_ledger || (promise != VERIFY_COMMITTED && promise != VERIFY_SETTINGS);
}

size_t verify_broken(const struct verify *verify, enum verify_promise promise) {
    return verify->found[promise].n;
}

const struct verify_finding *verify_finding(const struct verify *verify, enum verify_promise promise, size_t i) {
    const struct found *found = &verify->found[promise];
    return i < found->n && i < VERIFY_KEPT_MAX ? &found->kept[i] : NULL;
}

size_t verify_lines(const struct verify *verify) {
    return verify->n_lines;
}

int verify_create(struct verify **verify, const struct verify_terms *terms) {
    CHECK(terms->tenant != NULL && terms->tenant->n_versions > 0);
    CHECK(terms->has_ledger || (terms->n_settings == 0 && terms->n_committed == 0));
    *verify = calloc(1, sizeof **verify);
    if (*verify == NULL)
        return ERR_NOMEM;
    (*verify)->terms = *terms;
    return 0;
}

void verify_free(struct verify *verify) {
    if (verify == NULL)
        return;
    free(verify->lines);
    free(verify);
}
