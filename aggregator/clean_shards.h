// The answers of one run of `openveil clean` as files that batch jobs read: DIR/part-00000-of-0000K.tsv.zst and so on,
// zstd, a contact's line in the file that its first field says (clean_shard_of), in the order of the list. DIR/_SUCCESS
// comes last and describes them: until it is there, nothing is finished. Owned by the command, one thread; memory is
// about 1.5 MB a file while they are written.
#ifndef OPENVEIL_CLEAN_SHARDS_H
#define OPENVEIL_CLEAN_SHARDS_H

#include "aggregator/clean.h"

#define CLEAN_SHARDS_MAX 500
#define CLEAN_RUN_ID_SIZE 17 // 16 hex digits

// A file's number: XXH64 with seed 42, signed, modulo; as Spark says it, pmod(xxhash64(contact), K).
uint32_t clean_shard_of(const char *field, size_t len, uint32_t n_shards);

struct clean_manifest {
    char run_id[CLEAN_RUN_ID_SIZE];
    const struct clean_terms *terms;
    bool rehearsal;
    size_t lines;
    size_t ones;
};

// Whether `dir` is absent or an empty directory; ERR_EXISTS, ERR_IO.
int clean_shards_check(const char *dir, struct err *err) MUST_CHECK;

struct clean_shards;
int clean_shards_create(struct clean_shards **shards, const char *dir, uint32_t n_shards, struct err *err) MUST_CHECK;
// Before clean_shards_finish: removes what was written. After it: only frees.
void clean_shards_free(struct clean_shards *shards);
int clean_shards_add(struct clean_shards *shards, const char *field, size_t len, bool inactive, struct err *err) MUST_CHECK;
// Brings everything to disk and under its name, _SUCCESS last. ERR_IO.
int clean_shards_finish(struct clean_shards *shards, const struct clean_manifest *manifest, struct err *err) MUST_CHECK;

#endif
