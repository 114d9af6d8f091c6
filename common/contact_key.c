#include "common/contact_key.h"

#include "common/keys.h"
#include "common/tenant.h"

int contact_key_load(struct hmac_key *key, const struct config *config, uint32_t tenant_id, struct err *err) {
    struct tenant tenant;
    struct keys keys;
    uint8_t bytes[KEY_SIZE];
    int rc = tenant_load(&tenant, config->tenants_dir, tenant_id, err);
    if (rc != 0)
        return rc;
    CHECK(tenant.id == tenant_id);
    rc = keys_load(&keys, config->keys_dir, true, err);
    if (rc == 0) {
        rc = tenant_contact_key(&tenant, &keys, bytes, err);
        keys_wipe(&keys);
    }
    if (rc == 0) {
        hmac_key_init(key, bytes, sizeof bytes);
        bytes_wipe(bytes, sizeof bytes);
    }
    tenant_free(&tenant);
    return rc;
}
