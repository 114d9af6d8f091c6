// `openveil consent follow`: the consent topic's records that name contacts by their ids.
#include "common/commands.h"
#include "common/consent_topic.h"
#include "common/log.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define STEP_MS 200
#define PAUSE_S 1
#define TELL_MS 60000

static volatile sig_atomic_t stopping;

static void on_signal(int signum) {
    (void)signum;
    stopping = 1;
}

static void signals_take(void) {
    const struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGTERM, &action, NULL) == 0 && sigaction(SIGINT, &action, NULL) == 0);
}

static int follow_until_lost(const struct config *config, uint64_t counts[CONSENT_TOPIC_COUNTS], struct err *err) {
    struct consent_topic *topic = NULL;
    int64_t told_ms = clock_monotonic_ms();
    int rc = consent_topic_open(&topic, config, CONSENT_TOPIC_CONTACTS, err);
    if (rc == 0)
        log_info("follows the consent topic %s for records with a contact", config->consent_topic);
    while (rc == 0 && !stopping) {
        rc = consent_topic_step(topic, STEP_MS, counts, err);
        if (clock_monotonic_ms() - told_ms >= TELL_MS) {
            told_ms = clock_monotonic_ms();
            log_info("so far %" PRIu64 " applied, %" PRIu64 " superseded, %" PRIu64 " rejected",
                     counts[CONSENT_TOPIC_APPLIED], counts[CONSENT_TOPIC_SUPERSEDED], counts[CONSENT_TOPIC_REJECTED]);
        }
    }
    consent_topic_close(topic);
    return rc;
}

static int run_follow(const struct config *config, const struct cli_values *values) {
    uint64_t counts[CONSENT_TOPIC_COUNTS] = {0};
    struct err err, told = {0};
    int rc = 0;
    (void)values;
    if (config->kafka_brokers[0] == '\0' || config->consent_topic[0] == '\0')
        return cli_error(EXIT_USAGE, "[kafka] brokers and [consent] topic must be set");
    signals_take();
    while (!stopping) {
        rc = follow_until_lost(config, counts, &err);
        if (rc != 0 && rc != ERR_UNREACHABLE)
            return cli_error(EXIT_FAILURE, "%s", err.text);
        if (rc != 0 && strcmp(err.text, told.text) != 0)
            log_warn("%s", err.text);
        if (rc != 0)
            told = err;
        const struct timespec pause = {.tv_sec = PAUSE_S};
        if (!stopping)
            nanosleep(&pause, NULL);
    }
    printf("applied %" PRIu64 "\nsuperseded %" PRIu64 "\nrejected %" PRIu64 "\n", counts[CONSENT_TOPIC_APPLIED],
           counts[CONSENT_TOPIC_SUPERSEDED], counts[CONSENT_TOPIC_REJECTED]);
    return 0;
}

const struct cli_command cmd_consent_follow = {
    .words = "consent follow",
    .args = "",
    .summary = "apply the consent topic's records that name contacts by their ids",
    .description = "Runs until SIGTERM beside the aggregators, on a host that holds the contact keys. They apply the records\n"
                   "with a pseudonym, it those with a contact; several of it share the topic's partitions. Only needed where\n"
                   "a platform sends contact ids. Bad records go to [consent] rejects_topic, as the aggregators' do.",
    .run = run_follow,
};
