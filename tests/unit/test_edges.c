// Which segments are in, what an edge closed, and what can't be complete.
#include "aggregator/edges.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

#define DAY 20000u

static struct message_head head_of(uint64_t epoch, uint64_t epoch_first, uint64_t segment, uint32_t day) {
    return (struct message_head){
        .kind = MESSAGE_BLOCK, .epoch = epoch, .epoch_first = epoch_first, .segment = segment, .day = day};
}

static uint64_t take(struct edge_record *edge, uint64_t epoch, uint64_t epoch_first, uint64_t segment, uint32_t day) {
    struct message_head head = head_of(epoch, epoch_first, segment, day);
    assert_false(edge_has_seen(edge, &head));
    return edge_mark_seen(edge, &head);
}

// A boot of its own with an empty spool.
static bool registers(struct edge_record *edge, uint32_t day) {
    struct message_head head = head_of(1000 + day, 1, 1, day);
    head.kind = MESSAGE_REGISTER;
    return edge_register(edge, &head);
}

static bool seen(const struct edge_record *edge, uint64_t epoch, uint64_t segment, uint32_t day) {
    struct message_head head = head_of(epoch, segment, segment, day);
    return edge_has_seen(edge, &head);
}

static struct edge_closing close_day(struct edge_record *edge, uint64_t epoch, uint32_t from, uint32_t day,
                                     const struct segment_range *ranges, size_t n) {
    struct message_head head = head_of(epoch, 1, 99, day);
    struct close_body body = {.from_day = from, .n_ranges = n, .ranges = ranges};
    return edge_close(edge, &head, &body);
}

static void a_message_is_seen_once(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    for (uint64_t segment = 1; segment <= 5; segment++)
        assert_int_equal(take(&edge, 7, 1, segment, DAY), 0);
    for (uint64_t segment = 0; segment <= 5; segment++)
        assert_true(seen(&edge, 7, segment, DAY));
    assert_false(seen(&edge, 7, 6, DAY));
    assert_false(seen(&edge, 8, 3, DAY));
}

static void gaps_fill_in_any_order(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    assert_int_equal(take(&edge, 7, 1, 1, DAY), 0);
    assert_int_equal(take(&edge, 7, 1, 10, DAY), 8);
    assert_int_equal(take(&edge, 7, 1, 5, DAY), 0); // splits 2..9
    assert_int_equal(take(&edge, 7, 1, 2, DAY), 0);
    assert_int_equal(take(&edge, 7, 1, 9, DAY), 0);
    assert_true(seen(&edge, 7, 5, DAY) && seen(&edge, 7, 2, DAY) && seen(&edge, 7, 9, DAY));
    assert_false(seen(&edge, 7, 3, DAY) || seen(&edge, 7, 8, DAY));
    const uint64_t rest[] = {3, 4, 6, 7, 8};
    for (size_t i = 0; i < ARRAY_LEN(rest); i++)
        take(&edge, 7, 1, rest[i], DAY);
    assert_int_equal(edge.epochs[0].n_gaps, 0);
    assert_int_equal(edge.incomplete_through, DAY_NONE);
}

static void too_many_gaps_give_up_the_oldest(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    for (uint64_t i = 0; i <= EDGE_GAPS_MAX; i++)
        assert_int_equal(take(&edge, 7, 1, 2 + 2 * i, DAY), 1);
    assert_int_equal(edge.incomplete_through, DAY);
    assert_true(seen(&edge, 7, 1, DAY)); // given up: may never count any more
    assert_false(seen(&edge, 7, 3, DAY));
}

