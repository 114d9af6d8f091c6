// What edge and aggregator share of Kafka: client configuration from [kafka], topics created or checked. Threads: any.
#ifndef OPENVEIL_KAFKA_H
#define OPENVEIL_KAFKA_H

#include "common/config.h"

#include <librdkafka/rdkafka.h>

// A configuration with brokers, [kafka] properties and our logging set; the caller adds its own and owns it.
int kafka_conf(rd_kafka_conf_t **conf, const struct config *config, const char *client_id, struct err *err) MUST_CHECK;
int kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err) MUST_CHECK;

// A client of ours; `settings` is a list of name, value pairs ended by NULL.
int kafka_client_create(rd_kafka_t **rk, rd_kafka_type_t type, const struct config *config, const char *const *settings,
                        struct err *err) MUST_CHECK;

enum kafka_topic {
    KAFKA_EVENTS,
    KAFKA_STATE,
    KAFKA_RELEASES,
    KAFKA_CONSENT_LOG,
    KAFKA_CONSENT,
    KAFKA_CONSENT_REJECTS
};
// Creates the topic with its settings where it is missing and checks the number of partitions of events, state and consent
// log, and that they keep what nobody has read and erase in time; the other topics are taken as they are. ERR_REFUSED where
// they differ, ERR_UNREACHABLE where no broker answers within `timeout_ms`.
int kafka_topic_ensure(rd_kafka_t *rk, const struct config *config, enum kafka_topic topic, int timeout_ms,
                       struct err *err) MUST_CHECK;
// Looks at the last messages of the events topic (partition 0): ERR_REFUSED where a rehearsal wrote them and this is
// production, or the other way round; ERR_UNREACHABLE where no broker answers within `timeout_ms`. An empty topic is fine.
int kafka_mode_check(rd_kafka_t *rk, const struct config *config, int timeout_ms, struct err *err) MUST_CHECK;
// Midnight, in milliseconds, of the wall clock's UTC day: the timestamp of everything that we produce. In rehearsal: of
// the real day, because a broker refuses timestamps in its future.
int64_t kafka_timestamp_ms(void);

#endif
