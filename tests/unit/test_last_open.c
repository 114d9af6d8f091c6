// The last-open table and the windows' tables against plain arrays: growth, erasing while walking, collisions, memory,
// limits.
#include "aggregator/last_open.h"
#include "aggregator/contact_hash.h"
#include "aggregator/windows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>
#include <time.h>

#define KEYS 5000

static uint32_t seed;
static uint32_t next_random(void) {
    seed = seed * 1664525 + 1013904223;
    return seed >> 8;
}

// ---- the table against a plain map of numbered contacts -------------------------------------------------------------

// Pseudonyms of contact i: as HMAC makes them, one after the other, or such that all their hashes begin alike, so that
// nothing tells them apart but their last bits.
static uint64_t pseudonym_random(uint64_t i) {
    return (i + 1) * 0x9e3779b97f4a7c15 ^ (i + 1) << 40;
}
static uint64_t pseudonym_counted(uint64_t i) {
    return i;
}
static uint64_t pseudonym_hostile(uint64_t i) {
    return contact_unhash(UINT64_C(0xdeadbeef) << 32 | i);
}
static uint64_t pseudonym_extreme(uint64_t i) { // the hashes 0, 1, … and UINT64_MAX, UINT64_MAX - 1, …
    return contact_unhash(i % 2 == 0 ? i / 2 : UINT64_MAX - i / 2);
}

#define CONTACTS_MAX 40000
struct model {
    uint64_t (*pseudonym)(uint64_t i);
    uint32_t n, tenants;
    struct last_open_limit limit;
    struct last_open_table *table;
    uint64_t count;
    struct last_open values[CONTACTS_MAX]; // day 0: not there
    uint8_t visits[CONTACTS_MAX];
    uint32_t order[CONTACTS_MAX]; // contacts, ascending by pseudonym
};
static struct model model;

static uint32_t tenant_of(uint32_t i) {
    return 7 + i % model.tenants * 1000003;
}

static int by_pseudonym(const void *a, const void *b) {
    uint64_t x = model.pseudonym(*(const uint32_t *)a), y = model.pseudonym(*(const uint32_t *)b);
    return x < y ? -1 : x > y;
}

static void model_begin(uint64_t (*pseudonym)(uint64_t), uint32_t n, uint32_t tenants) {
    assert_true(n <= CONTACTS_MAX);
    memset(&model, 0, sizeof model);
    model.pseudonym = pseudonym;
    model.n = n;
    model.tenants = tenants;
    model.limit.contacts_max = n;
    for (uint32_t i = 0; i < n; i++)
        model.order[i] = i;
    qsort(model.order, n, sizeof model.order[0], by_pseudonym);
    assert_int_equal(last_open_table_create(&model.table, &model.limit), 0);
}

static uint32_t contact_number(uint64_t pseudonym) {
    uint32_t low = 0, high = model.n;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (model.pseudonym(model.order[middle]) < pseudonym)
            low = middle + 1;
        else
            high = middle;
    }
    assert_true(low < model.n && model.pseudonym(model.order[low]) == pseudonym);
    return model.order[low];
}

static void put(uint32_t i) {
    struct last_open value = {.day = (uint16_t)(1 + next_random() % 65535), .frozen_age = (uint8_t)(next_random() % 8)};
    model.count += model.values[i].day == 0;
    model.values[i] = value;
    assert_int_equal(last_open_put(model.table, tenant_of(i), model.pseudonym(i), value), 0);
}

static void erase(uint32_t i) {
    model.count -= model.values[i].day != 0;
    model.values[i].day = 0;
    assert_int_equal(last_open_erase(model.table, tenant_of(i), model.pseudonym(i)), 0);
}

static void same(const struct last_open *a, const struct last_open *b) {
    assert_int_equal(a->day, b->day);
    assert_int_equal(a->frozen_age, b->frozen_age);
}

static void visit(const struct last_open_contact *contact) {
    uint32_t i = contact_number(contact->pseudonym);
    assert_int_equal(contact->tenant, tenant_of(i));
    same(&contact->value, &model.values[i]);
    assert_true(model.visits[i]++ == 0);
}

