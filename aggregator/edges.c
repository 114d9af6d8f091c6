#include "aggregator/edges.h"

#include <string.h>

// Far enough for an edge that was off for as long as last-open days are kept; bounds what one marker may touch.
#define CLOSE_DAYS_MAX LAST_OPEN_KEEP_DAYS

static void day_lose(struct edge_record *edge, uint32_t day) {
    CHECK(day != DAY_NONE);
    if (edge->incomplete_through == DAY_NONE) {
        edge->incomplete_through = day;
        edge->incomplete_days = 1;
    } else if (day > edge->incomplete_through) {
        uint32_t later = day - edge->incomplete_through;
        edge->incomplete_days = later < 64 ? edge->incomplete_days << later | 1 : 1;
        edge->incomplete_through = day;
    } else if (edge->incomplete_through - day < 64) {
        edge->incomplete_days |= 1ull << (edge->incomplete_through - day);
    }
}

// Something is lost that belongs to one of the days that the edge has not closed, up to `day`.
static void open_days_lose(struct edge_record *edge, uint32_t day) {
    uint32_t first = day > 63 && edge->closed_through < day - 63 ? day - 63 : edge->closed_through + 1;
    day_lose(edge, day);
    for (; first < day; first++)
        day_lose(edge, first);
}

bool edge_has_lost(uint32_t incomplete_through, uint64_t incomplete_days, uint32_t day) {
    if (incomplete_through == DAY_NONE || day > incomplete_through)
        return false;
    return incomplete_through - day >= 64 || (incomplete_days >> (incomplete_through - day) & 1) != 0;
}

static struct edge_epoch *epoch_find(struct edge_record *edge, uint64_t epoch) {
    for (size_t i = edge->n_epochs; i-- > 0;)
        if (edge->epochs[i].epoch == epoch)
            return &edge->epochs[i];
    return NULL;
}

static bool gap_contains(const struct edge_epoch *epoch, uint64_t segment) {
    for (size_t g = 0; g < epoch->n_gaps; g++)
        if (segment >= epoch->gaps[g].first && segment <= epoch->gaps[g].last)
            return true;
    return false;
}

static bool is_forgotten(const struct edge_record *edge, uint64_t first, uint64_t last) {
    return first >= edge->forgotten_first && last < edge->forgotten_next;
}

// With an empty spool, whose numbers begin anew.
static bool registers_anew(const struct edge_record *edge, const struct message_head *head) {
    return head->kind == MESSAGE_REGISTER && head->epoch != edge->registered_epoch;
}

bool edge_has_seen(const struct edge_record *edge, const struct message_head *head) {
    const struct edge_epoch *epoch = epoch_find((struct edge_record *)edge, head->epoch);
    if (epoch == NULL)
        return (!registers_anew(edge, head) && is_forgotten(edge, head->segment, head->segment)) ||
               (edge->registered_day != DAY_NONE && head->day <= edge->closed_through);
    if (head->segment < epoch->first)
        return true;
    return head->segment < epoch->next && !gap_contains(epoch, head->segment);
}

static void gap_remove(struct edge_epoch *epoch, size_t at) {
    CHECK(at < epoch->n_gaps);
    epoch->n_gaps--;
    memmove(&epoch->gaps[at], &epoch->gaps[at + 1], (epoch->n_gaps - at) * sizeof epoch->gaps[0]);
}

// The oldest gap is given up where there is no room: its segments count as seen, so nothing can count twice.
static void gap_append(struct edge_record *edge, struct edge_epoch *epoch, uint64_t first, uint64_t last,
                       uint32_t day) {
    CHECK(first <= last);
    if (epoch->n_gaps == EDGE_GAPS_MAX) {
        gap_remove(epoch, 0);
        open_days_lose(edge, day);
    }
    epoch->gaps[epoch->n_gaps++] = (struct segment_range){.epoch = epoch->epoch, .first = first, .last = last};
}

