// Master keys on disk: `[keys] dir` holds token-<kid>.key (kid 0..255) and contact.key, 64 hex digits and a line feed
// each, mode 0600; a file that group or others may touch is refused. Programs that only open tokens (edge) or count
// (aggregator) never open contact.key. Threads: a loaded struct is read-only. Wiped when freed.
#ifndef OPENVEIL_KEYS_H
#define OPENVEIL_KEYS_H

#include "common/err.h"
#include "common/token.h"

#include <stdbool.h>

struct keys {
    bool has_token[256];
    uint8_t token[256][KEY_SIZE];
    uint8_t newest; // the highest key id: what is minted with
    bool has_contact;
    uint8_t contact[KEY_SIZE];
};

// ERR_NOT_FOUND where the directory has no token key ("run openveil keys init").
int keys_load(struct keys *keys, const char *dir, bool with_contact, struct err *err) MUST_CHECK;
void keys_wipe(struct keys *keys);
// Creates token-1.key and contact.key; ERR_EXISTS where there are keys already.
int keys_create(const char *dir, struct err *err) MUST_CHECK;
// Creates the next token key and returns its id (0..255), or ERR_LIMIT.
int keys_add(const char *dir, struct err *err) MUST_CHECK;

// One key file: 64 hex digits and a line feed. ERR_NOT_FOUND, ERR_REFUSED (group or others may touch it), ERR_INVALID.
int key_file_read(const char *path, uint8_t key[KEY_SIZE], struct err *err) MUST_CHECK;
int key_file_write(const char *path, bool replace, const uint8_t key[KEY_SIZE], struct err *err) MUST_CHECK;

#endif
