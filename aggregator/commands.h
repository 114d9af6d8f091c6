// The `openveil` subcommands whose code lives in aggregator/ (cmd_*.c).
#ifndef OPENVEIL_AGGREGATOR_COMMANDS_H
#define OPENVEIL_AGGREGATOR_COMMANDS_H

#include "common/cli.h"

extern const struct cli_command cmd_clean, cmd_audit, cmd_releases, cmd_budget, cmd_last_open_import, cmd_verify;
extern const struct cli_command cmd_contact_show, cmd_contact_erase;
extern const struct cli_command cmd_edge_list, cmd_edge_retire;

#endif
