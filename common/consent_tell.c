#include "common/consent_tell.h"

#include "common/clock.h"
#include "common/consent.h"
#include "common/log.h"
#include "common/redis_reply.h"

#include <inttypes.h>
#include <stdlib.h>

#define WHO_SIZE 80
#define REFUSED_MS 30000

struct told {
    uint64_t epoch;
    int64_t at_ms; // monotonic
};

struct consent_tell {
    char who[WHO_SIZE];
    const char *mode;
    struct clock clock;
    int64_t quiet_until_ms;
    bool warned;
    uint32_t partitions;
    struct told *told;
};

int consent_tell_create(struct consent_tell **out, const struct config *config, const char *who) {
    struct consent_tell *tell = calloc(1, sizeof *tell);
    if (tell == NULL)
        return ERR_NOMEM;
    snprintf(tell->who, sizeof tell->who, "%s", who);
    tell->mode = config->rehearsal ? "rehearsal" : "production";
    tell->clock = config->clock;
    tell->partitions = (uint32_t)config->kafka_partitions;
    tell->told = calloc(tell->partitions, sizeof *tell->told);
    if (tell->told == NULL) {
        free(tell);
        return ERR_NOMEM;
    }
    *out = tell;
    return 0;
}

void consent_tell_free(struct consent_tell *tell) {
    if (tell == NULL)
        return;
    free(tell->told);
    free(tell);
}

static void on_answer(void *arg, const redisReply *reply) {
    struct consent_tell *tell = arg;
    if (reply != NULL && reply->type != REDIS_REPLY_ERROR)
        return;
    // Told again later: a lost connection, a missing right, or a library that nobody has loaded yet.
    for (uint32_t p = 0; p < tell->partitions; p++)
        tell->told[p].epoch = 0;
    if (reply == NULL)
        return;
    tell->quiet_until_ms = clock_monotonic_ms() + REFUSED_MS;
    if (!tell->warned)
        log_warn("receipts do not show that changes of consent are applied here: %.200s", reply->str);
    tell->warned = true;
}

void consent_tell(struct consent_tell *tell, struct redis_link *link, uint32_t partition, uint64_t epoch) {
    CHECK(partition < tell->partitions);
    struct told *told = &tell->told[partition];
    int64_t now_ms = clock_monotonic_ms();
    if (epoch <= told->epoch || now_ms < tell->quiet_until_ms || (told->epoch != 0 && now_ms < told->at_ms + CONSENT_TELL_MS))
        return;
    char key[CONSENT_KEY_SIZE], today[12], number[24];
    consent_key(key, partition, "meta");
    snprintf(today, sizeof today, "%" PRIu32, clock_today(&tell->clock));
    snprintf(number, sizeof number, "%" PRIu64, epoch);
    const struct redis_arg args[] = {redis_text("FCALL"),    redis_text("openveil_applied"), redis_text("1"),
                                     redis_text(key),        redis_text(tell->mode),         redis_text(today),
                                     redis_text(tell->who), redis_text(number)};
    if (redis_link_send(link, args, ARRAY_LEN(args), on_answer, tell) != 0)
        return;
    *told = (struct told){.epoch = epoch, .at_ms = now_ms};
}
