// The commit thread: gathers what the ports have ready into a group, writes it, waits for the disk, and only then lets
// the answers go. It alone opens and ends raw segments and turns the day.
#include "ingest/spool_internal.h"

#include <errno.h>
#include <sys/prctl.h>
#include <time.h>

// A group of this many outcomes says that there is load: the next one waits for its time instead of starting at once.
#define GROUP_HEAVY 8
#define PACE_SLACK_PART 4 // of its time that a group may begin early
// The wall clock may be set at any time; nobody tells a thread that waits for midnight.
#define WAIT_MS_MAX 250

static int64_t now_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// Under the mutex.
static int64_t wait_ms(const struct spool *spool) {
    int64_t ms = clock_real_ms_until(&spool->clock, day_start_ms(spool->commit.ledger->day + 1));
    if (spool->commit.open && spool->commit.tally.outcomes > 0) {
        int64_t left = spool->commit.began_ms + spool->segment_ms - clock_monotonic_ms();
        // Without a segment to follow, an old one stays open: the packer signals when there is one.
        if (left < 1 && !spool->shared.have_next)
            left = WAIT_MS_MAX;
        if (left < ms)
            ms = left;
    }
    if (ms > WAIT_MS_MAX)
        ms = WAIT_MS_MAX;
    return ms < 1 ? 1 : ms;
}

// Until there is something to do, and a place for it. Returns true when the spool is to stop; `stopping`: it said so
// before.
static bool commit_wait(struct spool *spool, bool stopping) {
    spool_lock(spool);
    bool wanted = spool->commit.open ? atomic_load(&spool->submitted) : spool->shared.have_next;
    if (!wanted && (stopping || !spool->shared.stop) && !atomic_load(&spool->failed))
        spool_wait(spool, &spool->shared.commit_cond, wait_ms(spool));
    bool stop = spool->shared.stop;
    spool_unlock(spool);
    return stop;
}

static void pace(const struct spool *spool) {
    if (spool->commit.group_outcomes < GROUP_HEAVY)
        return;
    int64_t at = spool->commit.group_began_ns + (int64_t)spool->group_us * 1000;
    struct timespec until = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
    // A worker paces itself likewise: no second sleep for what it is late.
    if (at - now_ns() > (int64_t)spool->group_us * 1000 / PACE_SLACK_PART) {
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
    }
}

// Writes the header of the segment `next_number` into commit.file and gives the file that segment's name. The header's
// bytes become durable with the first group's.
static int segment_name(struct spool *spool, struct err *err) {
    char name[SEGMENT_NAME_SIZE];
    spool->commit.head = spool->identity;
    spool->commit.head.segment = spool->commit.next_number;
    spool->commit.head.day = spool->commit.ledger->day;
    int64_t header_len = raw_header_encode(&spool->commit.head, spool->commit.ledger, spool->commit.header);
    CHECK(header_len > 0);
    spool->commit.header_len = (size_t)header_len;
    spool->commit.offset = (size_t)header_len;
    spool->commit.sequence = 0;
    if (spool->commit.file.dirty < spool->commit.offset)
        spool->commit.file.dirty = spool->commit.offset;
    int rc = io_write(spool->io, spool->commit.file.fd, spool->commit.header, (size_t)header_len, 0);
    if (rc != 0)
        return err_errno(err, rc, "cannot write %s", spool->commit.file.path);
    raw_name(spool->commit.next_number, name);
    rc = raw_file_rename(spool->io, &spool->commit.file, spool->dir, name, err);
    return rc == 0 && spool->sync ? io_sync_dir(spool->io, spool->dir, err) : rc;
}

// Opens the prepared segment, if there is one; commit.open says so.
static int segment_begin(struct spool *spool, struct err *err) {
    CHECK(!spool->commit.open);
    spool_lock(spool);
    bool have_next = spool->shared.have_next;
    if (have_next) {
        spool->commit.file = spool->shared.next;
        spool->shared.have_next = false;
        CHECK(pthread_cond_signal(&spool->shared.packer_cond) == 0);
    }
    spool_unlock(spool);
    if (!have_next)
        return 0;
    spool->commit.open = true;
    return segment_name(spool, err);
}

