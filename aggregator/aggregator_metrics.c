#include "aggregator/aggregator_metrics.h"

#define DROP(reason, text, about)                                                                                      \
    [METRIC_DROPPED + AGG_DROP_##reason] = {"openveil_aggregator_dropped", "reason=\"" #text "\"",                   \
                                            "Events not counted, by reason", METRIC_COUNTER_STEPPED, 0},

#define TOPIC(outcome)                                                                                                 \
    {"openveil_aggregator_consent_records", "outcome=\"" outcome "\"", "Records of the consent topic, by outcome",       \
     METRIC_COUNTER_STEPPED, 0}

struct metric aggregator_metrics[AGGREGATOR_METRICS] = {
    [METRIC_RECEIVED] = {"openveil_aggregator_received", "", "Events received", METRIC_COUNTER_STEPPED, 0},
    [METRIC_COUNTED] = {"openveil_aggregator_counted", "", "Events that changed what is known",
                        METRIC_COUNTER_STEPPED, 0},
    [METRIC_REPEATED] = {"openveil_aggregator_repeated", "", "Events that said nothing new", METRIC_COUNTER_STEPPED, 0},
    AGGREGATOR_REASONS(DROP)
    [METRIC_MESSAGES] = {"openveil_aggregator_messages", "", "Messages taken in", METRIC_COUNTER_STEPPED, 0},
    [METRIC_DUPLICATES] = {"openveil_aggregator_duplicates", "", "Messages seen before", METRIC_COUNTER_STEPPED, 0},
    [METRIC_GAPS] = {"openveil_aggregator_missing_segments", "", "Segments skipped by an edge's numbering",
                     METRIC_COUNTER_STEPPED, 0},
    [METRIC_SET_ASIDE] = {"openveil_aggregator_set_aside", "", "Messages damaged or not for us",
                          METRIC_COUNTER_STEPPED, 0},
    [METRIC_LOOKUPS] = {"openveil_aggregator_consent_lookups", "", "Contacts asked of the consent store",
                        METRIC_COUNTER_STEPPED, 0},
    [METRIC_UNREACHABLE] = {"openveil_aggregator_consent_unreachable", "", "Look-ups without an answer",
                            METRIC_COUNTER_STEPPED, 0},
    [METRIC_COMMITS] = {"openveil_aggregator_commits", "", "Commits", METRIC_COUNTER_STEPPED, 0},
    [METRIC_RELEASES] = {"openveil_aggregator_released_lines", "", "Lines drawn and committed",
                         METRIC_COUNTER_STEPPED, 0},
    [METRIC_ERASED] = {"openveil_aggregator_erased_contacts", "", "Last opens erased by the sweep",
                       METRIC_COUNTER_STEPPED, 0},
    [METRIC_LOGGED] = {"openveil_aggregator_consent_logged", "", "Changes of consent that the log has taken",
                       METRIC_COUNTER_STEPPED, 0},
    [METRIC_BASELINES] = {"openveil_aggregator_consent_log_baselines", "",
                          "Times that a log of consent changes began anew with a list of all records", METRIC_COUNTER_STEPPED,
                          0},
    [METRIC_UNCONFIRMED] = {"openveil_aggregator_consent_log_waiting", "",
                            "Partitions whose changes of consent are not confirmed now", METRIC_GAUGE, 0},
    [METRIC_CONTACTS] = {"openveil_aggregator_contacts", "", "Last opens held, rounded down to hundreds",
                         METRIC_GAUGE, 0},
    [METRIC_PARTITIONS] = {"openveil_aggregator_partitions", "", "Partitions at work here", METRIC_GAUGE, 0},
    [METRIC_WAITING] = {"openveil_aggregator_partitions_waiting", "", "Partitions waiting for the consent store",
                        METRIC_GAUGE, 0},
    [METRIC_TOPIC + CONSENT_TOPIC_APPLIED] = TOPIC("applied"),
    [METRIC_TOPIC + CONSENT_TOPIC_SUPERSEDED] = TOPIC("superseded"),
    [METRIC_TOPIC + CONSENT_TOPIC_REJECTED] = TOPIC("rejected"),
    [METRIC_TOPIC + CONSENT_TOPIC_PASSED] = TOPIC("contact"),
};
