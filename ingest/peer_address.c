#include "ingest/peer_address.h"

#include "common/bytes.h"
#include "common/check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define HOPS_MAX 32 // addresses of a forwarding chain that are looked at, from the right

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static void address_from_v4(const void *v4, uint8_t address[ADDRESS_SIZE]) {
    memcpy(address, v4_prefix, sizeof v4_prefix);
    memcpy(address + sizeof v4_prefix, v4, 4);
}

static bool plain_address(const char *text, size_t len, uint8_t address[ADDRESS_SIZE]) {
    char copy[INET6_ADDRSTRLEN];
    if (len == 0 || len >= sizeof copy || memchr(text, '\0', len) != NULL)
        return false;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return ip_parse(copy, address) == 0;
}

bool address_from_text(const char *text, size_t len, uint8_t address[ADDRESS_SIZE]) {
    if (len > 0 && text[0] == '[') {
        const char *end = memchr(text, ']', len);
        if (end == NULL || (end + 1 < text + len && end[1] != ':'))
            return false;
        return plain_address(text + 1, (size_t)(end - text) - 1, address);
    }
    const char *colon = memchr(text, ':', len);
    bool with_port = colon != NULL && memchr(colon + 1, ':', (size_t)(text + len - colon) - 1) == NULL;
    return plain_address(text, with_port ? (size_t)(colon - text) : len, address);
}

void address_from_socket(const struct sockaddr *socket, uint8_t address[ADDRESS_SIZE]) {
    if (socket->sa_family == AF_INET)
        address_from_v4(&((const struct sockaddr_in *)(const void *)socket)->sin_addr, address);
    else if (socket->sa_family == AF_INET6)
        memcpy(address, &((const struct sockaddr_in6 *)(const void *)socket)->sin6_addr, ADDRESS_SIZE);
    else
        memset(address, 0, ADDRESS_SIZE);
}

int cidr_set_parse(struct cidr_set *set, const char *text, struct err *err) {
    int n = cidr_parse_list(text, set->cidrs, CIDRS_MAX);
    set->n = n < 0 ? 0 : (size_t)n;
    if (n == ERR_LIMIT)
        return err_set(err, n, "more than %d networks in [ingest] trusted_cidrs", CIDRS_MAX);
    if (n < 0)
        return err_set(err, n, "[ingest] trusted_cidrs is a list such as 10.0.0.0/8, 2001:db8::/32; not %.200s", text);
    return 0;
}

bool cidr_set_has(const struct cidr_set *set, const uint8_t address[ADDRESS_SIZE]) {
    CHECK(set->n <= CIDRS_MAX);
    return cidr_any_contains(set->cidrs, set->n, address);
}

// The last HOPS_MAX addresses of a chain, in its order.
struct hops {
    size_t n;
    struct text at[HOPS_MAX];
};

static void hop_add(struct hops *hops, struct text hop) {
    if (hops->n == HOPS_MAX) {
        memmove(hops->at, hops->at + 1, (HOPS_MAX - 1) * sizeof hops->at[0]);
        hops->n--;
    }
    hops->at[hops->n++] = hop;
}

static struct text without_spaces(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return (struct text){.at = at, .len = (size_t)(end - at)};
}

static void hops_from_list(struct hops *hops, const struct text *line) {
    const char *end = line->at + line->len;
    for (const char *at = line->at; at <= end;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma == NULL ? end : comma;
        struct text hop = without_spaces(at, stop);
        if (hop.len > 0)
            hop_add(hops, hop);
        at = stop + 1;
    }
}

// RFC 7239: elements separated by commas, pairs by semicolons, values perhaps quoted. An element without `for` counts
// as an unknown hop, so that nothing left of it is believed.
static void hops_from_forwarded(struct hops *hops, const struct text *line) {
    const char *at = line->at, *end = line->at + line->len;
    while (at < end) {
        struct text hop = {.at = "unknown", .len = 7};
        bool quoted = false;
        const char *pair = at;
        for (;; at++) {
            if (at < end && *at == '"')
                quoted = !quoted;
            if (at < end && (quoted || (*at != ',' && *at != ';')))
                continue;
            struct text text = without_spaces(pair, at);
            if (text.len > 4 && text_is(&(struct text){.at = text.at, .len = 4}, "for=")) {
                hop = (struct text){.at = text.at + 4, .len = text.len - 4};
                if (hop.len >= 2 && hop.at[0] == '"' && hop.at[hop.len - 1] == '"')
                    hop = (struct text){.at = hop.at + 1, .len = hop.len - 2};
            }
            if (at == end || *at == ',')
                break;
            pair = at + 1;
        }
        hop_add(hops, hop);
        at++;
    }
}

