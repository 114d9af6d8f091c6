// The aggregator's part in the consent topic (common/consent_topic.h): a thread of its own that applies the records with a
// pseudonym, for as long as the aggregator runs, and begins again after a pause whenever Kafka or Redis is away.
#ifndef OPENVEIL_CONSENT_FOLLOWER_H
#define OPENVEIL_CONSENT_FOLLOWER_H

#include "common/config.h"

struct consent_follower;

// Starts the thread; without Kafka, or without a topic, there is none and `*follower` is NULL. `config` must outlive it.
int consent_follower_start(struct consent_follower **follower, const struct config *config, struct err *err) MUST_CHECK;
void consent_follower_stop(struct consent_follower *follower); // ends the batch under way; NULL-safe

#endif
