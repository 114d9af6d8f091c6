#include "common/clock.h"

#include "common/check.h"

#include <string.h>
#include <time.h>

struct clock clock_real(void) {
    return (struct clock){.rehearsal = false};
}

struct clock clock_rehearsed(int64_t start_unix_s, uint32_t start_day, uint32_t day_seconds) {
    CHECK(day_seconds >= 1 && day_seconds <= DAY_SECONDS);
    return (struct clock){
        .rehearsal = true, .start_unix_s = start_unix_s, .start_day = start_day, .day_seconds = day_seconds};
}

static int64_t real_now_ms(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t clock_now_ms(const struct clock *clock) {
    int64_t now = real_now_ms();
    if (clock->rehearsal) {
        int64_t passed = now - clock->start_unix_s * 1000;
        now = day_start_ms(clock->start_day) + passed * DAY_SECONDS / clock->day_seconds;
    }
    return now < 0 ? 0 : now;
}

uint32_t clock_today(const struct clock *clock) {
    return (uint32_t)(clock_now_ms(clock) / (DAY_SECONDS * 1000));
}

int64_t clock_real_ms_until(const struct clock *clock, int64_t wall_ms) {
    int64_t left = wall_ms - clock_now_ms(clock);
    if (left <= 0)
        return 1;
    if (clock->rehearsal)
        left = left * clock->day_seconds / DAY_SECONDS;
    return left + 1;
}

int64_t clock_monotonic_ms(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Days and civil dates after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
static int64_t days_from_civil(int64_t year, unsigned month, unsigned day) {
    year -= month <= 2;
    int64_t era = year / 400;
    int64_t of_era = year - era * 400;
    int64_t of_year = (153 * ((int64_t)month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void civil_from_days(int64_t days, int64_t *year, unsigned *month, unsigned *day) {
    CHECK(days >= 0);
    days += 719468;
    int64_t era = days / 146097;
    int64_t of_era = days - era * 146097;
    int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t shifted = (5 * of_year + 2) / 153;
    *day = (unsigned)(of_year - (153 * shifted + 2) / 5 + 1);
    *month = (unsigned)(shifted < 10 ? shifted + 3 : shifted - 9);
    *year = year_of_era + era * 400 + (*month <= 2);
}

static int digits(const char *text, size_t n, unsigned *value) {
    unsigned v = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        v = v * 10 + (unsigned)(text[i] - '0');
    }
    *value = v;
    return 0;
}

static int date_parse(const char *text, uint32_t *day) {
    unsigned year, month, of_month;
    if (strnlen(text, 10) < 10 || text[4] != '-' || text[7] != '-')
        return -1;
    if (digits(text, 4, &year) != 0 || digits(text + 5, 2, &month) != 0 || digits(text + 8, 2, &of_month) != 0)
        return -1;
    if (year < 1970 || month < 1 || month > 12 || of_month < 1)
        return -1;
    int64_t days = days_from_civil(year, month, of_month);
    int64_t year_back;
    unsigned month_back, day_back;
    civil_from_days(days, &year_back, &month_back, &day_back);
    if (month_back != month || day_back != of_month)
        return -1;
    *day = (uint32_t)days;
    return 0;
}

int day_parse(const char *text, uint32_t *day) {
    if (date_parse(text, day) != 0 || text[10] != '\0')
        return -1;
    return 0;
}

void day_format(uint32_t day, char text[DAY_TEXT_SIZE]) {
    int64_t year;
    unsigned month, of_month;
    civil_from_days(day, &year, &month, &of_month);
    snprintf(text, DAY_TEXT_SIZE, "%04u-%02u-%02u", (unsigned)(year % 10000), month % 100, of_month % 100);
}

unsigned day_of_month(uint32_t day) {
    int64_t year;
    unsigned month, of_month;
    civil_from_days(day, &year, &month, &of_month);
    return of_month;
}

uint32_t day_month_start(uint32_t day) {
    return day - (day_of_month(day) - 1);
}

uint32_t day_next_month_start(uint32_t day) {
    return day_month_start(day_month_start(day) + 31);
}

void month_format(uint32_t day, char text[MONTH_TEXT_SIZE]) {
    char date[DAY_TEXT_SIZE];
    day_format(day, date);
    memcpy(text, date, MONTH_TEXT_SIZE - 1);
    text[MONTH_TEXT_SIZE - 1] = '\0';
}

static int offset_parse(const char *at, int64_t *minutes) {
    unsigned hours, mins;
    if ((at[0] == 'Z' || at[0] == 'z') && at[1] == '\0') {
        *minutes = 0;
        return 0;
    }
    if ((at[0] != '+' && at[0] != '-') || strlen(at) != 6 || at[3] != ':')
        return -1;
    if (digits(at + 1, 2, &hours) != 0 || digits(at + 4, 2, &mins) != 0 || hours > 23 || mins > 59)
        return -1;
    *minutes = (int64_t)hours * 60 + mins;
    if (at[0] == '-')
        *minutes = -*minutes;
    return 0;
}

int minutes_parse_rfc3339(const char *text, uint32_t *minutes) {
    uint32_t day;
    unsigned hour, minute, second;
    int64_t offset;
    if (date_parse(text, &day) != 0 || strlen(text) < 20)
        return -1;
    if ((text[10] != 'T' && text[10] != 't' && text[10] != ' ') || text[13] != ':' || text[16] != ':')
        return -1;
    if (digits(text + 11, 2, &hour) != 0 || digits(text + 14, 2, &minute) != 0 || digits(text + 17, 2, &second) != 0)
        return -1;
    if (hour > 23 || minute > 59 || second > 60)
        return -1;
    const char *at = text + 19;
    if (*at == '.') {
        size_t fraction = strspn(at + 1, "0123456789");
        if (fraction == 0)
            return -1;
        at += 1 + fraction;
    }
    if (offset_parse(at, &offset) != 0)
        return -1;
    int64_t value = (int64_t)day * 1440 + hour * 60 + minute - offset;
    if (value < 0 || value > UINT32_MAX)
        return -1;
    *minutes = (uint32_t)value;
    return 0;
}

void minutes_format(uint32_t minutes, char *text, size_t size) {
    int64_t year;
    unsigned month, day;
    CHECK(size >= 24);
    civil_from_days(minutes / 1440, &year, &month, &day);
    snprintf(text, size, "%04u-%02u-%02uT%02u:%02u:00Z", (unsigned)year, month, day, minutes % 1440 / 60, minutes % 60);
}
