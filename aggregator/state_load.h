// Feeds a journal's records to a state, last opens in batches, whose memory is fetched ahead. Owner: who loads. After the
// last record comes state_load_end. Errors as state_apply's.
#ifndef OPENVEIL_STATE_LOAD_H
#define OPENVEIL_STATE_LOAD_H

#include "aggregator/state.h"

#define STATE_LOAD_BATCH 2048

struct state_load {
    struct state *state;
    size_t n;
    struct last_open_contact contacts[STATE_LOAD_BATCH];
};
int state_load_record(struct state_load *load, const uint8_t *key, size_t key_len, const uint8_t *value,
                      size_t value_len) MUST_CHECK;
int state_load_end(struct state_load *load) MUST_CHECK;

#endif
