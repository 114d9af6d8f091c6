// A set of contacts (tenant, pseudonym) in 8.2 to 9 bytes each once it is large: a cuckoo table of 64-bit keys with two
// buckets of 8 a key, in shards that grow and shrink alone. A contact that is not in the set is taken for one that is with
// a probability of 2^-64 a member.
// Threads: one writer calls everything but the two calls with a reader; each thread that reads has a reader of its own, and looks
// up without a lock or a wait while the writer writes. All memory is the set's.
#ifndef OPENVEIL_DROP_SET_H
#define OPENVEIL_DROP_SET_H

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct drop_set;
struct drop_reader;

int drop_set_create(struct drop_set **set, size_t n_readers, struct err *err) MUST_CHECK;
void drop_set_free(struct drop_set *set); // no reader may be looking up
// The reader of number `index`, below n_readers; lives as long as the set.
struct drop_reader *drop_set_reader(struct drop_set *set, size_t index);

// 0, or ERR_NOMEM and the set is as it was. Adding what is there, or removing what is not, changes nothing.
int drop_set_add(struct drop_set *set, uint32_t tenant, uint64_t pseudonym) MUST_CHECK;
void drop_set_remove(struct drop_set *set, uint32_t tenant, uint64_t pseudonym);
void drop_set_clear(struct drop_set *set);
size_t drop_set_count(const struct drop_set *set);
size_t drop_set_bytes(const struct drop_set *set);

// Has the memory that drop_set_contains will look at fetched, while the caller does something else.
void drop_set_prefetch(struct drop_reader *reader, uint32_t tenant, uint64_t pseudonym);
bool drop_set_contains(struct drop_reader *reader, uint32_t tenant, uint64_t pseudonym);

#endif