static void gap_fill(struct edge_record *edge, struct edge_epoch *epoch, uint64_t segment, uint32_t day) {
    for (size_t g = 0; g < epoch->n_gaps; g++) {
        struct segment_range gap = epoch->gaps[g];
        if (segment < gap.first || segment > gap.last)
            continue;
        if (gap.first == gap.last) {
            gap_remove(epoch, g);
        } else if (segment == gap.first) {
            epoch->gaps[g].first++;
        } else if (segment == gap.last) {
            epoch->gaps[g].last--;
        } else if (epoch->n_gaps < EDGE_GAPS_MAX) {
            memmove(&epoch->gaps[g + 1], &epoch->gaps[g], (epoch->n_gaps - g) * sizeof epoch->gaps[0]);
            epoch->n_gaps++;
            epoch->gaps[g].last = segment - 1;
            epoch->gaps[g + 1].first = segment + 1;
        } else {
            epoch->gaps[g].first = segment + 1;
            open_days_lose(edge, day);
        }
        return;
    }
}

// The oldest epoch makes room. Nothing is lost by it where its segments are all in and the next boot's follow on them.
static void epoch_forget(struct edge_record *edge, uint32_t day) {
    CHECK(edge->n_epochs >= 2);
    const struct edge_epoch *oldest = &edge->epochs[0];
    uint64_t follows = edge->epochs[1].first;
    bool any = edge->forgotten_next > 0;
    if (edge->renumbered || oldest->n_gaps > 0 || oldest->next != follows || (any && edge->forgotten_next != oldest->first))
        open_days_lose(edge, day);
    if (!edge->renumbered) {
        edge->forgotten_first = any ? edge->forgotten_first : oldest->first;
        edge->forgotten_next = follows;
    }
    edge->n_epochs--;
    memmove(&edge->epochs[0], &edge->epochs[1], edge->n_epochs * sizeof edge->epochs[0]);
}

// Kept by their segments, which grow from boot to boot: a boot whose only message comes late is still before the next one.
static struct edge_epoch *epoch_insert(struct edge_record *edge, const struct message_head *head) {
    if (edge->n_epochs == EDGE_EPOCHS_MAX)
        epoch_forget(edge, head->day);
    size_t at = edge->n_epochs++;
    for (; at > 0 && edge->epochs[at - 1].first > head->epoch_first; at--)
        edge->epochs[at] = edge->epochs[at - 1];
    struct edge_epoch *epoch = &edge->epochs[at];
    *epoch = (struct edge_epoch){.epoch = head->epoch, .first = head->epoch_first, .next = head->epoch_first};
    return epoch;
}

uint64_t edge_mark_seen(struct edge_record *edge, const struct message_head *head) {
    CHECK(head->segment >= head->epoch_first && !edge_has_seen(edge, head));
    struct edge_epoch *epoch = epoch_find(edge, head->epoch);
    if (epoch == NULL)
        epoch = epoch_insert(edge, head);
    if (edge->registered_day == DAY_NONE && edge->closed_through < head->day)
        edge->closed_through = head->day; // how recent it is, for forgetting it
    if (head->segment < epoch->next) {
        gap_fill(edge, epoch, head->segment, head->day);
        return 0;
    }
    uint64_t missing = head->segment - epoch->next;
    if (missing > 0)
        gap_append(edge, epoch, epoch->next, head->segment - 1, head->day);
    epoch->next = head->segment + 1;
    return missing;
}

// A new spool's numbers are above those that a spool reached on an earlier day, but not on the same one.
static bool numbers_repeat(const struct edge_record *edge, const struct message_head *head) {
    bool repeat = head->epoch_first < edge->forgotten_next;
    for (size_t i = 0; i < edge->n_epochs; i++)
        repeat |= edge->epochs[i].epoch != head->epoch && head->epoch_first < edge->epochs[i].next;
    return repeat;
}

bool edge_register(struct edge_record *edge, const struct message_head *head) {
    const uint32_t day = head->day;
    CHECK(day != DAY_NONE);
    edge->registered_epoch = head->epoch;
    if (edge->registered_day == DAY_NONE) {
        edge->registered_day = day;
        edge->closed_through = day - 1;
        return true;
    }
    // Only an empty spool registers, so what the edge had not closed is lost, unless the operator had retired it.
    bool whole = edge->retired_on != DAY_NONE || edge->closed_through >= day;
    edge->retired_on = DAY_NONE;
    if (numbers_repeat(edge, head)) {
        edge->forgotten_first = edge->forgotten_next = 0;
        edge->renumbered = true;
    }
    if (!whole)
        open_days_lose(edge, day);
    if (edge->closed_through < day - 1)
        edge->closed_through = day - 1;
    return whole;
}

