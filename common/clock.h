// The one source of wall-clock time, real or rehearsed, and the arithmetic of UTC days. A rehearsed clock runs on a
// straight line from `start_day` at 86400 / day_seconds times real speed, the same in every process; timers always keep
// real time. Days count from 1970-01-01, which is day 0; DAY_NONE stands for "no day" in stored records.
// Threads: `struct clock` is immutable after clock_init; every function may be called from any thread.
#ifndef OPENVEIL_CLOCK_H
#define OPENVEIL_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DAY_NONE 0u
#define DAY_SECONDS 86400
#define DAY_TEXT_SIZE 11   // "2026-11-22" and its NUL
#define MONTH_TEXT_SIZE 8  // "2026-11" and its NUL

struct clock {
    bool rehearsal;
    int64_t start_unix_s;
    uint32_t start_day;
    uint32_t day_seconds;
};

// The clock of the real world.
struct clock clock_real(void);
// A rehearsed clock; day_seconds 1..86400.
struct clock clock_rehearsed(int64_t start_unix_s, uint32_t start_day, uint32_t day_seconds);

// Wall time in milliseconds since 1970 UTC, never negative.
int64_t clock_now_ms(const struct clock *clock);
uint32_t clock_today(const struct clock *clock);
// Real milliseconds (at least 1) until the wall clock shows `wall_ms`; 1 where that is past.
int64_t clock_real_ms_until(const struct clock *clock, int64_t wall_ms);
static inline int64_t day_start_ms(uint32_t day) {
    return (int64_t)day * DAY_SECONDS * 1000;
}
// Monotonic real milliseconds, for timers and time-outs only.
int64_t clock_monotonic_ms(void);

// "YYYY-MM-DD", strictly, 1970-01-01 to 9999-12-31; -1 where it is not one.
int day_parse(const char *text, uint32_t *day);
void day_format(uint32_t day, char text[DAY_TEXT_SIZE]);
// The first day of the month that `day` lies in, and of the month after it.
uint32_t day_month_start(uint32_t day);
uint32_t day_next_month_start(uint32_t day);
unsigned day_of_month(uint32_t day);
void month_format(uint32_t day, char text[MONTH_TEXT_SIZE]);
// RFC 3339 in UTC or with an offset, to minutes since 1970; -1 where it is not one or does not fit 32 bits.
int minutes_parse_rfc3339(const char *text, uint32_t *minutes);
// "YYYY-MM-DDTHH:MM:00Z"; years above 9999 print with five digits. `text` holds at least 24 bytes.
void minutes_format(uint32_t minutes, char *text, size_t size);

#endif
