// Drives the Kafka parts for test_kafka_parts.py: `kafka_driver BROKER PARTITIONS COMMAND …`, one process each.
#include "common/kafka.h"
#include "common/log.h"

#include <string.h>

static int ensure(const struct config *config, const char *topic) {
    struct err err = {0};
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    int rc = kafka_conf(&conf, config, "driver", &err);
    CHECK(rc == 0);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    CHECK(rk != NULL);
    enum kafka_topic which = strcmp(topic, "events") == 0  ? KAFKA_EVENTS
                             : strcmp(topic, "state") == 0 ? KAFKA_STATE
                                                           : KAFKA_RELEASES;
    rc = kafka_topic_ensure(rk, config, which, 10000, &err);
    printf("%d %s\n", rc, rc == 0 ? "" : err.text);
    rd_kafka_destroy(rk);
    return 0;
}

int main(int argc, char **argv) {
    log_open("kafka_driver", LOG_INFO);
    CHECK(argc >= 4);
    struct config config = {
        .kafka_brokers = argv[1],
        .kafka_partitions = strtoul(argv[2], NULL, 10),
        .kafka_properties = "",
        .kafka_topic_events = "openveil.events",
        .kafka_topic_state = "openveil.state",
        .kafka_topic_releases = "openveil.releases",
        .kafka_group = "openveil-aggregator",
    };
    if (strcmp(argv[3], "ensure") == 0)
        return ensure(&config, argv[4]);
    return 64;
}