static void walks_are_whole(void) {
    struct last_open_cursor cursor = {0};
    struct last_open_contact contact;
    uint64_t seen = 0;
    memset(model.visits, 0, sizeof model.visits);
    for (; last_open_next(model.table, &cursor, &contact); seen++)
        visit(&contact);
    assert_int_equal(seen, model.count);
    assert_false(last_open_next(model.table, &cursor, &contact));
    memset(model.visits, 0, sizeof model.visits);
    for (uint32_t t = 0; t < model.tenants; t++) {
        uint64_t of_tenant = 0;
        cursor = (struct last_open_cursor){0};
        for (; last_open_next_of(model.table, tenant_of(t), &cursor, &contact); of_tenant++) {
            assert_int_equal(contact.tenant, tenant_of(t));
            visit(&contact);
        }
        assert_false(last_open_next_of(model.table, tenant_of(t), &cursor, &contact));
        assert_int_equal(of_tenant, last_open_count_of(model.table, tenant_of(t)));
        seen -= of_tenant;
    }
    assert_int_equal(seen, 0);
}

static void everything_is_the_same(void) {
    static struct last_open_lookup lookups[CONTACTS_MAX];
    struct last_open value;
    assert_int_equal(last_open_count(model.table), model.count);
    for (uint32_t i = 0; i < model.n; i++) {
        lookups[i] = (struct last_open_lookup){.tenant = tenant_of(i), .pseudonym = model.pseudonym(i)};
        assert_int_equal(last_open_get(model.table, tenant_of(i), model.pseudonym(i), &value), model.values[i].day != 0);
        if (model.values[i].day != 0)
            same(&value, &model.values[i]);
        assert_false(last_open_get(model.table, 6, model.pseudonym(i), &value));
    }
    last_open_get_many(model.table, lookups, model.n);
    for (uint32_t i = 0; i < model.n; i++) {
        assert_int_equal(lookups[i].found, model.values[i].day != 0);
        if (lookups[i].found)
            same(&lookups[i].value, &model.values[i]);
    }
    walks_are_whole();
}

// Grows, shrinks to a few, and grows again.
static void model_run(uint64_t (*pseudonym)(uint64_t), uint32_t n, uint32_t tenants) {
    model_begin(pseudonym, n, tenants);
    everything_is_the_same();
    for (int round = 0; round < 2; round++) {
        static const int erase_percent[] = {0, 30, 95, 70, 20};
        for (size_t phase = 0; phase < sizeof erase_percent / sizeof erase_percent[0]; phase++) {
            for (uint32_t step = 0; step < n * 3 / 2; step++) {
                uint32_t i = next_random() % n;
                if ((int)(next_random() % 100) < erase_percent[phase])
                    erase(i);
                else
                    put(i);
            }
            everything_is_the_same();
        }
    }
    for (uint32_t i = 0; i < n; i++)
        erase(i);
    everything_is_the_same();
    last_open_table_free(model.table);
    assert_int_equal(atomic_load(&model.limit.taken), 0);
}

static void table_equals_a_map(void **state) {
    (void)state;
    seed = 1;
    model_run(pseudonym_random, 40000, 1);
    model_run(pseudonym_random, 20000, 3);
    model_run(pseudonym_random, 9000, 3000);
    model_run(pseudonym_counted, 20000, 2);
    model_run(pseudonym_random, 1, 1);
    model_run(pseudonym_counted, 130, 1);
}

static void colliding_pseudonyms_stay_exact(void **state) {
    (void)state;
    seed = 2;
    model_run(pseudonym_hostile, 4000, 1);
    model_run(pseudonym_hostile, 4000, 2);
    model_run(pseudonym_extreme, 3000, 1);
}

static void the_hash_can_be_undone(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        assert_true(contact_unhash(contact_hash(pseudonym_random(i))) == pseudonym_random(i));
        assert_true(contact_hash(contact_unhash(i)) == i);
    }
}

static void many_puts_at_once_are_puts_in_order(void **state) {
    (void)state;
    static struct last_open_contact contacts[5000];
    seed = 3;
    model_begin(pseudonym_random, 2000, 5);
    for (size_t i = 0; i < 5000; i++) { // many of them twice
        uint32_t number = next_random() % model.n;
        contacts[i] = (struct last_open_contact){
            .tenant = tenant_of(number), .pseudonym = model.pseudonym(number), .value = {.day = (uint16_t)(i + 1)}};
        model.count += model.values[number].day == 0;
        model.values[number] = contacts[i].value;
    }
    for (size_t from = 0, n; from < 5000; from += n) {
        n = from < 100 ? 1 + from % 7 : 613;
        n = from + n > 5000 ? 5000 - from : n;
        assert_int_equal(last_open_put_many(model.table, contacts + from, n), 0);
    }
    everything_is_the_same();
    last_open_table_free(model.table);
}

