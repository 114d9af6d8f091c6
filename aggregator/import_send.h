// The way of an import's messages from a command to the aggregator: files in [aggregator] state_dir/inbox on a single
// node, the events topic with Kafka. One thread.
#ifndef OPENVEIL_IMPORT_SEND_H
#define OPENVEIL_IMPORT_SEND_H

#include "common/config.h"

struct import_sender;
// `epoch` names the run: it is in the files' names. ERR_UNREACHABLE where no broker answers, ERR_REFUSED for the other mode.
int import_sender_open(struct import_sender **sender, const struct config *config, uint64_t epoch, struct err *err) MUST_CHECK;
// The messages of one run, part 0, 1, 2 …
int import_sender_send(struct import_sender *sender, uint32_t partition, const uint8_t *message, size_t len,
                       struct err *err) MUST_CHECK;
// With Kafka: waits until all are acknowledged. On a single node where an aggregator is at work: waits at most 10 s for it
// to take the files. `applied` says whether the aggregator is known to have counted them already.
int import_sender_finish(struct import_sender *sender, bool *applied, struct err *err) MUST_CHECK;
void import_sender_free(struct import_sender *sender);

#endif
