#include "ingest/fetch_rules.h"

#include "common/cli.h"
#include "common/clock.h"

#include <string.h>

#define LINE_BYTES_MAX 1024
#define VALUE_BYTES_MAX 255
#define WORD_BYTES_MIN 3 // shorter ones are found in nearly every agent

static const struct {
    const char *name;
    size_t min; // bytes of its value; 0: it has none
} kinds[RULE_KINDS] = {
    [RULE_AGENT_EXACT] = {"agent-exact", 1},
    [RULE_AGENT_CONTAINS] = {"agent-contains", WORD_BYTES_MIN},
    [RULE_AGENT_PREFIX] = {"agent-prefix", WORD_BYTES_MIN},
    [RULE_AGENT_SUFFIX] = {"agent-suffix", WORD_BYTES_MIN},
    [RULE_AGENT_WORD_SUFFIX] = {"agent-word-suffix", WORD_BYTES_MIN},
    [RULE_NO_AGENT] = {"no-agent", 0},
    [RULE_SEC_PURPOSE] = {"sec-purpose-contains", WORD_BYTES_MIN},
    [RULE_PURPOSE] = {"purpose-exact", 1},
    [RULE_X_MOZ] = {"x-moz-exact", 1},
    [RULE_ADDRESS] = {"address", 2},
    [RULE_ANY] = {"any", 0},
};

struct line {
    const char *name;
    unsigned number;
    char *at; // what is not read yet
    struct err *err;
};

#define REFUSE(line, format, ...)                                                                                      \
    err_set((line)->err, ERR_INVALID, "%s:%u: " format, (line)->name, (line)->number __VA_OPT__(, ) __VA_ARGS__)

// The next word, ended in place; empty where the line or its part ends.
static const char *next_word(struct line *line) {
    line->at += strspn(line->at, " \t");
    char *word = line->at;
    size_t len = strcspn(word, " \t;\"");
    line->at += len;
    if (*line->at == ' ' || *line->at == '\t')
        *line->at++ = '\0';
    else if (len > 0 && *line->at != '\0')
        return "\""; // stuck to a quote or a semicolon: no word is called so
    return word;
}

static int quoted_value(struct line *line, const char *after, size_t min, struct word *value) {
    line->at += strspn(line->at, " \t");
    char *end = *line->at == '"' ? strchr(line->at + 1, '"') : NULL;
    if (end == NULL)
        return REFUSE(line, "%s needs a value in double quotes", after);
    *value = (struct word){line->at + 1, (size_t)(end - line->at) - 1};
    if (value->len < min || value->len > VALUE_BYTES_MAX)
        return REFUSE(line, "the value of %s must have %zu to %d bytes", after, min, VALUE_BYTES_MAX);
    line->at = end + 1;
    if (*line->at != ' ' && *line->at != '\t')
        return REFUSE(line, "a space must follow the value of %s", after);
    return 0;
}

static int parse_class(struct line *line, struct fetch_rule *rule) {
    static const char *const names[] = {[FETCH_PERSON] = "person", [FETCH_MACHINE] = "machine",
                                        [FETCH_SCANNER] = "scanner"};
    const char *word = next_word(line);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(word, names[i]) == 0) {
            rule->fetch = (enum fetch)i;
            return 0;
        }
    return REFUSE(line, "a rule begins with person, machine or scanner");
}

static int parse_kind(struct line *line, struct fetch_rule *rule) {
    const char *word = next_word(line), *names[RULE_KINDS];
    for (size_t i = 0; i < RULE_KINDS; i++) {
        names[i] = kinds[i].name;
        if (strcmp(word, names[i]) != 0)
            continue;
        rule->kind = (enum fetch_rule_kind)i;
        int rc = kinds[i].min == 0 ? 0 : quoted_value(line, names[i], kinds[i].min, &rule->value);
        if (rc == 0 && rule->kind == RULE_ADDRESS && cidr_parse(rule->value.at, rule->value.len, &rule->cidr) != 0)
            return REFUSE(line, "the value of address must be a range like \"192.0.2.0/24\" or \"2001:db8::/32\"");
        return rc;
    }
    const char *near = cli_nearest(word, names, RULE_KINDS);
    if (near != NULL)
        return REFUSE(line, "unknown kind \"%.40s\"; did you mean %s?", word, near);
    return REFUSE(line, "unknown kind \"%.40s\"; agent-contains is one", word);
}

static int parse_condition(struct line *line, struct fetch_rule *rule, bool unless) {
    const char *name = unless ? "unless" : "with";
    if (!fetch_rule_searches_agent(rule) || (rule->kind == RULE_AGENT_WORD_SUFFIX && !unless))
        return REFUSE(line, "%s does not go with %s", name, kinds[rule->kind].name);
    if (rule->n_conditions == FETCH_RULE_CONDITIONS_MAX)
        return REFUSE(line, "more than %d of with and unless", FETCH_RULE_CONDITIONS_MAX);
    struct fetch_condition *condition = &rule->conditions[rule->n_conditions++];
    condition->unless = unless;
    return quoted_value(line, name, WORD_BYTES_MIN, &condition->word);
}

static int parse_modifiers(struct line *line, struct fetch_rule *rule) {
    for (;;) {
        const char *word = next_word(line);
        int rc = 0;
        if (word[0] == '\0' || word[0] == ';')
            return 0;
        if (strcmp(word, "with") == 0 || strcmp(word, "unless") == 0)
            rc = parse_condition(line, rule, word[0] == 'u');
        else if (strcmp(word, "within-minute") == 0)
            rule->within_minute = true;
        else
            rc = REFUSE(line, "only with, unless, within-minute or a semicolon may follow here");
        if (rc != 0)
            return rc;
    }
}

// "; SOURCE ; DATE": who says so, and when somebody last looked.
static int parse_provenance(struct line *line) {
    char *last = strrchr(line->at, ';');
    uint32_t day;
    if (*line->at != ';' || last == line->at)
        return REFUSE(line, "a rule ends with \"; SOURCE ; DATE\"");
    size_t source = 0;
    for (const char *c = line->at + 1; c < last; c++)
        source += *c != ' ' && *c != '\t';
    if (source < 2)
        return REFUSE(line, "the rule names no source");
    char *date = last + 1 + strspn(last + 1, " \t");
    date[strcspn(date, " \t")] = '\0';
    if (day_parse(date, &day) != 0)
        return REFUSE(line, "the rule's date must be a day as YYYY-MM-DD");
    return 0;
}

int fetch_rule_parse(struct fetch_rule *rule, const char *name, unsigned number, char *text, struct err *err) {
    struct line line = {.name = name, .number = number, .at = text, .err = err};
    size_t len = strlen(text);
    *rule = (struct fetch_rule){.line = number};
    if (len > LINE_BYTES_MAX)
        return REFUSE(&line, "a line of %zu bytes; at most %d are allowed", len, LINE_BYTES_MAX);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < ' ' && text[i] != '\t')
            return REFUSE(&line, "a control character (byte %zu of the line)", i + 1);
        if (text[i] >= 'A' && text[i] <= 'Z')
            text[i] = (char)(text[i] - 'A' + 'a');
    }
    line.at += strspn(text, " \t");
    if (*line.at == '\0' || *line.at == '#')
        return 0;
    int rc = parse_class(&line, rule);
    if (rc == 0)
        rc = parse_kind(&line, rule);
    if (rc == 0)
        rc = parse_modifiers(&line, rule);
    if (rc == 0)
        rc = parse_provenance(&line);
    CHECK(rc <= 0);
    return rc == 0 ? 1 : rc;
}