// Ends the open segment, which has outcomes: the packer gets it.
static int segment_finish(struct spool *spool, struct err *err) {
    CHECK(spool->commit.open && spool->commit.tally.outcomes > 0);
    struct spool_work work = {.head = spool->commit.head, .file = spool->commit.file,
                              .header_len = spool->commit.header_len, .len = spool->commit.offset,
                              .outcomes = spool->commit.tally.outcomes};
    int rc = ledger_add(spool->commit.ledger, spool->identity.partitions, spool->identity.epoch,
                        spool->commit.next_number, &spool->commit.tally);
    CHECK(rc == 0); // spool_open saw to it that this epoch still fits
    spool->commit.next_number++;
    spool->commit.open = false;
    memset(&spool->commit.tally, 0, sizeof spool->commit.tally);
    if (spool_queue(spool, &work))
        return 0;
    raw_file_close(&work.file);
    return err_set(err, ERR_IO, "the spool has failed");
}

// The days up to today's eve are over. Their close markers take the next numbers; a segment without outcomes gets a
// later number, so that what is sealed has no gaps.
static int day_turn(struct spool *spool, uint32_t today, struct err *err) {
    int rc = 0;
    if (spool->commit.open && spool->commit.tally.outcomes > 0 && (rc = segment_finish(spool, err)) != 0)
        return rc;
    while (spool->commit.ledger->day < today) {
        struct spool_work work = {.head = spool->identity, .file = {.fd = -1}};
        work.closing = ledger_next_close(spool->commit.ledger, today);
        work.head.kind = MESSAGE_CLOSE;
        work.head.segment = spool->commit.next_number++;
        work.head.day = work.closing.day;
        ledger_close(spool->commit.ledger, work.closing);
        if (!spool_queue(spool, &work))
            return err_set(err, ERR_IO, "the spool has failed");
    }
    spool_lock(spool);
    memcpy(spool->identity.rules_hash, spool->shared.rules_hash, RULES_HASH_SIZE);
    spool_unlock(spool);
    return spool->commit.open ? segment_name(spool, err) : 0;
}

struct collected {
    struct group group;
    uint64_t outcomes;
    bool left; // something did not fit
    size_t n_ports;
    struct spool_port *ports[SPOOL_PORTS_MAX];
    uint64_t tickets[SPOOL_PORTS_MAX];
};

static bool fits(const struct spool *spool, size_t n_events) {
    return n_events <= GROUP_EVENTS_MAX && spool->commit.tally.events + n_events <= BLOCK_EVENTS_MAX &&
           spool->commit.offset + group_bytes(n_events) <= spool->commit.file.size;
}

static void collect_port(struct spool *spool, struct spool_port *port, struct collected *all) {
    CHECK(pthread_mutex_lock(&port->mutex) == 0);
    struct port_buffer *taken = port->ready;
    if (taken != NULL && !fits(spool, all->group.n_events + taken->n_events)) {
        all->left = true;
        taken = NULL;
    }
    if (taken != NULL)
        port->ready = NULL;
    CHECK(pthread_mutex_unlock(&port->mutex) == 0);
    if (taken == NULL)
        return;
    memcpy(spool->commit.group + GROUP_HEADER_BYTES + (size_t)all->group.n_events * GROUP_EVENT_BYTES, taken->events,
           (size_t)taken->n_events * GROUP_EVENT_BYTES);
    all->group.n_events += taken->n_events;
    all->outcomes += taken->n_outcomes;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        all->group.drops[i] += taken->drops[i];
    all->ports[all->n_ports] = port;
    all->tickets[all->n_ports++] = taken->ticket;
    port_buffer_clear(taken);
    CHECK(pthread_mutex_lock(&port->mutex) == 0);
    CHECK(port->n_idle < ARRAY_LEN(port->idle));
    port->idle[port->n_idle++] = taken;
    CHECK(pthread_mutex_unlock(&port->mutex) == 0);
}

static void tally_add(struct spool *spool, const struct collected *all) {
    struct tally *tally = &spool->commit.tally;
    const uint8_t *event = spool->commit.group + GROUP_HEADER_BYTES;
    for (uint32_t i = 0; i < all->group.n_events; i++, event += GROUP_EVENT_BYTES)
        tally->recorded_by_partition[partition_cached(spool->commit.cache, load_u32(event + 8))]++;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        tally->drops[i] += all->group.drops[i];
    tally->events += all->group.n_events;
    tally->outcomes += all->outcomes;
}