static void a_close_checks_its_ranges(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    take(&edge, 7, 1, 1, DAY);
    take(&edge, 7, 1, 2, DAY);
    struct segment_range ranges[] = {{7, 1, 2}};
    struct edge_closing closing = close_day(&edge, 7, DAY, DAY, ranges, 1);
    assert_true(closing.closes && !closing.missing && closing.from_day == DAY);
    assert_int_equal(edge.closed_through, DAY);
    assert_int_equal(edge.incomplete_through, DAY_NONE);
    closing = close_day(&edge, 7, DAY, DAY, ranges, 1);
    assert_false(closing.closes);

    take(&edge, 7, 1, 5, DAY + 1);
    ranges[0] = (struct segment_range){7, 4, 5};
    closing = close_day(&edge, 7, DAY + 1, DAY + 1, ranges, 1);
    assert_true(closing.closes && closing.missing);
    assert_int_equal(edge.incomplete_through, DAY + 1);
    // The day after can be complete again.
    take(&edge, 7, 1, 6, DAY + 2);
    ranges[0] = (struct segment_range){7, 6, 6};
    assert_false(close_day(&edge, 7, DAY + 2, DAY + 2, ranges, 1).missing);
    assert_int_equal(edge.incomplete_through, DAY + 1);
}

static void an_edge_that_was_off_closes_many_days(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    struct edge_closing closing = close_day(&edge, 7, DAY, DAY + 3, NULL, 0);
    assert_true(closing.closes && closing.from_day == DAY);
    assert_int_equal(edge.closed_through, DAY + 3);
    // A marker that skips days leaves them lost.
    closing = close_day(&edge, 7, DAY + 6, DAY + 7, NULL, 0);
    assert_int_equal(closing.from_day, DAY + 6);
    assert_int_equal(edge.incomplete_through, DAY + 5);
    struct edge_record nobody = {0};
    assert_false(close_day(&nobody, 7, DAY, DAY, NULL, 0).registered);
}

static void epochs_are_forgotten_when_closed(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    take(&edge, 7, 1, 1, DAY);
    take(&edge, 8, 2, 2, DAY);
    take(&edge, 9, 3, 3, DAY);
    const struct segment_range ranges[] = {{7, 1, 1}, {8, 2, 2}, {9, 3, 3}};
    assert_false(close_day(&edge, 9, DAY, DAY, ranges, 3).missing);
    assert_int_equal(edge.n_epochs, 1);
    assert_true(seen(&edge, 7, 1, DAY)); // by its closed day
    assert_true(seen(&edge, 9, 3, DAY));
    assert_false(seen(&edge, 10, 4, DAY + 1));
}

// Boots 100, 101, … of one segment each.
static void boot_often(struct edge_record *edge, uint64_t n, uint32_t day) {
    assert_true(registers(edge, day));
    for (uint64_t epoch = 100; epoch < 100 + n; epoch++)
        take(edge, epoch, epoch, epoch, day);
    assert_int_equal(edge->n_epochs, EDGE_EPOCHS_MAX);
}

static void any_number_of_boots_a_day(void **state) {
    (void)state;
    enum { BOOTS = 10 * EDGE_EPOCHS_MAX };
    static struct segment_range ranges[BOOTS];
    struct edge_record edge = {0};
    boot_often(&edge, BOOTS, DAY);
    assert_int_equal(edge.incomplete_through, DAY_NONE);
    for (uint64_t i = 0; i < BOOTS; i++) {
        assert_true(seen(&edge, 100 + i, 100 + i, DAY));
        ranges[i] = (struct segment_range){100 + i, 100 + i, 100 + i};
    }
    assert_false(seen(&edge, 7, 100 + BOOTS, DAY));
    assert_false(close_day(&edge, 99 + BOOTS, DAY, DAY, ranges, BOOTS).missing);
    assert_int_equal(edge.n_epochs, 1);
    assert_int_equal(edge.forgotten_next, 0);
    assert_true(seen(&edge, 100, 100, DAY));
    assert_false(seen(&edge, 100 + BOOTS, 100 + BOOTS, DAY + 1));
}

