// An immutable object that several threads read and one replaces (token keys, fetch classes): counted references, so
// that the last reader frees what has been replaced. A slot hands the newest from the main thread to one worker.
#ifndef OPENVEIL_SNAPSHOT_H
#define OPENVEIL_SNAPSHOT_H

#include <stdatomic.h>

struct snapshot {
    _Atomic unsigned refs;
    void *object;
    void (*free_object)(void *object);
};

// Takes the object over, with one reference for the caller; NULL where there is no memory (the object stays the
// caller's).
struct snapshot *snapshot_create(void *object, void (*free_object)(void *object));
struct snapshot *snapshot_keep(struct snapshot *snapshot);
void snapshot_drop(struct snapshot *snapshot); // NULL is fine

// A slot holds one reference or NULL. Putting replaces what was not taken; taking empties it.
typedef _Atomic(struct snapshot *) snapshot_slot;
void snapshot_put(snapshot_slot *slot, struct snapshot *snapshot);
struct snapshot *snapshot_take(snapshot_slot *slot);

#endif
