#include "common/evidence_backend.h"

#include <string.h>

int evidence_log_open(struct evidence_log **log, const struct config *config, bool writes, struct err *err) {
    int rc = config->kafka_brokers[0] == '\0' ? evidence_files_open(log, config, writes, err)
                                              : evidence_kafka_open(log, config, writes, err);
    CHECK(rc != 0 || ((*log)->ops != NULL && (*log)->config == config));
    return rc;
}

void evidence_log_close(struct evidence_log *log) {
    if (log != NULL)
        log->ops->close(log);
}

int evidence_log_read(struct evidence_log *log, uint32_t partition, evidence_each_fn each, void *arg,
                      struct evidence_chain *chain, struct err *err) {
    CHECK(partition < log->config->kafka_partitions);
    memset(chain, 0, sizeof *chain);
    return log->ops->read(log, partition, each, arg, chain, err);
}

int evidence_log_head(struct evidence_log *log, uint32_t partition, struct evidence_chain *chain, struct err *err) {
    CHECK(partition < log->config->kafka_partitions);
    memset(chain, 0, sizeof *chain);
    return log->ops->head(log, partition, chain, err);
}

int evidence_log_write(struct evidence_log *log, uint32_t partition, const struct evidence_line *lines, size_t n,
                       struct err *err) {
    CHECK(log->writes && partition < log->config->kafka_partitions);
    return n == 0 ? 0 : log->ops->write(log, partition, lines, n, err);
}

int evidence_log_sync(struct evidence_log *log, struct err *err) {
    CHECK(log->writes);
    return log->ops->sync(log, err);
}

int evidence_log_erase(struct evidence_log *log, uint32_t partition, uint32_t tenant, const uint64_t *pseudonym,
                       uint64_t *n, struct err *err) {
    CHECK(partition < log->config->kafka_partitions);
    *n = 0;
    return log->ops->erase(log, partition, tenant, pseudonym, n, err);
}

bool evidence_concerns(const struct evidence_line *line, uint32_t tenant, const uint64_t *pseudonym) {
    bool contact = line->kind == EVIDENCE_RECORD ||
                   (line->kind == EVIDENCE_CHANGE &&
                    (line->entry.kind == ENTRY_STATE || line->entry.kind == ENTRY_LATE));
    return contact && line->entry.tenant == tenant && (pseudonym == NULL || line->entry.pseudonym == *pseudonym);
}