static void a_forgotten_boot_with_a_gap_loses_the_day(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    take(&edge, 98, 90, 90, DAY);
    take(&edge, 98, 90, 92, DAY);
    for (uint64_t epoch = 100; epoch < 100 + EDGE_EPOCHS_MAX; epoch++)
        take(&edge, epoch, epoch - 7, epoch - 7, DAY);
    assert_int_equal(edge.incomplete_through, DAY);
    assert_true(seen(&edge, 98, 91, DAY)); // rather not at all than twice
}

static void a_new_spool_after_many_boots(void **state) {
    (void)state;
    struct edge_record edge = {0};
    boot_often(&edge, EDGE_EPOCHS_MAX + 5, DAY);
    struct message_head again = head_of(edge.registered_epoch, 100, 100, DAY), anew = head_of(5, 100, 100, DAY);
    again.kind = anew.kind = MESSAGE_REGISTER;
    assert_true(edge_has_seen(&edge, &again));
    assert_false(edge_has_seen(&edge, &anew));
    edge_mark_seen(&edge, &anew);
    assert_false(edge_register(&edge, &anew));
    assert_false(seen(&edge, 6, 101, DAY)); // a boot of the new spool, whose numbers are those of the old one again
    assert_int_equal(edge.incomplete_through, DAY);
}

static void a_new_spool_with_higher_numbers_forgets_none(void **state) {
    (void)state;
    struct edge_record edge = {0};
    boot_often(&edge, EDGE_EPOCHS_MAX + 5, DAY);
    struct message_head anew = head_of(5, 5000, 5000, DAY + 1);
    anew.kind = MESSAGE_REGISTER;
    assert_false(edge_has_seen(&edge, &anew));
    edge_mark_seen(&edge, &anew);
    assert_false(edge_register(&edge, &anew));
    for (uint64_t epoch = 100; epoch < 105 + EDGE_EPOCHS_MAX; epoch++)
        assert_true(seen(&edge, epoch, epoch, DAY));
    assert_false(seen(&edge, 6, 5001, DAY + 1));
}

static void a_retired_edge_that_sends_again_takes_part(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    edge.retired_on = DAY + 3;
    struct message_head past = head_of(7, 1, 1, DAY + 2), now = head_of(7, 1, 2, DAY + 3);
    assert_false(edge_lives_again(&edge, &past));
    assert_int_equal(edge.retired_on, DAY + 3);
    assert_true(edge_lives_again(&edge, &now));
    assert_int_equal(edge.retired_on, DAY_NONE);
    assert_false(edge_lives_again(&edge, &now));
}

static void registering_again_means_a_lost_spool(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    assert_false(registers(&edge, DAY + 2));
    assert_int_equal(edge.registered_day, DAY);
    assert_int_equal(edge.incomplete_through, DAY + 2);
    assert_int_equal(edge.closed_through, DAY + 1);
    edge.retired_on = DAY + 5;
    assert_true(registers(&edge, DAY + 9));
    assert_int_equal(edge.retired_on, DAY_NONE);
    assert_int_equal(edge.incomplete_through, DAY + 2);
    assert_int_equal(edge.closed_through, DAY + 8);
}

static bool lost(const struct edge_record *edge, uint32_t day) {
    return edge_has_lost(edge->incomplete_through, edge->incomplete_days, day);
}

static void only_the_days_of_a_loss_are_lost(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    assert_false(lost(&edge, DAY));
    take(&edge, 7, 1, 1, DAY);
    const struct segment_range ranges[] = {{7, 1, 2}};
    assert_true(close_day(&edge, 7, DAY, DAY, ranges, 1).missing);
    close_day(&edge, 7, DAY + 1, DAY + 2, NULL, 0);
    assert_true(close_day(&edge, 7, DAY + 3, DAY + 3, ranges, 1).missing);
    const bool expected[] = {true, false, false, true, false};
    for (uint32_t i = 0; i < ARRAY_LEN(expected); i++)
        assert_int_equal(lost(&edge, DAY + i), expected[i]);
    // What is too long ago to be told apart is lost.
    close_day(&edge, 7, DAY + 4, DAY + 80, ranges, 1);
    assert_true(lost(&edge, DAY + 80) && lost(&edge, DAY + 16));
    assert_false(lost(&edge, DAY + 17) || lost(&edge, DAY + 79));
    assert_false(registers(&edge, DAY + 83));
    assert_true(lost(&edge, DAY + 81) && lost(&edge, DAY + 83));
    assert_false(lost(&edge, DAY + 79));
}

