// A stochastic tester in the manner of Google's: two worlds that differ in one contact, many simulated releases of each,
// and no outcome may be more than exp(epsilon) times as frequent in one as in the other. Worlds are opens, which go
// through the aggregator's own decisions, windows, cells and release_line. The same tester must find faults put there on
// purpose, or it would show nothing. OPENVEIL_TEST_LONG=1: a million releases a world instead of a hundred thousand.
#include "aggregator/decide.h"

#include "aggregator/windows.h"
#include "common/bytes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define TENANT 7
#define DAY 20779 // 2026-11-22, of sending
#define STREAM 3
#define OPENS_MAX 2000
#define LINES_MAX 4
#define OUTCOMES 512
#define RELEASES_A_STREAM 1000
// An outcome fails beyond so many standard deviations: about 1e-10 each, and there are less than 10,000.
#define DEVIATIONS 6.5
// Faults show in fewer releases. Under AddressSanitizer, which slows everything down, so few are enough for it.
#ifdef __SANITIZE_ADDRESS__
#define RELEASES 20000
#define RELEASES_OF_A_FAULT 20000
#else
#define RELEASES 100000
#define RELEASES_OF_A_FAULT 25000
#endif
#define LONG_TIMES 10
#define ONE_CONTACT UINT64_MAX

// What is broken on purpose.
enum fault { SOUND, HALF_THE_NOISE, NO_NOISE, THRESHOLD_ON_THE_COUNT, EMPTY_CELLS_ARE_NULL, EVERY_CELL_OF_A_CONTACT, FAULTS };

struct open {
    uint64_t pseudonym;
    struct event event;
};
struct world {
    size_t n_opens;
    struct open opens[OPENS_MAX];
};

// A released line's numbers, weighted and added up (null is the threshold less one): what the reader looks at.
struct look {
    size_t cell;
    int weight;
};
struct pair {
    struct fraction epsilon;
    uint32_t threshold;
    enum release_kind kind;
    size_t n_lines;    // periods: the worlds' counts are released so often
    unsigned times;    // what the ledger says that all of it spends, in epsilons
    size_t n_looks;
    struct look looks[2];
    struct world worlds[2];                    // of deliverability
    uint64_t counts[2][INACTIVITY_CELLS];      // of inactivity
};

static struct settings settings;
static struct tenant_version version = {.from_day = 20000, .inactive_days = 180, .n_streams = 1};
static struct tenant tenant = {.id = TENANT, .n_versions = 1, .versions = &version};

static int prepare(void **state) {
    (void)state;
    version.exemption_basis = (char *)"test";
    version.streams[0] = (struct stream){.number = STREAM, .name = "receipts"};
    return 0;
}

static struct release_frame frame_of(const struct pair *pair) {
    settings = (struct settings){.epsilon = pair->epsilon, .threshold = pair->threshold, .horizon_days = 1};
    return (struct release_frame){.tenant = TENANT,
                                  .kind = pair->kind,
                                  .period_day = DAY,
                                  .complete = true,
                                  .settings = &settings,
                                  .version = &version};
}

// ---- worlds --------------------------------------------------------------------------------------------------------
static void give_open(struct world *world, uint64_t pseudonym, uint8_t provider, enum fetch fetch) {
    assert_true(world->n_opens < OPENS_MAX);
    world->opens[world->n_opens++] =
        (struct open){pseudonym, {.tenant = TENANT, .pseudonym = pseudonym, .sent_day = DAY, .stream = STREAM,
                                  .provider = provider, .class_regime = CLASS_TRANSACTIONAL << 4, .fetch = (uint8_t)fetch}};
}

static void give_others(struct world *world, size_t n, uint8_t provider, enum fetch fetch) {
    for (size_t i = 0; i < n; i++)
        give_open(world, world->n_opens + 1, provider, fetch);
}

// One open as the engine takes it, with a consent that allows everything.
static void take_open(struct window *window, const struct open *open) {
    static const struct consent_record informed = {.state = CONSENT_INFORMED, .since = 1, .allowed_since = 1};
    const struct tenant_record measured = {.first_measured = DAY - 100, .next_window = DAY, .measured_since = DAY_NONE};
    struct facts facts = {.today = DAY, .day = DAY, .tenant = &tenant, .measured = &measured, .settings = &settings};
    struct decision decision;
    facts.has_cell = window_get(window, open->pseudonym, &facts.cell);
    decide_event(&open->event, &facts, &decision);
    if (!decision_asks(&decision))
        return;
    (void)decide_with_consent(&open->event, DAY, &informed, &decision);
    if (decision.sets_cell)
        assert_int_equal(window_put(window, open->pseudonym, decision.cell), 0);
}

