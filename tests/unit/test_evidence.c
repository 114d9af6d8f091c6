#include "common/evidence.h"

#include "common/hmac.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/evidence_fixture.h"

#define CHANGES 6u

static void log_make(struct evidence_line lines[CHANGES]) {
    static const char *const states[CHANGES] = {"informed", "granted", "withdrawn", "notice", "late-granted", "objected"};
    static const char *const notices[CHANGES] = {"v1", "a \"quoted\\\" one", "-", "v2 3 fr 20781 00ff", "v1", "-"};
    struct consent_stamp head = {0};
    for (uint32_t i = 0; i < CHANGES; i++) {
        lines[i] = change_make(&head, 7 + i % 2, strcmp(states[i], "notice") == 0 ? 0 : 1 + i % 3, states[i], notices[i]);
        head.epoch = lines[i].entry.epoch;
        memcpy(head.hash, lines[i].entry.hash, sizeof head.hash);
    }
}

static void take_text(struct evidence_chain *chain, const char *text, size_t len) {
    struct evidence_line line;
    while (len > 0) {
        const char *feed = memchr(text, '\n', len);
        size_t n = feed == NULL ? len : (size_t)(feed - text);
        if (evidence_decode(text, n, &line) != 0)
            chain->damaged++;
        else
            (void)evidence_chain_take(chain, &line);
        if (feed == NULL)
            return;
        text += n + 1;
        len -= n + 1;
    }
}

static size_t log_text(const struct evidence_line *lines, size_t n, char *text) {
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += evidence_encode(&lines[i], text + len);
    return len;
}

static void every_kind_reads_as_written(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES + 6] = {0}, again;
    char text[EVIDENCE_LINE_MAX];
    log_make(lines);
    for (size_t i = CHANGES; i < CHANGES + 6; i++) {
        lines[i].kind = (enum evidence_kind)(EVIDENCE_ERASED + i - CHANGES);
        lines[i].entry.epoch = 9007199254740992;
    }
    struct evidence_line *record = &lines[CHANGES + 2];
    assert_int_equal(record->kind, EVIDENCE_RECORD);
    record->entry.tenant = UINT32_MAX;
    record->entry.pseudonym = UINT64_MAX;
    record->entry.state = CONSENT_GRANTED;
    record->allowed_since = record->granted_since = 65535;
    memset(record->entry.notice, '"', CONSENT_ENTRY_NOTICE_SIZE - 1);
    lines[CHANGES + 4].n_records = 12;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        size_t len = evidence_encode(&lines[i], text);
        assert_true(len < EVIDENCE_LINE_MAX && text[len - 1] == '\n');
        assert_int_equal(evidence_decode(text, len - 1, &again), 0);
        assert_memory_equal(&again, &lines[i], sizeof again);
        assert_int_equal(evidence_decode(text, len, &again), ERR_CORRUPT);
        for (size_t cut = 0; cut < len - 1; cut++)
            assert_int_equal(evidence_decode(text, cut, &again), ERR_CORRUPT);
    }
}

static void a_whole_log_has_no_break(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES];
    struct evidence_chain chain = {0};
    log_make(lines);
    for (size_t i = 0; i < CHANGES; i++)
        assert_true(evidence_chain_take(&chain, &lines[i]));
    assert_int_equal(evidence_chain_break(&chain), 0);
    assert_int_equal(chain.head.epoch, CHANGES);
    assert_int_equal(chain.changes, CHANGES);
    assert_int_equal(chain.forks + chain.repeated + chain.damaged, 0);
}

// A flip is noticed as a break, or as a fork or damage at the end; only the time of a change can be altered unnoticed,
// because it is not the chain's.
static void every_flipped_bit_is_noticed(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES];
    char text[CHANGES * EVIDENCE_LINE_MAX];
    unsigned times = 0;
    log_make(lines);
    size_t len = log_text(lines, CHANGES, text);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        struct evidence_chain chain = {0};
        text[bit / 8] ^= (char)(1 << bit % 8);
        take_text(&chain, text, len);
        text[bit / 8] ^= (char)(1 << bit % 8);
        if (evidence_chain_break(&chain) != 0 || chain.damaged > 0 || chain.forks > 0)
            continue;
        const char *line = text + bit / 8;
        while (line > text && line[-1] != '\n')
            line--;
        const char *at = strstr(line, "\"at\":");
        assert_true(text + bit / 8 >= at + 5 && text + bit / 8 < at + 5 + 13);
        assert_int_equal(chain.changes, CHANGES);
        times++;
    }
    assert_true(times > 0);
}

static void erased_changes_still_verify(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES], again;
    char text[EVIDENCE_LINE_MAX], whole[EVIDENCE_LINE_MAX];
    log_make(lines);
    for (unsigned mask = 0; mask < 1u << CHANGES; mask++) {
        struct evidence_chain chain = {0};
        unsigned erased = 0;
        for (size_t i = 0; i < CHANGES; i++) {
            struct evidence_line line = lines[i];
            size_t room = evidence_encode(&line, whole);
            if ((mask >> i & 1) != 0) {
                evidence_erase(&line);
                erased++;
            }
            size_t used = evidence_encode(&line, text) - 1;
            memset(text + used, ' ', room - 1 - used);
            assert_int_equal(evidence_decode(text, room - 1, &again), 0);
            assert_true(evidence_chain_take(&chain, &again));
        }
        assert_int_equal(evidence_chain_break(&chain), 0);
        assert_int_equal(chain.erased, erased);
    }
    // Blanks are for erased lines alone.
    size_t room = evidence_encode(&lines[0], text) - 1;
    text[room] = ' ';
    assert_int_equal(evidence_decode(text, room + 1, &again), ERR_CORRUPT);
}

