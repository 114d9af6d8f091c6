#include "ingest/fetch_class.h"

#include "common/files.h"
#include "common/hmac.h"
#include "ingest/fetch_rules.h"

#include <string.h>

#define CONDITIONS_MAX 256 // `with` and `unless` of the whole file, those of word suffixes aside
#define NO_RULE UINT32_MAX

extern const char fetch_classes_txt[];
extern const size_t fetch_classes_txt_len;

// What it means that a word was found: a rule's value, or one of the conditions.
struct meaning {
    uint32_t rule;
    int32_t condition; // -1: the rule's value
};

struct fetch_classes {
    uint8_t hash[SHA256_SIZE];
    char *text; // the file in lower case; the rules point into it
    size_t n_rules;
    struct fetch_rule *rules;
    struct word_search search;
    struct meaning *meanings; // by word
    size_t n_searched;
    uint32_t *other;          // ascending rules that the search does not decide
    size_t n_other;
    uint32_t conditional[CONDITIONS_MAX]; // ascending rules with conditions
    uint32_t first_condition[CONDITIONS_MAX]; // theirs
    size_t n_conditional, n_conditions;
    uint16_t *conditional_of; // by rule
    bool wants_address, wants_address_within_minute;
};

// What one pass over an agent found.
struct found {
    uint32_t best; // the first rule without conditions
    uint64_t values[CONDITIONS_MAX / 64];     // conditional rules whose value was found
    uint64_t conditions[CONDITIONS_MAX / 64];
};

