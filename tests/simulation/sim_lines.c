// Released lines, byte for byte: FORMATS 6 over the model's windows and contacts.
#include "model.h"

#include <stdarg.h>

#define TEXT_MAX (64u << 10)
static char text[TEXT_MAX];
static size_t used;

static void say(const char *format, ...) PRINTF_LIKE(1, 2);
static void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    used += (size_t)vsnprintf(text + used, TEXT_MAX - used, format, args);
    va_end(args);
    CHECK(used < TEXT_MAX);
}

// Every draw is 0 for an epsilon of 1 and 1 for 1/2, 1/3, … (sim_disk.c).
static void say_contacts(const struct model_settings *settings, bool spent, uint64_t count) {
    uint64_t noisy = count + (settings->epsilon.denominator > 1);
    if (spent || noisy < settings->threshold)
        say("\"contacts\":null}");
    else
        say("\"contacts\":%llu}", (unsigned long long)noisy);
}

// What the month's lines spent, in twelfths of the budget's unit so that it stays whole.
static bool budget_is_spent(const struct model_tenant *tenant, uint32_t period_day, struct fraction epsilon) {
    uint64_t sum = 12 * epsilon.numerator / epsilon.denominator;
    for (size_t i = 0; i < tenant->n_spent; i++)
        if (day_month_start(tenant->spent[i].period_day) == day_month_start(period_day))
            sum += 12 * tenant->spent[i].spent.numerator / tenant->spent[i].spent.denominator;
    return sum > 8 * 12;
}

static void say_head(uint32_t tenant, const char *kind, const char *period, bool complete,
                     const struct model_settings *settings, bool spent) {
    used = 0;
    say("{\"schema\":\"openveil.release.v1\",\"kind\":\"%s\",\"tenant\":%u,\"period\":\"%s\",\"complete\":%s,", kind, tenant,
        period, complete ? "true" : "false");
    say("\"rehearsal\":false,\"mechanism\":\"discrete-laplace\",\"epsilon\":\"%u/%u\",\"threshold\":%u,",
        spent ? 0 : settings->epsilon.numerator, spent ? 1 : settings->epsilon.denominator, settings->threshold);
    if (spent)
        say("\"reason\":\"budget\",");
}

static void say_rules(uint32_t partition, uint32_t first, uint32_t last) {
    bool any = false;
    say("\"rules\":[");
    for (unsigned rules = 0; rules < SIM_RULES; rules++) {
        bool on = false;
        for (uint32_t day = first; day <= last; day++)
            on |= day >= sim.base_day && model_day(partition, day)->rules[rules];
        if (!on)
            continue;
        say("%s\"", any ? "," : "");
        for (unsigned i = 0; i < RULES_HASH_SIZE; i++)
            say("%02x", rules + 1);
        say("\"");
        any = true;
    }
    say("],\"cells\":[");
}

static bool days_have(uint32_t partition, uint32_t first, uint32_t last, uint8_t flags) {
    for (uint32_t day = first; day <= last; day++)
        if ((model_day(partition, day)->flags & flags) == 0)
            return false;
    return true;
}

static const char *provider_name(const struct model_settings *settings, unsigned provider) {
    return provider < PROVIDERS_BUILTIN ? provider_builtin_names[provider] : settings->provider_14;
}

// ---- deliverability -------------------------------------------------------------------------------------------------

// Of a contact's opens only the last day is kept (DESIGN 1), so that is the day that its consent is asked for again.
static uint64_t cell_count(const struct sim_decision *decision, unsigned t, uint32_t last, bool basis,
                           struct window_cell of) {
    uint32_t tenant = sim.tenants[t].id;
    uint64_t n = 0;
    for (size_t c = 0; c < SIM_CONTACTS; c++) {
        const struct model_cell *cell = &model.tenants[t].cells[decision->key.day - sim.base_day][c];
        if (!cell->used || cell->cell.stream != of.stream || cell->cell.provider != of.provider ||
            cell->cell.fetch != of.fetch)
            continue;
        const struct consent_record *record = model_answer(decision, tenant, sim.tenants[t].pseudonyms[c]);
        uint32_t open = model_last_open(&model.tenants[t].contacts[c], UINT32_MAX);
        n += open != DAY_NONE && model_allows(record, cell->cell.class_regime, basis, PURPOSE_DELIVERABILITY,
                                              open < last ? open : last);
    }
    return n;
}

static void say_deliverability(const struct sim_decision *decision, unsigned t, const struct model_settings *settings) {
    uint32_t day = decision->key.day, last = day + settings->horizon_days, id = sim.tenants[t].id;
    const struct tenant_version *version = model_version_on(decision->table, id, day);
    const struct tenant_version *then = model_version_on(decision->table, id, last);
    bool spent = budget_is_spent(&model.tenants[t], day, settings->epsilon);
    char period[DAY_TEXT_SIZE];
    bool first = true;
    day_format(day, period);
    say_head(id, "deliverability", period, days_have(decision->partition, day, last, DAY_COMPLETE), settings, spent);
    say_rules(decision->partition, day, last);
    for (size_t s = 0; s < version->n_streams; s++)
        for (unsigned provider = 0; provider <= PROVIDERS_BUILTIN; provider++)
            for (unsigned fetch = 0; fetch < 2 && provider_name(settings, provider) != NULL; fetch++) {
                const struct window_cell cell = {
                    .stream = version->streams[s].number, .provider = (uint8_t)provider, .fetch = (uint8_t)fetch};
                say("%s{\"stream\":%u,\"stream_name\":\"%s\",\"provider\":\"%s\",\"fetch\":\"%s\",", first ? "" : ",",
                    cell.stream, version->streams[s].name, provider_name(settings, provider),
                    fetch == 0 ? "person" : "machine");
                say_contacts(settings, spent, cell_count(decision, t, last, then->exemption_basis != NULL, cell));
                first = false;
            }
    say("]}");
    memset(model.tenants[t].cells[day - sim.base_day], 0, sizeof model.tenants[t].cells[0]);
}

