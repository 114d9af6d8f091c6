#include "aggregator/clean_shards.h"

#include "common/files.h"
#include "common/hmac.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#define SHARD_SEED 42 // Spark's
#define SHARD_NAME_SIZE 48
#define COMPRESSION_LEVEL 1
#define IN_BUFFER 16384
#define OUT_BUFFER 65536

struct shard {
    int fd;
    bool created;
    bool named; // under the name that it is found by
    uint64_t lines;
    uint64_t bytes;
    ZSTD_CCtx *zstd;
    EVP_MD_CTX *sha256;
    size_t in_used;
    char in[IN_BUFFER];
};

struct clean_shards {
    char dir[PATH_SIZE];
    bool dir_created;
    bool finished;
    uint32_t n;
    struct shard *shards;
    uint8_t out[OUT_BUFFER];
};

uint32_t clean_shard_of(const char *field, size_t len, uint32_t n_shards) {
    CHECK(n_shards > 0);
    int64_t hash = (int64_t)XXH64(field, len, SHARD_SEED);
    int64_t rest = hash % (int64_t)n_shards;
    return (uint32_t)(rest < 0 ? rest + (int64_t)n_shards : rest);
}

int clean_shards_check(const char *dir, struct err *err) {
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return errno == ENOENT ? 0 : err_errno(err, ERR_IO, "cannot read the directory %s", dir);
    bool empty = true;
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream))
        empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
    closedir(stream);
    return empty ? 0 : err_set(err, ERR_EXISTS, "%s is not empty: name a directory that is, or that is not there yet", dir);
}

// While it is written a file's name begins with a dot, which batch jobs pass over.
static int shard_path(const struct clean_shards *shards, uint32_t index, bool hidden, char path[PATH_SIZE],
                      struct err *err) {
    char name[SHARD_NAME_SIZE];
    snprintf(name, sizeof name, "%spart-%05u-of-%05u.tsv.zst", hidden ? "." : "", index, shards->n);
    return path_join(path, shards->dir, name, err);
}

static int shard_create(struct clean_shards *shards, uint32_t index, struct err *err) {
    struct shard *shard = &shards->shards[index];
    char path[PATH_SIZE];
    int rc = shard_path(shards, index, true, path, err);
    if (rc != 0)
        return rc;
    shard->zstd = ZSTD_createCCtx();
    shard->sha256 = EVP_MD_CTX_new();
    if (shard->zstd == NULL || shard->sha256 == NULL || EVP_DigestInit_ex(shard->sha256, EVP_sha256(), NULL) != 1)
        return err_set(err, ERR_NOMEM, "no memory for %u files", shards->n);
    size_t level = ZSTD_CCtx_setParameter(shard->zstd, ZSTD_c_compressionLevel, COMPRESSION_LEVEL);
    size_t checksum = ZSTD_CCtx_setParameter(shard->zstd, ZSTD_c_checksumFlag, 1);
    CHECK(!ZSTD_isError(level) && !ZSTD_isError(checksum));
    shard->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (shard->fd < 0)
        return err_errno(err, ERR_IO, "cannot create %s", path);
    shard->created = true;
    return 0;
}

int clean_shards_create(struct clean_shards **out, const char *dir, uint32_t n_shards, struct err *err) {
    CHECK(n_shards >= 1 && n_shards <= CLEAN_SHARDS_MAX);
    if (strlen(dir) >= PATH_SIZE)
        return err_set(err, ERR_LIMIT, "the path of the directory is longer than %d bytes", PATH_SIZE - 1);
    int rc = clean_shards_check(dir, err);
    if (rc != 0)
        return rc;
    struct clean_shards *shards = calloc(1, sizeof *shards);
    if (shards == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the answer");
    struct stat st;
    memcpy(shards->dir, dir, strlen(dir) + 1);
    shards->dir_created = stat(dir, &st) != 0;
    shards->n = n_shards;
    shards->shards = calloc(n_shards, sizeof *shards->shards);
    rc = shards->shards == NULL ? err_set(err, ERR_NOMEM, "no memory for %u files", n_shards) : dir_create(dir, 0750, err);
    for (uint32_t i = 0; i < n_shards && shards->shards != NULL; i++)
        shards->shards[i].fd = -1;
    for (uint32_t i = 0; i < n_shards && rc == 0; i++)
        rc = shard_create(shards, i, err);
    if (rc != 0) {
        clean_shards_free(shards);
        return rc;
    }
    *out = shards;
    return 0;
}

static void shard_remove(const struct clean_shards *shards, uint32_t index) {
    char path[PATH_SIZE];
    struct err err;
    if (shards->shards[index].created && shard_path(shards, index, !shards->shards[index].named, path, &err) == 0)
        unlink(path);
}

void clean_shards_free(struct clean_shards *shards) {
    if (shards == NULL)
        return;
    for (uint32_t i = 0; i < shards->n && shards->shards != NULL; i++) {
        struct shard *shard = &shards->shards[i];
        if (!shards->finished)
            shard_remove(shards, i);
        if (shard->fd >= 0)
            close(shard->fd);
        ZSTD_freeCCtx(shard->zstd);
        EVP_MD_CTX_free(shard->sha256);
    }
    if (!shards->finished && shards->dir_created)
        rmdir(shards->dir);
    free(shards->shards);
    free(shards);
}

// Compresses what is buffered; with `last` the file's content is complete.
static int shard_flush(struct clean_shards *shards, struct shard *shard, bool last, struct err *err) {
    ZSTD_inBuffer in = {.src = shard->in, .size = shard->in_used};
    size_t left;
    do {
        ZSTD_outBuffer out = {.dst = shards->out, .size = OUT_BUFFER};
        left = ZSTD_compressStream2(shard->zstd, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left))
            return err_set(err, ERR_NOMEM, "cannot compress: %s", ZSTD_getErrorName(left));
        if (out.pos == 0)
            continue;
        CHECK(EVP_DigestUpdate(shard->sha256, shards->out, out.pos) == 1);
        if (write_full(shard->fd, shards->out, out.pos, (off_t)shard->bytes) != 0)
            return err_errno(err, ERR_IO, "cannot write to %s", shards->dir);
        shard->bytes += out.pos;
    } while (last ? left > 0 : in.pos < in.size);
    shard->in_used = 0;
    return 0;
}