void address_of_client(const struct cidr_set *trusted, const uint8_t peer[ADDRESS_SIZE],
                       const struct http_request *request, uint8_t address[ADDRESS_SIZE]) {
    struct hops hops;
    hops.n = 0;
    memcpy(address, peer, ADDRESS_SIZE);
    if (!cidr_set_has(trusted, peer))
        return;
    for (size_t i = 0; i < request->n_forwarded_for; i++)
        hops_from_list(&hops, &request->forwarded_for[i]);
    for (size_t i = 0; i < request->n_forwarded && request->n_forwarded_for == 0; i++)
        hops_from_forwarded(&hops, &request->forwarded[i]);
    for (size_t i = hops.n; i-- > 0;) {
        uint8_t hop[ADDRESS_SIZE];
        if (!address_from_text(hops.at[i].at, hops.at[i].len, hop))
            return;
        memcpy(address, hop, ADDRESS_SIZE);
        if (!cidr_set_has(trusted, hop))
            return;
    }
}

static int64_t proxy_v1_parse(const char *line, size_t len, uint8_t address[ADDRESS_SIZE]) {
    const size_t line_max = 107;
    const char *lf = memchr(line, '\n', len < line_max ? len : line_max);
    if (lf == NULL)
        return len >= line_max ? ERR_INVALID : 0;
    if (lf[-1] != '\r')
        return ERR_INVALID;
    const char *end = lf - 1, *at = line + 6;
    if (end - at >= 7 && memcmp(at, "UNKNOWN", 7) == 0)
        return lf + 1 - line;
    if (end - at < 5 || (memcmp(at, "TCP4 ", 5) != 0 && memcmp(at, "TCP6 ", 5) != 0))
        return ERR_INVALID;
    at += 5;
    const char *space = memchr(at, ' ', (size_t)(end - at));
    if (space == NULL || !plain_address(at, (size_t)(space - at), address))
        return ERR_INVALID;
    return lf + 1 - line;
}

static int64_t proxy_v2_parse(const uint8_t *data, size_t len, uint8_t address[ADDRESS_SIZE]) {
    if (len < 16)
        return 0;
    size_t whole = 16 + (size_t)load_u16(data + 14);
    if (data[12] >> 4 != 2 || (data[12] & 15) > 1 || whole > PROXY_HEADER_MAX)
        return ERR_INVALID;
    if (len < whole)
        return 0;
    bool local = (data[12] & 15) == 0;
    if (!local && data[13] == 0x11) { // TCP over IPv4
        if (whole < 16 + 12)
            return ERR_INVALID;
        address_from_v4(data + 16, address);
    } else if (!local && data[13] == 0x21) { // TCP over IPv6
        if (whole < 16 + 36)
            return ERR_INVALID;
        memcpy(address, data + 16, ADDRESS_SIZE);
    }
    return (int64_t)whole;
}

int64_t proxy_header_parse(const uint8_t *data, size_t len, uint8_t address[ADDRESS_SIZE]) {
    static const uint8_t v2[12] = "\r\n\r\n\0\r\nQUIT\n";
    static const uint8_t v1[6] = "PROXY ";
    CHECK(len == 0 || data != NULL);
    if (memcmp(data, v1, len < sizeof v1 ? len : sizeof v1) == 0)
        return len < sizeof v1 ? 0 : proxy_v1_parse((const char *)data, len, address);
    if (memcmp(data, v2, len < sizeof v2 ? len : sizeof v2) == 0)
        return len < sizeof v2 ? 0 : proxy_v2_parse(data, len, address);
    return ERR_INVALID;
}
