// Bookkeeping of edges and days: which segments are in, what an edge closed, when a day is complete. Pure functions over
// records; the caller stores what they change. Any thread.
//
// A message is known by (edge, epoch, segment) within its partition. Every sealed segment of an edge has one message for
// every partition, in one numbering over its epochs, so a number that is skipped is a message that is missing. EDGE_EPOCHS_MAX
// epochs are remembered one by one; of more boots between two closed days, the oldest are known by their numbers.
#ifndef OPENVEIL_EDGES_H
#define OPENVEIL_EDGES_H

#include "aggregator/record.h"

// Seen before (or of an epoch whose days are all closed and that is forgotten).
bool edge_has_seen(const struct edge_record *edge, const struct message_head *head);
// Marks a message that edge_has_seen did not know. Returns how many segments before it turned out to be missing.
uint64_t edge_mark_seen(struct edge_record *edge, const struct message_head *head);

// False where the edge had been registered with days not yet closed: its spool was lost, and they can't be complete.
bool edge_register(struct edge_record *edge, const struct message_head *head);
// True where an edge that the operator had ended turns out to live: it has something of the day of its end, or later. It
// takes part again then, with all that it has not closed; what comes of days before is the rest of its past.
bool edge_lives_again(struct edge_record *edge, const struct message_head *head);
// What a close marker did.
struct edge_closing {
    bool registered;       // false: an edge nobody registered, nothing closed
    bool closes;           // false: the days were closed already
    uint32_t from_day;     // first day closed by it
    bool missing;          // a listed segment is not in: the last day can't be complete
};
struct edge_closing edge_close(struct edge_record *edge, const struct message_head *head, const struct close_body *close);

// Adds what a close marker says of `day` (one of its days) to that day's record.
void day_add_close(struct day_record *record, uint32_t day, const struct message_head *head,
                   const struct close_body *close);
// Remembers a fetch-class file's hash; false where DAY_RULES_MAX others are there already.
bool day_add_rules(struct day_record *record, const uint8_t hash[RULES_HASH_SIZE]);

// Whether something that this edge had of `day` is lost.
bool edge_has_lost(uint32_t incomplete_through, uint64_t incomplete_days, uint32_t day);
// Whether nothing more is to be expected of this edge for `day`.
bool edge_is_through(uint32_t registered_day, uint32_t closed_through, bool retired, uint32_t day);

#endif
