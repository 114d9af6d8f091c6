// Follows the consent topic ([consent] topic): takes records in batches, applies them through the consent store, writes
// what is bad to the topic of rejects, and only then commits its position in the consumer group. So every record is
// applied at least once, and applying one again changes nothing. Calls block; one thread at a time.
#ifndef OPENVEIL_CONSENT_TOPIC_H
#define OPENVEIL_CONSENT_TOPIC_H

#include "common/config.h"

// Whose records are applied; the others are passed over, because the other role's group gets them too
// (decisions/0011-the-consent-topic.md).
enum consent_topic_role {
    CONSENT_TOPIC_PSEUDONYMS, // an aggregator: records with a pseudonym, and all that is no record
    CONSENT_TOPIC_CONTACTS    // `openveil consent follow`: records with a contact id; needs the contact keys
};

enum consent_topic_count {
    CONSENT_TOPIC_APPLIED,    // accepted by the store, also again
    CONSENT_TOPIC_SUPERSEDED, // the store holds a later decision
    CONSENT_TOPIC_REJECTED,   // written to the topic of rejects
    CONSENT_TOPIC_PASSED,     // of the other role
    CONSENT_TOPIC_COUNTS
};

struct consent_topic;

// Connects to Redis and Kafka, creates the two topics where they are missing, and joins the group. ERR_UNREACHABLE: one of
// them does not answer. ERR_REFUSED, ERR_INVALID: waiting does not mend it.
int consent_topic_open(struct consent_topic **topic, const struct config *config, enum consent_topic_role role,
                       struct err *err) MUST_CHECK;
void consent_topic_close(struct consent_topic *topic); // NULL-safe
// Takes in what came within `timeout_ms`, and adds what became of it to `counts`. After an error nothing of it was
// committed: close, and open again to be given it once more.
int consent_topic_step(struct consent_topic *topic, int timeout_ms, uint64_t counts[CONSENT_TOPIC_COUNTS],
                       struct err *err) MUST_CHECK;

#endif