static void bit_set(uint64_t *bits, size_t i) {
    bits[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool bit_get(const uint64_t *bits, size_t i) {
    return bits[i / 64] >> (i % 64) & 1;
}

static bool is_conditional(const struct fetch_rule *rule) {
    return rule->n_conditions > 0 && rule->kind != RULE_AGENT_WORD_SUFFIX;
}

// ---- Loading ----

static int read_rules(struct fetch_classes *classes, const char *name, struct err *err) {
    unsigned number = 0;
    for (char *rest = classes->text; rest != NULL;) {
        char *line = strsep(&rest, "\n");
        size_t len = strlen(line);
        if (len > 0 && line[len - 1] == '\r')
            line[len - 1] = '\0';
        struct fetch_rule rule;
        int rc = fetch_rule_parse(&rule, name, ++number, line, err);
        if (rc < 0)
            return rc;
        if (rc == 0)
            continue;
        if (classes->n_rules == FETCH_CLASSES_RULES_MAX)
            return err_set(err, ERR_INVALID, "%s:%u: more than %d rules", name, number, FETCH_CLASSES_RULES_MAX);
        if (classes->n_rules % 64 == 0) {
            struct fetch_rule *grown = realloc(classes->rules, (classes->n_rules + 64) * sizeof *grown);
            if (grown == NULL)
                return err_set(err, ERR_NOMEM, "out of memory for %s", name);
            classes->rules = grown;
        }
        classes->rules[classes->n_rules++] = rule;
    }
    if (classes->n_rules == 0)
        return err_set(err, ERR_INVALID, "%s:%u: the file has no rule", name, number);
    return 0;
}

static int plan_conditions(struct fetch_classes *classes, uint32_t at, const char *name, struct err *err) {
    const struct fetch_rule *rule = &classes->rules[at];
    if (!is_conditional(rule))
        return 0;
    if (classes->n_conditions + rule->n_conditions > CONDITIONS_MAX)
        return err_set(err, ERR_INVALID, "%s:%u: more than %d of with and unless", name, rule->line, CONDITIONS_MAX);
    classes->conditional_of[at] = (uint16_t)classes->n_conditional;
    classes->conditional[classes->n_conditional] = at;
    classes->first_condition[classes->n_conditional++] = (uint32_t)classes->n_conditions;
    classes->n_conditions += rule->n_conditions;
    return 0;
}

static int plan_search(struct fetch_classes *classes, const char *name, struct err *err) {
    size_t words_max = classes->n_rules + CONDITIONS_MAX;
    struct word *words = calloc(words_max, sizeof *words);
    classes->meanings = calloc(words_max, sizeof *classes->meanings);
    classes->other = calloc(classes->n_rules, sizeof *classes->other);
    classes->conditional_of = calloc(classes->n_rules, sizeof *classes->conditional_of);
    int rc = 0;
    if (words == NULL || classes->meanings == NULL || classes->other == NULL || classes->conditional_of == NULL)
        rc = err_set(err, ERR_NOMEM, "out of memory for %s", name);
    for (uint32_t i = 0; rc == 0 && i < classes->n_rules; i++) {
        const struct fetch_rule *rule = &classes->rules[i];
        size_t first = classes->n_conditions;
        rc = plan_conditions(classes, i, name, err);
        if (!fetch_rule_searches_agent(rule)) {
            classes->other[classes->n_other++] = i;
            classes->wants_address_within_minute |= rule->kind == RULE_ADDRESS;
            classes->wants_address |= rule->kind == RULE_ADDRESS && !rule->within_minute;
            continue;
        }
        classes->meanings[classes->n_searched] = (struct meaning){i, -1};
        words[classes->n_searched++] = rule->value;
        for (size_t j = 0; rc == 0 && is_conditional(rule) && j < rule->n_conditions; j++) {
            classes->meanings[classes->n_searched] = (struct meaning){i, (int32_t)(first + j)};
            words[classes->n_searched++] = rule->conditions[j].word;
        }
        CHECK(classes->n_searched <= words_max);
    }
    struct err why;
    if (rc == 0 && (rc = word_search_build(&classes->search, words, classes->n_searched, &why)) != 0)
        err_set(err, rc, "%s: %.400s", name, why.text);
    free(words);
    return rc == ERR_LIMIT ? ERR_INVALID : rc;
}

int fetch_classes_parse(struct fetch_classes **out, const char *name, const char *text, size_t len, struct err *err) {
    *out = NULL;
    if (len > FETCH_CLASSES_BYTES_MAX)
        return err_set(err, ERR_INVALID, "%s: %zu bytes; at most %u are allowed", name, len, FETCH_CLASSES_BYTES_MAX);
    const char *nul = memchr(text, '\0', len);
    if (nul != NULL)
        return err_set(err, ERR_INVALID, "%s: a NUL byte at byte %td", name, nul - text + 1);
    struct fetch_classes *classes = calloc(1, sizeof *classes);
    int rc = ERR_NOMEM;
    if (classes == NULL || (classes->text = strndup(text, len)) == NULL) {
        err_set(err, rc, "out of memory for %s", name);
        goto fail;
    }
    sha256(text, len, classes->hash);
    rc = read_rules(classes, name, err);
    if (rc == 0)
        rc = plan_search(classes, name, err);
    if (rc != 0)
        goto fail;
    *out = classes;
    return 0;
fail:
    fetch_classes_free(classes);
    return rc;
}

int fetch_classes_load(struct fetch_classes **classes, const char *path, struct err *err) {
    char *text = NULL;
    size_t len;
    if (path == NULL || path[0] == '\0') {
        const char *builtin = fetch_classes_builtin(&len);
        return fetch_classes_parse(classes, "the built-in fetch classes", builtin, len, err);
    }
    *classes = NULL;
    int rc = file_read(path, FETCH_CLASSES_BYTES_MAX, &text, &len, err);
    if (rc == 0)
        rc = fetch_classes_parse(classes, path, text, len, err);
    free(text);
    return rc;
}

void fetch_classes_free(struct fetch_classes *classes) {
    if (classes == NULL)
        return;
    word_search_free(&classes->search);
    free(classes->meanings);
    free(classes->other);
    free(classes->conditional_of);
    free(classes->rules);
    free(classes->text);
    free(classes);
}

const char *fetch_classes_builtin(size_t *len) {
    *len = fetch_classes_txt_len;
    return fetch_classes_txt;
}

const uint8_t *fetch_classes_hash(const struct fetch_classes *classes) {
    return classes->hash;
}

size_t fetch_classes_count(const struct fetch_classes *classes, enum fetch fetch) {
    size_t n = 0;
    for (size_t i = 0; i < classes->n_rules; i++)
        n += classes->rules[i].fetch == fetch;
    return n;
}

bool fetch_classes_shrunk(const struct fetch_classes *before, const struct fetch_classes *after) {
    return 2 * after->n_rules < before->n_rules;
}

bool fetch_classes_want_address(const struct fetch_classes *classes, bool within_minute) {
    return within_minute ? classes->wants_address_within_minute : classes->wants_address;
}

// ---- Classifying ----

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool word_byte(char c) {
    c = lower(c);
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool same(const char *text, const struct word *word) {
    for (size_t i = 0; i < word->len; i++)
        if (lower(text[i]) != word->at[i])
            return false;
    return true;
}

static struct text trimmed(struct text text) {
    if (text.at == NULL)
        return (struct text){"", 0};
    while (text.len > 0 && (text.at[0] == ' ' || text.at[0] == '\t'))
        text = (struct text){text.at + 1, text.len - 1};
    while (text.len > 0 && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t'))
        text.len--;
    return text;
}

// The word that ends before `end` ends with the rule's value; is it none of the exceptions?
static bool word_counts(const struct fetch_rule *rule, const struct text *agent, size_t end) {
    if (end < agent->len && word_byte(agent->at[end]))
        return false; // it goes on
    size_t start = end;
    while (start > 0 && word_byte(agent->at[start - 1]))
        start--;
    for (size_t i = 0; i < rule->n_conditions; i++)
        if (rule->conditions[i].word.len == end - start && same(agent->at + start, &rule->conditions[i].word))
            return false;
    return true;
}

static bool value_matches(const struct fetch_rule *rule, const struct text *agent, size_t end) {
    bool at_start = end == rule->value.len, at_end = end == agent->len;
    switch (rule->kind) {
    case RULE_AGENT_EXACT:
        return at_start && at_end;
    case RULE_AGENT_CONTAINS:
        return true;
    case RULE_AGENT_PREFIX:
        return at_start;
    case RULE_AGENT_SUFFIX:
        return at_end;
    default:
        CHECK(rule->kind == RULE_AGENT_WORD_SUFFIX);
        return word_counts(rule, agent, end);
    }
}

static void note_word(const struct fetch_classes *classes, const struct fetch_facts *facts, const struct text *agent,
                      uint16_t word, size_t end, struct found *found) {
    const struct meaning *meaning = &classes->meanings[word];
    const struct fetch_rule *rule = &classes->rules[meaning->rule];
    if (meaning->condition >= 0) {
        bit_set(found->conditions, (size_t)meaning->condition);
        return;
    }
    if (meaning->rule >= found->best || (rule->within_minute && !facts->within_minute) ||
        !value_matches(rule, agent, end))
        return;
    if (is_conditional(rule))
        bit_set(found->values, classes->conditional_of[meaning->rule]);
    else
        found->best = meaning->rule;
}

static void search_agent(const struct fetch_classes *classes, const struct fetch_facts *facts, const struct text *agent,
                         struct found *found) {
    const struct word_search *search = &classes->search;
    uint32_t state = 0;
    for (size_t i = 0; i < agent->len; i++) {
        state = word_search_step(search, state, agent->at[i]);
        for (uint16_t word = word_search_hit(search, &state); word != WORD_SEARCH_NONE; word = search->hit_after[word])
            note_word(classes, facts, agent, word, i + 1, found);
    }
}

static bool conditions_hold(const struct fetch_classes *classes, size_t conditional, const struct found *found) {
    const struct fetch_rule *rule = &classes->rules[classes->conditional[conditional]];
    for (size_t i = 0; i < rule->n_conditions; i++)
        if (bit_get(found->conditions, classes->first_condition[conditional] + i) == rule->conditions[i].unless)
            return false;
    return true;
}

static bool contains(struct text text, const struct word *word) {
    text = trimmed(text);
    for (size_t i = 0; i + word->len <= text.len; i++)
        if (same(text.at + i, word))
            return true;
    return false;
}

static bool equals(struct text text, const struct word *word) {
    text = trimmed(text);
    return text.len == word->len && same(text.at, word);
}

static bool other_matches(const struct fetch_rule *rule, const struct fetch_facts *facts, const struct text *agent) {
    if (rule->within_minute && !facts->within_minute)
        return false;
    switch (rule->kind) {
    case RULE_NO_AGENT:
        return agent->len == 0;
    case RULE_SEC_PURPOSE:
        return contains(facts->sec_purpose, &rule->value);
    case RULE_PURPOSE:
        return equals(facts->purpose, &rule->value);
    case RULE_X_MOZ:
        return equals(facts->x_moz, &rule->value);
    case RULE_ADDRESS:
        return cidr_contains(&rule->cidr, facts->address);
    default:
        CHECK(rule->kind == RULE_ANY);
        return true;
    }
}

enum fetch fetch_classify(const struct fetch_classes *classes, const struct fetch_facts *facts, unsigned *rule) {
    struct found found = {.best = NO_RULE};
    struct text agent = trimmed(facts->user_agent);
    search_agent(classes, facts, &agent, &found);
    for (size_t i = 0; i < classes->n_conditional && classes->conditional[i] < found.best; i++)
        if (bit_get(found.values, i) && conditions_hold(classes, i, &found))
            found.best = classes->conditional[i];
    for (size_t i = 0; i < classes->n_other && classes->other[i] < found.best; i++)
        if (other_matches(&classes->rules[classes->other[i]], facts, &agent))
            found.best = classes->other[i];
    CHECK(found.best == NO_RULE || found.best < classes->n_rules);
    if (rule != NULL)
        *rule = found.best == NO_RULE ? 0 : classes->rules[found.best].line;
    return found.best == NO_RULE ? FETCH_PERSON : classes->rules[found.best].fetch;
}
