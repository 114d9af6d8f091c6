// What should be: the state that FORMATS gives, from the decisions in the order in which they were committed. Written
// without the aggregator's own rules; of its headers only the structures that records decode to are used.
#ifndef OPENVEIL_TESTS_MODEL_H
#define OPENVEIL_TESTS_MODEL_H

#include "sim.h"

#define MODEL_OPENS 48
#define MODEL_SPENT 64
#define MODEL_SETTINGS 16
#define MODEL_EPOCHS 64

struct model_edge {
    bool registered;
    uint32_t retired_on; // DAY_NONE: not
    bool broken; // once retired, or its spool lost: then its markers need not tell of all that it sent
    uint32_t registered_day, closed_through;
    uint64_t lost;   // days, as bits from sim.base_day on
    uint64_t closed; // by a marker
    size_t n_epochs; // in which it sends and whose days are not all closed
    struct {
        uint64_t epoch, first; // and its first segment: they grow from boot to boot
    } epochs[MODEL_EPOCHS];
};
struct model_day {
    bool exists;
    uint8_t flags;
    uint64_t received, counted, repeated, drops[AGG_DROPS];
    struct edge_counts edges;
    uint64_t recorded_here;
    uint32_t n_edges_closed;
    bool rules[SIM_RULES];
};
struct model_contact {
    size_t n;
    uint32_t opens[MODEL_OPENS]; // days on which it opened something that counts
};
struct model_cell {
    bool used;
    struct window_cell cell;
};
struct model_spent {
    uint32_t period_day;
    uint8_t kind;
    struct fraction spent;
    size_t len;
    const uint8_t *line;
};
struct model_tenant {
    bool exists;
    uint32_t first_measured, next_window, next_month, measured_since;
    struct model_contact contacts[SIM_CONTACTS];
    struct model_cell cells[SIM_DAYS][SIM_CONTACTS]; // by day of sending
    size_t n_spent;
    struct model_spent spent[MODEL_SPENT];
};
struct model_settings {
    uint32_t from_day;
    struct fraction epsilon;
    uint32_t threshold, horizon_days;
    const char *provider_14;
};
struct model {
    struct model_edge edges[SIM_PARTITIONS][SIM_EDGES];
    struct model_day days[SIM_PARTITIONS][SIM_DAYS];
    struct model_tenant tenants[SIM_TENANTS];
    size_t n_settings[SIM_PARTITIONS];
    struct model_settings settings[SIM_PARTITIONS][MODEL_SETTINGS];
};
extern struct model model;

// sim_model.c
int model_tenant_index(uint32_t tenant);                         // -1: none of ours
int model_contact_index(uint32_t tenant_index, uint64_t pseudonym);
struct model_day *model_day(uint32_t partition, uint32_t day);
uint32_t model_day_at(uint32_t day); // its place in arrays by day
const struct model_settings *model_settings_on(uint32_t partition, uint32_t day);
const struct tenant_version *model_version_on(const struct sim_table *table, uint32_t tenant, uint32_t day);
bool model_allows(const struct consent_record *record, uint8_t class_regime, bool basis, enum purpose purpose,
                  uint32_t day);
uint32_t model_last_open(const struct model_contact *contact, uint32_t until); // DAY_NONE: none
uint8_t model_frozen(const struct model_contact *contact);
const struct consent_record *model_answer(const struct sim_decision *decision, uint32_t tenant, uint64_t pseudonym);

// sim_days.c
uint32_t model_earliest(uint32_t partition); // registration; DAY_NONE
// Every edge registered on or before it has closed it, or was retired and the day is over, and all of it is there.
bool model_whole(uint32_t partition, uint32_t day, uint32_t today);
bool model_knows(uint32_t partition, const struct sim_message *message);
void model_register(struct model_edge *edge, uint32_t day);
void model_retire(struct model_edge *edge, uint32_t day);
void model_sends(struct model_edge *edge, uint32_t day);
void model_close(uint32_t partition, const struct sim_message *message);
void model_decide_day(const struct sim_decision *decision);

// sim_lines.c
void model_line(struct slot *slot, const struct sim_decision *decision);
void model_scan_contact(struct slot *slot, const struct sim_decision *decision);

// sim_check.c
void model_check_records(const struct batch *batch);

#endif
