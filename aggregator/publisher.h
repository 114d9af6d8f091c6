// Brings committed release lines to their files, on a worker thread, in order, until each is there: a full disk only
// delays them. Owned by the engine; all calls on the loop's thread. Lines are copied. A line whose file holds other bytes
// is reported once and dropped, because the file came first and a line is drawn once.
#ifndef OPENVEIL_PUBLISHER_H
#define OPENVEIL_PUBLISHER_H

#include "aggregator/release.h"

struct publisher;
struct uv_loop_s;
int publisher_create(struct publisher **publisher, struct uv_loop_s *loop, const char *dir) MUST_CHECK;
int publisher_add(struct publisher *publisher, const struct release_record *release) MUST_CHECK;
// Moves all lines of `from`, which must not be running, behind those of `publisher`.
void publisher_move(struct publisher *publisher, struct publisher *from);
size_t publisher_bytes(const struct publisher *publisher); // of lines not yet in their files
// Starts on what waits, unless it is at it already.
void publisher_run(struct publisher *publisher);
// True, with the last attempt's error, while lines wait because of it.
bool publisher_failing(const struct publisher *publisher, struct err *err);
// One last attempt, blocking, at what waits; what fails is published at the next start.
void publisher_stop(struct publisher *publisher);
void publisher_free(struct publisher *publisher); // after the loop has ended

#endif
