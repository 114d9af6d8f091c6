#include "ingest/snapshot.h"

#include "common/check.h"

#include <stdlib.h>

struct snapshot *snapshot_create(void *object, void (*free_object)(void *object)) {
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    CHECK(object != NULL && free_object != NULL);
    if (snapshot == NULL)
        return NULL;
    atomic_init(&snapshot->refs, 1);
    snapshot->object = object;
    snapshot->free_object = free_object;
    return snapshot;
}

struct snapshot *snapshot_keep(struct snapshot *snapshot) {
    CHECK(atomic_fetch_add_explicit(&snapshot->refs, 1, memory_order_relaxed) > 0);
    return snapshot;
}

void snapshot_drop(struct snapshot *snapshot) {
    if (snapshot == NULL)
        return;
    unsigned before = atomic_fetch_sub_explicit(&snapshot->refs, 1, memory_order_acq_rel);
    CHECK(before > 0);
    if (before > 1)
        return;
    snapshot->free_object(snapshot->object);
    free(snapshot);
}

void snapshot_put(snapshot_slot *slot, struct snapshot *snapshot) {
    CHECK(snapshot != NULL);
    snapshot_drop(atomic_exchange_explicit(slot, snapshot, memory_order_acq_rel));
}

struct snapshot *snapshot_take(snapshot_slot *slot) {
    if (atomic_load_explicit(slot, memory_order_relaxed) == NULL)
        return NULL;
    return atomic_exchange_explicit(slot, NULL, memory_order_acq_rel);
}
