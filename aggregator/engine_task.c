// Tasks: questions to the consent authority that are asked again until they are answered.
#include "aggregator/engine_parts.h"

#include <string.h>

void partition_stamp(struct partition *partition, const struct consent_stamp *stamp) {
    const struct consent_stamp *known = state_stamp(partition->state);
    if (known != NULL && (known->epoch > stamp->epoch || memcmp(known->hash, stamp->hash, sizeof known->hash) == 0))
        return;
    uint8_t key[RECORD_KEY_MAX];
    partition_put(partition, key_consent(key), key, stamp_encode(stamp, partition->engine->value));
}

void task_end(struct task *task) {
    CHECK(!task->in_flight && task->partition->task == task);
    task->partition->task = NULL;
    engine_schedule(task->partition->engine);
    task->ops->free(task);
}

void task_abandon(struct task *task) {
    task->partition->task = NULL;
    if (task->in_flight)
        task->orphan = true;
    else
        task->ops->free(task);
}

static void task_retry(struct task *task) {
    int64_t ms = RETRY_MS_MIN << (task->failures < 3 ? task->failures : 3);
    task->failures++;
    count_metric(METRIC_UNREACHABLE, 1);
    if (task->failures == 1)
        log_warn("partition %u: the consent store does not answer; nothing is decided until it does",
                 task->partition->number);
    partition_pause(task->partition, ms < RETRY_MS_MAX ? ms : RETRY_MS_MAX);
}

static void task_answered(void *arg, int status, const struct consent_stamp *stamp) {
    struct task *task = arg;
    CHECK(task->in_flight);
    task->in_flight = false;
    if (task->orphan) {
        task->ops->free(task);
        return;
    }
    struct partition *partition = task->partition;
    CHECK(partition->task == task && partition->status == PARTITION_RUNNING);
    if (status != 0) {
        task_retry(task);
        return;
    }
    if (task->failures > 0)
        log_info("partition %u: the consent store answers again", partition->number);
    task->failures = 0;
    partition_stamp(partition, stamp);
    if (!partition->engine->failed)
        task->ops->answered(partition, task);
}

void task_ask(struct task *task) {
    struct partition *partition = task->partition;
    struct consent_ops *consent = &partition->engine->parts.consent;
    CHECK(!task->in_flight && partition->task == task);
    if (task->n_queries == 0) {
        task->ops->answered(partition, task);
        return;
    }
    const struct consent_stamp *known = state_stamp(partition->state);
    task->knows = known != NULL;
    if (task->knows)
        task->known = *known;
    task->in_flight = true;
    count_metric(METRIC_LOOKUPS, task->n_queries);
    int rc = consent->lookup(consent->arg, partition->number, task->queries, task->n_queries,
                             task->knows ? &task->known : NULL, task_answered, task);
    if (rc != 0) {
        task->in_flight = false;
        task_retry(task);
    }
}

void task_start(struct partition *partition, struct task *task) {
    CHECK(partition->task == NULL && partition->resume_at_ms == 0);
    task->partition = partition;
    partition->task = task;
    task_ask(task);
}
