// Deterministic simulation of edges, broker, Redis, disks and two aggregators: schedules of crashes, duplicates, zombies,
// late and lost markers, consent changes, against a plain model (tests/simulation). A schedule is chaos for some days,
// then everything heals and must settle to what the model says.
//   test_simulation                       OPENVEIL_SIM_SCHEDULES schedules (10,000), from OPENVEIL_SIM_FIRST (1) on
//   test_simulation --seed N [--verbose]  one of them again
#include "../simulation/sim.h"

#include "common/log.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#define FIRST_DAY 20779u // 2026-11-22
#define ROUNDS_TO_SETTLE 8
#define STEPS_TO_SETTLE_MAX 200000
// Instrumented code is ten times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SCHEDULES_DEFAULT 300
#else
#define SCHEDULES_DEFAULT 10000
#endif

static struct config base[SIM_SLOTS];

// ---- before a schedule ----------------------------------------------------------------------------------------------

static void base_configs(void) {
    for (unsigned s = 0; s < SIM_SLOTS; s++) {
        char text[600];
        struct err err = {0};
        snprintf(text, sizeof text,
                 "[kafka]\npartitions = 3\n[aggregator]\nstate_dir = /state-%u\n"
                 "[release]\ndir = /releases-%u\nproviders = 14=posteo\n[tenants]\ndir = /tenants\n", s, s);
        if (config_parse(&base[s], "simulation", text, strlen(text), false, &err) != 0)
            sim_fail("%s", err.text);
    }
}

static void configs_begin(void) {
    static const struct fraction epsilons[] = {{1, 1}, {1, 2}, {1, 4}, {1, 4}};
    for (unsigned v = 0; v < 2; v++) {
        struct fraction epsilon = epsilons[sim_below(ARRAY_LEN(epsilons))];
        uint32_t threshold = sim_chance(200) ? 2 : 0, horizon = sim_below(3);
        bool named = sim_chance(500);
        for (unsigned s = 0; s < SIM_SLOTS; s++) {
            struct config *config = &sim.configs[2 * s + v];
            *config = base[s];
            config->kafka_partitions = sim.n_partitions;
            config->release_epsilon = epsilon;
            config->release_threshold = threshold;
            config->release_horizon_days = horizon;
            if (!named)
                config->provider_names[14] = NULL;
        }
    }
    uint64_t hours = sim_chance(500) ? 24 : 1 + sim_below(30), commit_ms = sim_chance(500) ? 20 : 1000;
    for (size_t i = 0; i < ARRAY_LEN(sim.configs); i++) {
        sim.configs[i].release_deadline_hours = hours;
        sim.configs[i].aggregator_commit_ms = commit_ms;
    }
}

static void schedule_begin(uint64_t seed, bool verbose) {
    memset(&sim, 0, sizeof sim);
    sim_memory_reset();
    sim.seed = sim.random = seed;
    sim.verbose = verbose;
    sim.local = sim_chance(150);
    sim.n_slots = sim.local ? 1 : SIM_SLOTS;
    sim.n_partitions = 1 + sim_below(SIM_PARTITIONS);
    sim.n_edges = 1 + sim_below(SIM_EDGES);
    sim.first_day = FIRST_DAY + sim_below(10); // the month ends on one of them
    sim.base_day = sim.first_day - 8;
    sim.now_ms = day_start_ms(sim.first_day) + sim_below(DAY_SECONDS * 1000);
    for (uint32_t p = 0; p < sim.n_partitions; p++)
        sim.topics[p].position = -1;
    for (unsigned s = 0; s < SIM_SLOTS; s++)
        sim.slots[s].number = s;
    configs_begin();
    disk_begin();
    consent_begin();
    edges_begin();
    model_begin();
}

// ---- chaos ----------------------------------------------------------------------------------------------------------

static struct slot *any_slot(void) {
    return &sim.slots[sim_below(sim.n_slots)];
}

static struct sim_edge *any_edge(void) {
    return &sim.edges[sim_below(sim.n_edges)];
}

static void aggregators_act(void) {
    struct slot *slot = any_slot();
    for (uint32_t n = 1 + sim_below(12); n > 0; n--)
        if (!slot_step(slot))
            return;
}

static void group_acts(void) {
    if (!group_complete() && sim_chance(300))
        (void)group_expire();
}

