// List cleaning is no oracle: an attacker runs it on every day, with any lists, for 24 simulated months. What it sees is
// compared line by line with a model that knows all opens and decisions, and answers one bit for a contact and month.
// So nothing else can be in it: not the rest of the list, not how often or when within the N days somebody opened, not
// what happened after E. Within a month a bit can only fall, and only on the day on which somebody left or an open of the
// N days came in late. Asked for several classes and regimes, it tells of a silent contact also which rows of FORMATS 4
// hold: what the sender's own consent records say, and nothing more of opens.
#include "aggregator/clean_answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define TENANT 7
#define CONTACTS 400
#define DAYS_BEFORE 370 // measured, before the first of the months
#define MONTHS 24
#define DAYS (DAYS_BEFORE + 31 * MONTHS)
#define STRANGER UINT64_MAX // somebody that nobody knows
#define NEVER UINT32_MAX
#define ROWS 4

static const struct row {
    enum message_class message_class;
    enum regime regime;
} rows[ROWS] = {{CLASS_REQUESTED, REGIME_EXEMPTION},
                {CLASS_REQUESTED, REGIME_CONSENT},
                {CLASS_TRANSACTIONAL, REGIME_EXEMPTION},
                {CLASS_PROSPECTING, REGIME_CONSENT}};

static uint64_t random_state;
static uint64_t random_below(uint64_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % n;
}

// ---- the world -----------------------------------------------------------------------------------------------------
struct contact {
    uint64_t pseudonym;
    uint32_t one_in; // opens on one day of so many; 0: never
    uint32_t informed, granted, left, back; // days, or NEVER
    uint8_t leaves_as;
    // What the aggregator keeps.
    bool has_open;
    struct last_open last_open;
    // What the model keeps: opens that were counted, by their day.
    bool counted[DAYS];
    // What the attacker saw this month, by row: -1 nothing yet.
    int seen[ROWS];
    uint32_t seen_on[ROWS];
    uint32_t may_fall_on; // the last day on which it left, or a late open of the N days came
};
struct late {
    size_t contact;
    uint32_t day, comes;
};
static struct contact contacts[CONTACTS];
static struct late lates[100000];
static size_t n_lates;
static uint32_t start; // the first day
static struct state *state_now;

static struct consent_record record_on(const struct contact *contact, uint32_t day) {
    struct consent_record record = {.allowed_since = DAY_NONE, .granted_since = DAY_NONE};
    if (contact->informed <= day)
        record = (struct consent_record){.state = CONSENT_INFORMED,
                                         .since = contact->informed,
                                         .allowed_since = contact->informed,
                                         .granted_since = DAY_NONE};
    if (contact->granted <= day) {
        record.state = CONSENT_GRANTED;
        record.since = record.granted_since = contact->granted;
        if (record.allowed_since == DAY_NONE)
            record.allowed_since = contact->granted;
    }
    if (contact->left <= day)
        record = (struct consent_record){.state = contact->leaves_as,
                                         .since = contact->left,
                                         .allowed_since = DAY_NONE,
                                         .granted_since = DAY_NONE};
    if (contact->back <= day)
        record = (struct consent_record){.state = CONSENT_GRANTED,
                                         .since = contact->back,
                                         .allowed_since = contact->back,
                                         .granted_since = contact->back};
    return record;
}

static void contacts_make(void) {
    static const uint32_t one_in[] = {0, 0, 1, 5, 40, 100, 200, 400};
    static const uint8_t leaving[] = {CONSENT_REFUSED, CONSENT_WITHDRAWN, CONSENT_OBJECTED};
    memset(contacts, 0, sizeof contacts);
    n_lates = 0;
    for (size_t i = 0; i < CONTACTS; i++) {
        struct contact *contact = &contacts[i];
        contact->pseudonym = (i + 1) * 0x9e3779b97f4a7c15u;
        contact->one_in = one_in[random_below(ARRAY_LEN(one_in))];
        contact->informed = random_below(8) == 0 ? NEVER : start - 1 + (uint32_t)(random_below(3) == 0 ? random_below(DAYS) : 0);
        contact->granted = random_below(2) == 0 ? NEVER : start + (uint32_t)random_below(DAYS);
        contact->left = random_below(2) == 0 ? NEVER : start + (uint32_t)random_below(DAYS);
        contact->back = contact->left == NEVER || random_below(2) == 0 ? NEVER : contact->left + 1 + (uint32_t)random_below(200);
        contact->leaves_as = leaving[random_below(3)];
        if (contact->left != NEVER && contact->granted > contact->left)
            contact->granted = NEVER;
        if (contact->granted <= contact->informed && contact->granted != NEVER)
            contact->informed = NEVER;
    }
}

// An open reaches the aggregator.
static void open_comes(struct contact *contact, uint32_t day, uint32_t today) {
    struct consent_record record = record_on(contact, today);
    if (!consent_allows(&record, CLASS_REQUESTED, REGIME_EXEMPTION, true, PURPOSE_INACTIVITY, day))
        return;
    contact->counted[day - start] = true;
    if (day < day_month_start(today))
        contact->may_fall_on = today;
    if (last_open_raise(&contact->last_open, contact->has_open, day))
        contact->has_open = true;
}

