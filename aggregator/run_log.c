#include "aggregator/run_log.h"

#include "common/files.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

static void user_name(char name[64]) {
    const struct passwd *user = getpwuid(getuid());
    if (user != NULL)
        snprintf(name, 64, "%s", user->pw_name);
    else
        snprintf(name, 64, "%u", (unsigned)getuid());
}

static int line_append(const char *path, const char *line, struct err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0)
        return err_errno(err, ERR_IO, "cannot open %s, so the run cannot be logged", path);
    int rc = 0;
    ssize_t len = (ssize_t)strlen(line);
    if (write(fd, line, (size_t)len) != len || fsync(fd) != 0)
        rc = err_errno(err, ERR_IO, "cannot log the run in %s", path);
    if (close(fd) != 0 && rc == 0)
        rc = err_errno(err, ERR_IO, "cannot close %s", path);
    return rc;
}

int run_log_append(const struct config *config, const char *name, struct err *err, const char *format, ...) {
    char path[PATH_SIZE], line[512], user[64], day[DAY_TEXT_SIZE];
    int rc = dir_mark(config->aggregator_state_dir, config->rehearsal, err);
    if (rc != 0 || (rc = path_join(path, config->aggregator_state_dir, name, err)) != 0)
        return rc;
    user_name(user);
    day_format(clock_today(&config->clock), day);
    int used = snprintf(line, sizeof line, "%s user=%s ", day, user);
    CHECK(used > 0 && (size_t)used < sizeof line);
    va_list args;
    va_start(args, format);
    int text = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, args);
    va_end(args);
    CHECK(text >= 0 && (size_t)(used + text) < sizeof line - 1);
    memcpy(line + used + text, "\n", 2);
    return line_append(path, line, err);
}
