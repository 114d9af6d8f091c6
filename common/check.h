// CHECK: an assertion that stays on in release builds. A failed one is a bug of ours, never bad input: it prints where,
// and aborts, because going on with broken invariants could count or lose what must not be counted or lost.
#ifndef OPENVEIL_CHECK_H
#define OPENVEIL_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (__builtin_expect(!(condition), 0)) {                                                  \
            fprintf(stderr, "%s:%d: %s: CHECK(%s) failed\n", __FILE__, __LINE__, __func__, #condition); \
            abort();                                                                              \
        }                                                                                         \
    } while (0)

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))
#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(text, first) __attribute__((__format__(__printf__, text, first)))

#endif
