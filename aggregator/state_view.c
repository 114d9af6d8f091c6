#include "aggregator/state_view.h"

#include "aggregator/state_load.h"

#include <string.h>

static bool filter_keeps(const struct state_filter *filter, const struct record_key *key) {
    CHECK(filter->kinds != NULL);
    if (key->kind == RECORD_META)
        return true;
    if (strchr(filter->kinds, (int)key->kind) == NULL)
        return false;
    bool of_a_tenant = key->kind == RECORD_LAST_OPEN || key->kind == RECORD_WINDOW || key->kind == RECORD_TENANT ||
                       key->kind == RECORD_RELEASE;
    return !of_a_tenant || !filter->of_tenant || key->tenant == filter->tenant;
}

struct loading {
    const struct state_filter *filter;
    struct state_load records;
};

static int take_last_open(const struct state_filter *filter, uint64_t pseudonym, const uint8_t *value, size_t value_len) {
    struct last_open last_open;
    if (value_len == 0)
        return filter->last_open(filter->arg, pseudonym, NULL);
    int rc = last_open_decode(value, value_len, &last_open);
    return rc != 0 ? rc : filter->last_open(filter->arg, pseudonym, &last_open);
}

static int take_record(void *arg, const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len) {
    struct loading *loading = arg;
    struct record_key decoded;
    int rc = key_decode(key, key_len, &decoded);
    if (rc != 0)
        return rc;
    if (!filter_keeps(loading->filter, &decoded))
        return 0;
    if (decoded.kind == RECORD_LAST_OPEN && loading->filter->last_open != NULL)
        return take_last_open(loading->filter, decoded.pseudonym, value, value_len);
    return state_load_record(&loading->records, key, key_len, value, value_len);
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
    int rc = state_create(&loading.records.state, config->aggregator_contacts_max);
    if (rc != 0)
        return err_set(err, rc, "no memory for the aggregator's state");
    *err = (struct err){""};
    rc = journal->ops->load(journal, partition, take_record, go_on, &loading, &position, err);
    if (rc == 0)
        rc = state_load_end(&loading.records);
    if (rc != 0 && err->text[0] == '\0')
        (void)err_set(err, rc < 0 ? rc : ERR_IO, "the aggregator's state cannot be read: it is damaged or too large");
    if (rc == 0)
        rc = check_meta(loading.records.state, config, err);
    if (rc != 0) {
        state_free(loading.records.state);
        return rc;
    }
    *state = loading.records.state;
    return 0;
}
