#include "aggregator/journal.h"

int journal_open_readonly(struct journal **journal, const struct config *config, struct err *err) {
    CHECK(config->kafka_brokers != NULL);
    return config->kafka_brokers[0] != '\0' ? journal_kafka_open_readonly(journal, config, err)
                                            : journal_local_open_readonly(journal, config, err);
}
