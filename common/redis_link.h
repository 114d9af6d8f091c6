// One connection to Redis on a uv loop: resolves, connects (TCP or a socket's path), authenticates, pipelines commands,
// and connects again with a growing pause (50 ms to 1 s) whenever it is lost. It is built on hiredis' reply parser and
// libuv's streams, not on hiredis' asynchronous contexts: those of 0.14 assert on an answer nobody asked for, resolve
// names blocking and ignore libuv's errors. All calls and hooks belong to the loop's thread; memory is freed once the
// loop has closed the handles. What Redis sends is bounded: text of 64 KiB, arrays of 4M elements, 1 MiB unparsed.
#ifndef OPENVEIL_REDIS_LINK_H
#define OPENVEIL_REDIS_LINK_H

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct uv_loop_s;
struct redisReply;
struct redis_link;

#define REDIS_PENDING_MAX 65536u
#define REDIS_OUTPUT_MAX (64u << 20)

#define REDIS_ADDRESS_SIZE 300

// Where a link goes and as whom. Copied.
struct redis_target {
    const char *addresses;     // host:port or a socket's path; several, comma separated, are tried in turn; empty: see aim
    const char *username;      // empty: none
    const char *password_file; // empty: none
    uint64_t timeout_ms;
};

struct redis_arg {
    const void *data;
    size_t len;
};

// The answer to one command; NULL where the connection ended before it came. The reply is the link's.
typedef void (*redis_reply_fn)(void *arg, const struct redisReply *reply);

struct redis_link_hooks {
    // Connected and authenticated: commands may be sent.
    void (*up)(void *arg);
    // The connection, or an attempt at one, ended: `why` is a sentence. Called before the outstanding reply functions
    // get their NULL.
    void (*down)(void *arg, const char *why);
    void *arg;
};

// Reads the password file and begins to connect in the loop's next turn. A Redis that is away is no error here;
// ERR_INVALID for a bad address, or what reading the password file gave.
int redis_link_create(struct redis_link **link, struct uv_loop_s *loop, const struct redis_target *target,
                      const struct redis_link_hooks *hooks, struct err *err) MUST_CHECK;
// No hook is called any more; outstanding reply functions get NULL before it returns.
void redis_link_free(struct redis_link *link);
// Queues a command; it leaves at the end of the loop's turn. ERR_UNREACHABLE while there is no connection, ERR_LIMIT
// beyond REDIS_PENDING_MAX commands or REDIS_OUTPUT_MAX bytes, ERR_NOMEM.
int redis_link_send(struct redis_link *link, const struct redis_arg *args, size_t n_args, redis_reply_fn fn, void *arg)
    MUST_CHECK;
// Ends the connection, for an answer that cannot be right, and begins again after a pause; says why, in a sentence.
void redis_link_drop(struct redis_link *link, const char *format, ...) PRINTF_LIKE(2, 3);
// From now on the server is at `address` (host:port); what is connected elsewhere ends. ERR_INVALID: not an address.
int redis_link_aim(struct redis_link *link, const char *address) MUST_CHECK;
// The host of the server that was tried last; empty for a socket's path.
const char *redis_link_host(const struct redis_link *link);
// The connection proved useful: the next pause is short again.
void redis_link_settled(struct redis_link *link);

static inline struct redis_arg redis_text(const char *text) {
    return (struct redis_arg){.data = text, .len = strlen(text)};
}

#endif
