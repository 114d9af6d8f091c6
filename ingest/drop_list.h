// The contacts that refused, withdrew or objected, as the edge knows them: read from Redis at start, then from its change
// streams, by a thread with a loop and a connection of its own. While nothing fresher than DROP_LIST_STALE_MS is known,
// while a scan runs, and beyond [ingest] drop_contacts_max contacts, nobody is dropped: the aggregator decides anyway.
// Ownership: main starts and stops it; a view belongs to the thread of one worker.
#ifndef OPENVEIL_DROP_LIST_H
#define OPENVEIL_DROP_LIST_H

#include "common/config.h"
#include "ingest/drop_set.h"

#include <stdatomic.h>

#define DROP_LIST_STALE_MS 5000

struct drop_list;

// Looks up without a lock. One of zeros holds nobody.
struct drop_view {
    const _Atomic bool *in_use;
    struct drop_reader *reader;
};
static inline void drop_view_prefetch(const struct drop_view *view, uint32_t tenant, uint64_t pseudonym) {
    if (view->reader != NULL)
        drop_set_prefetch(view->reader, tenant, pseudonym);
}
static inline bool drop_view_holds(const struct drop_view *view, uint32_t tenant, uint64_t pseudonym) {
    return view->reader != NULL && atomic_load_explicit(view->in_use, memory_order_relaxed) &&
           drop_set_contains(view->reader, tenant, pseudonym);
}

// Starts the thread; a Redis that is away is no error. *list stays NULL where drop_contacts_max is 0. `config` must
// outlive it.
int drop_list_start(struct drop_list **list, const struct config *config, size_t n_views, struct err *err) MUST_CHECK;
// The view of number `index`, below n_views; of zeros where `list` is NULL. Lives until drop_list_stop.
struct drop_view drop_list_view(struct drop_list *list, size_t index);
// Joins the thread and frees everything; no view may be in use. NULL is fine.
void drop_list_stop(struct drop_list *list);

// Any thread.
struct drop_list_facts {
    bool in_use;
    size_t contacts;
    size_t bytes;
    int64_t age_ms; // since it last was complete; since the start where it never was
};
struct drop_list_facts drop_list_facts(const struct drop_list *list);

#endif
