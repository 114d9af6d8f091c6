// What a load balancer says about its client: a line of trusted networks, a line with the peer's own address, then the
// connection's bytes, perhaps with a PROXY protocol header before the request.
#include "tests/fuzz/fuzz.h"

#include "ingest/peer_address.h"

#include <string.h>

#define PREFIX_LINE_MAX 256

// Moves past one line and copies it without its line feed; an overlong one is cut.
static void line_take(const uint8_t **at, size_t *left, char line[PREFIX_LINE_MAX]) {
    const uint8_t *lf = *left == 0 ? NULL : memchr(*at, '\n', *left);
    size_t len = lf == NULL ? *left : (size_t)(lf - *at);
    size_t kept = len < PREFIX_LINE_MAX - 1 ? len : PREFIX_LINE_MAX - 1;
    if (kept > 0)
        memcpy(line, *at, kept);
    line[kept] = '\0';
    len += lf != NULL;
    *at += len;
    *left -= len;
}

// A header ends where it ends, however many of its bytes are there.
static size_t check_proxy(const uint8_t *data, size_t len, uint8_t address[ADDRESS_SIZE]) {
    uint8_t before[ADDRESS_SIZE], again[ADDRESS_SIZE];
    memcpy(before, address, ADDRESS_SIZE);
    memcpy(again, address, ADDRESS_SIZE);
    int64_t whole = proxy_header_parse(data, len, address);
    CHECK(whole == ERR_INVALID || (whole >= 0 && whole <= PROXY_HEADER_MAX && whole <= (int64_t)len));
    if (whole <= 0) {
        CHECK(memcmp(before, address, ADDRESS_SIZE) == 0);
        return 0;
    }
    size_t step = (size_t)whole / 128 + 1;
    for (size_t cut = 0; cut < (size_t)whole; cut += step)
        CHECK(proxy_header_parse(data, cut, again) == 0);
    CHECK(memcmp(before, again, ADDRESS_SIZE) == 0);
    CHECK(proxy_header_parse(data, (size_t)whole, again) == whole && memcmp(address, again, ADDRESS_SIZE) == 0);
    return (size_t)whole;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char line[PREFIX_LINE_MAX];
    struct cidr_set trusted, none = {0};
    uint8_t peer[ADDRESS_SIZE] = {0xfd}, address[ADDRESS_SIZE];
    struct err err;
    line_take(&data, &size, line);
    if (cidr_set_parse(&trusted, line, &err) != 0) {
        CHECK(err.text[0] != '\0' && strlen(err.text) < sizeof err.text);
        trusted.n = 0;
    }
    line_take(&data, &size, line);
    if (!address_from_text(line, strlen(line), peer))
        memset(peer, 7, sizeof peer);
    size_t skip = check_proxy(data, size, peer);
    struct request_scan scan = {0};
    struct http_request request;
    int status;
    if (http_request_parse(&scan, (const char *)data + skip, size - skip, &request, &status) != REQUEST_READY)
        return 0;
    address_of_client(&none, peer, &request, address);
    CHECK(memcmp(address, peer, ADDRESS_SIZE) == 0);
    address_of_client(&trusted, peer, &request, address);
    CHECK(cidr_set_has(&trusted, peer) || memcmp(address, peer, ADDRESS_SIZE) == 0);
    return 0;
}