static void aggregators_suffer(void) {
    struct slot *slot = any_slot();
    uint32_t luck = sim_below(100);
    if (!slot->alive) {
        slot_start(slot);
    } else if (luck < 40) {
        slot_kill(slot);
    } else if (luck < 50 && !slot->paused) {
        slot_stop(slot);
    } else if (!sim.local) {
        slot->paused = !slot->paused;
        sim_trace("aggregator %u %s", slot->number, slot->paused ? "is paused" : "goes on");
    }
}

static void edges_act(void) {
    struct sim_edge *edge = any_edge();
    if (!edge->on)
        return;
    for (uint32_t n = 1 + sim_below(6); n > 0; n--)
        edge_open_mail(edge);
    if (sim_chance(400))
        edge_seal(edge);
}

static void edges_forward(void) {
    struct sim_edge *edge = any_edge();
    uint32_t p = sim_below(sim.n_partitions);
    edge_turn_day(edge);
    for (uint32_t n = 1 + sim_below(5); n > 0 && edge_forward(edge, p); n--)
        continue;
    (void)waiting_send();
}

static void edges_suffer(void) {
    struct sim_edge *edge = any_edge();
    uint32_t luck = sim_below(100);
    if (!edge->on) {
        if (luck < 5)
            edge_lose_spool(edge);
        else if (luck < 9)
            send_retirement((unsigned)(edge - sim.edges));
        else if (!edge->gone)
            edge_boot(edge);
    } else if (luck < 50) {
        edge_crash(edge);
    } else if (luck < 80) {
        edge_resend(edge);
    } else if (luck < 88) {
        edge_damage(edge);
    } else if (luck < 93) {
        edge_crash(edge);
        edge->gone = sim_chance(300);
        send_retirement((unsigned)(edge - sim.edges));
    } else {
        send_again();
    }
}

static void others_act(void) {
    uint32_t luck = sim_below(100);
    if (luck < 50)
        consent_change();
    else if (luck < 60)
        send_again();
    else if (luck < 66)
        sim.redis_away = !sim.redis_away;
    else if (luck < 72)
        sim.disk_full = !sim.disk_full;
    else if (luck < 80)
        sim.commits_fail = !sim.commits_fail;
    else if (luck < 85)
        sim.loads_fail = !sim.loads_fail;
    else if (luck < 90)
        topic_compact(&sim.topics[sim_below(sim.n_partitions)]);
    else if (luck < 94)
        tenants_change();
    else if (luck < 96)
        send_import();
    else if (luck < 98)
        send_nonsense();
    else if (!sim.reconfigured && sim_chance(300))
        sim.reconfigured = true;
}

static void time_passes(void) {
    uint32_t luck = sim_below(100);
    int64_t midnight_ms = day_start_ms(sim_today() + 1) - 2500 + sim_below(5000);
    if (luck < 80)
        sim.now_ms += 1 + sim_below(700);
    else if (luck < 92)
        sim.now_ms += sim_below(3600 * 1000 * 3);
    else if (sim_today() - sim.first_day < 8)
        sim.now_ms = midnight_ms > sim.now_ms ? midnight_ms : sim.now_ms;
}

static void chaos(void) {
    uint32_t steps = 300 + sim_below(sim_chance(100) ? 6000 : 1500);
    for (unsigned e = 0; e < sim.n_edges; e++)
        if (e == 0 || sim_chance(700))
            edge_boot(&sim.edges[e]);
    for (uint32_t i = 0; i < steps; i++) {
        uint32_t luck = sim_below(1000);
        if (luck < 450)
            aggregators_act();
        else if (luck < 540)
            group_acts();
        else if (luck < 640)
            edges_act();
        else if (luck < 790)
            edges_forward();
        else if (luck < 930)
            time_passes();
        else if (luck < 965)
            others_act();
        else if (luck < 985)
            edges_suffer();
        else
            aggregators_suffer();
    }
}

// ---- and afterwards -------------------------------------------------------------------------------------------------

static bool everybody_steps(bool restless) {
    bool any = group_complete() || group_expire();
    for (unsigned s = 0; s < sim.n_slots; s++) {
        if (!sim.slots[s].alive)
            slot_start(&sim.slots[s]);
        while (slot_step(&sim.slots[s])) {
            any = true;
            if (restless && sim_chance(2)) // in the middle of a release, too
                tenants_change();
        }
    }
    return any;
}

// Until nobody has anything to do but to look at the clock.
static void settle(void) {
    uint32_t steps = 0;
    for (unsigned e = 0; e < sim.n_edges; e++) {
        edge_turn_day(&sim.edges[e]);
        edge_seal(&sim.edges[e]);
        for (uint32_t p = 0; p < sim.n_partitions; p++)
            while (edge_forward(&sim.edges[e], p))
                continue;
    }
    while (waiting_send())
        continue;
    for (int round = 0; round < ROUNDS_TO_SETTLE; round++) {
        while (everybody_steps(round < ROUNDS_TO_SETTLE / 2))
            if (++steps == STEPS_TO_SETTLE_MAX)
                sim_fail("the aggregators do not settle");
        sim.now_ms += 600;
    }
    model_settled();
}