static int group_write(struct spool *spool, struct collected *all, struct err *err) {
    int fd = spool->commit.file.fd;
    all->group.sequence = spool->commit.sequence;
    size_t len = group_encode(spool->commit.head.epoch, spool->commit.head.segment, &all->group, spool->commit.group);
    CHECK(spool->commit.offset + len <= spool->commit.file.size);
    if (spool->commit.file.dirty < spool->commit.offset + len)
        spool->commit.file.dirty = spool->commit.offset + len;
    if (io_write(spool->io, fd, spool->commit.group, len, (off_t)spool->commit.offset) != 0)
        return err_errno(err, ERR_IO, "cannot write %s", spool->commit.file.path);
    if (spool->sync && spool->io->fdatasync(fd) != 0)
        return err_errno(err, ERR_IO, "cannot sync %s", spool->commit.file.path);
    spool->commit.offset += len;
    spool->commit.sequence++;
    return 0;
}

// One group of what is ready. `left`: something is still waiting, because it did not fit this group or segment.
static int group_commit(struct spool *spool, bool *left, struct err *err) {
    struct collected all = {0};
    spool->commit.group_began_ns = now_ns();
    atomic_store(&spool->submitted, false);
    for (size_t i = 0; i < spool->n_ports; i++)
        collect_port(spool, spool->ports[(spool->commit.first_port + i) % spool->n_ports], &all);
    spool->commit.first_port++;
    spool->commit.group_outcomes = all.outcomes;
    *left = all.left;
    if (all.left)
        atomic_store(&spool->submitted, true);
    if (all.outcomes == 0)
        return 0;
    int rc = group_write(spool, &all, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < all.n_ports; i++) {
        atomic_store_explicit(&all.ports[i]->durable, all.tickets[i], memory_order_release);
        all.ports[i]->wake(all.ports[i]->arg);
    }
    if (spool->commit.tally.outcomes == 0)
        spool->commit.began_ms = clock_monotonic_ms();
    tally_add(spool, &all);
    return 0;
}

static bool segment_is_old(struct spool *spool) {
    if (!spool->commit.open || spool->commit.tally.outcomes == 0 ||
        clock_monotonic_ms() - spool->commit.began_ms < spool->segment_ms)
        return false;
    spool_lock(spool);
    bool have_next = spool->shared.have_next;
    spool_unlock(spool);
    return have_next;
}

static int commit_step(struct spool *spool, struct err *err) {
    bool left = false;
    pace(spool);
    uint32_t today = clock_today(&spool->clock);
    int rc = 0;
    if (today > spool->commit.ledger->day)
        rc = day_turn(spool, today, err);
    else if (segment_is_old(spool))
        rc = segment_finish(spool, err);
    if (rc == 0 && !spool->commit.open)
        rc = segment_begin(spool, err);
    if (rc != 0 || !spool->commit.open)
        return rc;
    rc = group_commit(spool, &left, err);
    if (rc == 0 && left && spool->commit.group_outcomes == 0)
        rc = segment_finish(spool, err); // the next step begins another
    return rc;
}

static bool outcomes_waiting(struct spool *spool) {
    bool waiting = false;
    for (size_t i = 0; i < spool->n_ports; i++) {
        struct spool_port *port = spool->ports[i];
        CHECK(pthread_mutex_lock(&port->mutex) == 0);
        waiting = waiting || port->ready != NULL;
        CHECK(pthread_mutex_unlock(&port->mutex) == 0);
    }
    return waiting;
}

// Seals what is open, or deletes it where it has nothing.
static int commit_end(struct spool *spool, struct err *err) {
    if (!spool->commit.open)
        return 0;
    if (spool->commit.tally.outcomes > 0)
        return segment_finish(spool, err);
    spool->commit.open = false;
    raw_file_delete(spool->io, &spool->commit.file);
    return 0;
}

void *spool_commit_run(void *arg) {
    struct spool *spool = arg;
    struct err err = {0};
    bool stop = false;
    int rc = 0;
    CHECK(pthread_setname_np(pthread_self(), "commit") == 0);
    CHECK(prctl(PR_SET_TIMERSLACK, 1000ul) == 0); // groups are paced in fractions of a millisecond
    while (rc == 0) {
        stop = commit_wait(spool, stop);
        if (atomic_load(&spool->failed))
            break;
        rc = commit_step(spool, &err);
        // A full spool has no place for what still waits; it was never acknowledged.
        if (rc == 0 && stop && (!outcomes_waiting(spool) || spool_state(spool) == SPOOL_FULL)) {
            rc = commit_end(spool, &err);
            break;
        }
    }
    if (rc != 0)
        spool_fail(spool, &err);
    spool_lock(spool);
    spool->shared.commit_done = true;
    CHECK(pthread_cond_signal(&spool->shared.packer_cond) == 0);
    spool_unlock(spool);
    return NULL;
}
