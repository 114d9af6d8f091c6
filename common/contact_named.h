// Which contact a command is about: by the sender's id and the tenant's key, or by its pseudonym. For commands; prints its
// own errors.
#ifndef OPENVEIL_CONTACT_NAMED_H
#define OPENVEIL_CONTACT_NAMED_H

#include "common/cli.h"

struct contact_named {
    uint32_t tenant;
    uint64_t pseudonym;
};

// Reads --tenant and --pseudonym; `id` is the contact's id, NULL where it was not given. 0 or an exit code.
int contact_named_find(const struct config *config, const struct cli_values *values, const char *id,
                       struct contact_named *contact) MUST_CHECK;

#endif
