#include "common/evidence.h"

#include "common/bytes.h"
#include "common/hmac.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define HEX (2 * CONSENT_HASH_SIZE)
#define EPOCH_MAX ((uint64_t)1 << 53) // what Redis' Lua counts exactly

// ---- encode ---------------------------------------------------------------------------------------------------------
struct text {
    char *at;
    size_t used, room;
};

static void text_add(struct text *text, const char *format, ...) PRINTF_LIKE(2, 3);
static void text_add(struct text *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->at + text->used, text->room - text->used, format, args);
    va_end(args);
    CHECK(n >= 0 && (size_t)n < text->room - text->used);
    text->used += (size_t)n;
}

static void text_hash(struct text *text, const char *name, const uint8_t hash[CONSENT_HASH_SIZE]) {
    char hex[HEX + 1];
    hex_encode(hash, CONSENT_HASH_SIZE, hex);
    text_add(text, ",\"%s\":\"%s\"", name, hex);
}

static void text_content(struct text *text, const struct consent_entry *entry) {
    text_add(text, ",\"t\":%" PRIu32 ",\"p\":\"%016" PRIx64 "\",\"s\":\"%s\",\"d\":%" PRIu32 ",\"n\":\"", entry->tenant,
             entry->pseudonym, consent_entry_word(entry), entry->since);
    for (const char *at = entry->notice; *at != '\0'; at++)
        text_add(text, *at == '"' || *at == '\\' ? "\\%c" : "%c", *at);
    if (entry->has_change_id)
        text_add(text, "\",\"c\":%" PRIu64, entry->change_id);
    else
        text_add(text, "\",\"c\":null");
}

static void text_dated(struct text *text, const char *name, const struct evidence_line *line) {
    text_add(text, "{\"%s\":%" PRIu64 ",\"at\":%" PRId64, name, line->entry.epoch, line->at_ms);
}

size_t evidence_encode(const struct evidence_line *line, char out[EVIDENCE_LINE_MAX]) {
    struct text text = {.at = out, .room = EVIDENCE_LINE_MAX};
    CHECK(line->entry.epoch <= EPOCH_MAX && line->at_ms >= 0);
    switch (line->kind) {
    case EVIDENCE_CHANGE:
    case EVIDENCE_ERASED:
        text_dated(&text, "e", line);
        text_hash(&text, "x", line->x);
        text_hash(&text, "h", line->entry.hash);
        if (line->kind == EVIDENCE_CHANGE) {
            CHECK(line->entry.salted);
            text_add(&text, ",\"z\":\"%s\"", line->entry.salt);
            text_content(&text, &line->entry);
        }
        break;
    case EVIDENCE_BASELINE:
    case EVIDENCE_HEAD:
        text_dated(&text, line->kind == EVIDENCE_HEAD ? "head" : "baseline", line);
        text_hash(&text, "h", line->entry.hash);
        break;
    case EVIDENCE_RECORD:
    case EVIDENCE_RECORD_GONE:
        text_add(&text, "{\"record\":%" PRIu64, line->entry.epoch);
        if (line->kind == EVIDENCE_RECORD) {
            text_content(&text, &line->entry);
            text_add(&text, ",\"a\":%" PRIu32 ",\"g\":%" PRIu32, line->allowed_since, line->granted_since);
        }
        break;
    case EVIDENCE_BASELINE_END:
        text_add(&text, "{\"baseline_end\":%" PRIu64 ",\"n\":%" PRIu64, line->entry.epoch, line->n_records);
        text_hash(&text, "h", line->entry.hash);
        break;
    }
    text_add(&text, "}\n");
    return text.used;
}

// ---- decode ---------------------------------------------------------------------------------------------------------
// A cursor that has met something else is `bad` and stays where it is.
struct scan {
    const char *at, *end;
    bool bad;
};