// ---- inactivity -----------------------------------------------------------------------------------------------------

// Who could be counted, on each of the 366 days before the end of the month, for requested mail.
void model_scan_contact(struct slot *slot, const struct sim_decision *decision) {
    int t = model_tenant_index(decision->key.tenant);
    int c = model_contact_index((uint32_t)t, decision->key.pseudonym);
    uint32_t last = day_next_month_start(model.tenants[t].next_month) - 1;
    const struct tenant_version *version = model_version_on(decision->table, decision->key.tenant, last);
    bool basis = version != NULL && version->exemption_basis != NULL;
    if (!model_allows(&decision->record, 2 << 4 | 0, basis, PURPOSE_INACTIVITY, last - 365) &&
        !model_allows(&decision->record, 2 << 4 | 1, basis, PURPOSE_INACTIVITY, last - 365))
        return;
    uint32_t open = model_last_open(&model.tenants[t].contacts[c], last);
    uint32_t age = last - open;
    unsigned cell = open == DAY_NONE || age > 365 ? 4 : age <= 30 ? 0 : age <= 90 ? 1 : age <= 180 ? 2 : 3;
    slot->scan_counts[cell]++;
}

static void say_inactivity(const struct slot *slot, const struct sim_decision *decision, unsigned t,
                           const struct model_settings *settings) {
    static const char *const names[] = {"0-30", "31-90", "91-180", "181-365", "none-recorded"};
    const struct model_tenant *tenant = &model.tenants[t];
    uint32_t first = decision->key.day, last = day_next_month_start(first) - 1;
    uint32_t from = tenant->first_measured > first ? tenant->first_measured : first;
    bool spent = budget_is_spent(tenant, first, settings->epsilon);
    char period[DAY_TEXT_SIZE];
    day_format(first, period);
    period[7] = '\0';
    if (slot->scan_tenant != sim.tenants[t].id)
        sim_fail("a month of tenant %u without its scan", sim.tenants[t].id);
    say_head(sim.tenants[t].id, "inactivity", period, days_have(decision->partition, from, last, DAY_COMPLETE), settings,
             spent);
    say_rules(decision->partition, first, last);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        say("%s{\"days_since_open\":\"%s\",", i == 0 ? "" : ",", names[i]);
        say_contacts(settings, spent, slot->scan_counts[i]);
    }
    say("]}");
}

// ---- both -----------------------------------------------------------------------------------------------------------

static void line_due(const struct sim_decision *decision, const struct model_tenant *tenant,
                     const struct model_settings *settings) {
    uint32_t day = decision->key.day;
    bool window = decision->key.release_kind == RELEASE_DELIVERABILITY;
    uint32_t last = window ? day + settings->horizon_days : day_next_month_start(day) - 1;
    uint32_t first = window || day < tenant->first_measured ? tenant->first_measured : day;
    if (tenant->first_measured == DAY_NONE || day != (window ? tenant->next_window : tenant->next_month))
        sim_fail("tenant %u: day %u is not the one to release next", decision->key.tenant, day);
    if (!days_have(decision->partition, window ? day : first, last, DAY_COMPLETE | DAY_GIVEN_UP))
        sim_fail("tenant %u: day %u is released before it is due", decision->key.tenant, day);
}

void model_line(struct slot *slot, const struct sim_decision *decision) {
    int t = model_tenant_index(decision->key.tenant);
    struct model_tenant *tenant = &model.tenants[t];
    const struct model_settings *settings = model_settings_on(decision->partition, decision->key.day);
    struct release_record release;
    CHECK(release_decode(decision->value, decision->len, &release) == 0);
    line_due(decision, tenant, settings);
    if (decision->key.release_kind == RELEASE_DELIVERABILITY) {
        say_deliverability(decision, (unsigned)t, settings);
        tenant->next_window++;
    } else {
        say_inactivity(slot, decision, (unsigned)t, settings);
        tenant->next_month = day_next_month_start(decision->key.day);
    }
    bool spent = budget_is_spent(tenant, decision->key.day, settings->epsilon);
    if (release.line_len != used || memcmp(release.line, text, used) != 0)
        sim_fail("a released line is\n%.*s\nand should be\n%s", (int)release.line_len, (const char *)release.line, text);
    CHECK(tenant->n_spent < MODEL_SPENT);
    tenant->spent[tenant->n_spent++] =
        (struct model_spent){.period_day = decision->key.day,
                             .kind = decision->key.release_kind,
                             .spent = spent ? (struct fraction){0, 1} : settings->epsilon,
                             .line = decision->value,
                             .len = decision->len};
    if (spent ? release.spent.numerator != 0
              : release.spent.numerator != settings->epsilon.numerator ||
                    release.spent.denominator != settings->epsilon.denominator)
        sim_fail("tenant %u: a line spends another epsilon than it says", decision->key.tenant);
    sim.n_released++;
}
