// The aggregator's state alone, on pseudo-random pseudonyms; prints `name=value` lines.
//   bench-state table CONTACTS TENANTS LOOKUPS        fills a last-open table: memory, look-ups, the longest stop
//   bench-state snapshot DIR CONTACTS TENANTS PARTS   writes a local journal that holds so many last opens
//   bench-state load DIR PARTS THREADS                loads all partitions as an aggregator does when it starts
// Times of the table are CPU time, so that a busy machine changes them little; a load's are both.
#include "aggregator/contact_hash.h"
#include "aggregator/journal.h"
#include "aggregator/journal_file.h"
#include "aggregator/state_load.h"
#include "common/files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BATCH 256
#define LOOKUP_ROUNDS 20
#define FRAME_ROOM (4u << 20)

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    CHECK(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t resident_bytes(void) {
    unsigned long long total, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%llu %llu", &total, &resident) == 2);
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

// Splitmix64: a pseudonym as good as random for every number.
static uint64_t random_of(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static struct last_open value_of(uint64_t i) {
    return (struct last_open){.day = (uint16_t)(20000 + i % 400), .frozen_age = (uint8_t)(i % 8)};
}

// ---- the table ------------------------------------------------------------------------------------------------------

// The longest time that BATCH puts took.
static uint64_t fill(struct last_open_table *table, uint64_t n, uint32_t tenants) {
    uint64_t longest = 0, begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (uint64_t i = 0; i < n; i++) {
        CHECK(last_open_put(table, 1 + (uint32_t)(i % tenants), random_of(i), value_of(i)) == 0);
        if (i % BATCH != 0)
            continue;
        uint64_t now = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        longest = now - begin > longest ? now - begin : longest;
        begin = now;
    }
    return longest;
}

static double look_up(const struct last_open_table *table, uint64_t n, uint32_t tenants, uint64_t lookups, uint64_t seed) {
    static struct last_open_lookup batch[BATCH * 16];
    const size_t size = sizeof batch / sizeof batch[0];
    uint64_t spent = 0, done = 0;
    for (; done < lookups; done += size) {
        for (size_t i = 0; i < size; i++) {
            uint64_t which = random_of(~seed++) % n;
            batch[i] = (struct last_open_lookup){.tenant = 1 + (uint32_t)(which % tenants), .pseudonym = random_of(which)};
        }
        uint64_t begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        last_open_get_many(table, batch, size);
        spent += clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin;
        for (size_t i = 0; i < size; i++)
            CHECK(batch[i].found && batch[i].value.day >= 20000);
    }
    return (double)spent / (double)done;
}

static int run_table(uint64_t n, uint32_t tenants, uint64_t lookups) {
    struct last_open_limit limit = {.contacts_max = n};
    struct last_open_table *table;
    uint64_t before = resident_bytes(), begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    CHECK(last_open_table_create(&table, &limit) == 0);
    uint64_t longest = fill(table, n, tenants);
    double spent = (double)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin);
    printf("bytes_per_contact=%.3f\n", (double)(resident_bytes() - before) / (double)n);
    printf("put_ns=%.1f\n", spent / (double)n);
    printf("longest_stop_ms=%.3f\n", (double)longest / 1e6);
    for (int round = 0; round < LOOKUP_ROUNDS; round++)
        printf("lookup_ns=%.1f\n", look_up(table, n, tenants, lookups / LOOKUP_ROUNDS, (uint64_t)round * lookups));
    last_open_table_free(table);
    return 0;
}

// ---- a snapshot -----------------------------------------------------------------------------------------------------

struct snapshot {
    int fd;
    uint64_t at, sequence;
    size_t used;
    uint8_t out[FRAME_ROOM + RECORD_KEY_MAX + 4096];
};

static void flush(struct snapshot *snapshot) {
    size_t len = frame_seal(snapshot->out, snapshot->sequence++, snapshot->used);
    CHECK(pwrite(snapshot->fd, snapshot->out, len, (off_t)snapshot->at) == (ssize_t)len);
    snapshot->at += len;
    snapshot->used = 4;
}

// Tenants of a partition ascend, and so do the hashes of a tenant's pseudonyms: as a real snapshot has them.
static void write_part(struct snapshot *snapshot, uint32_t partition, uint64_t n, uint32_t tenants) {
    uint8_t key[RECORD_KEY_MAX], value[64];
    uint64_t of_tenant = n / tenants, step = UINT64_MAX / of_tenant;
    snapshot->sequence = 0;
    snapshot->used = 4;
    for (uint64_t i = 0; i < of_tenant * tenants; i++) {
        uint64_t pseudonym = contact_unhash(i % of_tenant * step + random_of(i) % step);
        struct frame_record record = {.partition = partition, .key = key, .value = value};
        record.key_len = (uint32_t)key_last_open(key, (uint32_t)(1 + i / of_tenant), pseudonym);
        record.value_len = (uint32_t)last_open_encode(value_of(i), value);
        snapshot->used += frame_record_write(snapshot->out + FRAME_HEAD_BYTES + snapshot->used, &record);
        if (snapshot->used >= FRAME_ROOM - FRAME_HEAD_BYTES)
            flush(snapshot);
    }
    if (snapshot->used > 4)
        flush(snapshot);
}

static int journal_create(const char *dir, enum journal_file_kind kind, struct journal_head head) {
    char name[JOURNAL_NAME_SIZE], path[512];
    uint8_t bytes[JOURNAL_HEAD_BYTES];
    head.kind = kind;
    journal_name(kind, head.generation, name);
    snprintf(path, sizeof path, "%s/journal/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    journal_head_encode(&head, bytes);
    CHECK(fd >= 0 && pwrite(fd, bytes, sizeof bytes, 0) == sizeof bytes);
    return fd;
}

static int run_snapshot(const char *dir, uint64_t n, uint32_t tenants, uint32_t partitions) {
    static struct snapshot snapshot;
    static uint8_t table[PARTITIONS_MAX * 32 + 8];
    static struct snapshot_part parts[PARTITIONS_MAX];
    const struct journal_head head = {.partitions = partitions, .generation = 2, .first_sequence = 2};
    char path[512];
    CHECK(partitions >= 1 && partitions <= PARTITIONS_MAX && n / partitions >= tenants);
    snprintf(path, sizeof path, "%s/journal", dir);
    CHECK((mkdir(dir, 0700) == 0 || access(dir, W_OK) == 0) && mkdir(path, 0700) == 0);
    close(journal_create(dir, JOURNAL_LOG, head));
    snapshot.fd = journal_create(dir, JOURNAL_SNAPSHOT, head);
    snapshot.at = JOURNAL_HEAD_BYTES + snapshot_table_bytes(partitions);
    for (uint32_t p = 0; p < partitions; p++) {
        parts[p].start = snapshot.at;
        parts[p].position = 1;
        write_part(&snapshot, p, n / partitions, tenants);
        parts[p].end = snapshot.at;
        parts[p].records = n / partitions / tenants * tenants;
    }
    snapshot_table_encode(parts, partitions, table);
    CHECK(pwrite(snapshot.fd, table, snapshot_table_bytes(partitions), JOURNAL_HEAD_BYTES) ==
          (ssize_t)snapshot_table_bytes(partitions));
    CHECK(fsync(snapshot.fd) == 0 && close(snapshot.fd) == 0);
    printf("snapshot_bytes=%" PRIu64 "\n", snapshot.at);
    return 0;
}

// ---- a load ---------------------------------------------------------------------------------------------------------

struct loads {
    struct journal *journal;
    struct last_open_limit limit;
    uint32_t partitions;
    atomic_uint next;
    struct state *states[PARTITIONS_MAX];
};

static int take(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    return state_load_record(arg, key, key_len, value, value_len);
}

static void *load_some(void *arg) {
    struct loads *loads = arg;
    uint32_t p;
    while ((p = atomic_fetch_add(&loads->next, 1)) < loads->partitions) {
        struct state_load records = {.n = 0};
        struct err err = {""};
        int64_t position;
        CHECK(state_create_within(&records.state, &loads->limit, 0) == 0);
        int rc = loads->journal->ops->load(loads->journal, p, take, NULL, &records, &position, &err);
        if (rc != 0 || (rc = state_load_end(&records)) != 0) {
            fprintf(stderr, "partition %u: %d %s\n", p, rc, err.text);
            exit(1);
        }
        loads->states[p] = records.state;
    }
    return NULL;
}

static int run_load(const char *dir, uint32_t partitions, unsigned threads) {
    static struct loads loads;
    char state_dir[PATH_SIZE];
    const struct config config = {.kafka_partitions = partitions, .aggregator_state_dir = state_dir};
    struct err err = {""};
    pthread_t workers[8];
    uint64_t contacts = 0;
    CHECK(threads >= 1 && threads <= 8 && partitions <= PARTITIONS_MAX);
    snprintf(state_dir, sizeof state_dir, "%s", dir);
    loads.limit.contacts_max = UINT32_MAX;
    loads.partitions = partitions;
    uint64_t before = resident_bytes(), wall = clock_ns(CLOCK_MONOTONIC), cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (journal_local_open_readonly(&loads.journal, &config, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (unsigned i = 0; i < threads; i++)
        CHECK(pthread_create(&workers[i], NULL, load_some, &loads) == 0);
    for (unsigned i = 0; i < threads; i++)
        CHECK(pthread_join(workers[i], NULL) == 0);
    for (uint32_t p = 0; p < partitions; p++)
        contacts += last_open_count(state_last_open(loads.states[p]));
    printf("contacts=%" PRIu64 "\n", contacts);
    printf("load_s=%.2f\n", (double)(clock_ns(CLOCK_MONOTONIC) - wall) / 1e9);
    printf("load_cpu_s=%.2f\n", (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9);
    printf("loaded_bytes_per_contact=%.3f\n", (double)(resident_bytes() - before) / (double)contacts);
    return 0;
}

static uint64_t number(const char *text) {
    uint64_t value = strtoull(text, NULL, 10);
    CHECK(value > 0);
    return value;
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "table") == 0)
        return run_table(number(argv[2]), (uint32_t)number(argv[3]), number(argv[4]));
    if (argc == 6 && strcmp(argv[1], "snapshot") == 0)
        return run_snapshot(argv[2], number(argv[3]), (uint32_t)number(argv[4]), (uint32_t)number(argv[5]));
    if (argc == 5 && strcmp(argv[1], "load") == 0)
        return run_load(argv[2], (uint32_t)number(argv[3]), (unsigned)number(argv[4]));
    fputs("usage: bench-state table|snapshot|load …\n", stderr);
    return 64;
}
