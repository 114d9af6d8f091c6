#include "aggregator/state_view.h"

#include <string.h>

bool state_filter_keeps(const struct state_filter *filter, const uint8_t *key, size_t key_len) {
    struct record_key decoded;
    CHECK(filter->kinds != NULL);
    if (key_decode(key, key_len, &decoded) != 0)
        return true; // state_apply says what is wrong with it
    if (decoded.kind == RECORD_META)
        return true;
    if (strchr(filter->kinds, (int)decoded.kind) == NULL)
        return false;
    bool of_a_tenant = decoded.kind == RECORD_LAST_OPEN || decoded.kind == RECORD_WINDOW ||
                       decoded.kind == RECORD_TENANT || decoded.kind == RECORD_RELEASE;
    return !of_a_tenant || !filter->of_tenant || decoded.tenant == filter->tenant;
}

struct loading {
    const struct state_filter *filter;
    struct state *state;
};

static int take_record(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    const struct loading *loading = arg;
    if (!state_filter_keeps(loading->filter, key, key_len))
        return 0;
    return state_apply(loading->state, key, key_len, value, value_len);
}

static int go_on(void *arg, uint64_t done, uint64_t total) {
    (void)arg;
    (void)done;
    (void)total;
    return 0;
}

static int check_meta(const struct state *state, const struct config *config, struct err *err) {
    bool rehearsal;
    uint32_t partitions;
    if (!state_meta(state, &rehearsal, &partitions))
        return 0;
    if (rehearsal != config->rehearsal)
        return err_set(err, ERR_INVALID, "the aggregator's state is of %s", rehearsal ? "a rehearsal" : "production");
    if (partitions != config->kafka_partitions)
        return err_set(err, ERR_INVALID, "the aggregator's state has %u partitions and the configuration says %llu",
                       partitions, (unsigned long long)config->kafka_partitions);
    return 0;
}

int state_view_load(struct state **state, struct journal *journal, const struct config *config, uint32_t partition,
                    const struct state_filter *filter, struct err *err) {
    struct loading loading = {.filter = filter};
    int64_t position;
    int rc = state_create(&loading.state, config->aggregator_contacts_max);
    if (rc != 0)
        return err_set(err, rc, "no memory for the aggregator's state");
    *err = (struct err){""};
    rc = journal->ops->load(journal, partition, take_record, go_on, &loading, &position, err);
    if (rc != 0 && err->text[0] == '\0')
        (void)err_set(err, rc < 0 ? rc : ERR_IO, "the aggregator's state cannot be read: it is damaged or too large");
    if (rc == 0)
        rc = check_meta(loading.state, config, err);
    if (rc != 0) {
        state_free(loading.state);
        return rc;
    }
    *state = loading.state;
    return 0;
}
