// The spool when things go wrong: kill -9 at any moment, system calls that fail, files that are damaged. What was
// acknowledged is never lost, and what is recovered is recovered once.
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#define ROUNDS 20
#define ROUND_SHIFT 32
#define CALLS_MAX 500
#define GROUPS 3
#define GROUP_EVENTS 5

// What a child has had acknowledged: events 0..acked-1 of its round, and as many drops.
static void child_run(const struct config *config, uint64_t round, int pipe_fd) {
    struct spool *spool = NULL;
    struct spool_port *port = NULL;
    if (spool_open(&spool, config, fixture_rules, NULL) != 0 || spool_port_add(spool, no_wake, NULL, &port) != 0 ||
        spool_start(spool, NULL) != 0)
        _exit(1);
    uint64_t acked = 0, added = 0;
    uint64_t ticket_of[64] = {0}, added_at[64] = {0}; // the last outcomes of recent tickets
    for (;;) {
        struct event event = fixture_event(round << ROUND_SHIFT | added);
        uint64_t ticket = spool_add_event(port, &event);
        if (ticket != 0 && spool_add_drop(port, EDGE_DROP_SCANNER) != 0) {
            ticket_of[ticket % 64] = ticket;
            added_at[ticket % 64] = ++added;
        }
        if (ticket == 0 || added % 20 == 0) {
            spool_submit(port);
            usleep(200);
        }
        uint64_t durable = spool_durable(port);
        if (ticket_of[durable % 64] == durable && added_at[durable % 64] > acked) {
            acked = added_at[durable % 64];
            if (write(pipe_fd, &acked, sizeof acked) != sizeof acked)
                _exit(1);
        }
    }
}

// The events of a round must be a prefix of what the child added, at least as long as what was acknowledged.
static void assert_rounds_are_kept(const struct seen *seen, const uint64_t *acked, uint64_t rounds) {
    uint64_t counts[ROUNDS] = {0};
    for (uint64_t i = 0; i < seen->events; i++) {
        uint64_t round = seen->pseudonyms[i] >> ROUND_SHIFT;
        assert_in_range(round, 0, rounds - 1);
        assert_int_equal(seen->pseudonyms[i] & UINT32_MAX, counts[round]); // ascending, so without a hole
        counts[round]++;
    }
    for (uint64_t round = 0; round < rounds; round++)
        assert_in_range(counts[round], acked[round], UINT32_MAX);
}

