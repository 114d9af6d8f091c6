// The rules of a fetch-class file, line by line, as fetch_class.c uses them: what a line says, and its parsing. The
// format is told at the head of common/data/fetch-classes.txt. Texts point into the caller's copy of the file.
#ifndef OPENVEIL_FETCH_RULES_H
#define OPENVEIL_FETCH_RULES_H

#include "common/cidr.h"
#include "ingest/fetch_class.h"
#include "ingest/word_search.h"

#define FETCH_RULE_CONDITIONS_MAX 8 // `with` and `unless` of one rule

enum fetch_rule_kind {
    RULE_AGENT_EXACT,
    RULE_AGENT_CONTAINS,
    RULE_AGENT_PREFIX,
    RULE_AGENT_SUFFIX,
    RULE_AGENT_WORD_SUFFIX, // the last of those that search the agent
    RULE_NO_AGENT,
    RULE_SEC_PURPOSE,
    RULE_PURPOSE,
    RULE_X_MOZ,
    RULE_ADDRESS,
    RULE_ANY,
    RULE_KINDS
};

struct fetch_condition {
    struct word word;
    bool unless; // otherwise `with`
};

struct fetch_rule {
    unsigned line;
    enum fetch fetch;
    enum fetch_rule_kind kind;
    bool within_minute;
    struct word value; // lower case; empty for kinds without one
    struct cidr cidr;  // RULE_ADDRESS
    size_t n_conditions;
    struct fetch_condition conditions[FETCH_RULE_CONDITIONS_MAX];
};

static inline bool fetch_rule_searches_agent(const struct fetch_rule *rule) {
    return rule->kind <= RULE_AGENT_WORD_SUFFIX;
}

// Parses one line (NUL-terminated, without its line end, changed to lower case). 1: it holds a rule; 0: blank or a
// comment; ERR_INVALID: `err` says "<name>:<line>: …".
int fetch_rule_parse(struct fetch_rule *rule, const char *name, unsigned line, char *text, struct err *err) MUST_CHECK;

#endif
