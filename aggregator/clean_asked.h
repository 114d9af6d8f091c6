// The contacts of a list whose answer has to be looked up, handed out by ascending pseudonym, so that neighbours in the
// consent store are asked for together. They are sorted by way of a nameless temporary file (CLEAN_ASKED_BYTES each), with
// about 50 MB of memory whatever their number. First all are added, then slices are taken. One thread.
#ifndef OPENVEIL_CLEAN_ASKED_H
#define OPENVEIL_CLEAN_ASKED_H

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>

#define CLEAN_ASKED_BYTES 12
#define CLEAN_SLICE_MAX (1u << 20)

struct clean_asked {
    uint64_t pseudonym;
    uint32_t line; // its place in the list, from 0
};

struct clean_asked_set;
int clean_asked_create(struct clean_asked_set **set) MUST_CHECK;
void clean_asked_free(struct clean_asked_set *set);
// ERR_NOMEM, ERR_IO.
int clean_asked_add(struct clean_asked_set *set, uint64_t pseudonym, uint32_t line, struct err *err) MUST_CHECK;
// 1: the next slice, ascending in itself, valid until the next call. 0: all were taken. ERR_NOMEM, ERR_IO.
int clean_asked_slice(struct clean_asked_set *set, const struct clean_asked **asked, size_t *n, struct err *err) MUST_CHECK;

#endif
