// The `openveil` subcommands whose code lives in ingest/ (cmd_*.c).
#ifndef OPENVEIL_INGEST_COMMANDS_H
#define OPENVEIL_INGEST_COMMANDS_H

#include "common/cli.h"

extern const struct cli_command cmd_fetch_classes_check;

#endif