bool edge_lives_again(struct edge_record *edge, const struct message_head *head) {
    if (edge->retired_on == DAY_NONE || head->kind == MESSAGE_REGISTER || head->day < edge->retired_on)
        return false;
    edge->retired_on = DAY_NONE;
    return true;
}

static bool range_is_in(struct edge_record *edge, const struct segment_range *range) {
    const struct edge_epoch *epoch = epoch_find(edge, range->epoch);
    if (epoch == NULL)
        return is_forgotten(edge, range->first, range->last);
    if (range->first < epoch->first || range->last >= epoch->next)
        return false;
    for (size_t g = 0; g < epoch->n_gaps; g++)
        if (range->first <= epoch->gaps[g].last && range->last >= epoch->gaps[g].first)
            return false;
    return true;
}

// The days of all epochs before this one are closed now, because an edge's day never goes back.
static void epochs_forget_before(struct edge_record *edge, uint64_t epoch) {
    size_t at = 0;
    while (at < edge->n_epochs && edge->epochs[at].epoch != epoch)
        at++;
    if (at == edge->n_epochs)
        return;
    edge->n_epochs -= at;
    memmove(&edge->epochs[0], &edge->epochs[at], edge->n_epochs * sizeof edge->epochs[0]);
    edge->forgotten_first = edge->forgotten_next = 0;
    edge->renumbered = edge->renumbered && edge->n_epochs > 1;
}

struct edge_closing edge_close(struct edge_record *edge, const struct message_head *head,
                               const struct close_body *close) {
    struct edge_closing closing = {.registered = edge->registered_day != DAY_NONE};
    if (!closing.registered || head->day <= edge->closed_through)
        return closing;
    closing.closes = true;
    closing.from_day = close->from_day > edge->closed_through ? close->from_day : edge->closed_through + 1;
    if (closing.from_day > head->day)
        closing.from_day = head->day;
    if (head->day - closing.from_day > CLOSE_DAYS_MAX)
        closing.from_day = head->day - CLOSE_DAYS_MAX;
    for (size_t i = 0; i < close->n_ranges && !closing.missing; i++)
        closing.missing = !range_is_in(edge, &close->ranges[i]);
    if (closing.from_day > edge->closed_through + 1)
        open_days_lose(edge, closing.from_day - 1); // days between that nobody speaks of
    if (closing.missing)
        day_lose(edge, head->day);
    edge->closed_through = head->day;
    epochs_forget_before(edge, head->epoch);
    return closing;
}

void day_add_close(struct day_record *record, uint32_t day, const struct message_head *head,
                   const struct close_body *close) {
    CHECK(day <= head->day);
    record->n_edges_closed++;
    if (day < head->day)
        return;
    record->edges.requests += close->counts.requests;
    record->edges.recorded += close->counts.recorded;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++)
        record->edges.drops[i] += close->counts.drops[i];
    record->recorded_here += close->recorded_here;
}

bool day_add_rules(struct day_record *record, const uint8_t hash[RULES_HASH_SIZE]) {
    size_t at = 0;
    int order = 1;
    while (at < record->n_rules && (order = memcmp(record->rules[at], hash, RULES_HASH_SIZE)) < 0)
        at++;
    if (at < record->n_rules && order == 0)
        return true;
    if (record->n_rules == DAY_RULES_MAX)
        return false;
    memmove(record->rules[at + 1], record->rules[at], (record->n_rules - at) * RULES_HASH_SIZE);
    memcpy(record->rules[at], hash, RULES_HASH_SIZE);
    record->n_rules++;
    return true;
}

bool edge_is_through(uint32_t registered_day, uint32_t closed_through, bool retired, uint32_t day) {
    return registered_day == DAY_NONE || registered_day > day || retired || closed_through >= day;
}
