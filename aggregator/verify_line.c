#include "aggregator/verify_line.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <string.h>

#define RULE_DIGITS (2 * RULES_HASH_SIZE)
#define THRESHOLD_MIN 11
#define THRESHOLD_MAX 1000000000

struct line_check {
    const struct verify_frame *frame;
    verify_found_fn found;
    void *arg;
    const json_t *json;
    struct fraction epsilon;
    json_int_t threshold;
    bool withheld; // says that the month's budget is spent
};

static void found(const struct line_check *check, enum verify_promise promise, const char *format, ...) PRINTF_LIKE(3, 4);
static void found(const struct line_check *check, enum verify_promise promise, const char *format, ...) {
    char why[200];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    check->found(check->arg, promise, why);
}

// ---- members ---------------------------------------------------------------------------------------------------------

enum member_type { MEMBER_TEXT, MEMBER_NUMBER, MEMBER_FLAG, MEMBER_LIST, MEMBER_COUNT };
struct member {
    const char *name;
    enum member_type type;
    bool optional;
};
static const struct member line_members[] = {
    {"schema", MEMBER_TEXT, false},  {"kind", MEMBER_TEXT, false},      {"tenant", MEMBER_NUMBER, false},
    {"period", MEMBER_TEXT, false},  {"complete", MEMBER_FLAG, false},  {"rehearsal", MEMBER_FLAG, false},
    {"mechanism", MEMBER_TEXT, false}, {"epsilon", MEMBER_TEXT, false}, {"threshold", MEMBER_NUMBER, false},
    {"reason", MEMBER_TEXT, true},   {"rules", MEMBER_LIST, false},     {"cells", MEMBER_LIST, false},
};
static const struct member deliverability_members[] = {
    {"stream", MEMBER_NUMBER, false}, {"stream_name", MEMBER_TEXT, false}, {"provider", MEMBER_TEXT, false},
    {"fetch", MEMBER_TEXT, false},    {"contacts", MEMBER_COUNT, false},
};
static const struct member inactivity_members[] = {
    {"days_since_open", MEMBER_TEXT, false},
    {"contacts", MEMBER_COUNT, false},
};

static bool member_fits(const json_t *value, enum member_type type) {
    switch (type) {
    case MEMBER_TEXT:
        return json_is_string(value);
    case MEMBER_NUMBER:
        return json_is_integer(value);
    case MEMBER_FLAG:
        return json_is_boolean(value);
    case MEMBER_LIST:
        return json_is_array(value);
    case MEMBER_COUNT:
        break;
    }
    return json_is_null(value) || (json_is_integer(value) && json_integer_value(value) >= 0);
}

// Exactly these members; `what` names the object.
static bool members_check(const struct line_check *check, const json_t *object, const char *what,
                          const struct member *members, size_t n) {
    size_t present = 0;
    if (!json_is_object(object)) {
        found(check, VERIFY_MEMBERS, "has %s that is no object", what);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_object_get(object, members[i].name);
        present += value != NULL;
        if (value == NULL ? members[i].optional : member_fits(value, members[i].type))
            continue;
        found(check, VERIFY_MEMBERS, "has %s whose member \"%s\" is missing or of another type", what, members[i].name);
        return false;
    }
    if (json_object_size(object) == present)
        return true;
    found(check, VERIFY_MEMBERS, "has %s with a member that released lines do not have", what);
    return false;
}

static bool all_members_check(const struct line_check *check) {
    bool days = check->frame->kind == RELEASE_DELIVERABILITY;
    const struct member *members = days ? deliverability_members : inactivity_members;
    size_t n = days ? ARRAY_LEN(deliverability_members) : ARRAY_LEN(inactivity_members);
    if (!members_check(check, check->json, "a line", line_members, ARRAY_LEN(line_members)))
        return false;
    const json_t *cells = json_object_get(check->json, "cells");
    for (size_t i = 0; i < json_array_size(cells); i++)
        if (!members_check(check, json_array_get(cells, i), "a cell", members, n))
            return false;
    return true;
}

static const char *text_of(const json_t *object, const char *name) {
    const char *text = json_string_value(json_object_get(object, name));
    CHECK(text != NULL); // all_members_check
    return text;
}

static bool says(const json_t *object, const char *name, const char *text) {
    return strcmp(text_of(object, name), text) == 0;
}

// ---- the frame -------------------------------------------------------------------------------------------------------

