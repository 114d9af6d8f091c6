// Ranges of IP addresses ("10.0.0.0/8", "2001:db8::/32", or one address), for trusted load balancers and fetch rules.
// IPv4 stands as ::ffff:a.b.c.d, as everywhere. No allocation, any thread.
#ifndef OPENVEIL_CIDR_H
#define OPENVEIL_CIDR_H

#include "common/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cidr {
    uint8_t address[16];
    uint8_t bits; // 0..128 of `address`
};

// `text` of `len` bytes; bits of the address below the prefix must be zero. 0 or ERR_INVALID.
int cidr_parse(const char *text, size_t len, struct cidr *cidr) MUST_CHECK;
// A comma separated list, spaces allowed around the commas; "" has none. The number, ERR_INVALID, or ERR_LIMIT where
// more than `max`.
int cidr_parse_list(const char *text, struct cidr *cidrs, size_t max) MUST_CHECK;
bool cidr_contains(const struct cidr *cidr, const uint8_t address[16]);
bool cidr_any_contains(const struct cidr *cidrs, size_t n, const uint8_t address[16]);
// "192.0.2.1" or "2001:db8::1" to 16 bytes; 0 or ERR_INVALID.
int ip_parse(const char *text, uint8_t address[16]) MUST_CHECK;

#endif
