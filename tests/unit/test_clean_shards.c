// The files of `openveil clean --out`: which line goes where, what describes them, and what is left when it fails.
#include "aggregator/clean_shards.h"

#include "common/files.h"
#include "common/hmac.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>
#include <cmocka.h>

#define LINES 20000
#define SHARDS 7

static char dir[64], out_dir[80];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/openveil-shards-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(out_dir, sizeof out_dir, "%s/out", dir);
    return 0;
}

static size_t entries(const char *path) {
    size_t n = 0;
    DIR *stream = opendir(path);
    assert_non_null(stream);
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream))
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(stream);
    return n;
}

static int remove_dir(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static struct clean_terms terms = {
    .tenant = 7, .first_day = 20788, .n_days = 180, .message_class = CLASS_REQUESTED, .regime = REGIME_EXEMPTION};

static size_t field_of(size_t i, char field[32]) {
    return (size_t)snprintf(field, 32, "contact-%zu", i);
}

static void fill(struct clean_shards *shards) {
    struct err err;
    char field[32];
    for (size_t i = 0; i < LINES; i++)
        assert_int_equal(clean_shards_add(shards, field, field_of(i, field), i % 5 == 0, &err), 0);
}

// The published example of Spark's xxhash64('Spark', array(123), 2): each value's hash is the seed of the next.
static void the_key_is_sparks(void **state) {
    (void)state;
    const uint8_t first[4] = {123}, second[4] = {2}; // integers, least significant byte first
    uint64_t hash = XXH64(second, 4, XXH64(first, 4, XXH64("Spark", 5, 42)));
    assert_int_equal((int64_t)hash, 5602566077635097486);
    int64_t of_spark = (int64_t)XXH64("Spark", 5, 42);
    assert_int_equal(clean_shard_of("Spark", 5, 10), ((of_spark % 10) + 10) % 10);
    assert_int_equal(clean_shard_of("anything", 8, 1), 0);
    bool negative = false;
    for (char c = 'a'; c <= 'z'; c++) {
        negative = negative || (int64_t)XXH64(&c, 1, 42) < 0;
        assert_in_range(clean_shard_of(&c, 1, SHARDS), 0, SHARDS - 1);
    }
    assert_true(negative);
}

static char *unpacked(uint32_t shard, char sha256_hex[65], size_t *size) {
    char path[PATH_SIZE], *packed = NULL;
    uint8_t digest[SHA256_SIZE];
    struct err err;
    size_t len;
    snprintf(path, sizeof path, "%s/part-%05u-of-%05u.tsv.zst", out_dir, shard, SHARDS);
    assert_int_equal(file_read(path, 1 << 20, &packed, &len, &err), 0);
    sha256(packed, len, digest);
    hex_encode(digest, sizeof digest, sha256_hex);
    char *text = malloc(1 << 20);
    *size = ZSTD_decompress(text, (1 << 20) - 1, packed, len); // one frame, with its size or not
    assert_false(ZSTD_isError(*size));
    text[*size] = '\0';
    free(packed);
    return text;
}

static void every_line_is_in_its_file(void **state) {
    (void)state;
    struct clean_shards *shards;
    struct clean_manifest manifest = {.run_id = "00112233445566aa", .terms = &terms, .lines = LINES, .ones = LINES / 5};
    struct err err;
    char path[PATH_SIZE], *success = NULL, field[32], hex[65], expected[128];
    size_t len, next[SHARDS] = {0}, size;
    assert_int_equal(clean_shards_check(out_dir, &err), 0);
    assert_int_equal(clean_shards_create(&shards, out_dir, SHARDS, &err), 0);
    fill(shards);
    snprintf(path, sizeof path, "%s/_SUCCESS", out_dir);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(clean_shards_finish(shards, &manifest, &err), 0);
    clean_shards_free(shards);
    assert_int_equal(entries(out_dir), SHARDS + 1);
    assert_int_equal(file_read(path, 1 << 20, &success, &len, &err), 0);
    assert_non_null(strstr(success, "\"run\": \"00112233445566aa\""));
    assert_non_null(strstr(success, "\"E\": \"2026-12-01\""));
    assert_non_null(strstr(success, "\"N\": 180"));
    assert_non_null(strstr(success, "\"lines\": 20000"));
    assert_non_null(strstr(success, "\"ones\": 4000"));
    char *texts[SHARDS];
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        texts[shard] = unpacked(shard, hex, &size);
        assert_non_null(strstr(success, hex));
    }
    for (size_t i = 0; i < LINES; i++) {
        uint32_t shard = clean_shard_of(field, field_of(i, field), SHARDS);
        snprintf(expected, sizeof expected, "%s\t%d\n", field, i % 5 == 0);
        assert_memory_equal(texts[shard] + next[shard], expected, strlen(expected));
        next[shard] += strlen(expected);
    }
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        assert_int_equal(texts[shard][next[shard]], '\0');
        free(texts[shard]);
    }
    free(success);
    assert_int_equal(clean_shards_check(out_dir, &err), ERR_EXISTS); // never a second run in the same place
    assert_int_equal(clean_shards_create(&shards, out_dir, SHARDS, &err), ERR_EXISTS);
    assert_int_equal(entries(out_dir), SHARDS + 1);
}

static void what_is_not_finished_goes_away(void **state) {
    (void)state;
    struct clean_shards *shards;
    struct err err;
    assert_int_equal(clean_shards_create(&shards, out_dir, SHARDS, &err), 0);
    fill(shards);
    assert_int_equal(entries(out_dir), SHARDS);
    clean_shards_free(shards);
    assert_int_not_equal(access(out_dir, F_OK), 0);
    // An empty directory that was there stays.
    assert_int_equal(clean_shards_create(&shards, dir, SHARDS, &err), 0);
    clean_shards_free(shards);
    assert_int_equal(entries(dir), 0);
    // Someone else's _SUCCESS: this run fails and takes only its own files away.
    char path[PATH_SIZE];
    struct clean_manifest manifest = {.run_id = "0", .terms = &terms, .lines = LINES};
    assert_int_equal(clean_shards_create(&shards, out_dir, SHARDS, &err), 0);
    fill(shards);
    snprintf(path, sizeof path, "%s/_SUCCESS", out_dir);
    assert_int_equal(file_create(path, 0600, "x", 1, &err), 0);
    assert_int_equal(clean_shards_finish(shards, &manifest, &err), ERR_EXISTS);
    clean_shards_free(shards);
    assert_int_equal(entries(out_dir), 1);
    clean_shards_free(NULL);
}

static void nothing_is_written_where_it_may_not(void **state) {
    (void)state;
    struct clean_shards *shards;
    struct err err;
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/file", dir);
    assert_int_equal(file_create(path, 0600, "x", 1, &err), 0);
    assert_int_equal(clean_shards_check(dir, &err), ERR_EXISTS);
    assert_int_equal(clean_shards_check(path, &err), ERR_IO);
    assert_int_equal(clean_shards_create(&shards, dir, 1, &err), ERR_EXISTS);
    assert_int_equal(entries(dir), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_is_sparks),
        cmocka_unit_test_setup_teardown(every_line_is_in_its_file, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_is_not_finished_goes_away, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(nothing_is_written_where_it_may_not, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
