#include "aggregator/state_load.h"

int state_load_end(struct state_load *load) {
    size_t n = load->n;
    CHECK(n <= STATE_LOAD_BATCH);
    load->n = 0;
    return n == 0 ? 0 : last_open_put_many(state_last_open(load->state), load->contacts, n);
}

int state_load_record(struct state_load *load, const uint8_t *key, size_t key_len, const uint8_t *value,
                      size_t value_len) {
    if (key_len == 0 || key[0] != RECORD_LAST_OPEN)
        return state_apply(load->state, key, key_len, value, value_len);
    if (value_len == 0) {
        int rc = state_load_end(load);
        return rc != 0 ? rc : state_apply(load->state, key, key_len, value, value_len);
    }
    struct last_open_contact *contact = &load->contacts[load->n];
    int rc = key_decode_last_open(key, key_len, &contact->tenant, &contact->pseudonym);
    if (rc != 0 || (rc = last_open_decode(value, value_len, &contact->value)) != 0)
        return rc;
    return ++load->n == STATE_LOAD_BATCH ? state_load_end(load) : 0;
}
