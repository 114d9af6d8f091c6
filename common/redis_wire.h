// Redis' protocol in bytes: commands into a growing buffer, who awaits their answers, and hiredis' reply parser with
// limits on what it builds.
// Used by common/redis_link.c alone; one thread.
#ifndef OPENVEIL_REDIS_WIRE_H
#define OPENVEIL_REDIS_WIRE_H

#include "common/redis_link.h"

#include <hiredis/hiredis.h>

// Bytes of a reply that hiredis may hold before it can make something of them.
#define REDIS_UNPARSED_MAX (1u << 20)

struct redis_output {
    char *bytes; // owned by whoever owns the struct
    size_t used;
    size_t room;
};

// Appends a command; ERR_LIMIT beyond REDIS_OUTPUT_MAX bytes, ERR_NOMEM; nothing is appended then.
int redis_output_command(struct redis_output *out, const struct redis_arg *args, size_t n_args) MUST_CHECK;

// Who awaits an answer, in the order of the commands.
struct redis_answer {
    redis_reply_fn fn;
    void *arg;
};
struct redis_pending {
    struct redis_answer *ring; // owned by whoever owns the struct
    size_t room;               // a power of two
    size_t head;
    size_t n;
};
// ERR_LIMIT beyond REDIS_PENDING_MAX, ERR_NOMEM.
int redis_pending_push(struct redis_pending *pending, redis_reply_fn fn, void *arg) MUST_CHECK;
// The first one; there must be one.
struct redis_answer redis_pending_pop(struct redis_pending *pending);

// hiredis' parser that refuses text of more than 64 KiB and arrays of more than 4M elements as a protocol error; NULL
// when out of memory.
redisReader *redis_reader_create(void);

#endif