static void day_lives(uint32_t today) {
    for (size_t i = 0; i < CONTACTS; i++) {
        struct contact *contact = &contacts[i];
        if (contact->left == today)
            contact->may_fall_on = today;
        if (contact->left + 1 == today)
            contact->has_open = false; // the nightly sweep
        if (contact->one_in == 0 || random_below(contact->one_in) != 0)
            continue;
        if (random_below(6) != 0)
            open_comes(contact, today, today);
        else if (n_lates < ARRAY_LEN(lates))
            lates[n_lates++] = (struct late){i, today, today + 1 + (uint32_t)random_below(12)};
    }
    for (size_t i = 0; i < n_lates; i++)
        if (lates[i].comes == today)
            open_comes(&contacts[lates[i].contact], lates[i].day, today);
}

static void day_settles(uint32_t day, uint8_t flags) {
    static uint8_t key[RECORD_KEY_MAX], value[65536];
    const struct day_record record = {.flags = flags};
    assert_int_equal(state_apply(state_now, key, key_day(key, day), value, day_encode(&record, value)), 0);
}

// Yesterday is complete, one day in 40 is given up, and one in 40 takes two days more.
static void days_settle(uint32_t today) {
    static uint32_t slow = NEVER;
    uint64_t luck = random_below(40);
    if (slow != NEVER && slow + 3 <= today) {
        day_settles(slow, DAY_COMPLETE);
        slow = NEVER;
    }
    if (luck == 0 && slow == NEVER)
        slow = today - 1;
    else
        day_settles(today - 1, luck == 1 ? DAY_GIVEN_UP : DAY_COMPLETE);
}

// ---- one run of the command ----------------------------------------------------------------------------------------
static int look_up(void *arg, const uint64_t *pseudonyms, size_t n, struct consent_record *records, struct err *err) {
    const uint32_t *today = arg;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        records[i] = (struct consent_record){0};
        for (size_t c = 0; c < CONTACTS; c++)
            if (contacts[c].pseudonym == pseudonyms[i])
                records[i] = record_on(&contacts[c], *today);
    }
    return 0;
}

struct answers {
    size_t n;
    char fields[4 * CONTACTS][17];
    bool bits[4 * CONTACTS];
};

static int keep_answer(void *arg, const char *field, size_t len, bool inactive, struct err *err) {
    struct answers *answers = arg;
    (void)err;
    assert_int_equal(len, 16);
    memcpy(answers->fields[answers->n], field, 16);
    answers->bits[answers->n++] = inactive;
    return 0;
}

// What `openveil clean` does with a list: 0, or why nothing was answered.
static int run_clean(uint32_t today, uint32_t n_days, const struct row *row, struct clean_list *list,
                     struct answers *answers) {
    struct clean_terms terms = {.tenant = TENANT, .n_days = n_days, .message_class = row->message_class,
                                .regime = row->regime, .has_basis = true};
    struct clean_opens *opens;
    struct err err;
    uint32_t next;
    int rc = clean_first_day(today, &terms.first_day, &next);
    if (rc != 0 || (rc = clean_check(&terms, state_now, &err)) != 0)
        return rc;
    assert_int_equal(clean_opens_create(&opens, &terms), 0);
    for (size_t c = 0; c < CONTACTS; c++)
        if (contacts[c].has_open)
            assert_int_equal(clean_opens_take(opens, contacts[c].pseudonym, &contacts[c].last_open), 0);
    const struct clean_answer answer = {.terms = &terms, .opens = opens, .look_up = look_up, .arg = &today};
    assert_int_equal(clean_answer(&answer, list, &err), 0);
    clean_opens_free(opens);
    answers->n = 0;
    assert_int_equal(clean_list_each(list, keep_answer, answers, &err), 0);
    return 0;
}

// ---- the attacker --------------------------------------------------------------------------------------------------
struct tally {
    uint64_t answers, ones, falls, refused;
};

// The one bit: was the contact allowed all the time, is it now, and is no open of the N days known.
static bool model_bit(const struct contact *contact, uint32_t today, uint32_t n_days, const struct row *row) {
    uint32_t first_day = day_month_start(today);
    struct consent_record record = record_on(contact, today);
    uint32_t since = row->message_class == CLASS_PROSPECTING || row->regime == REGIME_CONSENT ? record.granted_since
                                                                                             : record.allowed_since;
    if (since == DAY_NONE || since >= first_day - n_days)
        return false;
    for (uint32_t day = first_day - n_days; day < first_day; day++)
        if (contact->counted[day - start])
            return false;
    return true;
}

static void check_bit(size_t c, size_t row, uint32_t today, uint32_t n_days, bool few, bool bit, struct tally *tally) {
    struct contact *contact = &contacts[c];
    bool expected = model_bit(contact, today, n_days, &rows[row]);
    assert_int_equal(bit, expected && !few);
    tally->answers++;
    tally->ones += bit;
    if (few)
        return;
    int before = contact->seen[row];
    if (before >= 0 && before != bit) {
        assert_true(before == 1 && !bit);
        assert_true(contact->may_fall_on > contact->seen_on[row]);
        tally->falls++;
    }
    contact->seen[row] = bit;
    contact->seen_on[row] = today;
}