static void count_world(const struct release_frame *frame, const struct world *world, enum fault fault, uint64_t *counts) {
    struct window *window;
    struct window_cell cell;
    size_t cursor = 0;
    uint64_t pseudonym;
    assert_int_equal(window_create(&window), 0);
    for (size_t i = 0; i < world->n_opens; i++) {
        const struct open *open = &world->opens[i];
        if (fault != EVERY_CELL_OF_A_CONTACT) {
            take_open(window, open);
            continue;
        }
        cell = (struct window_cell){open->event.stream, open->event.provider, open->event.fetch, 0};
        counts[release_cell_index(frame, &cell)]++;
    }
    while (window_next(window, &cursor, &pseudonym, &cell))
        counts[release_cell_index(frame, &cell)]++;
    window_free(window);
}

// ---- releases ------------------------------------------------------------------------------------------------------
struct noise {
    struct noise_stream *stream;
    uint64_t used;
    uint8_t seed[32];
};

static struct noise_source noise_next(struct noise *noise) {
    if (noise->used++ % RELEASES_A_STREAM == 0) {
        noise_stream_free(noise->stream);
        store_u64(noise->seed, noise->used);
        assert_int_equal(noise_stream_create_seeded(&noise->stream, noise->seed), 0);
    }
    return noise_stream_source(noise->stream);
}

// The number that a line has in a cell; -1 for null.
static int64_t cell_value(const char *line, size_t cell) {
    const char *at = line;
    for (size_t i = 0; i <= cell; i++) {
        at = strstr(at, "\"contacts\":");
        assert_non_null(at);
        at += strlen("\"contacts\":");
    }
    return *at == 'n' ? -1 : strtoll(at, NULL, 10);
}

static int64_t look_at_line(const struct pair *pair, const struct release_frame *frame, const uint64_t *counts,
                            size_t n_cells, enum fault fault, struct noise *noise) {
    static uint64_t drawn_from[RELEASE_CELLS_MAX];
    struct noise_source source = noise_next(noise);
    char *line;
    size_t len;
    int64_t sum = 0;
    memcpy(drawn_from, counts, n_cells * sizeof *counts);
    assert_int_equal(release_line(frame, &source, drawn_from, n_cells, &line, &len), 0);
    for (size_t i = 0; i < pair->n_looks; i++) {
        size_t cell = pair->looks[i].cell;
        int64_t value = fault == NO_NOISE ? (int64_t)counts[cell] : cell_value(line, cell);
        bool low = fault == THRESHOLD_ON_THE_COUNT ? counts[cell] < pair->threshold : value < (int64_t)pair->threshold;
        low = low || (fault == EMPTY_CELLS_ARE_NULL && counts[cell] == 0);
        sum += pair->looks[i].weight * (low ? (int64_t)pair->threshold - 1 : value);
    }
    free(line);
    return sum;
}

// How often each outcome was seen, by its distance from `middle`; all outer ones together at the ends.
static void simulate(const struct pair *pair, int world, enum fault fault, uint64_t n, int64_t middle, uint64_t *seen) {
    struct release_frame frame = frame_of(pair);
    struct noise noise = {.seed = {[8] = (uint8_t)(1 + world)}};
    static uint64_t counts[RELEASE_CELLS_MAX];
    size_t n_cells;
    assert_int_equal(release_cell_count(&frame, &n_cells), 0);
    memset(counts, 0, sizeof counts);
    if (pair->kind == RELEASE_DELIVERABILITY)
        count_world(&frame, &pair->worlds[world], fault, counts);
    else
        memcpy(counts, pair->counts[world], sizeof pair->counts[world]);
    if (fault == HALF_THE_NOISE)
        settings.epsilon.numerator *= 2;
    if (fault == THRESHOLD_ON_THE_COUNT)
        settings.threshold = 0;
    memset(seen, 0, OUTCOMES * sizeof *seen);
    for (uint64_t i = 0; i < n; i++) {
        int64_t sum = OUTCOMES / 2 - middle;
        for (size_t line = 0; line < pair->n_lines; line++)
            sum += look_at_line(pair, &frame, counts, n_cells, fault, &noise);
        seen[sum < 0 ? 0 : sum >= OUTCOMES ? OUTCOMES - 1 : sum]++;
    }
    noise_stream_free(noise.stream);
}

