// The log: one line a message on standard error, `LEVEL program: text`. It never holds a contact id, pseudonym, token,
// address, user agent or a time more precise than a day: callers pass counts, names of ours, days and reasons only, and
// nothing that a client sent. Any thread. Mutable global: the level and the sink.
#ifndef OPENVEIL_LOG_H
#define OPENVEIL_LOG_H

#include "common/check.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// `program` must outlive all calls.
void log_open(const char *program, enum log_level level);
void log_set_level(enum log_level level);
void log_line(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
