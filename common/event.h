// One open, as it leaves the edge's memory, and the numbers that describe mail and fetches (message class, regime, fetch
// class, provider). Nothing here is more precise than a day, and nothing says who, where from or with what.
#ifndef OPENVEIL_EVENT_H
#define OPENVEIL_EVENT_H

#include <stdint.h>

enum message_class { CLASS_TRANSACTIONAL = 1, CLASS_REQUESTED = 2, CLASS_PROSPECTING = 3 };
enum regime { REGIME_EXEMPTION = 0, REGIME_CONSENT = 1, REGIME_AGGREGATE = 2 };
enum fetch { FETCH_PERSON = 0, FETCH_MACHINE = 1, FETCH_SCANNER = 2 };

extern const char *const message_class_names[4]; // by enum message_class; the first is NULL
int message_class_parse(const char *name);       // enum message_class, or -1

#define PROVIDER_OTHER 0
#define PROVIDERS_BUILTIN 14
#define PROVIDERS_MAX 256

struct event {
    uint64_t pseudonym;
    uint32_t tenant;
    uint32_t sent_day; // UTC day of sending; the day of the open is the block's
    uint16_t stream;
    uint8_t provider;
    uint8_t class_regime; // class << 4 | regime, as in the token's last byte
    uint8_t fetch;        // enum fetch; a scanner never becomes an event
};

static inline uint8_t event_class(const struct event *event) {
    return event->class_regime >> 4;
}
static inline uint8_t event_regime(const struct event *event) {
    return event->class_regime & 15;
}

#endif
