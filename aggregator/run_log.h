// The log of runs that hand out something personal or exact: one line a run in `[aggregator] state_dir`, appended and
// fsynced before the answer leaves. Who ran it, the day, and counts; never a contact. One thread.
#ifndef OPENVEIL_RUN_LOG_H
#define OPENVEIL_RUN_LOG_H

#include "common/config.h"

// Appends "<today> user=<name> <text>" to `name` in the state directory, which is marked with the mode first.
int run_log_append(const struct config *config, const char *name, struct err *err, const char *format, ...)
    PRINTF_LIKE(4, 5) MUST_CHECK;

#endif
