#include "common/contact_named.h"

#include "common/contact_key.h"
#include "common/hmac.h"
#include "common/tenant.h"
#include "common/token.h"

#include <string.h>

// By the tenant's key.
static int contact_by_id(const struct config *config, const char *id, struct contact_named *contact) {
    struct hmac_key key;
    struct err err;
    size_t len = strlen(id);
    if (!contact_id_valid(id, len))
        return cli_error(EXIT_USAGE, "the contact's id must be 1 to %d bytes of UTF-8 without tab, CR or LF", CONTACT_ID_MAX);
    if (contact_key_load(&key, config, contact->tenant, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    contact->pseudonym = pseudonym_of(&key, contact->tenant, id, len);
    bytes_wipe(&key, sizeof key);
    return 0;
}

// --pseudonym needs no key, but the tenant must be known all the same.
static int contact_by_pseudonym(const struct config *config, const char *hex, struct contact_named *contact) {
    struct tenant tenant;
    struct err err;
    uint8_t bytes[8];
    if (strlen(hex) != 16 || hex_decode(hex, 16, bytes) != 0)
        return cli_error(EXIT_USAGE, "--pseudonym must be 16 hex digits");
    if (tenant_load(&tenant, config->tenants_dir, contact->tenant, &err) != 0)
        return cli_error(EXIT_FAILURE, "%s", err.text);
    tenant_free(&tenant);
    contact->pseudonym = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        contact->pseudonym = contact->pseudonym << 8 | bytes[i];
    return 0;
}

int contact_named_find(const struct config *config, const struct cli_values *values, const char *id,
                       struct contact_named *contact) {
    const char *hex = cli_value(values, "pseudonym");
    int code = cli_parse_u32("--tenant", cli_value(values, "tenant"), 0, UINT32_MAX, &contact->tenant);
    if (code != 0)
        return code;
    if ((id == NULL) == (hex == NULL))
        return cli_error(EXIT_USAGE, "give either the contact's id or --pseudonym");
    return id != NULL ? contact_by_id(config, id, contact) : contact_by_pseudonym(config, hex, contact);
}
