// `openveil audit --retention`, for cmd_audit.c.
#ifndef OPENVEIL_CMD_RETENTION_H
#define OPENVEIL_CMD_RETENTION_H

#include "common/cli.h"

// Prints every store's oldest item against its limit; the exit code.
int run_retention(const struct config *config, bool json);

#endif
