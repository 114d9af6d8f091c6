// The way of a command's messages (imports, retirements) to the aggregator: files in [aggregator] state_dir/inbox on a single
// node, the events topic with Kafka. One thread.
#ifndef OPENVEIL_COMMAND_SEND_H
#define OPENVEIL_COMMAND_SEND_H

#include "common/config.h"
#include "common/message.h"

struct command_sender;
// `name` is the run's, the edge in its messages' heads: it is in the files' names. ERR_UNREACHABLE where no broker answers,
// ERR_REFUSED for the other mode.
int command_sender_open(struct command_sender **sender, const struct config *config, const char *name,
                        struct err *err) MUST_CHECK;
// The messages of one run, in order.
int command_sender_send(struct command_sender *sender, uint32_t partition, const uint8_t *message, size_t len,
                        struct err *err) MUST_CHECK;
// With Kafka: waits until all are acknowledged. On a single node where an aggregator is at work: waits at most 10 s for it
// to take the files. `applied` says whether the aggregator is known to have counted them already.
int command_sender_finish(struct command_sender *sender, bool *applied, struct err *err) MUST_CHECK;
void command_sender_free(struct command_sender *sender);

#endif
