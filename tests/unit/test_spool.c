// The spool in ordinary life: outcomes become durable, segments are sealed, days end, space runs out.
#include "ingest/spool.h"

#include "tests/unit/spool_fixture.h"

static void first_start_registers(void **state) {
    (void)state;
    struct config config = fixture_config();
    struct spool_port *port;
    stop_and_free(open_started(&config, &port));
    struct seen seen = see_all();
    assert_true(seen.n_registers == 1 && seen.n_blocks == 0 && seen.n_closes == 0);
    assert_int_equal(seen.first >> 32, clock_today(&config.clock));
    assert_int_equal(count_files("open-") + count_files("free-"), 0);
    uint64_t last = seen.last;
    seen_free(&seen);
    stop_and_free(open_started(&config, &port)); // nothing happened, nothing is written
    seen = see_all();
    assert_int_equal(seen.last, last);
    seen_free(&seen);
}

static void outcomes_become_durable_and_sealed(void **state) {
    (void)state;
    struct config config = fixture_config();
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    for (uint64_t i = 0; i < 20; i++) {
        add_durably(port, i * 100, 100);
        sleep_ms(20);
    }
    stop_and_free(spool);
    struct seen seen = see_all();
    assert_int_equal(seen.events, 2000);
    assert_int_equal(seen.ledger->counts.requests, 4000);
    assert_int_equal(seen.ledger->counts.drops[EDGE_DROP_BAD_TOKEN], 2000);
    assert_true(seen.n_blocks >= 2 && seen.n_blocks < 20); // by age
    seen_free(&seen);
}

static void a_full_port_refuses(void **state) {
    (void)state;
    struct config config = fixture_config();
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    uint64_t ticket = 0, n = 0;
    for (;; n++) {
        struct event event = fixture_event(n);
        uint64_t got = spool_add_event(port, &event);
        if (got == 0)
            break;
        ticket = got;
    }
    assert_int_equal(n, PORT_EVENTS_MAX);
    assert_true(wait_durable(port, ticket));
    add_durably(port, n, 10);
    stop_and_free(spool);
    struct seen seen = see_all();
    assert_int_equal(seen.events, n + 10);
    seen_free(&seen);
}

#define WORKERS 3
#define WORKER_EVENTS 40000

struct worker {
    struct spool_port *port;
    uint64_t first;
    pthread_t thread;
    bool done;
};

static void *worker_run(void *arg) {
    struct worker *worker = arg;
    uint64_t ticket = 0;
    for (uint64_t i = 0; i < WORKER_EVENTS;) {
        struct event event = fixture_event(worker->first + i);
        uint64_t got = spool_add_event(worker->port, &event);
        if (got == 0) {
            sleep_ms(1); // the disk is behind
        } else {
            ticket = got;
            i++;
        }
        if (got == 0 || i % 50 == 0)
            spool_submit(worker->port);
    }
    worker->done = wait_durable(worker->port, ticket);
    return NULL;
}

static void workers_share_the_groups(void **state) {
    (void)state;
    struct config config = fixture_config();
    struct worker workers[WORKERS];
    struct spool *spool = NULL;
    struct err err;
    assert_int_equal(spool_open(&spool, &config, fixture_rules, &err), 0);
    for (size_t i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.first = i << 32};
        assert_int_equal(spool_port_add(spool, no_wake, NULL, &workers[i].port), 0);
    }
    assert_int_equal(spool_start(spool, &err), 0);
    for (size_t i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    for (size_t i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_true(workers[i].done);
    }
    stop_and_free(spool);
    struct seen seen = see_all();
    assert_int_equal(seen.events, WORKERS * WORKER_EVENTS);
    assert_true(seen.n_blocks >= 2); // a segment holds no more events than a message
    seen_free(&seen);
}

static void days_end_also_when_nothing_happens(void **state) {
    (void)state;
    struct config config = fixture_fast_days();
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    uint64_t n = 0;
    for (unsigned day = 0; day < 5; day++) {
        if (day != 2)
            add_durably(port, (n++) * 10, 10);
        sleep_ms((unsigned)clock_real_ms_until(&config.clock, day_start_ms(clock_today(&config.clock) + 1)));
    }
    sleep_ms(300);
    uint64_t segment = 0, newest = 0;
    while (spool_sealed_next(spool, segment, &segment) == 0)
        newest = segment;
    stop_and_free(spool);
    struct seen seen = see_all();
    assert_in_range(newest, seen.first, seen.last);
    assert_true(seen.n_closes >= 3); // on a slow machine idle days are closed together
    assert_in_range(seen.closed_through, 20004, 20060);
    assert_int_equal(seen.closed_recorded, n * 10);
    assert_int_equal(seen.closed_requests, n * 20);
    assert_int_equal(seen.n_blocks, n);
    seen_free(&seen);
}