static void named_check(const struct line_check *check) {
    const struct verify_frame *frame = check->frame;
    char period[DAY_TEXT_SIZE];
    release_period_format(frame->kind, frame->period_day, period);
    if (!says(check->json, "schema", "openveil.release.v1"))
        found(check, VERIFY_MEMBERS, "is of another schema than openveil.release.v1");
    if (json_integer_value(json_object_get(check->json, "tenant")) != (json_int_t)frame->tenant->id)
        found(check, VERIFY_NAMED, "is a line of another tenant");
    if (!says(check->json, "kind", release_kind_names[frame->kind]))
        found(check, VERIFY_NAMED, "is a line of another kind");
    if (!says(check->json, "period", period))
        found(check, VERIFY_NAMED, "is a line of another period");
    bool rehearsal = json_is_true(json_object_get(check->json, "rehearsal"));
    if (rehearsal != frame->rehearsal)
        found(check, VERIFY_MODE, "says that it is of %s", rehearsal ? "a rehearsal" : "production");
}

static void noise_check(struct line_check *check) {
    const char *epsilon = text_of(check->json, "epsilon");
    check->withheld = json_object_get(check->json, "reason") != NULL;
    check->epsilon = (struct fraction){0, 1};
    if (!says(check->json, "mechanism", "discrete-laplace"))
        found(check, VERIFY_NOISE, "names another mechanism than discrete-laplace");
    if (check->withheld) {
        if (!says(check->json, "reason", "budget"))
            found(check, VERIFY_BUDGET, "gives another reason than the budget");
        if (strcmp(epsilon, "0/1") != 0)
            found(check, VERIFY_BUDGET, "is withheld for the budget and spends something all the same");
    } else if (fraction_parse(epsilon, &check->epsilon) != 0) {
        found(check, VERIFY_NOISE, "has an epsilon that is no reduced fraction a/b above 0");
        check->epsilon = (struct fraction){0, 1};
    } else if (check->epsilon.numerator > check->epsilon.denominator) {
        found(check, VERIFY_NOISE, "has an epsilon of %" PRIu32 "/%" PRIu32 ", above 1", check->epsilon.numerator,
              check->epsilon.denominator);
    }
    check->threshold = json_integer_value(json_object_get(check->json, "threshold"));
    if (check->threshold < THRESHOLD_MIN || check->threshold > THRESHOLD_MAX)
        found(check, VERIFY_THRESHOLD, "has a threshold of %" JSON_INTEGER_FORMAT ", which is not %d to %d",
              check->threshold, THRESHOLD_MIN, THRESHOLD_MAX);
}

static void settings_check(const struct line_check *check) {
    const struct settings *settings = check->frame->settings;
    if (settings == NULL)
        return;
    if (!check->withheld && (check->epsilon.numerator != settings->epsilon.numerator ||
                             check->epsilon.denominator != settings->epsilon.denominator))
        found(check, VERIFY_SETTINGS, "has another epsilon than the one in force, %" PRIu32 "/%" PRIu32,
              settings->epsilon.numerator, settings->epsilon.denominator);
    if (check->threshold != (json_int_t)settings->threshold)
        found(check, VERIFY_SETTINGS, "has another threshold than the one in force, %" PRIu32, settings->threshold);
}

static void rules_check(const struct line_check *check) {
    const json_t *rules = json_object_get(check->json, "rules");
    const char *before = "";
    if (json_array_size(rules) > DAY_RULES_MAX)
        found(check, VERIFY_RULES, "names more than %d rule files", DAY_RULES_MAX);
    for (size_t i = 0; i < json_array_size(rules); i++) {
        const char *rule = json_string_value(json_array_get(rules, i));
        if (rule == NULL || strlen(rule) != RULE_DIGITS || strspn(rule, "0123456789abcdef") != RULE_DIGITS) {
            found(check, VERIFY_RULES, "names rule file %zu by something else than 64 hexadecimal digits", i + 1);
            return;
        }
        if (strcmp(before, rule) >= 0) {
            found(check, VERIFY_RULES, "does not name each rule file once and in order");
            return;
        }
        before = rule;
    }
}

// ---- the cells -------------------------------------------------------------------------------------------------------

static void numbers_check(const struct line_check *check) {
    const json_t *cells = json_object_get(check->json, "cells");
    size_t below = 0, shown = 0;
    for (size_t i = 0; i < json_array_size(cells); i++) {
        const json_t *contacts = json_object_get(json_array_get(cells, i), "contacts");
        shown += json_is_integer(contacts);
        below += json_is_integer(contacts) && json_integer_value(contacts) < check->threshold;
    }
    if (below > 0)
        found(check, VERIFY_THRESHOLD, "shows %zu number%s below its threshold of %" JSON_INTEGER_FORMAT, below,
              below == 1 ? "" : "s", check->threshold);
    if (check->withheld && shown > 0)
        found(check, VERIFY_BUDGET, "is withheld for the budget and shows %zu number%s all the same", shown,
              shown == 1 ? "" : "s");
}

// A name that configuration may give to a provider.
static bool provider_name_fits(const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i < PROVIDERS_BUILTIN; i++)
        if (strcmp(name, provider_builtin_names[i]) == 0)
            return false;
    return len >= 1 && len <= 32 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == len;
}