// ---- the tester ----------------------------------------------------------------------------------------------------
// By how many standard deviations an event is too frequent in one world: its binomial counts are at most as uncertain as
// Poisson's.
static double excess(double often, double seldom, double ratio) {
    return (often - ratio * seldom) / sqrt(often + ratio * ratio * seldom + 1);
}

static double pair_excess(const struct pair *pair, enum fault fault) {
    static uint64_t seen[2][OUTCOMES];
    uint64_t n = fault == SOUND ? RELEASES : RELEASES_OF_A_FAULT;
    if (getenv("OPENVEIL_TEST_LONG") != NULL)
        n *= LONG_TIMES;
    double ratio = exp((double)pair->times * pair->epsilon.numerator / pair->epsilon.denominator), most = -INFINITY;
    int64_t middle = 0;
    for (size_t i = 0; i < pair->n_looks; i++)
        middle += pair->looks[i].weight * (int64_t)pair->threshold * (int64_t)pair->n_lines;
    for (int world = 0; world < 2; world++)
        simulate(pair, world, fault, n, middle, seen[world]);
    for (int world = 0; world < 2; world++) {
        double from_below = 0, from_below_other = 0;
        for (size_t i = 0; i < OUTCOMES; i++) {
            double here = (double)seen[world][i], there = (double)seen[1 - world][i];
            from_below += here;
            from_below_other += there;
            // The outcome alone, everything up to it, and everything beyond it.
            most = fmax(most, excess(here, there, ratio));
            most = fmax(most, excess(from_below, from_below_other, ratio));
            most = fmax(most, excess((double)n - from_below, (double)n - from_below_other, ratio));
        }
    }
    return most;
}

static void check_pair(const struct pair *pair, const bool finds[FAULTS]) {
    for (enum fault fault = SOUND; fault < FAULTS; fault++) {
        if (fault != SOUND && !finds[fault])
            continue;
        double most = pair_excess(pair, fault);
        print_message("fault %d: %.1f standard deviations\n", (int)fault, most);
        if (fault == SOUND)
            assert_true(most < DEVIATIONS);
        else
            assert_true(most > DEVIATIONS);
    }
}

// ---- pairs ---------------------------------------------------------------------------------------------------------
static size_t index_of(const struct pair *pair, uint8_t provider, enum fetch fetch) {
    const struct release_frame frame = frame_of(pair);
    const struct window_cell cell = {.stream = STREAM, .provider = provider, .fetch = (uint8_t)fetch};
    return (size_t)release_cell_index(&frame, &cell);
}

static void a_contact_at_the_threshold(void **state) {
    (void)state;
    static struct pair pair = {
        .epsilon = {1, 4}, .threshold = 40, .kind = RELEASE_DELIVERABILITY, .n_lines = 1, .times = 1, .n_looks = 1};
    for (int world = 0; world < 2; world++) {
        give_others(&pair.worlds[world], 39, 1, FETCH_PERSON);
        give_others(&pair.worlds[world], 700, 1, FETCH_MACHINE);
    }
    give_open(&pair.worlds[1], ONE_CONTACT, 1, FETCH_PERSON);
    pair.looks[0] = (struct look){index_of(&pair, 1, FETCH_PERSON), 1};
    check_pair(&pair, (const bool[FAULTS]){[HALF_THE_NOISE] = true, [NO_NOISE] = true, [THRESHOLD_ON_THE_COUNT] = true});
}

static void a_contact_in_an_empty_cell(void **state) {
    (void)state;
    static struct pair pair = {
        .epsilon = {1, 4}, .threshold = 11, .kind = RELEASE_DELIVERABILITY, .n_lines = 1, .times = 1, .n_looks = 1};
    give_open(&pair.worlds[1], ONE_CONTACT, 6, FETCH_MACHINE);
    pair.looks[0] = (struct look){index_of(&pair, 6, FETCH_MACHINE), 1};
    check_pair(&pair, (const bool[FAULTS]){[EMPTY_CELLS_ARE_NULL] = true});
}

