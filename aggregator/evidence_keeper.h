// Keeps the log of consent changes for the partitions that this process owns (common/decisions/0010-the-evidence-log.md):
// follows their change streams from where the log ends, appends, makes durable, and then tells Redis ("log"), which
// confirms. Nothing waits for it: while the log or Redis is away consent changes and counting go on, and confirmations
// come later. Where the stream does not lead on from the log (a Redis that lost writes, was restored or emptied) nothing
// is confirmed until `openveil consent restore` has joined both; where it was trimmed, a baseline is written.
// Owner: main. All calls belong to the loop's thread.
#ifndef OPENVEIL_EVIDENCE_KEEPER_H
#define OPENVEIL_EVIDENCE_KEEPER_H

#include "common/config.h"
#include "common/consent_store.h"

struct uv_loop_s;
struct evidence_keeper;

// `client` tells Redis; like `config` it must live until evidence_keeper_stop.
int evidence_keeper_start(struct evidence_keeper **keeper, struct uv_loop_s *loop, const struct config *config,
                          struct consent_client *client, struct err *err) MUST_CHECK;
void evidence_keeper_own(struct evidence_keeper *keeper, uint32_t partition, bool owned);
// Waits for what is being written. The client's pending answers may come until the client is freed, then
// evidence_keeper_free. NULL is fine for both.
void evidence_keeper_stop(struct evidence_keeper *keeper);
void evidence_keeper_free(struct evidence_keeper *keeper);
void evidence_keeper_refresh(struct evidence_keeper *keeper); // the metrics

#endif