// The providers of the grid's first stream: the built-in ones, then configured ones, each once, and, where the settings
// are at hand, theirs. False where this is no grid.
static bool providers_check(const struct line_check *check, const json_t *cells, size_t n_providers) {
    const struct settings *settings = check->frame->settings;
    size_t configured = PROVIDERS_BUILTIN, next = PROVIDERS_BUILTIN;
    for (size_t p = 0; p < n_providers; p++) {
        const char *name = text_of(json_array_get(cells, 2 * p), "provider");
        if (p < PROVIDERS_BUILTIN ? strcmp(name, provider_builtin_names[p]) != 0 : !provider_name_fits(name))
            return false;
        for (size_t q = PROVIDERS_BUILTIN; q < p; q++)
            if (says(json_array_get(cells, 2 * q), "provider", name))
                return false;
        if (settings == NULL || p < PROVIDERS_BUILTIN)
            continue;
        while (next < PROVIDERS_MAX && settings->provider_names[next] == NULL)
            next++;
        if (next == PROVIDERS_MAX || strcmp(settings->provider_names[next++], name) != 0)
            found(check, VERIFY_SETTINGS, "shows a provider that was not configured in its place");
    }
    for (size_t i = PROVIDERS_BUILTIN; settings != NULL && i < PROVIDERS_MAX; i++)
        configured += settings->provider_names[i] != NULL;
    if (settings != NULL && configured != n_providers)
        found(check, VERIFY_SETTINGS, "shows %zu providers, and %zu were configured", n_providers, configured);
    return true;
}

static void deliverability_check(const struct line_check *check) {
    static const char *const fetches[] = {"person", "machine"};
    const json_t *cells = json_object_get(check->json, "cells");
    const struct tenant_version *version = tenant_version_on(check->frame->tenant, check->frame->period_day);
    size_t n = json_array_size(cells);
    if (version == NULL) {
        found(check, VERIFY_GRID, "is of a day before the tenant's first");
        return;
    }
    size_t n_providers = n / (2 * version->n_streams);
    if (n > RELEASE_CELLS_MAX || n != n_providers * 2 * version->n_streams || n_providers < PROVIDERS_BUILTIN ||
        !providers_check(check, cells, n_providers)) {
        found(check, VERIFY_GRID, "has %zu cells, which are not the %zu streams of that day by all providers by person and "
              "machine", n, version->n_streams);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *cell = json_array_get(cells, i);
        const struct stream *stream = &version->streams[i / (2 * n_providers)];
        const json_t *provider_of = json_array_get(cells, i % (2 * n_providers) / 2 * 2);
        if (json_integer_value(json_object_get(cell, "stream")) == stream->number &&
            says(cell, "stream_name", stream->name) && says(cell, "fetch", fetches[i % 2]) &&
            says(cell, "provider", text_of(provider_of, "provider")))
            continue;
        found(check, VERIFY_GRID, "has in place %zu another cell than that of stream %u", i + 1, stream->number);
        return;
    }
}

static void inactivity_check(const struct line_check *check) {
    const json_t *cells = json_object_get(check->json, "cells");
    bool good = json_array_size(cells) == INACTIVITY_CELLS;
    for (size_t i = 0; good && i < INACTIVITY_CELLS; i++)
        good = says(json_array_get(cells, i), "days_since_open", inactivity_cell_names[i]);
    if (!good)
        found(check, VERIFY_GRID, "has not the %d cells of an inactivity line in their order", INACTIVITY_CELLS);
}

void verify_line(const struct verify_frame *frame, const char *data, size_t len, verify_found_fn fn, void *arg,
                 struct fraction *spent) {
    struct line_check check = {.frame = frame, .found = fn, .arg = arg, .epsilon = {0, 1}};
    CHECK(frame->kind == RELEASE_DELIVERABILITY || frame->kind == RELEASE_INACTIVITY);
    *spent = check.epsilon;
    if (len == 0 || data[len - 1] != '\n' || memchr(data, '\n', len - 1) != NULL)
        found(&check, VERIFY_ONCE, "does not hold one line and nothing else");
    json_t *json = json_loadb(data, len, JSON_REJECT_DUPLICATES, NULL);
    check.json = json;
    if (json == NULL) {
        found(&check, VERIFY_MEMBERS, "is not JSON");
    } else if (all_members_check(&check)) {
        named_check(&check);
        noise_check(&check);
        settings_check(&check);
        rules_check(&check);
        numbers_check(&check);
        if (frame->kind == RELEASE_INACTIVITY)
            inactivity_check(&check);
        else
            deliverability_check(&check);
        *spent = check.epsilon;
    }
    json_decref(json);
}
