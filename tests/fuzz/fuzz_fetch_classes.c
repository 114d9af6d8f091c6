// Fetch-class files and requests against them. All lines before the first that begins with '?' are the file; the others
// are requests: '?', then User-Agent, Sec-Purpose, Purpose, X-Moz and address, tab-separated, and a sixth field where
// the fetch came within the minute. The one pass over the agent must find what trying rule after rule finds.
#include "tests/fuzz/fuzz.h"

#include "ingest/fetch_rules.h"

#include <string.h>

#define REQUESTS_MAX 8
#define FIELDS_MAX 6

static struct text trimmed(struct text text) {
    while (text.len > 0 && (*text.at == ' ' || *text.at == '\t')) {
        text.at++;
        text.len--;
    }
    while (text.len > 0 && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t'))
        text.len--;
    return text;
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool found_at(const struct text *text, size_t at, const struct word *word) {
    if (text->len < word->len || at > text->len - word->len)
        return false;
    for (size_t i = 0; i < word->len; i++)
        if (lower(text->at[at + i]) != word->at[i])
            return false;
    return true;
}

static bool found(const struct text *text, const struct word *word) {
    for (size_t at = 0; at < text->len; at++)
        if (found_at(text, at, word))
            return true;
    return false;
}

static bool is_word_byte(char c) {
    c = lower(c);
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

// Some word of letters and digits ends with the value, and is none of those named by `unless`.
static bool word_suffix_found(const struct text *agent, const struct fetch_rule *rule) {
    for (size_t end = rule->value.len; end <= agent->len; end++) {
        if (!found_at(agent, end - rule->value.len, &rule->value) || (end < agent->len && is_word_byte(agent->at[end])))
            continue;
        size_t start = end;
        while (start > 0 && is_word_byte(agent->at[start - 1]))
            start--;
        bool excepted = false;
        for (size_t i = 0; i < rule->n_conditions; i++)
            excepted |= rule->conditions[i].word.len == end - start && found_at(agent, start, &rule->conditions[i].word);
        if (!excepted)
            return true;
    }
    return false;
}

static bool agent_matches(const struct fetch_rule *rule, const struct text *agent) {
    const struct word *value = &rule->value;
    if (rule->kind == RULE_AGENT_WORD_SUFFIX)
        return word_suffix_found(agent, rule);
    for (size_t i = 0; i < rule->n_conditions; i++)
        if (found(agent, &rule->conditions[i].word) == rule->conditions[i].unless)
            return false;
    switch (rule->kind) {
    case RULE_AGENT_EXACT:
        return agent->len == value->len && found_at(agent, 0, value);
    case RULE_AGENT_PREFIX:
        return found_at(agent, 0, value);
    case RULE_AGENT_SUFFIX:
        return agent->len >= value->len && found_at(agent, agent->len - value->len, value);
    default:
        return found(agent, value);
    }
}

static bool rule_matches(const struct fetch_rule *rule, const struct fetch_facts *facts) {
    struct text agent = trimmed(facts->user_agent), other;
    if (rule->within_minute && !facts->within_minute)
        return false;
    switch (rule->kind) {
    case RULE_NO_AGENT:
        return agent.len == 0;
    case RULE_SEC_PURPOSE:
        other = trimmed(facts->sec_purpose);
        return found(&other, &rule->value);
    case RULE_PURPOSE:
        other = trimmed(facts->purpose);
        return other.len == rule->value.len && found_at(&other, 0, &rule->value);
    case RULE_X_MOZ:
        other = trimmed(facts->x_moz);
        return other.len == rule->value.len && found_at(&other, 0, &rule->value);
    case RULE_ADDRESS:
        return cidr_contains(&rule->cidr, facts->address);
    case RULE_ANY:
        return true;
    default:
        return agent_matches(rule, &agent);
    }
}

// Line by line: the number of the first that matches, 0 for none.
static unsigned first_match(char *rules, const struct fetch_facts *facts, enum fetch *fetch) {
    unsigned number = 0;
    *fetch = FETCH_PERSON;
    while (rules != NULL) {
        struct fetch_rule rule;
        char *line = strsep(&rules, "\n");
        size_t len = strlen(line);
        if (len > 0 && line[len - 1] == '\r')
            line[len - 1] = '\0';
        int rc = fetch_rule_parse(&rule, "a", ++number, line, NULL);
        CHECK(rc >= 0);
        if (rc == 1 && rule_matches(&rule, facts)) {
            *fetch = rule.fetch;
            return number;
        }
    }
    return 0;
}

static struct fetch_facts facts_of(char *line) {
    struct text fields[FIELDS_MAX] = {0};
    struct fetch_facts facts = {0};
    size_t n = 0;
    while (line != NULL && n < FIELDS_MAX) {
        char *field = strsep(&line, "\t");
        // An empty field stands for a header that is absent.
        fields[n++] = field[0] == '\0' ? (struct text){0} : (struct text){.at = field, .len = strlen(field)};
    }
    facts.user_agent = fields[0];
    facts.sec_purpose = fields[1];
    facts.purpose = fields[2];
    facts.x_moz = fields[3];
    if (fields[4].at == NULL || ip_parse(fields[4].at, facts.address) != 0)
        memset(facts.address, 1, sizeof facts.address);
    facts.within_minute = n == FIELDS_MAX;
    return facts;
}

static void check_request(const struct fetch_classes *classes, const char *rules, size_t len, char *request) {
    struct fetch_facts facts = facts_of(request);
    unsigned line;
    enum fetch expected, fetch = fetch_classify(classes, &facts, &line);
    char *copy = strndup(rules, len);
    CHECK(copy != NULL);
    CHECK(first_match(copy, &facts, &expected) == line && expected == fetch);
    CHECK(fetch_classes_count(classes, fetch) > 0 || line == 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = strndup((const char *)data, size); // ends at a NUL, which no such file may have
    CHECK(text != NULL);
    char *requests = text[0] == '?' ? text : strstr(text, "\n?");
    size_t len = requests == NULL ? strlen(text) : (size_t)(requests - text);
    struct fetch_classes *classes;
    struct err err;
    if (fetch_classes_parse(&classes, "a", text, len, &err) != 0) {
        CHECK(classes == NULL && err.text[0] != '\0');
        free(text);
        return 0;
    }
    CHECK(!fetch_classes_shrunk(classes, classes));
    for (size_t i = 0; i < REQUESTS_MAX && requests != NULL; i++) {
        char *line = strsep(&requests, "\n");
        if (line[0] == '?')
            check_request(classes, text, len, line + 1);
    }
    fetch_classes_free(classes);
    free(text);
    return 0;
}