static void heal(void) {
    sim_trace("everything heals");
    sim.calm = true;
    sim.redis_away = sim.disk_full = sim.commits_fail = sim.loads_fail = false;
    for (unsigned s = 0; s < sim.n_slots; s++) {
        sim.slots[s].paused = false;
        if (!sim.slots[s].alive)
            slot_start(&sim.slots[s]);
    }
    for (unsigned e = 0; e < sim.n_edges; e++)
        if (!sim.edges[e].on && !sim.edges[e].gone)
            edge_boot(&sim.edges[e]);
    settle();
    uint32_t days = 2 + (uint32_t)(sim.configs[0].release_deadline_hours + 23) / 24 + 2;
    for (uint32_t i = 0; i < days; i++) {
        sim.now_ms = day_start_ms(sim_today() + 1) + 2000;
        settle();
    }
    if (sim_chance(300))
        for (unsigned s = 0; s < sim.n_slots; s++) { // nothing comes of a last start
            slot_kill(&sim.slots[s]);
            slot_start(&sim.slots[s]);
        }
    settle();
    model_finished();
}

static void schedule_run(uint64_t seed, bool verbose) {
    schedule_begin(seed, verbose);
    for (unsigned s = 0; s < sim.n_slots; s++)
        slot_start(&sim.slots[s]);
    chaos();
    heal();
    for (unsigned s = 0; s < sim.n_slots; s++)
        slot_stop(&sim.slots[s]);
}

// ---- all of them ----------------------------------------------------------------------------------------------------

static void on_abort(int number) {
    char text[120];
    int len = snprintf(text, sizeof text, "simulation: seed %llu aborted; replay it: test_simulation --seed %llu --verbose\n",
                       (unsigned long long)sim.seed, (unsigned long long)sim.seed);
    (void)number;
    (void)!write(STDERR_FILENO, text, (size_t)len);
}

static uint64_t number_of(const char *name, uint64_t initial) {
    const char *text = getenv(name);
    return text == NULL || text[0] == '\0' ? initial : strtoull(text, NULL, 10);
}

static void sums_add(struct sim *sums) {
    sums->n_messages += sim.n_messages;
    sums->n_duplicates += sim.n_duplicates;
    sums->n_commits += sim.n_commits;
    sums->n_refused += sim.n_refused;
    sums->n_released += sim.n_released;
    for (int i = 0; i < OUTCOMES; i++)
        sums->n_outcomes[i] += sim.n_outcomes[i];
}

static void sums_print(uint64_t n, const struct sim *sums) {
    printf("%llu schedules: %llu messages, %llu duplicates, %llu commits, %llu refused, %llu lines; events:",
           (unsigned long long)n, (unsigned long long)sums->n_messages, (unsigned long long)sums->n_duplicates,
           (unsigned long long)sums->n_commits, (unsigned long long)sums->n_refused,
           (unsigned long long)sums->n_released);
    for (int i = 0; i < OUTCOMES; i++)
        printf(" %llu %s%s", (unsigned long long)sums->n_outcomes[i],
               i < AGG_DROPS ? agg_drop_names[i] : i == OUTCOME_COUNTED ? "counted" : "repeated",
               i + 1 < OUTCOMES ? "," : "\n");
}

int main(int argc, char **argv) {
    uint64_t first = number_of("OPENVEIL_SIM_FIRST", 1), n = number_of("OPENVEIL_SIM_SCHEDULES", SCHEDULES_DEFAULT);
    struct sim sums = {0};
    bool verbose = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            first = strtoull(argv[++i], NULL, 10);
            n = 1;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
        } else {
            fprintf(stderr, "usage: test_simulation [--seed N [--verbose]]\n");
            return 64;
        }
    }
    signal(SIGABRT, on_abort);
    log_set_level(verbose ? LOG_INFO : (enum log_level)-1); // what goes wrong is wanted here
    base_configs();
    for (uint64_t seed = first; seed < first + n; seed++) {
        schedule_run(seed, verbose);
        sums_add(&sums);
    }
    sums_print(n, &sums);
    for (unsigned s = 0; s < SIM_SLOTS; s++)
        config_free(&base[s]);
    return 0;
}