// Opens of every kind: the contact is in one cell, its smallest.
static void a_contact_with_many_opens(void **state) {
    (void)state;
    static struct pair pair = {
        .epsilon = {1, 2}, .threshold = 11, .kind = RELEASE_DELIVERABILITY, .n_lines = 1, .times = 1, .n_looks = 2};
    for (int world = 0; world < 2; world++)
        for (uint8_t provider = 1; provider <= 3; provider++)
            give_others(&pair.worlds[world], 20, provider, FETCH_PERSON);
    for (uint8_t provider = 3; provider >= 1; provider--) {
        give_open(&pair.worlds[1], ONE_CONTACT, provider, FETCH_MACHINE);
        give_open(&pair.worlds[1], ONE_CONTACT, provider, FETCH_PERSON);
        give_open(&pair.worlds[1], ONE_CONTACT, provider, FETCH_PERSON);
    }
    pair.looks[0] = (struct look){index_of(&pair, 1, FETCH_PERSON), 1};
    pair.looks[1] = (struct look){index_of(&pair, 3, FETCH_PERSON), 1};
    check_pair(&pair, (const bool[FAULTS]){[EVERY_CELL_OF_A_CONTACT] = true, [HALF_THE_NOISE] = true});
}

// The contact is in both worlds, but opened otherwise: as if it left one cell and joined another, so twice epsilon.
static void a_contact_that_opened_otherwise(void **state) {
    (void)state;
    static struct pair pair = {
        .epsilon = {1, 4}, .threshold = 11, .kind = RELEASE_DELIVERABILITY, .n_lines = 1, .times = 2, .n_looks = 2};
    for (int world = 0; world < 2; world++) {
        give_others(&pair.worlds[world], 30, 1, FETCH_PERSON);
        give_others(&pair.worlds[world], 30, 2, FETCH_PERSON);
        give_open(&pair.worlds[world], ONE_CONTACT, (uint8_t)(1 + world), FETCH_PERSON);
    }
    pair.looks[0] = (struct look){index_of(&pair, 1, FETCH_PERSON), 1};
    pair.looks[1] = (struct look){index_of(&pair, 2, FETCH_PERSON), -1};
    check_pair(&pair, (const bool[FAULTS]){[HALF_THE_NOISE] = true, [NO_NOISE] = true});
}

static void a_contact_of_the_inactivity_line(void **state) {
    (void)state;
    static struct pair pair = {.epsilon = {1, 2}, .threshold = 11, .kind = RELEASE_INACTIVITY, .n_lines = 1, .times = 1,
                               .n_looks = 1, .looks = {{4, 1}},
                               .counts = {{9000, 50, 0, 12, 10}, {9000, 50, 0, 12, 11}}};
    assert_int_equal(inactivity_cell_of(AGE_NONE), pair.looks[0].cell);
    check_pair(&pair, (const bool[FAULTS]){[HALF_THE_NOISE] = true, [NO_NOISE] = true, [THRESHOLD_ON_THE_COUNT] = true});
}

// The reader knows everybody else and looks at all periods: the ledger's sum is what it gains at most.
static void a_contact_through_several_periods(void **state) {
    (void)state;
    static struct pair pair = {.epsilon = {1, 4}, .threshold = 11, .kind = RELEASE_INACTIVITY, .n_lines = LINES_MAX,
                               .times = LINES_MAX, .n_looks = 1, .looks = {{1, 1}},
                               .counts = {{100, 20, 0, 0, 0}, {100, 21, 0, 0, 0}}};
    check_pair(&pair, (const bool[FAULTS]){[NO_NOISE] = true});
    // A ledger that forgot half of what was spent would be found out.
    pair.times = 1;
    assert_true(pair_excess(&pair, SOUND) > DEVIATIONS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_contact_at_the_threshold),
        cmocka_unit_test(a_contact_in_an_empty_cell),
        cmocka_unit_test(a_contact_with_many_opens),
        cmocka_unit_test(a_contact_that_opened_otherwise),
        cmocka_unit_test(a_contact_of_the_inactivity_line),
        cmocka_unit_test(a_contact_through_several_periods),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
