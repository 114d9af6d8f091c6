// `openveil edge`: which edges take part, and the end of one that is gone for good.
#include "aggregator/command_send.h"
#include "aggregator/commands.h"
#include "aggregator/record.h"
#include "aggregator/run_log.h"
#include "aggregator/state_view.h"
#include "common/hmac.h"

#include <string.h>

// Every edge registers with every partition, so the first one knows them all.
static int edges_load(struct state **state, const struct config *config, struct err *err) {
    const struct state_filter filter = {.kinds = "E"};
    struct journal *journal = NULL;
    int rc = journal_open_readonly(&journal, config, err);
    if (rc != 0)
        return rc;
    rc = state_view_load(state, journal, config, 0, &filter, err);
    journal->ops->close(journal);
    return rc;
}

// ---- list -----------------------------------------------------------------------------------------------------------

static void edge_print(const struct edge_summary *edge, uint32_t retired_on, bool json) {
    char registered[DAY_TEXT_SIZE], closed[DAY_TEXT_SIZE], retired[DAY_TEXT_SIZE];
    bool any = edge->closed_through >= edge->registered_day;
    day_format(edge->registered_day, registered);
    day_format(edge->closed_through, closed);
    day_format(retired_on, retired);
    if (json) {
        printf("{\"edge\":\"%s\",\"registered\":\"%s\",\"closed_through\":", edge->edge, registered);
        printf(any ? "\"%s\"" : "null", closed);
        printf(edge->retired ? ",\"retired\":\"%s\"}\n" : ",\"retired\":null}\n", retired);
    } else {
        printf("%-24s takes part since %s, closed through %s%s%s\n", edge->edge, registered, any ? closed : "-",
               edge->retired ? ", retired on " : "", edge->retired ? retired : "");
    }
}

static int run_list(const struct config *config, const struct cli_values *values) {
    struct state *state = NULL;
    struct edge_record record;
    struct err err;
    int rc = edges_load(&state, config, &err);
    if (rc == ERR_NOT_FOUND)
        return 0; // no aggregator has begun
    if (rc != 0)
        return cli_error(EXIT_UNAVAILABLE, "%s", err.text);
    for (size_t i = 0; i < state_edge_count(state); i++) {
        const struct edge_summary *edge = state_edge_at(state, i);
        if (edge->registered_day != DAY_NONE && state_edge(state, edge->edge, &record))
            edge_print(edge, record.retired_on, cli_json(values));
    }
    state_free(state);
    return 0;
}

// ---- retire ---------------------------------------------------------------------------------------------------------

// An edge that lives has closed yesterday, but for the first moments of a day.
static int edge_check(const struct config *config, const char *id, bool force, struct edge_record *edge) {
    struct state *state = NULL;
    struct err err;
    char closed[DAY_TEXT_SIZE];
    int rc = edges_load(&state, config, &err);
    if (rc != 0 && rc != ERR_NOT_FOUND)
        return cli_error(EXIT_UNAVAILABLE, "%s", err.text);
    bool found = rc == 0 && state_edge(state, id, edge) && edge->registered_day != DAY_NONE;
    state_free(state);
    if (!found)
        return cli_error(EXIT_FAILURE, "no edge %s takes part; `openveil edge list` shows those that do", id);
    day_format(edge->closed_through, closed);
    if (!force && edge->closed_through + 1 >= clock_today(&config->clock))
        return cli_error(EXIT_FAILURE,
                         "edge %s %s %s, so it may well be alive, and its opens of today would be late; "
                         "--force where it is gone for good", id,
                         edge->closed_through < edge->registered_day ? "registered the day after" : "has closed", closed);
    return 0;
}

static int retire_all(const struct config *config, const char *id, bool *applied, struct err *err) {
    struct message_head head = {.kind = MESSAGE_RETIRE,
                                .rehearsal = config->rehearsal,
                                .partitions = (uint16_t)config->kafka_partitions,
                                .day = clock_today(&config->clock)};
    uint8_t message[512];
    struct command_sender *sender = NULL;
    bytes_random(&head.epoch, sizeof head.epoch);
    snprintf(head.edge, sizeof head.edge, "retire-%016llx", (unsigned long long)head.epoch);
    int rc = command_sender_open(&sender, config, head.edge, err);
    if (rc == 0)
        rc = run_log_append(config, "declarations.log", err, "edge retire %s", id);
    for (; rc == 0 && head.partition < head.partitions; head.partition++) {
        int64_t len = message_encode_retire(&head, id, message);
        CHECK(len > 0 && (size_t)len <= sizeof message);
        rc = command_sender_send(sender, head.partition, message, (size_t)len, err);
    }
    if (rc == 0)
        rc = command_sender_finish(sender, applied, err);
    command_sender_free(sender);
    return rc;
}

static void print_retired(const struct config *config, const char *id, const struct edge_record *edge, const char *how,
                          bool json) {
    char from[DAY_TEXT_SIZE], today[DAY_TEXT_SIZE];
    day_format(edge->closed_through + 1, from);
    day_format(clock_today(&config->clock), today);
    if (json)
        printf("{\"edge\":\"%s\",\"waited_for_from\":\"%s\",\"retired\":\"%s\",\"state\":\"%s\"}\n", id, from, today, how);
    else
        printf("edge %s is retired (%s): no day from %s on waits for it any more, and today, %s, ends with its midnight.\n"
               "What it still sends of days that are released counts as late. Sends it anything of %s or later, it takes\n"
               "part again.\n", id, how, from, today, today);
}

static int run_retire(const struct config *config, const struct cli_values *values) {
    const char *id = cli_arg(values, 0);
    bool applied = false;
    struct edge_record edge;
    struct err err;
    if (!edge_id_valid(id))
        return cli_error(EXIT_USAGE, "an edge's id is 1 to %d of letters, digits, '.', '_' and '-'", EDGE_ID_MAX);
    int code = edge_check(config, id, cli_flag(values, "force"), &edge);
    if (code != 0)
        return code;
    int rc = retire_all(config, id, &applied, &err);
    if (rc != 0)
        return cli_error(rc == ERR_UNREACHABLE ? EXIT_UNAVAILABLE : EXIT_FAILURE, "%s", err.text);
    bool kafka = config->kafka_brokers[0] != '\0';
    print_retired(config, id, &edge, applied ? "applied" : kafka ? "sent" : "queued for the aggregator", cli_json(values));
    return 0;
}

const struct cli_command cmd_edge_list = {
    .words = "edge list",
    .args = "",
    .summary = "the edges that take part, and the last day that each has closed",
    .description = "As far as the aggregator has read. A day waits for every edge that has not closed it.",
    .run = run_list,
};

static const struct cli_option retire_options[] = {
    {"force", NULL, "also an edge that may be alive, because it has closed yesterday", false, false},
};
const struct cli_command cmd_edge_retire = {
    .words = "edge retire",
    .args = "ID",
    .args_min = 1,
    .args_max = 1,
    .summary = "end an edge that is gone for good, so that no day waits for it",
    .description =
        "For an edge that will not come back: days that it has not closed wait for it until their deadline, and are\n"
        "incomplete then. Without --force only an edge that has not closed yesterday. Its days are taken as complete with\n"
        "what it has sent; what comes later of released days is `late`. An edge that turns out to live takes part again\n"
        "with its next message, and one with a new spool registers anew. The run is logged in [aggregator]\n"
        "state_dir/declarations.log; the same again is harmless.",
    .options = retire_options,
    .n_options = ARRAY_LEN(retire_options),
    .run = run_retire,
};