static void a_late_boot_is_not_the_newest(void **state) {
    (void)state;
    struct edge_record edge = {0};
    assert_true(registers(&edge, DAY));
    take(&edge, 7, 1, 1, DAY);
    take(&edge, 9, 3, 3, DAY + 1);
    // All that the boot between them sent is the close marker, and that was held up.
    take(&edge, 8, 2, 2, DAY);
    const struct segment_range ranges[] = {{7, 1, 1}};
    assert_false(close_day(&edge, 8, DAY, DAY, ranges, 1).missing);
    assert_true(seen(&edge, 9, 3, DAY + 1));
    assert_int_equal(edge.n_epochs, 2);
}

static void a_day_is_through(void **state) {
    (void)state;
    assert_true(edge_is_through(DAY_NONE, 0, false, DAY));
    assert_true(edge_is_through(DAY + 1, DAY, false, DAY));
    assert_false(edge_is_through(DAY, DAY - 1, false, DAY));
    assert_true(edge_is_through(DAY, DAY - 1, true, DAY));
    assert_true(edge_is_through(DAY, DAY, false, DAY));
}

static void a_days_ledger(void **state) {
    (void)state;
    struct day_record record = {0};
    struct message_head head = head_of(7, 1, 9, DAY);
    struct close_body body = {.counts = {.requests = 12, .recorded = 10, .drops = {2}}, .recorded_here = 4};
    day_add_close(&record, DAY - 1, &head, &body);
    assert_int_equal(record.n_edges_closed, 1);
    assert_int_equal(record.edges.requests, 0);
    day_add_close(&record, DAY, &head, &body);
    assert_int_equal(record.edges.requests, 12);
    assert_int_equal(record.edges.drops[0], 2);
    assert_int_equal(record.recorded_here, 4);

    uint8_t hash[RULES_HASH_SIZE] = {0};
    const uint8_t firsts[] = {9, 3, 200, 3, 9};
    for (size_t i = 0; i < ARRAY_LEN(firsts); i++) {
        hash[0] = firsts[i];
        assert_true(day_add_rules(&record, hash));
    }
    assert_int_equal(record.n_rules, 3);
    assert_true(record.rules[0][0] == 3 && record.rules[1][0] == 9 && record.rules[2][0] == 200);
    for (unsigned i = 10; i < 10 + DAY_RULES_MAX - 3; i++) {
        hash[0] = (uint8_t)i;
        assert_true(day_add_rules(&record, hash));
    }
    hash[0] = 250;
    assert_false(day_add_rules(&record, hash));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_is_seen_once),
        cmocka_unit_test(gaps_fill_in_any_order),
        cmocka_unit_test(too_many_gaps_give_up_the_oldest),
        cmocka_unit_test(a_close_checks_its_ranges),
        cmocka_unit_test(an_edge_that_was_off_closes_many_days),
        cmocka_unit_test(epochs_are_forgotten_when_closed),
        cmocka_unit_test(any_number_of_boots_a_day),
        cmocka_unit_test(a_forgotten_boot_with_a_gap_loses_the_day),
        cmocka_unit_test(a_new_spool_after_many_boots),
        cmocka_unit_test(a_new_spool_with_higher_numbers_forgets_none),
        cmocka_unit_test(a_retired_edge_that_sends_again_takes_part),
        cmocka_unit_test(registering_again_means_a_lost_spool),
        cmocka_unit_test(only_the_days_of_a_loss_are_lost),
        cmocka_unit_test(a_late_boot_is_not_the_newest),
        cmocka_unit_test(a_day_is_through),
        cmocka_unit_test(a_days_ledger),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