int clean_shards_add(struct clean_shards *shards, const char *field, size_t len, bool inactive, struct err *err) {
    struct shard *shard = &shards->shards[clean_shard_of(field, len, shards->n)];
    CHECK(len + 3 <= IN_BUFFER && !shards->finished);
    int rc = len + 3 > IN_BUFFER - shard->in_used ? shard_flush(shards, shard, false, err) : 0;
    if (rc != 0)
        return rc;
    memcpy(shard->in + shard->in_used, field, len);
    memcpy(shard->in + shard->in_used + len, inactive ? "\t1\n" : "\t0\n", 3);
    shard->in_used += len + 3;
    shard->lines++;
    return 0;
}

// ---- the end -------------------------------------------------------------------------------------------------------
static int shard_name(struct clean_shards *shards, uint32_t index, struct err *err) {
    char hidden[PATH_SIZE], path[PATH_SIZE];
    struct shard *shard = &shards->shards[index];
    int rc = shard_flush(shards, shard, true, err);
    if (rc != 0 || (rc = shard_path(shards, index, true, hidden, err)) != 0 ||
        (rc = shard_path(shards, index, false, path, err)) != 0)
        return rc;
    if (fsync(shard->fd) != 0)
        return err_errno(err, ERR_IO, "cannot bring %s to disk", hidden);
    if (rename(hidden, path) != 0)
        return err_errno(err, ERR_IO, "cannot rename %s", hidden);
    shard->named = true;
    return 0;
}

static json_t *shards_json(struct clean_shards *shards) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < shards->n; i++) {
        struct shard *shard = &shards->shards[i];
        char name[SHARD_NAME_SIZE], hex[2 * SHA256_SIZE + 1];
        uint8_t digest[SHA256_SIZE];
        unsigned size = 0;
        CHECK(EVP_DigestFinal_ex(shard->sha256, digest, &size) == 1 && size == SHA256_SIZE);
        hex_encode(digest, SHA256_SIZE, hex);
        snprintf(name, sizeof name, "part-%05u-of-%05u.tsv.zst", i, shards->n);
        json_t *item = json_pack("{s:s, s:I, s:I, s:s}", "file", name, "lines", (json_int_t)shard->lines, "bytes",
                                 (json_int_t)shard->bytes, "sha256", hex);
        if (json_array_append_new(list, item) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static char *manifest_text(struct clean_shards *shards, const struct clean_manifest *manifest) {
    const struct clean_terms *terms = manifest->terms;
    char first_day[DAY_TEXT_SIZE];
    day_format(terms->first_day, first_day);
    json_t *json = json_pack(
        "{s:s, s:s, s:I, s:s, s:i, s:b, s:s, s:i, s:I, s:I, s:s, s:o}", "schema", "openveil.clean.v1", "run",
        manifest->run_id, "tenant", (json_int_t)terms->tenant, "class", message_class_names[terms->message_class], "regime",
        (int)terms->regime, "rehearsal", (int)manifest->rehearsal, "E", first_day, "N", (int)terms->n_days, "lines",
        (json_int_t)manifest->lines, "ones", (json_int_t)manifest->ones, "key", "pmod(xxhash64(contact), shards)", "shards",
        shards_json(shards));
    char *text = json == NULL ? NULL : json_dumps(json, JSON_INDENT(1));
    json_decref(json);
    return text;
}

int clean_shards_finish(struct clean_shards *shards, const struct clean_manifest *manifest, struct err *err) {
    char path[PATH_SIZE];
    uint64_t lines = 0;
    int rc = path_join(path, shards->dir, "_SUCCESS", err);
    for (uint32_t i = 0; i < shards->n && rc == 0; i++) {
        rc = shard_name(shards, i, err);
        lines += shards->shards[i].lines;
    }
    if (rc != 0 || (rc = dir_sync(shards->dir, err)) != 0)
        return rc;
    CHECK(lines == manifest->lines);
    char *text = manifest_text(shards, manifest);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for _SUCCESS");
    rc = file_create(path, 0640, text, strlen(text), err);
    free(text);
    if (rc != 0 && rc != ERR_EXISTS)
        unlink(path); // what it speaks of is about to be removed
    shards->finished = rc == 0;
    return rc;
}