static void days_that_passed_while_off_are_closed_at_start(void **state) {
    (void)state;
    struct config config = fixture_fast_days();
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    add_durably(port, 0, 10);
    stop_and_free(spool);
    sleep_ms(2500);
    spool = open_started(&config, &port);
    struct seen seen = see_all();
    assert_true(seen.n_closes == 1 || seen.n_closes == 2); // one by the first process where its day ended just then
    assert_int_equal(seen.closed_recorded, 10);
    assert_in_range(seen.closed_through, 20001, 20060);
    seen_free(&seen);
    add_durably(port, 100, 10);
    stop_and_free(spool);
    seen = see_all();
    assert_int_equal(seen.events, 20);
    seen_free(&seen);
}

// Counts in the close markers are exact over restarts within and across days.
static void accounting_holds_over_restarts(void **state) {
    (void)state;
    struct config config = fixture_fast_days();
    struct spool_port *port;
    uint64_t n = 0;
    for (unsigned start = 0; start < 12; start++) {
        struct spool *spool = open_started(&config, &port);
        for (unsigned i = 0; i < 5; i++, n++) {
            add_durably(port, n * 10, 10);
            sleep_ms(30);
        }
        stop_and_free(spool);
    }
    sleep_ms(1100);
    stop_and_free(open_started(&config, &port));
    struct seen seen = see_all();
    assert_true(seen.n_closes >= 2);
    assert_int_equal(seen.closed_recorded, n * 10);
    assert_int_equal(seen.closed_requests, n * 20);
    assert_int_equal(seen.closed_drops, n * 10);
    assert_int_equal(seen.events, n * 10);
    seen_free(&seen);
}

// A consumer deleted all but the newest, through us or from outside.
static void an_emptied_spool_still_knows(void **state) {
    (void)state;
    struct config config = fixture_config();
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    for (unsigned i = 0; i < 4; i++) {
        add_durably(port, i * 10, 10);
        sleep_ms(150);
    }
    uint64_t segment = 0, n = 0;
    while (spool_sealed_next(spool, segment, &segment) == 0) {
        char path[PATH_SIZE];
        assert_int_equal(spool_sealed_path(spool, segment, path), 0);
        assert_int_equal(access(path, R_OK), 0);
        spool_forget(spool, segment);
        n++;
    }
    assert_true(n >= 4);
    assert_int_equal(count_files("sealed-"), 1);
    add_durably(port, 1000, 10);
    stop_and_free(spool); // seals one more, so the forgotten newest goes
    assert_int_equal(count_files("sealed-"), 1);
    struct ledger *ledger = calloc(1, sizeof *ledger);
    assert_non_null(ledger);
    struct spool_listing listing;
    assert_int_equal(spool_list(fixture_dir, &listing, NULL), 0);
    assert_true(listing.sealed.at[0] > segment);
    uint64_t newest = listing.sealed.at[0];
    spool_listing_free(&listing);
    spool = open_started(&config, &port);
    add_durably(port, 2000, 10);
    stop_and_free(spool);
    char name[SEGMENT_NAME_SIZE], path[PATH_SIZE], *data;
    size_t len;
    struct err err;
    struct sealed *sealed = malloc(sizeof *sealed);
    assert_non_null(sealed);
    sealed_name(newest + 1, name);
    assert_int_equal(path_join(path, fixture_dir, name, NULL), 0);
    assert_int_equal(file_read(path, SEALED_BYTES_MAX, &data, &len, &err), 0);
    assert_int_equal(sealed_decode((uint8_t *)data, len, sealed, ledger), 0);
    assert_int_equal(ledger->counts.requests, 120);
    assert_int_equal(ledger->counts.recorded, 60);
    assert_int_equal(ledger->n_ranges, 2);
    assert_int_equal(ledger->ranges[0].last, newest);
    assert_int_equal(sealed->head.epoch_first, newest + 1);
    free(data);
    free(sealed);
    free(ledger);
}

