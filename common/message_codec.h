// What message.c and message_block.c share: the frame around a body, and the codec's scratch memory. Not for others.
#ifndef OPENVEIL_MESSAGE_CODEC_H
#define OPENVEIL_MESSAGE_CODEC_H

#include "common/bytes.h"
#include "common/message.h"

// Writes the head; returns where the body's length goes, for message_end, which also adds the checksum and returns the
// message's length, or ERR_LIMIT where it did not fit.
uint8_t *message_begin(struct writer *w, const struct message_head *head);
int64_t message_end(struct writer *w, uint8_t *start, uint8_t *body_len) MUST_CHECK;

// Decoded rows of one message at a time; each call of a decoder overwrites them.
union message_scratch {
    struct event events[BLOCK_EVENTS_MAX];
    struct segment_range ranges[CLOSE_RANGES_MAX];
    struct import_row rows[IMPORT_ROWS_MAX];
};
union message_scratch *message_codec_scratch(struct message_codec *codec);

#endif
