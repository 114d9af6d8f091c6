// From a tenant's number to the key that turns its contact ids into pseudonyms, for commands. Any thread.
#ifndef OPENVEIL_CONTACT_KEY_H
#define OPENVEIL_CONTACT_KEY_H

#include "common/config.h"
#include "common/hmac.h"

// Reads the tenant's file and the contact master (or the tenant's own key). The caller wipes `key`. ERR_NOT_FOUND where
// the tenant or the key is not there.
int contact_key_load(struct hmac_key *key, const struct config *config, uint32_t tenant, struct err *err) MUST_CHECK;

#endif