static void the_wrong_spool_is_refused(void **state) {
    (void)state;
    struct config config = fixture_config();
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port), *other = NULL;
    struct err err = {0};
    assert_int_equal(spool_open(&other, &config, fixture_rules, &err), ERR_EXISTS); // it is in use
    add_durably(port, 0, 10);
    stop_and_free(spool);
    char edge[] = "edge-2";
    config.ingest_edge_id = edge;
    assert_int_equal(spool_open(&other, &config, fixture_rules, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "edge_id = edge-1"));
    config = fixture_config();
    config.kafka_partitions = PARTITIONS + 1;
    assert_int_equal(spool_open(&other, &config, fixture_rules, &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "partitions = 4"));
    config = fixture_fast_days();
    assert_int_equal(spool_open(&other, &config, fixture_rules, &err), ERR_REFUSED);
    char bad[] = "two words";
    config = fixture_config();
    config.ingest_edge_id = bad;
    assert_int_equal(spool_open(&other, &config, fixture_rules, &err), ERR_INVALID);
    config = fixture_config();
    stop_and_free(open_started(&config, &port));
}

static bool wait_state(const struct spool *spool, enum spool_state want) {
    for (int i = 0; i < 5000 && spool_state(spool) != want; i++)
        sleep_ms(1);
    return spool_state(spool) == want;
}

static void a_full_spool_recovers(void **state) {
    (void)state;
    struct config config = fixture_config();
    struct spool_port *port;
    struct spool *spool = open_started(&config, &port);
    add_durably(port, 0, 10);
    char junk[PATH_SIZE];
    assert_int_equal(path_join(junk, fixture_dir, "someone-elses", NULL), 0);
    int fd = open(junk, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, 63 << 20), 0);
    close(fd);
    struct err err;
    assert_int_equal(spool_rescan(spool, &err), 0);
    assert_true(spool_nearly_full(spool));
    // The prepared segment is still used; then there is no other.
    uint64_t n = 1;
    for (int i = 0; i < 100 && spool_state(spool) == SPOOL_OK; i++, n++) {
        struct event event = fixture_event(n * 1000);
        spool_add_event(port, &event);
        spool_submit(port);
        sleep_ms(50);
    }
    assert_int_equal(spool_state(spool), SPOOL_FULL);
    struct event event = fixture_event(1);
    assert_int_equal(spool_add_event(port, &event), 0);
    assert_int_equal(spool_add_drop(port, EDGE_DROP_SCANNER), 0);
    assert_int_equal(unlink(junk), 0);
    assert_true(wait_state(spool, SPOOL_OK));
    assert_false(spool_nearly_full(spool));
    add_durably(port, 1000000, 10);
    stop_and_free(spool);
    struct seen seen = see_all();
    assert_true(seen.events >= 20);
    seen_free(&seen);
}

static void new_rules_hold_from_the_next_day(void **state) {
    (void)state;
    struct config config = fixture_fast_days();
    struct spool_port *port;
    struct spool *spool = NULL;
    struct err err;
    const uint8_t before[RULES_HASH_SIZE] = {1};
    assert_int_equal(spool_open(&spool, &config, before, &err), 0);
    assert_int_equal(spool_port_add(spool, no_wake, NULL, &port), 0);
    assert_int_equal(spool_start(spool, &err), 0);
    uint32_t day = clock_today(&config.clock);
    spool_set_rules(spool, fixture_rules);
    while (clock_today(&config.clock) == day)
        sleep_ms(5);
    sleep_ms(300);
    add_durably(port, 0, 10);
    stop_and_free(spool);
    struct seen seen = see_all(); // expects fixture_rules in every block
    assert_int_equal(seen.events, 10);
    seen_free(&seen);
}

int main(void) {
#define SPOOL_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        SPOOL_TEST(first_start_registers),
        SPOOL_TEST(outcomes_become_durable_and_sealed),
        SPOOL_TEST(a_full_port_refuses),
        SPOOL_TEST(workers_share_the_groups),
        SPOOL_TEST(days_end_also_when_nothing_happens),
        SPOOL_TEST(days_that_passed_while_off_are_closed_at_start),
        SPOOL_TEST(accounting_holds_over_restarts),
        SPOOL_TEST(an_emptied_spool_still_knows),
        SPOOL_TEST(the_wrong_spool_is_refused),
        SPOOL_TEST(a_full_spool_recovers),
        SPOOL_TEST(new_rules_hold_from_the_next_day),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
