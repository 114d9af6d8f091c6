#include "common/keys.h"

#include "common/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_DIGITS = 2 * KEY_SIZE };

static int key_read_open(int fd, const char *path, uint8_t key[KEY_SIZE], struct err *err) {
    struct stat st;
    char text[KEY_DIGITS + 2];
    if (fstat(fd, &st) != 0)
        return err_errno(err, ERR_IO, "cannot look at %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is not a regular file", path);
    if ((st.st_mode & 077) != 0)
        return err_set(err, ERR_REFUSED, "%s may be touched by group or others: chmod 600 it", path);
    size_t len = st.st_size == KEY_DIGITS ? KEY_DIGITS : KEY_DIGITS + 1;
    if (st.st_size > KEY_DIGITS + 1 || read_full(fd, text, len, 0) != 0 ||
        (len > KEY_DIGITS && text[KEY_DIGITS] != '\n') || hex_decode(text, KEY_DIGITS, key) != 0) {
        bytes_wipe(text, sizeof text);
        return err_set(err, ERR_INVALID, "%s must hold %d hex digits and a line feed", path, KEY_DIGITS);
    }
    bytes_wipe(text, sizeof text);
    uint8_t any = 0;
    for (size_t i = 0; i < KEY_SIZE; i++)
        any |= key[i];
    return any != 0 ? 0 : err_set(err, ERR_INVALID, "%s holds a key of zeros, which is not secret", path);
}

int key_file_read(const char *path, uint8_t key[KEY_SIZE], struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s", path);
    int rc = key_read_open(fd, path, key, err);
    close(fd);
    return rc;
}

int key_file_write(const char *path, bool replace, const uint8_t key[KEY_SIZE], struct err *err) {
    char text[KEY_DIGITS + 2];
    hex_encode(key, KEY_SIZE, text);
    text[KEY_DIGITS] = '\n';
    int rc = replace ? file_replace(path, 0600, text, KEY_DIGITS + 1, err)
                     : file_create(path, 0600, text, KEY_DIGITS + 1, err);
    bytes_wipe(text, sizeof text);
    return rc;
}

static int key_new(const char *dir, const char *name, struct err *err) {
    char path[PATH_SIZE];
    uint8_t key[KEY_SIZE];
    int rc = path_join(path, dir, name, err);
    if (rc != 0)
        return rc;
    bytes_random(key, sizeof key);
    rc = key_file_write(path, false, key, err);
    bytes_wipe(key, sizeof key);
    return rc;
}

static void token_name(unsigned key_id, char name[20]) {
    snprintf(name, 20, "token-%u.key", key_id);
}

// The key id in a name such as token-7.key, -1 where it is another file.
static int token_name_parse(const char *name) {
    unsigned key_id = 0;
    char back[20];
    if (sscanf(name, "token-%3u.key", &key_id) != 1 || key_id > 255)
        return -1;
    token_name(key_id, back);
    return strcmp(name, back) == 0 ? (int)key_id : -1;
}

// Which token keys the directory holds; an absent directory holds none. Returns their number.
static int tokens_list(const char *dir, bool found[256], struct err *err) {
    int n = 0;
    memset(found, 0, 256 * sizeof *found);
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return errno == ENOENT ? 0 : err_errno(err, ERR_IO, "cannot read the directory %s", dir);
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        int key_id = token_name_parse(entry->d_name);
        if (key_id < 0)
            continue;
        found[key_id] = true;
        n++;
    }
    closedir(stream);
    return n;
}

int keys_load(struct keys *keys, const char *dir, bool with_contact, struct err *err) {
    char name[20], path[PATH_SIZE];
    memset(keys, 0, sizeof *keys);
    int rc = tokens_list(dir, keys->has_token, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_set(err, ERR_NOT_FOUND, "%s holds no token key: run openveil keys init", dir);
    for (unsigned key_id = 0; key_id < 256; key_id++) {
        if (!keys->has_token[key_id])
            continue;
        token_name(key_id, name);
        if ((rc = path_join(path, dir, name, err)) != 0 || (rc = key_file_read(path, keys->token[key_id], err)) != 0)
            goto fail;
        keys->newest = (uint8_t)key_id;
    }
    if (with_contact) {
        if ((rc = path_join(path, dir, "contact.key", err)) != 0)
            goto fail;
        rc = key_file_read(path, keys->contact, err);
        if (rc != 0 && rc != ERR_NOT_FOUND)
            goto fail;
        keys->has_contact = rc == 0;
    }
    CHECK(keys->has_token[keys->newest]);
    return 0;
fail:
    keys_wipe(keys);
    return rc;
}

void keys_wipe(struct keys *keys) {
    bytes_wipe(keys, sizeof *keys);
}

int keys_create(const char *dir, struct err *err) {
    bool found[256];
    int rc = dir_create(dir, 0700, err);
    if (rc != 0)
        return rc;
    if ((rc = tokens_list(dir, found, err)) != 0)
        return rc < 0 ? rc : err_set(err, ERR_EXISTS, "%s holds keys already: openveil keys add makes a new token key", dir);
    // The contact key first: what an interrupted run leaves has no token key yet, and the next one completes it.
    rc = key_new(dir, "contact.key", err);
    if (rc != 0 && rc != ERR_EXISTS)
        return rc;
    return key_new(dir, "token-1.key", err);
}

int keys_add(const char *dir, struct err *err) {
    bool found[256];
    char name[20];
    int newest = 255;
    int rc = tokens_list(dir, found, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_set(err, ERR_NOT_FOUND, "%s holds no token key: run openveil keys init", dir);
    while (!found[newest])
        newest--;
    if (newest == 255)
        return err_set(err, ERR_LIMIT, "key id 255 is in use, and there is none after it");
    token_name((unsigned)newest + 1, name);
    rc = key_new(dir, name, err);
    return rc != 0 ? rc : newest + 1;
}