static void a_missing_change_is_named(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES];
    log_make(lines);
    for (size_t missing = 0; missing + 1 < CHANGES; missing++) {
        struct evidence_chain chain = {0};
        for (size_t i = 0; i < CHANGES; i++)
            if (i != missing)
                assert_int_equal(evidence_chain_take(&chain, &lines[i]), i < missing);
        assert_int_equal(evidence_chain_break(&chain), missing + 1);
        // Written again behind it, the log is whole.
        for (size_t i = missing; i < CHANGES; i++)
            assert_true(evidence_chain_take(&chain, &lines[i]));
        assert_int_equal(evidence_chain_break(&chain), 0);
    }
}

static void a_zombie_harms_nothing(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES];
    struct evidence_chain chain = {0};
    log_make(lines);
    for (size_t i = 0; i < 4; i++)
        assert_true(evidence_chain_take(&chain, &lines[i]));
    // It repeats what it has, and adds what another branch of Redis had.
    for (size_t i = 1; i < 4; i++)
        assert_false(evidence_chain_take(&chain, &lines[i]));
    assert_int_equal(chain.repeated, 3);
    const struct evidence_line other = change_make(&(struct consent_stamp){.epoch = 3}, 7, 1, "granted", "v9");
    assert_false(evidence_chain_take(&chain, &other));
    assert_int_equal(chain.forks, 1);
    for (size_t i = 4; i < CHANGES; i++)
        assert_true(evidence_chain_take(&chain, &lines[i]));
    assert_int_equal(evidence_chain_break(&chain), 0);
}

static void baselines_begin_anew_and_keep_the_break(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES];
    struct evidence_chain chain = {0};
    log_make(lines);
    struct evidence_line begin = {.kind = EVIDENCE_BASELINE, .entry.epoch = 4}, end = {.kind = EVIDENCE_BASELINE_END};
    memcpy(begin.entry.hash, lines[3].entry.hash, sizeof begin.entry.hash);
    end.entry = begin.entry;
    end.n_records = 1;
    const struct evidence_line record = {.kind = EVIDENCE_RECORD, .entry.epoch = 4};
    assert_true(evidence_chain_take(&chain, &lines[0]));
    assert_true(evidence_chain_take(&chain, &begin));
    assert_true(evidence_chain_take(&chain, &record));
    assert_false(evidence_chain_take(&chain, &lines[4])); // not before the baseline's end
    assert_true(chain.in_baseline);
    assert_true(evidence_chain_take(&chain, &begin)); // interrupted, and begun again
    assert_true(evidence_chain_take(&chain, &record));
    assert_true(evidence_chain_take(&chain, &end));
    assert_true(evidence_chain_take(&chain, &lines[4]));
    assert_int_equal(evidence_chain_break(&chain), 0);
    assert_int_equal(chain.gaps, 1);
    assert_int_equal(chain.baselines, 1);
    // One that lists fewer records than it says is not ended.
    struct evidence_chain short_one = {0};
    assert_true(evidence_chain_take(&short_one, &begin));
    assert_false(evidence_chain_take(&short_one, &end));
    assert_true(short_one.in_baseline);
    // What was broken before a baseline stays so.
    struct evidence_chain broken = {0};
    assert_true(evidence_chain_take(&broken, &lines[0]));
    assert_false(evidence_chain_take(&broken, &lines[2]));
    assert_true(evidence_chain_take(&broken, &begin));
    assert_int_equal(evidence_chain_break(&broken), 2);
}

static void a_restore_may_jump(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES];
    struct evidence_chain chain = {0};
    log_make(lines);
    assert_true(evidence_chain_take(&chain, &lines[0]));
    struct evidence_line later = change_make(&chain.head, 7, 1, "granted", "v1");
    later.entry.epoch = 901;
    assert_false(evidence_chain_take(&chain, &later));
    assert_int_equal(evidence_chain_break(&chain), 2);
    struct evidence_line head = {.kind = EVIDENCE_HEAD, .entry.epoch = 900, .entry.hash = {1}};
    assert_false(evidence_chain_take(&chain, &head));
    memcpy(head.entry.hash, lines[0].entry.hash, sizeof head.entry.hash);
    assert_true(evidence_chain_take(&chain, &head));
    assert_true(evidence_chain_take(&chain, &later));
    assert_int_equal(chain.head.epoch, 901);
    assert_int_equal(evidence_chain_break(&chain), 0);
    assert_false(evidence_chain_take(&chain, &head)); // never back
}

static void the_end_alone_anchors_itself(void **state) {
    (void)state;
    struct evidence_line lines[CHANGES];
    struct evidence_chain chain = {.unanchored = true};
    log_make(lines);
    assert_true(evidence_chain_take(&chain, &lines[3]));
    assert_true(evidence_chain_take(&chain, &lines[4]));
    assert_false(evidence_chain_take(&chain, &lines[2]));
    assert_int_equal(chain.head.epoch, 5);
    assert_memory_equal(chain.head.hash, lines[4].entry.hash, CONSENT_HASH_SIZE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_reads_as_written),
        cmocka_unit_test(a_whole_log_has_no_break),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(erased_changes_still_verify),
        cmocka_unit_test(a_missing_change_is_named),
        cmocka_unit_test(a_zombie_harms_nothing),
        cmocka_unit_test(baselines_begin_anew_and_keep_the_break),
        cmocka_unit_test(a_restore_may_jump),
        cmocka_unit_test(the_end_alone_anchors_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
