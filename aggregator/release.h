// From exact counts to a released line (FORMATS 6): noise on every cell, then the threshold on the noisy number, then
// the JSON text. Pure but for the noise source; the exact counts never leave this module. Any thread.
#ifndef OPENVEIL_RELEASE_H
#define OPENVEIL_RELEASE_H

#include "aggregator/noise.h"
#include "aggregator/record.h"
#include "common/tenant.h"

#define RELEASE_CELLS_MAX 4096
#define INACTIVITY_CELLS 5
#define RELEASE_BUDGET_A_MONTH 8

struct release_frame {
    uint32_t tenant;
    enum release_kind kind;
    uint32_t period_day; // the day of sending, or the month's first day
    bool complete;
    bool rehearsal;
    bool budget_spent; // every cell null, nothing spent
    const struct settings *settings;
    const struct tenant_version *version; // as of the period's first day; streams of a deliverability line
    size_t n_rules;
    const uint8_t (*rules)[RULES_HASH_SIZE]; // sorted
};

// The grid of a deliverability line: streams × providers × {person, machine}. ERR_LIMIT above RELEASE_CELLS_MAX.
int release_cell_count(const struct release_frame *frame, size_t *n_cells) MUST_CHECK;
// The cell's place in the grid, or -1 where its stream is not configured; an unknown provider counts as `other`.
int64_t release_cell_index(const struct release_frame *frame, const struct window_cell *cell);
// True where `a` is the smaller of a contact's cells: person before machine, stream number, provider number.
bool window_cell_less(struct window_cell a, struct window_cell b);

// Draws all noise, then writes the line (no line feed) to `*line`, to be freed by the caller. `counts` is wiped.
// ERR_LIMIT: a draw hit its limit; nothing was drawn that anyone saw: try again later.
int release_line(const struct release_frame *frame, const struct noise_source *noise, uint64_t *counts, size_t n_cells,
                 char **line, size_t *len) MUST_CHECK;

// Whether `epsilon` more fits the month's budget, given what its lines spent.
bool release_budget_fits(const struct fraction *spent, size_t n_spent, struct fraction epsilon);
// The period as lines, keys and files name it: "2026-11-22", or "2026-11" for inactivity.
void release_period_format(enum release_kind kind, uint32_t period_day, char text[DAY_TEXT_SIZE]);
// The text key: "<tenant>/<kind>/<period>"; the file: "<tenant>/<kind>-<period>.json".
void release_key(uint32_t tenant, enum release_kind kind, uint32_t period_day, char key[64]);
// Writes <release dir>/<tenant>/<kind>-<period>.json with a line feed; leaves an equal file alone. ERR_REFUSED where a
// file with other bytes is there: a line is drawn once.
int release_publish(const char *dir, const struct release_record *release, struct err *err) MUST_CHECK;

extern const char *const release_kind_names[3]; // by enum release_kind
extern const char *const inactivity_cell_names[INACTIVITY_CELLS];
int inactivity_cell_of(enum frozen_age age);

#endif