static bool scan_try(struct scan *scan, const char *word) {
    size_t len = strlen(word);
    if (scan->bad || (size_t)(scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0)
        return false;
    scan->at += len;
    return true;
}

static void scan_word(struct scan *scan, const char *word) {
    if (!scan_try(scan, word))
        scan->bad = true;
}

static uint64_t scan_number(struct scan *scan, const char *word, uint64_t max) {
    uint64_t n = 0;
    scan_word(scan, word);
    const char *first = scan->at;
    while (!scan->bad && scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9') {
        uint64_t digit = (uint64_t)(*scan->at++ - '0');
        if (n > (max - digit) / 10 || digit > max)
            scan->bad = true;
        n = scan->bad ? 0 : n * 10 + digit;
    }
    if (scan->at == first || (*first == '0' && scan->at - first > 1))
        scan->bad = true;
    return n;
}

static void scan_hex(struct scan *scan, const char *word, uint8_t *bytes, size_t len) {
    scan_word(scan, word);
    if (scan->bad || (size_t)(scan->end - scan->at) < 2 * len || hex_decode(scan->at, 2 * len, bytes) != 0) {
        scan->bad = true;
        return;
    }
    for (size_t i = 0; i < 2 * len; i++)
        scan->bad |= scan->at[i] >= 'A' && scan->at[i] <= 'F';
    scan->at += 2 * len;
}

static void scan_hash(struct scan *scan, const char *word, uint8_t hash[CONSENT_HASH_SIZE]) {
    scan_hex(scan, word, hash, CONSENT_HASH_SIZE);
    scan_word(scan, "\"");
}

static void scan_state(struct scan *scan, struct consent_entry *entry) {
    char word[24];
    size_t n = 0;
    scan_word(scan, ",\"s\":\"");
    while (!scan->bad && scan->at < scan->end && n < sizeof word - 1 && *scan->at != '"')
        word[n++] = *scan->at++;
    word[n] = '\0';
    if (scan->bad || consent_entry_parse_word(word, entry) != 0)
        scan->bad = true;
    scan_word(scan, "\"");
}

static void scan_notice(struct scan *scan, char notice[CONSENT_ENTRY_NOTICE_SIZE]) {
    size_t n = 0;
    scan_word(scan, ",\"n\":\"");
    while (!scan->bad && scan->at < scan->end && n < CONSENT_ENTRY_NOTICE_SIZE - 1 && *scan->at != '"') {
        bool escaped = *scan->at == '\\';
        if (escaped && (++scan->at == scan->end || (*scan->at != '"' && *scan->at != '\\'))) {
            scan->bad = true;
            return;
        }
        if (*scan->at < ' ' || *scan->at > '~')
            scan->bad = true;
        notice[n++] = *scan->at++;
    }
    notice[n] = '\0';
    if (n == 0)
        scan->bad = true;
    scan_word(scan, "\"");
}

static void scan_content(struct scan *scan, struct consent_entry *entry) {
    uint8_t bytes[8] = {0};
    entry->tenant = (uint32_t)scan_number(scan, ",\"t\":", UINT32_MAX);
    scan_hex(scan, ",\"p\":\"", bytes, sizeof bytes);
    scan_word(scan, "\"");
    entry->pseudonym = load_u64(bytes);
    scan_state(scan, entry);
    entry->since = (uint32_t)scan_number(scan, ",\"d\":", UINT16_MAX);
    scan_notice(scan, entry->notice);
    entry->has_change_id = !scan_try(scan, ",\"c\":null");
    if (entry->has_change_id)
        entry->change_id = scan_number(scan, ",\"c\":", UINT64_MAX);
}

static int64_t scan_at(struct scan *scan) {
    return (int64_t)scan_number(scan, ",\"at\":", (uint64_t)1 << 53);
}

static void scan_change(struct scan *scan, struct evidence_line *line) {
    uint8_t salt[CONSENT_HASH_SIZE] = {0};
    line->kind = EVIDENCE_ERASED;
    line->entry.epoch = scan_number(scan, "", EPOCH_MAX);
    line->at_ms = scan_at(scan);
    scan_hash(scan, ",\"x\":\"", line->x);
    scan_hash(scan, ",\"h\":\"", line->entry.hash);
    if (scan_try(scan, "}"))
        return;
    line->kind = EVIDENCE_CHANGE;
    scan_hash(scan, ",\"z\":\"", salt);
    hex_encode(salt, sizeof salt, line->entry.salt);
    line->entry.salted = true;
    scan_content(scan, &line->entry);
    scan_word(scan, "}");
}

static void scan_record(struct scan *scan, struct evidence_line *line) {
    line->kind = EVIDENCE_RECORD_GONE;
    line->entry.epoch = scan_number(scan, "", EPOCH_MAX);
    if (scan_try(scan, "}"))
        return;
    line->kind = EVIDENCE_RECORD;
    scan_content(scan, &line->entry);
    line->allowed_since = (uint32_t)scan_number(scan, ",\"a\":", UINT16_MAX);
    line->granted_since = (uint32_t)scan_number(scan, ",\"g\":", UINT16_MAX);
    scan_word(scan, "}");
}

static void scan_stamp(struct scan *scan, struct evidence_line *line, enum evidence_kind kind) {
    line->kind = kind;
    line->entry.epoch = scan_number(scan, "", EPOCH_MAX);
    if (kind == EVIDENCE_BASELINE_END)
        line->n_records = scan_number(scan, ",\"n\":", EPOCH_MAX);
    else
        line->at_ms = scan_at(scan);
    scan_hash(scan, ",\"h\":\"", line->entry.hash);
    scan_word(scan, "}");
}

int evidence_decode(const char *text, size_t len, struct evidence_line *line) {
    struct scan scan = {.at = text, .end = text + len};
    *line = (struct evidence_line){0};
    if (scan_try(&scan, "{\"e\":"))
        scan_change(&scan, line);
    else if (scan_try(&scan, "{\"record\":"))
        scan_record(&scan, line);
    else if (scan_try(&scan, "{\"baseline\":"))
        scan_stamp(&scan, line, EVIDENCE_BASELINE);
    else if (scan_try(&scan, "{\"baseline_end\":"))
        scan_stamp(&scan, line, EVIDENCE_BASELINE_END);
    else if (scan_try(&scan, "{\"head\":"))
        scan_stamp(&scan, line, EVIDENCE_HEAD);
    else
        scan.bad = true;
    if (line->kind == EVIDENCE_ERASED || line->kind == EVIDENCE_RECORD_GONE)
        while (!scan.bad && scan.at < scan.end && *scan.at == ' ')
            scan.at++;
    return scan.bad || scan.at != scan.end ? ERR_CORRUPT : 0;
}

// ---- chain ----------------------------------------------------------------------------------------------------------
void evidence_erase(struct evidence_line *line) {
    struct evidence_line kept = {.entry.epoch = line->entry.epoch};
    CHECK(line->kind == EVIDENCE_CHANGE || line->kind == EVIDENCE_RECORD);
    kept.kind = line->kind == EVIDENCE_CHANGE ? EVIDENCE_ERASED : EVIDENCE_RECORD_GONE;
    if (line->kind == EVIDENCE_CHANGE) {
        kept.at_ms = line->at_ms;
        memcpy(kept.x, line->x, sizeof kept.x);
        memcpy(kept.entry.hash, line->entry.hash, sizeof kept.entry.hash);
    }
    *line = kept;
}

static bool same_hash(const uint8_t a[CONSENT_HASH_SIZE], const uint8_t b[CONSENT_HASH_SIZE]) {
    return memcmp(a, b, CONSENT_HASH_SIZE) == 0;
}

static void chain_move(struct evidence_chain *chain, const struct evidence_line *line) {
    chain->head.epoch = line->entry.epoch;
    memcpy(chain->head.hash, line->entry.hash, sizeof chain->head.hash);
    memcpy(chain->remembered[line->entry.epoch % EVIDENCE_REMEMBERED], line->entry.hash, CONSENT_HASH_SIZE);
    chain->unanchored = false;
}

static bool leads_on(const struct evidence_chain *chain, const struct evidence_line *line) {
    uint8_t hash[CONSENT_HASH_SIZE];
    if (line->kind == EVIDENCE_CHANGE) {
        consent_entry_digest(&line->entry, hash);
        if (!same_hash(hash, line->x))
            return false;
    }
    if (chain->unanchored)
        return true;
    consent_chain(chain->head.hash, line->x, hash);
    return line->entry.epoch == chain->head.epoch + 1 && same_hash(hash, line->entry.hash);
}

static bool change_take(struct evidence_chain *chain, const struct evidence_line *line) {
    if (!leads_on(chain, line) || chain->in_baseline) {
        bool known = line->entry.epoch <= chain->head.epoch && line->entry.epoch + EVIDENCE_REMEMBERED > chain->head.epoch &&
                     same_hash(chain->remembered[line->entry.epoch % EVIDENCE_REMEMBERED], line->entry.hash);
        chain->repeated += known;
        chain->forks += !known;
        if (!known && line->entry.epoch > chain->seen)
            chain->seen = line->entry.epoch;
        return false;
    }
    chain_move(chain, line);
    if (line->entry.epoch > chain->seen)
        chain->seen = line->entry.epoch;
    chain->at_ms = line->at_ms;
    chain->changes++;
    chain->erased += line->kind == EVIDENCE_ERASED;
    return true;
}

static bool baseline_take(struct evidence_chain *chain, const struct evidence_line *line) {
    if (!chain->unanchored && line->entry.epoch < chain->head.epoch) {
        chain->forks++;
        return false;
    }
    if (!chain->in_baseline) { // else what this one makes good was counted at the one that was interrupted
        chain->first_break = evidence_chain_break(chain);
        chain->gaps += !chain->unanchored && line->entry.epoch > chain->head.epoch;
    }
    chain_move(chain, line);
    chain->seen = line->entry.epoch;
    chain->at_ms = line->at_ms;
    chain->in_baseline = true;
    chain->records = 0;
    return true;
}

static bool end_take(struct evidence_chain *chain, const struct evidence_line *line) {
    bool anchors = chain->unanchored;
    bool fits = chain->in_baseline && line->entry.epoch == chain->head.epoch && same_hash(line->entry.hash, chain->head.hash) &&
                (chain->sparse || line->n_records == chain->records);
    if (!fits && !anchors) {
        chain->forks++;
        return false;
    }
    if (anchors) {
        chain_move(chain, line);
        chain->seen = line->entry.epoch;
    }
    chain->in_baseline = false;
    chain->baselines++;
    return true;
}

// Also says that the epoch went up without a change, as a restore makes it.
static bool head_take(struct evidence_chain *chain, const struct evidence_line *line) {
    bool leads = line->entry.epoch >= chain->head.epoch && same_hash(line->entry.hash, chain->head.hash);
    if (!chain->unanchored && (!leads || chain->in_baseline)) {
        chain->repeated++;
        return false;
    }
    chain_move(chain, line);
    if (line->entry.epoch > chain->seen)
        chain->seen = line->entry.epoch;
    return true;
}

bool evidence_chain_take(struct evidence_chain *chain, const struct evidence_line *line) {
    CHECK(chain != NULL);
    switch (line->kind) {
    case EVIDENCE_CHANGE:
    case EVIDENCE_ERASED:
        return change_take(chain, line);
    case EVIDENCE_BASELINE:
        return baseline_take(chain, line);
    case EVIDENCE_BASELINE_END:
        return end_take(chain, line);
    case EVIDENCE_RECORD:
    case EVIDENCE_RECORD_GONE:
        if (!chain->in_baseline || line->entry.epoch != chain->head.epoch)
            return false;
        chain->records++;
        return true;
    case EVIDENCE_HEAD:
        return head_take(chain, line);
    }
    return false;
}

uint64_t evidence_chain_break(const struct evidence_chain *chain) {
    if (chain->first_break != 0)
        return chain->first_break;
    return chain->seen > chain->head.epoch ? chain->head.epoch + 1 : 0;
}