static void attack(uint32_t today, uint32_t n_days, size_t row, uint64_t take_of_8, struct tally *tally) {
    static struct answers answers;
    static size_t asked[4 * CONTACTS];
    static bool few[4 * CONTACTS];
    static const char *const delivered[] = {"", "", "\t5", "\t100000", "\t4", "\t0"};
    struct clean_list *list;
    struct err err;
    char line[32];
    size_t n = 0, only = (size_t)random_below(CONTACTS);
    assert_int_equal(clean_list_create(&list, NULL, TENANT), 0);
    for (size_t at = 0; at < 2 * CONTACTS; at++) {
        size_t c = take_of_8 == 0 ? only : (size_t)random_below(CONTACTS + 1); // one more: the stranger
        if (take_of_8 == 0 ? at > 0 : random_below(8) >= take_of_8)
            continue;
        size_t mails = (size_t)random_below(ARRAY_LEN(delivered));
        snprintf(line, sizeof line, "%016llx%s", (unsigned long long)(c == CONTACTS ? STRANGER : contacts[c].pseudonym),
                 delivered[mails]);
        assert_int_equal(clean_list_add(list, line, strlen(line), &err), 0);
        asked[n] = c;
        few[n++] = mails >= 4;
    }
    int rc = run_clean(today, n_days, &rows[row], list, &answers);
    bool served = day_of_month(today) <= CLEAN_DAYS_OF_MONTH;
    tally->refused += rc != 0;
    assert_true(served || rc == ERR_REFUSED);
    if (rc == 0)
        assert_int_equal(answers.n, n);
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (asked[i] == CONTACTS)
            assert_false(answers.bits[i]);
        else
            check_bit(asked[i], row, today, n_days, few[i], answers.bits[i], tally);
    }
    clean_list_free(list);
}

static void simulate(uint32_t n_days, uint64_t seed) {
    static uint8_t key[RECORD_KEY_MAX], value[4096];
    struct tally tally = {0};
    random_state = seed;
    assert_int_equal(day_parse("2026-01-01", &start), 0);
    start -= DAYS_BEFORE;
    const struct tenant_record tenant = {.first_measured = start, .measured_since = DAY_NONE};
    assert_int_equal(state_create(&state_now, 1000), 0);
    assert_int_equal(state_apply(state_now, key, key_tenant(key, TENANT), value, tenant_encode(&tenant, value)), 0);
    contacts_make();
    for (uint32_t today = start; today < start + DAYS; today++) {
        days_settle(today);
        day_lives(today);
        if (day_of_month(today) == 1)
            for (size_t c = 0; c < CONTACTS; c++)
                memset(contacts[c].seen, -1, sizeof contacts[c].seen);
        if (today < start + DAYS_BEFORE || day_of_month(today) > CLEAN_DAYS_OF_MONTH + 1)
            continue;
        for (uint64_t turn = 0; turn < 12; turn++) // single contacts, some, nearly all
            attack(today, n_days, (size_t)random_below(ROWS), turn < 4 ? 0 : turn < 8 ? 1 : 7, &tally);
    }
    state_free(state_now);
    print_message("%llu answers, %llu ones, %llu fell, %llu runs refused\n", (unsigned long long)tally.answers,
                  (unsigned long long)tally.ones, (unsigned long long)tally.falls, (unsigned long long)tally.refused);
    // It was an attack, and there was something to see.
    assert_true(tally.answers > 50000 && tally.ones > tally.answers / 50 && tally.ones < tally.answers / 2);
    assert_true(tally.falls > 5 && tally.refused > MONTHS);
}

static void no_oracle_with_90_days(void **state) {
    (void)state;
    simulate(90, 1);
}

static void no_oracle_with_180_days(void **state) {
    (void)state;
    simulate(180, 2);
}

static void no_oracle_with_365_days(void **state) {
    (void)state;
    simulate(365, 3);
}

// The guard on the share of ones looks at the list as a whole: refusing it says nothing that the answers did not say.
static void the_guard_is_on_the_whole_list(void **state) {
    (void)state;
    for (uint32_t ones = 0; ones <= 20; ones++) {
        struct clean_list *list;
        struct err err;
        assert_int_equal(clean_list_create(&list, NULL, TENANT), 0);
        for (uint32_t line = 0; line < 20; line++)
            assert_int_equal(clean_list_add(list, "00000000000000aa", 16, &err), 0);
        for (uint32_t line = 0; line < ones; line++)
            clean_list_set(list, ones % 2 == 0 ? line : 19 - line);
        assert_int_equal(clean_list_share_above(list, 30), ones > 6);
        clean_list_free(list);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_oracle_with_90_days),
        cmocka_unit_test(no_oracle_with_180_days),
        cmocka_unit_test(no_oracle_with_365_days),
        cmocka_unit_test(the_guard_is_on_the_whole_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
