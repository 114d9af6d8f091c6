// Inside of the evidence log: what its two backends (evidence_files.c, evidence_kafka.c) implement and share. The calls are
// those of evidence_log.h.
#ifndef OPENVEIL_EVIDENCE_BACKEND_H
#define OPENVEIL_EVIDENCE_BACKEND_H

#include "common/evidence_log.h"

struct evidence_log_ops {
    int (*read)(struct evidence_log *log, uint32_t partition, evidence_each_fn each, void *arg,
                struct evidence_chain *chain, struct err *err);
    int (*head)(struct evidence_log *log, uint32_t partition, struct evidence_chain *chain, struct err *err);
    int (*write)(struct evidence_log *log, uint32_t partition, const struct evidence_line *lines, size_t n,
                 struct err *err);
    int (*sync)(struct evidence_log *log, struct err *err);
    int (*erase)(struct evidence_log *log, uint32_t partition, uint32_t tenant, const uint64_t *pseudonym, uint64_t *n,
                 struct err *err);
    void (*close)(struct evidence_log *log);
};

struct evidence_log {
    const struct evidence_log_ops *ops;
    const struct config *config;
    bool writes;
};

int evidence_files_open(struct evidence_log **log, const struct config *config, bool writes, struct err *err) MUST_CHECK;
int evidence_kafka_open(struct evidence_log **log, const struct config *config, bool writes, struct err *err) MUST_CHECK;

// Whether the line is about the contact, or with NULL about anybody of the tenant, and has something to erase.
bool evidence_concerns(const struct evidence_line *line, uint32_t tenant, const uint64_t *pseudonym);

#endif
