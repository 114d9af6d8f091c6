// Why an outcome was not counted: the closed list. Edge reasons are decided before an event exists, aggregator reasons
// after. Every request ends in exactly one place: requests = recorded + edge drops, recorded = counted + repeated +
// aggregator drops. The order is stored on disk and in Kafka: add at the end of a list, never reorder.
#ifndef OPENVEIL_REASONS_H
#define OPENVEIL_REASONS_H

#define EDGE_REASONS(X)                                                                      \
    X(BAD_TOKEN, bad_token, "token malformed, forged, or of an unknown tenant or key")       \
    X(SCANNER, scanner, "fetched by a security product, preview, bot or script")             \
    X(NOT_ALLOWED, not_allowed, "contact is known to have refused, withdrawn or objected")

#define AGGREGATOR_REASONS(X)                                                                \
    X(NOT_ALLOWED, not_allowed, "consent record missing, refusing, or too young")            \
    X(UNKNOWN_STREAM, unknown_stream, "stream is not configured for its tenant")             \
    X(UNKNOWN_TENANT, unknown_tenant, "tenant is not configured here")                       \
    X(LATE, late, "its window was released before it came")                                  \
    X(FUTURE_DAY, future_day, "its day has not begun")                                       \
    X(TOO_OLD, too_old, "its day is older than last-open days are kept")

#define EDGE_REASON_ENUM(name, text, help) EDGE_DROP_##name,
#define AGGREGATOR_REASON_ENUM(name, text, help) AGG_DROP_##name,
enum edge_drop { EDGE_REASONS(EDGE_REASON_ENUM) EDGE_DROPS };
enum agg_drop { AGGREGATOR_REASONS(AGGREGATOR_REASON_ENUM) AGG_DROPS };

// Room kept in stored formats, so that a new reason does not change them.
#define EDGE_DROPS_STORED 8
#define AGG_DROPS_STORED 16

extern const char *const edge_drop_names[EDGE_DROPS];
extern const char *const agg_drop_names[AGG_DROPS];

#endif
