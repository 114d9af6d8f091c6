// The command-line tool: the table of its commands. Each command's code lives in its domain's folder (cmd_*.c).
#include "aggregator/commands.h"
#include "common/commands.h"
#include "ingest/commands.h"

static const struct cli_command *const commands[] = {
    &cmd_keys_init,
    &cmd_keys_add,
    &cmd_tenant_add,
    &cmd_tenant_change,
    &cmd_tenant_list,
    &cmd_tenant_export,
    &cmd_token_mint,
    &cmd_token_open,
    &cmd_consent_set,
    &cmd_consent_get,
    &cmd_consent_import,
    &cmd_consent_inform,
    &cmd_consent_follow,
    &cmd_consent_export,
    &cmd_consent_count,
    &cmd_consent_report,
    &cmd_consent_erase_tenant,
    &cmd_consent_rebucket,
    &cmd_consent_restore,
    &cmd_consent_receipt,
    &cmd_consent_verify,
    &cmd_notice_add,
    &cmd_notice_list,
    &cmd_contact_show,
    &cmd_contact_erase,
    &cmd_clean,
    &cmd_audit,
    &cmd_last_open_import,
    &cmd_edge_list,
    &cmd_edge_retire,
    &cmd_releases,
    &cmd_budget,
    &cmd_verify,
    &cmd_config_sample,
    &cmd_config_check,
    &cmd_config_man,
    &cmd_fetch_classes_check,
};

int main(int argc, char **argv) {
    return cli_main(argc, argv, commands, ARRAY_LEN(commands));
}
