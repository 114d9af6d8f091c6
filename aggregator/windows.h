// The contacts of one open window (a tenant's day of sending) and the cell each is in: pseudonym -> struct window_cell.
// Open addressing, 16 bytes a slot. Owned by a state, one thread at a time.
#ifndef OPENVEIL_WINDOWS_H
#define OPENVEIL_WINDOWS_H

#include "aggregator/record.h"

struct window;
int window_create(struct window **window) MUST_CHECK;
void window_free(struct window *window);
size_t window_count(const struct window *window);
bool window_get(const struct window *window, uint64_t pseudonym, struct window_cell *cell);
// Before a window_get or window_put some events ahead: fetches its slot.
void window_prefetch(const struct window *window, uint64_t pseudonym);
int window_put(struct window *window, uint64_t pseudonym, struct window_cell cell) MUST_CHECK;
void window_erase(struct window *window, uint64_t pseudonym);
// Contacts one by one; `cursor` begins at 0. False at the end. Nothing may be put or erased meanwhile.
bool window_next(const struct window *window, size_t *cursor, uint64_t *pseudonym, struct window_cell *cell);

#endif
