// Where a request came from: the peer, or behind a trusted load balancer what it says (PROXY protocol version 1 or 2,
// X-Forwarded-For, Forwarded). Only the rightmost address that no trusted machine has is believed; what stands left of
// it is whatever the client wrote. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Pure; no allocation; any thread.
#ifndef OPENVEIL_PEER_ADDRESS_H
#define OPENVEIL_PEER_ADDRESS_H

#include "common/cidr.h"
#include "ingest/http_request.h"

#define ADDRESS_SIZE 16
#define CIDRS_MAX 64
#define PROXY_HEADER_MAX 4096 // bytes of a PROXY protocol header, with its extensions

struct cidr_set {
    size_t n;
    struct cidr cidrs[CIDRS_MAX];
};
// Comma-separated networks or addresses, "10.0.0.0/8, 2001:db8::1"; "" is the empty set.
int cidr_set_parse(struct cidr_set *set, const char *text, struct err *err) MUST_CHECK;
bool cidr_set_has(const struct cidr_set *set, const uint8_t address[ADDRESS_SIZE]);

// An IPv4 or IPv6 address, also in brackets and with a port.
bool address_from_text(const char *text, size_t len, uint8_t address[ADDRESS_SIZE]);
struct sockaddr;
void address_from_socket(const struct sockaddr *socket, uint8_t address[ADDRESS_SIZE]); // zeros for another family

// The client's address, for a peer whose own address is `peer`.
void address_of_client(const struct cidr_set *trusted, const uint8_t peer[ADDRESS_SIZE],
                       const struct http_request *request, uint8_t address[ADDRESS_SIZE]);

// A PROXY protocol header at the start of a connection. Returns its length, 0 where more bytes are needed, ERR_INVALID
// where it is none. `address` is left alone where the header names none (UNKNOWN, LOCAL, another family).
int64_t proxy_header_parse(const uint8_t *data, size_t len, uint8_t address[ADDRESS_SIZE]) MUST_CHECK;

#endif
