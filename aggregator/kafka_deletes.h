// Deletes from the events topic what the aggregator has committed, so that an open stays in Kafka for minutes only. The
// broker keeps a whole segment file until its last record is deleted (see the topic's settings in common/kafka.c).
// Asynchronous and rate limited; owned by source_kafka.c and used on the loop's thread only.
#ifndef OPENVEIL_KAFKA_DELETES_H
#define OPENVEIL_KAFKA_DELETES_H

#include "common/config.h"

#include <librdkafka/rdkafka.h>

struct kafka_deletes;

// `rk` must outlive it.
int kafka_deletes_create(struct kafka_deletes **deletes, rd_kafka_t *rk, const struct config *config) MUST_CHECK;
void kafka_deletes_free(struct kafka_deletes *deletes); // NULL-safe; a request under way is left to the broker
// Everything below `position` may go.
void kafka_deletes_add(struct kafka_deletes *deletes, uint32_t partition, int64_t position);
// Takes the last answer and sends the next request when it is time. Never blocks.
void kafka_deletes_serve(struct kafka_deletes *deletes);

#endif
