#include "common/cidr.h"

#include "common/err.h"

#include <arpa/inet.h>
#include <string.h>

#define V4_PREFIX_BITS 96

int ip_parse(const char *text, uint8_t address[16]) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (inet_pton(AF_INET, text, address + 12) == 1) {
        memcpy(address, mapped, sizeof mapped);
        return 0;
    }
    return inet_pton(AF_INET6, text, address) == 1 ? 0 : ERR_INVALID;
}

int cidr_parse(const char *text, size_t len, struct cidr *cidr) {
    char copy[64];
    if (len >= sizeof copy)
        return ERR_INVALID;
    memcpy(copy, text, len);
    copy[len] = '\0';
    char *slash = strchr(copy, '/');
    if (slash != NULL)
        *slash = '\0';
    if (ip_parse(copy, cidr->address) != 0)
        return ERR_INVALID;
    unsigned offset = strchr(copy, ':') == NULL ? V4_PREFIX_BITS : 0, bits = 128 - offset;
    if (slash != NULL) {
        size_t digits = strspn(slash + 1, "0123456789");
        if (digits < 1 || digits > 3 || slash[1 + digits] != '\0' || strtoul(slash + 1, NULL, 10) > bits)
            return ERR_INVALID;
        bits = (unsigned)strtoul(slash + 1, NULL, 10);
    }
    bits += offset;
    CHECK(bits <= 128);
    for (unsigned i = bits; i < 128; i++)
        if (cidr->address[i / 8] >> (7 - i % 8) & 1)
            return ERR_INVALID;
    cidr->bits = (uint8_t)bits;
    return 0;
}

int cidr_parse_list(const char *text, struct cidr *cidrs, size_t max) {
    size_t n = 0;
    if (text[strspn(text, " \t")] == '\0')
        return 0;
    for (;;) {
        text += strspn(text, " \t");
        size_t len = strcspn(text, ", \t");
        const char *next = text + len + strspn(text + len, " \t");
        if (n == max)
            return ERR_LIMIT;
        if ((*next != ',' && *next != '\0') || cidr_parse(text, len, &cidrs[n++]) != 0)
            return ERR_INVALID;
        if (*next == '\0')
            return (int)n;
        text = next + 1;
    }
}

bool cidr_contains(const struct cidr *cidr, const uint8_t address[16]) {
    size_t whole = cidr->bits / 8;
    unsigned rest = cidr->bits % 8;
    if (memcmp(cidr->address, address, whole) != 0)
        return false;
    return rest == 0 || (cidr->address[whole] ^ address[whole]) >> (8 - rest) == 0;
}

bool cidr_any_contains(const struct cidr *cidrs, size_t n, const uint8_t address[16]) {
    for (size_t i = 0; i < n; i++)
        if (cidr_contains(&cidrs[i], address))
            return true;
    return false;
}