static int by_tenant_and_hash(const void *a, const void *b) {
    const struct last_open_contact *left = a, *right = b;
    uint64_t x = contact_hash(left->pseudonym), y = contact_hash(right->pseudonym);
    return left->tenant != right->tenant ? (left->tenant < right->tenant ? -1 : 1) : x < y ? -1 : x > y;
}

// As a snapshot is loaded: the same contacts, in no more memory than if each had come alone; and life goes on after it.
static void ascending_puts_equal_single_ones(void **state) {
    (void)state;
    static struct last_open_contact contacts[CONTACTS_MAX];
    for (uint32_t tenants = 1; tenants <= 3000; tenants = tenants * 7 + 1) {
        model_begin(tenants < 50 ? pseudonym_random : pseudonym_counted, CONTACTS_MAX, tenants);
        for (uint32_t i = 0; i < CONTACTS_MAX; i++)
            put(i);
        uint64_t bytes = last_open_bytes(model.table);
        last_open_table_free(model.table);
        assert_int_equal(last_open_table_create(&model.table, &model.limit), 0);
        for (uint32_t i = 0; i < CONTACTS_MAX; i++)
            contacts[i] = (struct last_open_contact){
                .tenant = tenant_of(i), .pseudonym = model.pseudonym(i), .value = model.values[i]};
        qsort(contacts, CONTACTS_MAX, sizeof contacts[0], by_tenant_and_hash);
        for (size_t from = 0, n; from < CONTACTS_MAX; from += n) {
            n = tenants == 8 ? 1 + from % 97 : 2048;
            n = from + n > CONTACTS_MAX ? CONTACTS_MAX - from : n;
            assert_int_equal(last_open_put_many(model.table, contacts + from, n), 0);
        }
        assert_true(last_open_bytes(model.table) <= bytes + bytes / 8);
        everything_is_the_same();
        for (uint32_t i = 0; i < CONTACTS_MAX; i += 3)
            erase(i);
        for (uint32_t i = 0; i < CONTACTS_MAX; i += 6)
            put(i);
        assert_int_equal(last_open_put_many(model.table, contacts, 0), 0);
        everything_is_the_same();
        last_open_table_free(model.table);
    }
}

// Who is there all the time comes once, whatever else comes, goes and grows between the slices.
static void a_walk_misses_nobody(void **state) {
    (void)state;
    seed = 4;
    for (uint32_t tenants = 1; tenants <= 400; tenants += 133) {
        struct last_open_cursor cursor = {0};
        struct last_open_contact contact;
        uint32_t stays = 0;
        model_begin(tenants == 1 ? pseudonym_hostile : pseudonym_random, 10000, tenants);
        for (uint32_t i = 0; i < 3000; i++)
            put(i);
        for (uint64_t steps = 0; last_open_next(model.table, &cursor, &contact); steps++) {
            uint32_t i = contact_number(contact.pseudonym);
            assert_true(steps < 4 * model.n);
            assert_true(i >= 1500 || model.visits[i] == 0);
            model.visits[i] = 1;
            if (i >= 1500 && i % 3 != 0)
                erase(i);
            erase(1500 + next_random() % 1500);
            put(3000 + next_random() % 7000);
            put(3000 + next_random() % 7000);
        }
        for (uint32_t i = 0; i < 1500; i++)
            stays += model.visits[i];
        assert_int_equal(stays, 1500);
        everything_is_the_same();
        last_open_table_free(model.table);
    }
}

// Whatever is there and whoever came and went before, memory stays near what is needed.
static void memory_is_bounded(void **state) {
    (void)state;
    static const struct {
        uint64_t (*pseudonym)(uint64_t i);
        uint32_t tenants;
        uint64_t each, each_tenant;
    } cases[] = {{pseudonym_random, 1, 12, 0},
                 {pseudonym_counted, 1, 12, 0},
                 {pseudonym_hostile, 1, 12, 0},
                 {pseudonym_random, 100, 12, 400},
                 {pseudonym_random, 10000, 12, 150}};
    seed = 5;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        uint32_t n = cases[c].pseudonym == pseudonym_hostile ? 6000 : CONTACTS_MAX;
        const uint64_t idle = 2300000; // chunks of each size that are not full
        model_begin(cases[c].pseudonym, n, cases[c].tenants);
        for (uint32_t i = 0; i < n; i++) {
            put(i);
            if (i % 1000 == 0)
                assert_true(last_open_bytes(model.table) <= i * cases[c].each + cases[c].tenants * cases[c].each_tenant + idle);
        }
        uint64_t full = last_open_bytes(model.table);
        for (int round = 0; round < 3; round++) {
            for (uint32_t i = 0; i < n; i++)
                erase(i);
            for (uint32_t i = 0; i < n; i++)
                put(i);
        }
        assert_true(last_open_bytes(model.table) <= full + full / 8);
        last_open_table_free(model.table);
    }
}

