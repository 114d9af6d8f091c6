// A spool's life and its books. The threads are in spool_commit.c and spool_seal.c, the workers' side in spool_port.c.
#include "ingest/spool_internal.h"

#include "ingest/spool_recover.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GROUP_MEMORY (GROUP_HEADER_BYTES + (size_t)GROUP_EVENTS_MAX * GROUP_EVENT_BYTES + SEGMENT_PAGE)
// Segments in being (open, next, being sealed, in the pool) take at most half of the space.
#define SEGMENTS_IN_SPACE 8
// The first number of an empty spool is above every number that a spool of this edge reached on an earlier day.
#define FIRST_NUMBER_SHIFT 32

static struct spool *spool_new(void) {
    struct spool *spool = calloc(1, sizeof *spool);
    if (spool == NULL)
        return NULL;
    pthread_condattr_t monotonic;
    CHECK(pthread_condattr_init(&monotonic) == 0);
    CHECK(pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_mutex_init(&spool->shared.mutex, NULL) == 0);
    CHECK(pthread_cond_init(&spool->shared.commit_cond, &monotonic) == 0);
    CHECK(pthread_cond_init(&spool->shared.packer_cond, &monotonic) == 0);
    CHECK(pthread_condattr_destroy(&monotonic) == 0);
    spool->lock_fd = -1;
    spool->commit.file.fd = -1;
    spool->commit.ledger = calloc(1, sizeof *spool->commit.ledger);
    spool->commit.cache = calloc(1, sizeof *spool->commit.cache);
    // Page-aligned, and untouched memory costs nothing.
    void *header = mmap(NULL, SEGMENT_HEADER_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *group = mmap(NULL, GROUP_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    spool->commit.header = header == MAP_FAILED ? NULL : header;
    spool->commit.group = group == MAP_FAILED ? NULL : group;
    if (spool->commit.ledger == NULL || spool->commit.cache == NULL || spool->commit.header == NULL ||
        spool->commit.group == NULL) {
        spool_free(spool);
        return NULL;
    }
    return spool;
}

static int configure(struct spool *spool, const struct config *config, const uint8_t rules_hash[RULES_HASH_SIZE],
                     struct err *err) {
    if (!edge_id_valid(config->ingest_edge_id))
        return err_set(err, ERR_INVALID, "[ingest] edge_id must be 1 to %d letters, digits, dots, dashes or underscores",
                       EDGE_ID_MAX);
    if (strlen(config->spool_dir) >= sizeof spool->dir)
        return err_set(err, ERR_LIMIT, "[spool] dir is too long");
    CHECK(config->kafka_partitions >= 1 && config->kafka_partitions <= LEDGER_PARTITIONS_MAX);
    strcpy(spool->dir, config->spool_dir);
    spool->clock = config->clock;
    spool->identity.kind = MESSAGE_BLOCK;
    spool->identity.rehearsal = config->rehearsal;
    strcpy(spool->identity.edge, config->ingest_edge_id);
    spool->identity.partitions = (uint16_t)config->kafka_partitions;
    memcpy(spool->identity.rules_hash, rules_hash, RULES_HASH_SIZE);
    memcpy(spool->shared.rules_hash, rules_hash, RULES_HASH_SIZE);
    size_t share = config->spool_bytes_max / SEGMENTS_IN_SPACE / SEGMENT_PAGE * SEGMENT_PAGE;
    spool->segment_size = config->spool_segment_bytes < share ? config->spool_segment_bytes : share;
    // The largest header and the fullest buffer of a port fit together.
    CHECK(spool->segment_size >= SEGMENT_HEADER_BYTES_MAX && spool->segment_size <= RAW_BYTES_MAX);
    spool->segment_ms = (int64_t)config->spool_segment_ms;
    spool->group_us = config->spool_group_us;
    spool->bytes_max = config->spool_bytes_max;
    spool->sync = strcmp(config->spool_durability, "page-cache") != 0;
    spool->commit.cache->partitions = spool->identity.partitions;
    return 0;
}

// The segments that this boot writes before it opens one for outcomes: the registration of an empty spool, or the close
// markers of days that ended while the edge was off.
static int first_segments(struct spool *spool, const struct recovered *recovered, struct err *err) {
    struct packer *packer = spool->seal.packer;
    uint32_t today = clock_today(&spool->clock);
    uint64_t next = recovered->next;
    uint64_t first = (uint64_t)today << FIRST_NUMBER_SHIFT;
    if (recovered->empty && next < first)
        next = first;
    if (getrandom(&spool->identity.epoch, sizeof spool->identity.epoch, 0) != sizeof spool->identity.epoch)
        return err_errno(err, ERR_IO, "no random number for this boot");
    spool->identity.epoch_first = next;
    struct segment_head head = spool->identity;
    int rc = 0;
    if (recovered->empty) {
        ledger_begin(packer->ledger, today);
        head.kind = MESSAGE_REGISTER;
        head.segment = next++;
        head.day = today;
        rc = packer_seal_register(packer, &head, err);
    }
    while (rc == 0 && packer->ledger->day < today) {
        struct ledger_closing closing = ledger_next_close(packer->ledger, today);
        head.kind = MESSAGE_CLOSE;
        head.segment = next++;
        head.day = closing.day;
        rc = packer_seal_close(packer, &head, closing, err);
    }
    if (rc != 0)
        return rc;
    const struct ledger *ledger = packer->ledger;
    if (ledger->n_ranges >= ledger_ranges_max(spool->identity.partitions) &&
        ledger->ranges[ledger->n_ranges - 1].epoch != spool->identity.epoch)
        return err_set(err, ERR_LIMIT, "this edge was started %zu times today: wait for the next UTC day",
                       ledger->n_ranges);
    spool->commit.next_number = next;
    ledger_copy(spool->commit.ledger, ledger);
    return 0;
}

int spool_open_io(struct spool **out, const struct config *config, const uint8_t rules_hash[RULES_HASH_SIZE],
                  const struct spool_io *io, struct err *err) {
    struct recovered recovered;
    struct spool *spool = spool_new();
    if (spool == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the spool");
    spool->io = io;
    int rc = configure(spool, config, rules_hash, err);
    if (rc == 0)
        rc = dir_mark(spool->dir, config->rehearsal, err);
    if (rc == 0) {
        spool->lock_fd = dir_lock(spool->dir, err);
        rc = spool->lock_fd < 0 ? spool->lock_fd : 0;
    }
    if (rc == 0)
        rc = packer_create(&spool->seal.packer, io, spool->dir, spool->identity.partitions, err);
    if (rc == 0)
        rc = spool_recover(spool->seal.packer, &spool->identity, &recovered, err);
    if (rc == 0)
        rc = first_segments(spool, &recovered, err);
    if (rc == 0)
        rc = spool_rescan(spool, err);
    if (rc != 0) {
        spool_free(spool);
        return rc;
    }
    atomic_store(&spool->damaged, recovered.damaged);
    *out = spool;
    return 0;
}

int spool_open(struct spool **spool, const struct config *config, const uint8_t rules_hash[RULES_HASH_SIZE],
               struct err *err) {
    return spool_open_io(spool, config, rules_hash, &spool_io_real, err);
}

void spool_on_sealed(struct spool *spool, spool_sealed_fn sealed, void *arg) {
    CHECK(!spool->started);
    spool->sealed = sealed;
    spool->sealed_arg = arg;
}

int spool_start(struct spool *spool, struct err *err) {
    sigset_t all, before;
    CHECK(!spool->started);
    // Signals are for the main thread.
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    int rc = pthread_create(&spool->packer_thread, NULL, spool_packer_run, spool);
    if (rc == 0) {
        rc = pthread_create(&spool->commit_thread, NULL, spool_commit_run, spool);
        if (rc != 0) {
            spool_lock(spool);
            spool->shared.commit_done = true;
            CHECK(pthread_cond_signal(&spool->shared.packer_cond) == 0);
            spool_unlock(spool);
            CHECK(pthread_join(spool->packer_thread, NULL) == 0);
        }
    }
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (rc != 0) {
        errno = rc;
        return err_errno(err, ERR_NOMEM, "cannot start the spool's threads");
    }
    spool->started = true;
    return 0;
}

int spool_stop(struct spool *spool, struct err *err) {
    CHECK(spool->started && !spool->stopped);
    spool_lock(spool);
    spool->shared.stop = true;
    CHECK(pthread_cond_signal(&spool->shared.commit_cond) == 0);
    spool_unlock(spool);
    CHECK(pthread_join(spool->commit_thread, NULL) == 0);
    CHECK(pthread_join(spool->packer_thread, NULL) == 0);
    spool->stopped = true;
    if (atomic_load(&spool->failed))
        return err_set(err, ERR_IO, "%s", spool->shared.failure.text);
    return 0;
}

void spool_free(struct spool *spool) {
    if (spool == NULL)
        return;
    CHECK(!spool->started || spool->stopped);
    spool_ports_free(spool);
    // Prepared files hold nothing; raw ones that are not sealed yet stay for the next start.
    if (spool->shared.have_next)
        raw_file_delete(spool->io, &spool->shared.next);
    if (spool->seal.have_pool)
        raw_file_delete(spool->io, &spool->seal.pool);
    if (spool->commit.open)
        raw_file_close(&spool->commit.file);
    for (size_t i = 0; i < spool->shared.queue_n; i++)
        raw_file_close(&spool->shared.queue[(spool->shared.queue_first + i) % SPOOL_QUEUE_MAX].file);
    packer_free(spool->seal.packer);
    numbers_free(&spool->shared.sealed);
    free(spool->commit.ledger);
    free(spool->commit.cache);
    if (spool->commit.header != NULL)
        munmap(spool->commit.header, SEGMENT_HEADER_BYTES_MAX);
    if (spool->commit.group != NULL)
        munmap(spool->commit.group, GROUP_MEMORY);
    CHECK(pthread_cond_destroy(&spool->shared.commit_cond) == 0);
    CHECK(pthread_cond_destroy(&spool->shared.packer_cond) == 0);
    CHECK(pthread_mutex_destroy(&spool->shared.mutex) == 0);
    if (spool->lock_fd >= 0)
        close(spool->lock_fd);
    free(spool);
}

void spool_wait(struct spool *spool, pthread_cond_t *cond, int64_t ms) {
    struct timespec until;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    int64_t ns = until.tv_nsec + ms % 1000 * 1000000;
    until.tv_sec += ms / 1000 + ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    int rc = pthread_cond_timedwait(cond, &spool->shared.mutex, &until);
    CHECK(rc == 0 || rc == ETIMEDOUT);
}

void spool_wake_ports(struct spool *spool) {
    for (size_t i = 0; i < spool->n_ports; i++)
        spool->ports[i]->wake(spool->ports[i]->arg);
}

void spool_fail(struct spool *spool, const struct err *err) {
    spool_lock(spool);
    if (!atomic_exchange(&spool->failed, true))
        spool->shared.failure = *err;
    CHECK(pthread_cond_broadcast(&spool->shared.commit_cond) == 0);
    CHECK(pthread_cond_broadcast(&spool->shared.packer_cond) == 0);
    spool_unlock(spool);
    spool_wake_ports(spool);
}

bool spool_queue(struct spool *spool, const struct spool_work *work) {
    spool_lock(spool);
    while (spool->shared.queue_n == SPOOL_QUEUE_MAX && !atomic_load(&spool->failed))
        spool_wait(spool, &spool->shared.commit_cond, SPOOL_RETRY_MS);
    bool room = spool->shared.queue_n < SPOOL_QUEUE_MAX;
    if (room) {
        spool->shared.queue[(spool->shared.queue_first + spool->shared.queue_n++) % SPOOL_QUEUE_MAX] = *work;
        CHECK(pthread_cond_signal(&spool->shared.packer_cond) == 0);
    }
    spool_unlock(spool);
    return room;
}

int spool_sealed_path(const struct spool *spool, uint64_t segment, char path[PATH_SIZE]) {
    char name[SEGMENT_NAME_SIZE];
    sealed_name(segment, name);
    return path_join(path, spool->dir, name, NULL);
}

// The file's disk space; 0 where it is gone.
static uint64_t disk_bytes(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void sealed_delete(struct spool *spool, uint64_t segment) {
    char path[PATH_SIZE];
    if (spool_sealed_path(spool, segment, path) != 0)
        return;
    uint64_t bytes = disk_bytes(path);
    // Where it cannot be deleted it is sent again after a restart, and known there.
    if (bytes > 0 && spool->io->unlink(path) == 0)
        atomic_fetch_sub(&spool->bytes, bytes);
}

int spool_sealed_add(struct spool *spool, uint64_t segment) {
    char path[PATH_SIZE];
    struct numbers *sealed = &spool->shared.sealed;
    spool_lock(spool);
    uint64_t forgotten = spool->shared.newest_forgotten;
    spool->shared.newest_forgotten = 0;
    if (forgotten != 0 && sealed->n > 0 && sealed->at[sealed->n - 1] == forgotten)
        sealed->n--;
    CHECK(sealed->n == 0 || segment > sealed->at[sealed->n - 1]);
    int rc = numbers_add(sealed, segment);
    spool_unlock(spool);
    if (forgotten != 0)
        sealed_delete(spool, forgotten);
    if (rc == 0 && (rc = spool_sealed_path(spool, segment, path)) == 0)
        atomic_fetch_add(&spool->bytes, disk_bytes(path));
    return rc;
}

int spool_rescan(struct spool *spool, struct err *err) {
    struct spool_listing listing;
    int rc = spool_list(spool->dir, &listing, err);
    if (rc != 0)
        return rc;
    atomic_store(&spool->bytes, listing.bytes);
    spool_lock(spool);
    numbers_free(&spool->shared.sealed);
    spool->shared.sealed = listing.sealed;
    spool_unlock(spool);
    listing.sealed = (struct numbers){0};
    spool_listing_free(&listing);
    return 0;
}

// The first index whose number is above `after`.
static size_t numbers_above(const struct numbers *numbers, uint64_t after) {
    size_t low = 0, high = numbers->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (numbers->at[middle] > after)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int spool_sealed_next(struct spool *spool, uint64_t after, uint64_t *segment) {
    spool_lock(spool);
    size_t i = numbers_above(&spool->shared.sealed, after);
    int rc = i < spool->shared.sealed.n ? 0 : ERR_NOT_FOUND;
    if (rc == 0)
        *segment = spool->shared.sealed.at[i];
    spool_unlock(spool);
    return rc;
}

void spool_forget(struct spool *spool, uint64_t segment) {
    struct numbers *sealed = &spool->shared.sealed;
    bool delete = false;
    spool_lock(spool);
    size_t above = numbers_above(sealed, segment);
    if (above > 0 && sealed->at[above - 1] == segment) {
        delete = above < sealed->n;
        if (delete)
            memmove(sealed->at + above - 1, sealed->at + above, (sealed->n-- - above) * sizeof *sealed->at);
        else
            spool->shared.newest_forgotten = segment;
    }
    spool_unlock(spool);
    if (delete)
        sealed_delete(spool, segment);
}

enum spool_state spool_state(const struct spool *spool) {
    if (atomic_load_explicit(&spool->failed, memory_order_relaxed))
        return SPOOL_FAILED;
    if (atomic_load_explicit(&spool->full_prepare, memory_order_relaxed) ||
        atomic_load_explicit(&spool->full_seal, memory_order_relaxed))
        return SPOOL_FULL;
    return SPOOL_OK;
}

uint64_t spool_bytes(const struct spool *spool) {
    return atomic_load_explicit(&spool->bytes, memory_order_relaxed);
}

bool spool_nearly_full(const struct spool *spool) {
    return spool_bytes(spool) + spool->segment_size > spool->bytes_max / 10 * 9;
}

uint64_t spool_damaged(const struct spool *spool) {
    return atomic_load_explicit(&spool->damaged, memory_order_relaxed);
}

void spool_set_rules(struct spool *spool, const uint8_t rules_hash[RULES_HASH_SIZE]) {
    spool_lock(spool);
    memcpy(spool->shared.rules_hash, rules_hash, RULES_HASH_SIZE);
    spool_unlock(spool);
}
