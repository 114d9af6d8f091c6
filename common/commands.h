// The `openveil` subcommands whose code lives in common/ (cmd_*.c).
#ifndef OPENVEIL_COMMON_COMMANDS_H
#define OPENVEIL_COMMON_COMMANDS_H

#include "common/cli.h"

extern const struct cli_command cmd_config_sample, cmd_config_check, cmd_config_man;
extern const struct cli_command cmd_keys_init, cmd_keys_add;
extern const struct cli_command cmd_tenant_add, cmd_tenant_change, cmd_tenant_list, cmd_tenant_export;
extern const struct cli_command cmd_token_mint, cmd_token_open;
extern const struct cli_command cmd_consent_set, cmd_consent_get, cmd_consent_import, cmd_consent_inform, cmd_consent_follow;
extern const struct cli_command cmd_consent_export, cmd_consent_count, cmd_consent_report;
extern const struct cli_command cmd_consent_erase_tenant, cmd_consent_rebucket, cmd_consent_restore;
extern const struct cli_command cmd_consent_receipt, cmd_consent_verify;
extern const struct cli_command cmd_notice_add, cmd_notice_list;

#endif