static void kill_9_loses_nothing_acknowledged(void **state) {
    (void)state;
    struct config config = fixture_fast_days();
    config.spool_segment_ms = 50;
    uint64_t acked[ROUNDS] = {0}, total = 0;
    unsigned seed = 7;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        char page_cache[] = "page-cache"; // survives a killed process too
        int fds[2], status;
        config.spool_durability = round % 3 == 0 ? page_cache : fixture_disk;
        uint64_t value;
        assert_int_equal(pipe(fds), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(fds[0]);
            child_run(&config, round, fds[1]);
        }
        close(fds[1]);
        usleep((unsigned)rand_r(&seed) % 200000);
        assert_int_equal(kill(child, SIGKILL), 0);
        while (read(fds[0], &value, sizeof value) == sizeof value)
            acked[round] = value;
        close(fds[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        total += acked[round];
    }
    struct spool_port *port;
    stop_and_free(open_started(&config, &port));
    struct seen seen = see_all();
    assert_rounds_are_kept(&seen, acked, ROUNDS);
    uint64_t requests = seen.closed_requests + seen.ledger->counts.requests;
    print_message("%llu acknowledged, %llu recovered, %llu close markers\n", (unsigned long long)total,
                  (unsigned long long)seen.events, (unsigned long long)seen.n_closes);
    assert_true(total > 0 && seen.n_registers == 1);
    assert_int_equal(seen.closed_recorded + seen.ledger->counts.recorded, seen.events);
    assert_in_range(requests, 2 * total, UINT64_MAX);
    seen_free(&seen);
}

// System calls of which the n-th fails, once or, like a broken disk, from then on.
static struct {
    _Atomic int left; // calls until the failure; below 0: it has happened
    int error;
    bool stays;
} fault;

static bool fault_now(void) {
    int left = atomic_fetch_sub(&fault.left, 1);
    if (left == 0 || (left < 0 && fault.stays)) {
        errno = fault.error;
        return true;
    }
    return false;
}

static int fault_open(const char *path, int flags, mode_t mode) {
    return fault_now() ? -1 : spool_io_real.open(path, flags, mode);
}
static ssize_t fault_pwrite(int fd, const void *data, size_t len, off_t offset) {
    // A failing write may have written some.
    bool fails = fault_now();
    if (fails && len <= SEGMENT_PAGE)
        return -1;
    ssize_t written = spool_io_real.pwrite(fd, data, fails ? len / 2 : len, offset);
    return fails ? -1 : written;
}
static int fault_fdatasync(int fd) {
    return fault_now() ? -1 : spool_io_real.fdatasync(fd);
}
static int fault_fsync(int fd) {
    return fault_now() ? -1 : spool_io_real.fsync(fd);
}
static int fault_rename(const char *from, const char *to) {
    return fault_now() ? -1 : spool_io_real.rename(from, to);
}
static int fault_unlink(const char *path) {
    return fault_now() ? -1 : spool_io_real.unlink(path);
}
static int fault_fallocate(int fd, off_t offset, off_t len) {
    return fault_now() ? fault.error : spool_io_real.fallocate(fd, offset, len);
}
static const struct spool_io fault_io = {.open = fault_open, .pwrite = fault_pwrite, .fdatasync = fault_fdatasync,
                                         .fsync = fault_fsync, .rename = fault_rename, .unlink = fault_unlink,
                                         .fallocate = fault_fallocate};

// Adds until the spool fails or some segments are through; returns the number of events acknowledged.
static uint64_t add_until_failure(const struct config *config, uint64_t round) {
    struct spool *spool = NULL;
    struct spool_port *port;
    struct err err;
    uint64_t added = 0, acked = 0;
    if (spool_open_io(&spool, config, fixture_rules, &fault_io, &err) != 0)
        return 0;
    assert_int_equal(spool_port_add(spool, no_wake, NULL, &port), 0);
    assert_int_equal(spool_start(spool, &err), 0);
    for (unsigned group = 0; group < GROUPS && spool_state(spool) != SPOOL_FAILED; group++) {
        uint64_t ticket = 0;
        for (unsigned i = 0; i < GROUP_EVENTS; i++) {
            struct event event = fixture_event(round << ROUND_SHIFT | added);
            uint64_t got = spool_add_event(port, &event);
            added += got != 0;
            ticket = got != 0 ? got : ticket;
        }
        spool_submit(port);
        for (int i = 0; i < 50 && spool_durable(port) < ticket && spool_state(spool) != SPOOL_FAILED; i++)
            sleep_ms(1);
        if (ticket > 0 && spool_durable(port) >= ticket)
            acked = added;
        sleep_ms(8);
    }
    bool failed = spool_stop(spool, &err) != 0;
    assert_int_equal(failed, spool_state(spool) == SPOOL_FAILED);
    assert_true(failed || acked == added || spool_state(spool) == SPOOL_FULL);
    spool_free(spool);
    return acked;
}

static void failing_calls_lose_nothing(int error, bool stays) {
    struct config config = fixture_config();
    uint64_t acked[CALLS_MAX] = {0}, counts[CALLS_MAX] = {0}, round = 0;
    config.spool_segment_ms = 5; // several segments in a round
    fault.error = error;
    fault.stays = stays;
    do {
        CHECK(round < CALLS_MAX);
        atomic_store(&fault.left, (int)round);
        acked[round] = add_until_failure(&config, round);
        struct spool_port *port;
        stop_and_free(open_started(&config, &port));
    } while (atomic_load(&fault.left) < 0 && ++round > 0);
    print_message("%llu calls, each failed once\n", (unsigned long long)round);
    struct seen seen = see_all();
    for (uint64_t i = 0; i < seen.events; i++)
        counts[seen.pseudonyms[i] >> ROUND_SHIFT]++;
    for (size_t i = 0; i <= round; i++)
        assert_in_range(counts[i], acked[i], GROUPS * GROUP_EVENTS);
    assert_int_equal(counts[round], GROUPS * GROUP_EVENTS);
    assert_int_equal(seen.closed_recorded + seen.ledger->counts.recorded, seen.events);
    seen_free(&seen);
}

static void a_broken_disk_loses_nothing(void **state) {
    (void)state;
    failing_calls_lose_nothing(EIO, true);
}

static void one_failing_call_loses_nothing(void **state) {
    (void)state;
    failing_calls_lose_nothing(EIO, false);
}

static void a_disk_that_is_full_once_loses_nothing(void **state) {
    (void)state;
    failing_calls_lose_nothing(ENOSPC, false);
}

int main(void) {
#define SPOOL_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        SPOOL_TEST(kill_9_loses_nothing_acknowledged),
        SPOOL_TEST(a_broken_disk_loses_nothing),
        SPOOL_TEST(one_failing_call_loses_nothing),
        SPOOL_TEST(a_disk_that_is_full_once_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