static int64_t cpu_ns(void) {
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), 0);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

// In the CPU time of this thread, so that others on the machine change nothing.
static void growth_never_stops_for_long(void **state) {
    (void)state;
    struct last_open_limit limit = {.contacts_max = 1000000};
    struct last_open_table *table;
    int64_t longest = 0, last;
    assert_int_equal(last_open_table_create(&table, &limit), 0);
    last = cpu_ns();
    for (uint64_t i = 0; i < limit.contacts_max; i++) {
        assert_int_equal(last_open_put(table, 7, pseudonym_random(i), (struct last_open){.day = 1}), 0);
        if (i % 64 != 0)
            continue;
        int64_t now = cpu_ns();
        longest = now - last > longest ? now - last : longest;
        last = now;
    }
    assert_true(longest < 50000000);
    last_open_table_free(table);
}

static void the_limit_is_kept(void **state) {
    (void)state;
    struct last_open_limit limit = {.contacts_max = 3};
    struct last_open_table *table, *other;
    struct last_open value;
    assert_int_equal(last_open_table_create(&table, &limit), 0);
    assert_int_equal(last_open_table_create(&other, &limit), 0);
    for (uint64_t key = 0; key < 3; key++)
        assert_int_equal(last_open_put(table, 1, key, (struct last_open){.day = 1}), 0);
    assert_int_equal(last_open_put(table, 1, 9, (struct last_open){.day = 1}), ERR_LIMIT);
    assert_int_equal(last_open_put(other, 1, 9, (struct last_open){.day = 1}), ERR_LIMIT);
    assert_false(last_open_get(table, 1, 9, &value));
    assert_int_equal(last_open_put(table, 1, 2, (struct last_open){.day = 2}), 0);
    assert_int_equal(last_open_erase(table, 1, 0), 0);
    assert_int_equal(last_open_put(table, 1, 9, (struct last_open){.day = 1}), 0);
    assert_int_equal(last_open_count(table), 3);
    last_open_table_free(table);
    for (uint64_t key = 0; key < 3; key++)
        assert_int_equal(last_open_put(other, 1, key, (struct last_open){.day = 1}), 0);
    assert_int_equal(last_open_put(other, 1, 9, (struct last_open){.day = 1}), ERR_LIMIT);
    last_open_table_free(other);
    assert_int_equal(atomic_load(&limit.taken), 0);
}

// ---- windows --------------------------------------------------------------------------------------------------------

static void a_window_equals_an_array(void **state) {
    (void)state;
    static struct window_cell cells[KEYS];
    static bool used[KEYS], visited[KEYS];
    struct window *window;
    struct window_cell cell;
    memset(used, 0, sizeof used);
    memset(visited, 0, sizeof visited);
    seed = 2;
    assert_int_equal(window_create(&window), 0);
    size_t count = 0;
    for (int step = 0; step < 50000; step++) {
        uint32_t key = next_random() % KEYS;
        if (next_random() % 4 == 0) {
            count -= used[key];
            used[key] = false;
            window_erase(window, key);
        } else {
            count += !used[key];
            used[key] = true;
            cells[key] = (struct window_cell){.stream = (uint16_t)next_random(), .provider = (uint8_t)next_random()};
            assert_int_equal(window_put(window, key, cells[key]), 0);
        }
    }
    assert_int_equal(window_count(window), count);
    for (uint32_t key = 0; key < KEYS; key++) {
        assert_int_equal(window_get(window, key, &cell), used[key]);
        if (used[key])
            assert_memory_equal(&cell, &cells[key], sizeof cell);
    }
    uint64_t pseudonym;
    for (size_t cursor = 0; window_next(window, &cursor, &pseudonym, &cell); count--)
        visited[pseudonym] = true;
    assert_int_equal(count, 0);
    assert_memory_equal(visited, used, sizeof used);
    window_free(window);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_equals_a_map),
        cmocka_unit_test(colliding_pseudonyms_stay_exact),
        cmocka_unit_test(the_hash_can_be_undone),
        cmocka_unit_test(many_puts_at_once_are_puts_in_order),
        cmocka_unit_test(ascending_puts_equal_single_ones),
        cmocka_unit_test(a_walk_misses_nobody),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(growth_never_stops_for_long),
        cmocka_unit_test(the_limit_is_kept),
        cmocka_unit_test(a_window_equals_an_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
