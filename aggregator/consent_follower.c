#include "aggregator/consent_follower.h"

#include "aggregator/aggregator_metrics.h"
#include "common/check.h"
#include "common/consent_topic.h"
#include "common/log.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STEP_MS = 100, PAUSE_MS_MIN = 500, PAUSE_MS_MAX = 10000, TICK_MS = 50, TELL_MS = 60000 };

struct consent_follower {
    const struct config *config;
    pthread_t thread;
    _Atomic bool stop;
    // The thread's own.
    int64_t told_ms;
    struct err told;
};

static void counts_take(uint64_t counts[CONSENT_TOPIC_COUNTS]) {
    for (unsigned i = 0; i < CONSENT_TOPIC_COUNTS; i++) {
        count_metric(METRIC_TOPIC + i, counts[i]);
        counts[i] = 0;
    }
}

// The same problem once a minute.
static void tell(struct consent_follower *follower, const struct err *err) {
    int64_t now_ms = clock_monotonic_ms();
    if (strcmp(err->text, follower->told.text) == 0 && now_ms - follower->told_ms < TELL_MS)
        return;
    follower->told = *err;
    follower->told_ms = now_ms;
    log_warn("consent topic: %s", err->text);
}

// Follows until it fails or is to end; true where a record came through.
static bool follow(struct consent_follower *follower) {
    struct consent_topic *topic = NULL;
    uint64_t counts[CONSENT_TOPIC_COUNTS] = {0};
    struct err err;
    bool worked = false;
    int rc = consent_topic_open(&topic, follower->config, CONSENT_TOPIC_PSEUDONYMS, &err);
    if (rc == 0)
        log_info("follows the consent topic %s", follower->config->consent_topic);
    while (rc == 0 && !follower->stop) {
        rc = consent_topic_step(topic, STEP_MS, counts, &err);
        worked |= counts[CONSENT_TOPIC_APPLIED] > 0;
        counts_take(counts);
    }
    consent_topic_close(topic);
    if (rc != 0)
        tell(follower, &err);
    return worked;
}

static void *follower_main(void *arg) {
    struct consent_follower *follower = arg;
    int pause_ms = PAUSE_MS_MIN;
    while (!follower->stop) {
        pause_ms = follow(follower) ? PAUSE_MS_MIN : 2 * pause_ms > PAUSE_MS_MAX ? PAUSE_MS_MAX : 2 * pause_ms;
        const struct timespec tick = {.tv_nsec = TICK_MS * 1000000};
        for (int waited_ms = 0; waited_ms < pause_ms && !follower->stop; waited_ms += TICK_MS)
            nanosleep(&tick, NULL);
    }
    return NULL;
}

int consent_follower_start(struct consent_follower **out, const struct config *config, struct err *err) {
    if (config->kafka_brokers[0] == '\0' || config->consent_topic[0] == '\0')
        return 0;
    struct consent_follower *follower = calloc(1, sizeof *follower);
    if (follower == NULL)
        return err_set(err, ERR_NOMEM, "out of memory to follow the consent topic");
    follower->config = config;
    if (pthread_create(&follower->thread, NULL, follower_main, follower) != 0) {
        free(follower);
        return err_set(err, ERR_IO, "cannot start the thread that follows the consent topic");
    }
    (void)pthread_setname_np(follower->thread, "consent-topic");
    *out = follower;
    return 0;
}

void consent_follower_stop(struct consent_follower *follower) {
    if (follower == NULL)
        return;
    follower->stop = true;
    CHECK(pthread_join(follower->thread, NULL) == 0);
    free(follower);
}
