// The packer thread: prepares the next raw segment, seals finished ones in order, uses their files again, and looks
// after the space.
#include "ingest/spool_internal.h"

#include "common/log.h"

#define RESCAN_MS 10000

static void full_set(struct spool *spool, _Atomic bool *why, bool full) {
    if (atomic_exchange(why, full) != full)
        spool_wake_ports(spool);
}

static bool no_room(const struct spool *spool) {
    return atomic_load(&spool->bytes) + spool->segment_size > spool->bytes_max;
}

// A wiped file from the pool, or a new one. ERR_LIMIT: there is no room now.
static int prepare(struct spool *spool, struct raw_file *file, struct err *err) {
    // Files may have been deleted from outside since the last count.
    int rc = no_room(spool) ? spool_rescan(spool, err) : 0;
    if (rc != 0)
        return rc;
    if (no_room(spool))
        return err_set(err, ERR_LIMIT, "the spool is full");
    if (spool->seal.have_pool) {
        spool->seal.have_pool = false;
        *file = spool->seal.pool;
        return 0;
    }
    rc = raw_file_create(spool->io, spool->dir, spool->seal.free_number++, spool->segment_size, file, err);
    if (rc == 0)
        atomic_fetch_add(&spool->bytes, spool->segment_size);
    return rc;
}

static int prepare_next(struct spool *spool, struct err *err) {
    struct raw_file file;
    int rc = prepare(spool, &file, err);
    if (rc == ERR_LIMIT) {
        spool->seal.prepare_at_ms = clock_monotonic_ms() + SPOOL_RETRY_MS;
        full_set(spool, &spool->full_prepare, true);
        return 0;
    }
    if (rc != 0)
        return rc;
    spool_lock(spool);
    CHECK(!spool->shared.have_next);
    spool->shared.next = file;
    spool->shared.have_next = true;
    CHECK(pthread_cond_signal(&spool->shared.commit_cond) == 0);
    spool_unlock(spool);
    full_set(spool, &spool->full_prepare, false);
    return 0;
}

static int put_aside(struct spool *spool, struct raw_file *file, uint64_t segment, struct err *err) {
    char name[SEGMENT_NAME_SIZE];
    raw_name(segment, name);
    log_warn("%s could not be read back as it was written; put into %s/corrupt", name, spool->dir);
    raw_file_close(file);
    return spool_put_aside(spool->io, spool->dir, name, err);
}

// The sealed file is durable, so the raw one has served.
static int recycle(struct spool *spool, struct raw_file *file, struct err *err) {
    char name[64];
    if (spool->seal.have_pool) {
        raw_file_delete(spool->io, file);
        atomic_fetch_sub(&spool->bytes, spool->segment_size);
        return 0;
    }
    snprintf(name, sizeof name, "free-%llu.log", (unsigned long long)spool->seal.free_number++);
    int rc = raw_file_wipe(spool->io, file, err);
    if (rc == 0)
        rc = raw_file_rename(spool->io, file, spool->dir, name, err);
    if (rc != 0)
        return rc;
    spool->seal.pool = *file;
    spool->seal.have_pool = true;
    return 0;
}

static int seal_block(struct spool *spool, struct spool_work *work, struct err *err) {
    struct packer *packer = spool->seal.packer;
    int rc = packer_read(packer, work->file.fd, work->file.path, work->len, err);
    if (rc != 0)
        return rc;
    packer_scan(packer, &work->head, work->header_len, work->len);
    bool intact = packer->tally.outcomes == work->outcomes && packer->damaged == 0;
    rc = packer_seal_block(packer, &work->head, err);
    if (rc != 0)
        return rc;
    if (intact)
        return recycle(spool, &work->file, err);
    atomic_fetch_add(&spool->damaged, packer->damaged > 0 ? packer->damaged : 1);
    return put_aside(spool, &work->file, work->head.segment, err);
}

static int work_do(struct spool *spool, struct spool_work *work, struct err *err) {
    CHECK(work->head.partitions == spool->identity.partitions);
    int rc = work->head.kind == MESSAGE_CLOSE ? packer_seal_close(spool->seal.packer, &work->head, work->closing, err)
                                              : seal_block(spool, work, err);
    if (rc == ERR_LIMIT) {
        spool->seal.seal_at_ms = clock_monotonic_ms() + SPOOL_RETRY_MS;
        full_set(spool, &spool->full_seal, true);
        return 0;
    }
    if (rc == 0 && (rc = spool_sealed_add(spool, work->head.segment)) != 0)
        rc = err_set(err, rc, "no memory for the spool");
    if (rc != 0)
        return rc;
    full_set(spool, &spool->full_seal, false);
    spool_lock(spool);
    spool->shared.queue_first = (spool->shared.queue_first + 1) % SPOOL_QUEUE_MAX;
    spool->shared.queue_n--;
    CHECK(pthread_cond_signal(&spool->shared.commit_cond) == 0);
    spool_unlock(spool);
    if (spool->sealed != NULL)
        spool->sealed(spool->sealed_arg, work->head.segment);
    return 0;
}

enum task { TASK_PREPARE, TASK_SEAL, TASK_RESCAN, TASK_END };

// What to do next; waits until there is something. The next segment comes first: it lets answers leave.
static enum task task_next(struct spool *spool, struct spool_work **work) {
    spool_lock(spool);
    for (;;) {
        int64_t now = clock_monotonic_ms();
        bool done = spool->shared.commit_done;
        bool waiting = spool->shared.queue_n > 0;
        enum task task = TASK_RESCAN;
        *work = &spool->shared.queue[spool->shared.queue_first];
        if (atomic_load(&spool->failed) || (done && (!waiting || atomic_load(&spool->full_seal))))
            task = TASK_END;
        else if (!done && !spool->shared.have_next && now >= spool->seal.prepare_at_ms)
            task = TASK_PREPARE;
        else if (waiting && now >= spool->seal.seal_at_ms)
            task = TASK_SEAL;
        else if (now < spool->seal.rescan_at_ms) {
            int64_t until = spool->seal.rescan_at_ms;
            if (!spool->shared.have_next && spool->seal.prepare_at_ms < until)
                until = spool->seal.prepare_at_ms;
            if (waiting && spool->seal.seal_at_ms < until)
                until = spool->seal.seal_at_ms;
            spool_wait(spool, &spool->shared.packer_cond, until - now);
            continue;
        }
        spool_unlock(spool);
        return task;
    }
}

static int packer_step(struct spool *spool, bool *end, struct err *err) {
    struct spool_work *work;
    switch (task_next(spool, &work)) {
    case TASK_PREPARE:
        return prepare_next(spool, err);
    case TASK_SEAL:
        return work_do(spool, work, err); // the commit thread adds behind it and never moves it
    case TASK_RESCAN:
        spool->seal.rescan_at_ms = clock_monotonic_ms() + RESCAN_MS;
        return spool_rescan(spool, err);
    case TASK_END:
        break;
    }
    *end = true;
    return 0;
}

void *spool_packer_run(void *arg) {
    struct spool *spool = arg;
    struct err err = {0};
    bool end = false;
    int rc = 0;
    CHECK(pthread_setname_np(pthread_self(), "packer") == 0);
    spool->seal.rescan_at_ms = clock_monotonic_ms() + RESCAN_MS;
    while (rc == 0 && !end)
        rc = packer_step(spool, &end, &err);
    if (rc != 0)
        spool_fail(spool, &err);
    return NULL;
}
