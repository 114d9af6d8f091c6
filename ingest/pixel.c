#include "ingest/pixel.h"

#include "common/check.h"
#include "common/hmac.h"

#include <stdlib.h>
#include <string.h>

struct key_entry {
    uint32_t tenant;
    uint8_t key_id;
    struct token_key key;
};

struct pixel_keys {
    size_t n_entries;
    struct key_entry *entries;
    size_t slot_mask;
    uint32_t *slots; // open addressing at most half full: index of an entry and 1, or 0
};

static size_t slot_of(const struct pixel_keys *keys, uint32_t tenant, uint8_t key_id) {
    uint64_t mixed = ((uint64_t)tenant << 8 | key_id) * 0x9e3779b97f4a7c15u;
    return (size_t)(mixed >> 32) & keys->slot_mask;
}

static const struct token_key *keys_find(const struct pixel_keys *keys, uint32_t tenant, uint8_t key_id) {
    for (size_t slot = slot_of(keys, tenant, key_id); keys->slots[slot] != 0; slot = (slot + 1) & keys->slot_mask) {
        const struct key_entry *entry = &keys->entries[keys->slots[slot] - 1];
        if (entry->tenant == tenant && entry->key_id == key_id)
            return &entry->key;
    }
    return NULL;
}

static void keys_insert(struct pixel_keys *keys, const struct keys *masters, uint32_t tenant, uint8_t key_id) {
    uint8_t derived[KEY_SIZE];
    struct key_entry *entry = &keys->entries[keys->n_entries++];
    entry->tenant = tenant;
    entry->key_id = key_id;
    token_key_derive(masters->token[key_id], tenant, key_id, derived);
    token_key_init(&entry->key, derived);
    bytes_wipe(derived, sizeof derived);
    size_t slot = slot_of(keys, tenant, key_id);
    while (keys->slots[slot] != 0)
        slot = (slot + 1) & keys->slot_mask;
    keys->slots[slot] = (uint32_t)keys->n_entries;
}

int pixel_keys_create(struct pixel_keys **out, const struct keys *masters, const struct tenant_table *tenants,
                      struct err *err) {
    size_t n_masters = 0, n_tenants = tenant_table_count(tenants);
    for (size_t kid = 0; kid < 256; kid++)
        n_masters += masters->has_token[kid];
    CHECK(n_tenants <= TENANTS_MAX);
    size_t n = n_tenants * n_masters, n_slots = 16;
    while (n_slots < 2 * n)
        n_slots *= 2;
    struct pixel_keys *keys = calloc(1, sizeof *keys);
    if (keys == NULL)
        return err_set(err, ERR_NOMEM, "no memory for token keys");
    keys->slot_mask = n_slots - 1;
    keys->entries = calloc(n == 0 ? 1 : n, sizeof *keys->entries);
    keys->slots = calloc(n_slots, sizeof *keys->slots);
    if (keys->entries == NULL || keys->slots == NULL) {
        pixel_keys_free(keys);
        return err_set(err, ERR_NOMEM, "no memory for the token keys of %zu tenants", n_tenants);
    }
    for (size_t i = 0; i < n_tenants; i++)
        for (size_t kid = 0; kid < 256; kid++)
            if (masters->has_token[kid])
                keys_insert(keys, masters, tenant_table_at(tenants, i)->id, (uint8_t)kid);
    CHECK(keys->n_entries == n);
    *out = keys;
    return 0;
}

void pixel_keys_free(struct pixel_keys *keys) {
    if (keys == NULL)
        return;
    if (keys->entries != NULL)
        bytes_wipe(keys->entries, keys->n_entries * sizeof *keys->entries);
    free(keys->entries);
    free(keys->slots);
    free(keys);
}

size_t pixel_keys_count(const struct pixel_keys *keys) {
    return keys->n_entries;
}

bool pixel_path(const struct text *path) {
    return path->len >= 3 && memcmp(path->at, "/p/", 3) == 0;
}

static bool token_of(const struct pixel_keys *keys, const struct text *path, struct token *token) {
    static const char ending[] = ".gif";
    const size_t ending_len = sizeof ending - 1;
    const char *text = path->at + 3;
    size_t len = path->len - 3;
    if (len < ending_len || memcmp(text + len - ending_len, ending, ending_len) != 0)
        return false;
    uint8_t bytes[TOKEN_BYTES];
    uint32_t tenant;
    uint8_t key_id;
    if (token_decode(text, len - ending_len, bytes, &tenant, &key_id) != 0)
        return false;
    const struct token_key *key = keys_find(keys, tenant, key_id);
    return key != NULL && token_open(key, bytes, token) == 0;
}

void pixel_decide(const struct pixel_keys *keys, const struct fetch_classes *classes, const struct drop_view *drops,
                  const struct http_request *request, pixel_address_fn address_of, const void *arg, int64_t wall_ms,
                  struct pixel_outcome *outcome) {
    struct token token;
    CHECK(pixel_path(&request->path) && !request->is_head);
    *outcome = (struct pixel_outcome){.recorded = false, .drop = EDGE_DROP_BAD_TOKEN};
    if (!token_of(keys, &request->path, &token))
        return;
    drop_view_prefetch(drops, token.tenant, token.pseudonym);
    struct fetch_facts facts = {
        .user_agent = request->user_agent,
        .sec_purpose = request->sec_purpose,
        .purpose = request->purpose,
        .x_moz = request->x_moz,
        .within_minute = wall_ms / 60000 - (int64_t)token.sent_minute <= 1,
    };
    if (fetch_classes_want_address(classes, facts.within_minute))
        address_of(arg, request, facts.address);
    enum fetch fetch = fetch_classify(classes, &facts, NULL);
    bytes_wipe(facts.address, sizeof facts.address);
    if (fetch == FETCH_SCANNER) {
        outcome->drop = EDGE_DROP_SCANNER;
        return;
    }
    if (drop_view_holds(drops, token.tenant, token.pseudonym)) {
        outcome->drop = EDGE_DROP_NOT_ALLOWED;
        return;
    }
    outcome->recorded = true;
    outcome->event = (struct event){
        .pseudonym = token.pseudonym,
        .tenant = token.tenant,
        .sent_day = token.sent_minute / (24 * 60),
        .stream = token.stream,
        .provider = token.provider,
        .class_regime = (uint8_t)(token.message_class << 4 | token.regime),
        .fetch = (uint8_t)fetch,
    };
}
