#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static _Atomic int level_max = LOG_INFO;
static const char *program_name = "openveil";

void log_open(const char *program, enum log_level level) {
    CHECK(program != NULL);
    program_name = program;
    log_set_level(level);
}

void log_set_level(enum log_level level) {
    atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
}

void log_line(enum log_level level, const char *format, ...) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    CHECK(level <= LOG_DEBUG);
    if ((int)level > atomic_load_explicit(&level_max, memory_order_relaxed))
        return;
    char line[1024];
    int used = snprintf(line, sizeof line, "%s %s: ", names[level], program_name);
    va_list args;
    va_start(args, format);
    int text = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, args);
    va_end(args);
    size_t len = (size_t)used + (text > 0 ? (size_t)text : 0);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len++] = '\n';
    // One write a line, so that lines of several threads and processes do not mix; nobody to tell if it fails.
    if (write(STDERR_FILENO, line, len) < 0)
        return;
}
