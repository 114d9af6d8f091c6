// The order in which the last-open table keeps a tenant's contacts: their pseudonyms, mixed by a bijection (MurmurHash3's
// finalizer), so that any run of numbers spreads evenly and the pseudonym can be had back. Pure.
#ifndef OPENVEIL_CONTACT_HASH_H
#define OPENVEIL_CONTACT_HASH_H

#include <stdint.h>

static inline uint64_t contact_hash(uint64_t pseudonym) {
    uint64_t x = pseudonym;
    x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
    return x ^ x >> 33;
}

static inline uint64_t contact_unhash(uint64_t hash) {
    uint64_t x = hash ^ hash >> 33;
    x *= 0x9cb4b2f8129337db; // inverse of the second factor, modulo 2^64
    x = (x ^ x >> 33) * 0x4f74430c22a54005;
    return x ^ x >> 33;
}

#endif
