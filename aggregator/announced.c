#include "aggregator/announced.h"

#include "aggregator/release.h"

#include <string.h>

struct announced_line {
    struct announced_line *next;
    size_t key_len, line_len;
    uint8_t key[RECORD_KEY_MAX];
    uint8_t line[];
};

static void remove_line(struct announced *announced, struct announced_line *before, struct announced_line *line) {
    CHECK(before == NULL ? announced->first == line : before->next == line);
    if (before == NULL)
        announced->first = line->next;
    else
        before->next = line->next;
    if (announced->last == line)
        announced->last = before;
    free(line);
}

static void remove_key(struct announced *announced, const uint8_t *key, size_t key_len) {
    struct announced_line *before = NULL, *line = announced->first;
    while (line != NULL && (line->key_len != key_len || memcmp(line->key, key, key_len) != 0)) {
        before = line;
        line = line->next;
    }
    if (line != NULL)
        remove_line(announced, before, line);
}

int announced_apply(struct announced *announced, const uint8_t *key, size_t key_len, const uint8_t *line, size_t len) {
    struct record_key decoded;
    if (key_decode(key, key_len, &decoded) != 0 || decoded.kind != RECORD_ANNOUNCED)
        return ERR_CORRUPT;
    remove_key(announced, key, key_len);
    if (len == 0)
        return 0;
    struct announced_line *added = malloc(sizeof *added + len);
    if (added == NULL)
        return ERR_NOMEM;
    added->next = NULL;
    added->key_len = key_len;
    added->line_len = len;
    memcpy(added->key, key, key_len);
    memcpy(added->line, line, len);
    if (announced->last == NULL)
        announced->first = added;
    else
        announced->last->next = added;
    announced->last = added;
    return 0;
}

static int send_line(const struct announced_line *line, struct batch *batch, uint32_t partition) {
    struct record_key decoded;
    char key[64];
    int rc = key_decode(line->key, line->key_len, &decoded);
    CHECK(rc == 0);
    release_key(decoded.tenant, (enum release_kind)decoded.release_kind, decoded.day, key);
    rc = batch_release(batch, partition, key, line->line, line->line_len);
    return rc != 0 ? rc : batch_put(batch, partition, line->key, line->key_len, NULL, 0);
}

int announced_send(struct announced *announced, struct batch *batch, uint32_t partition) {
    int rc = 0;
    while (rc == 0 && announced->first != NULL && batch_bytes(batch) <= BATCH_BYTES_MAX / 2) {
        rc = send_line(announced->first, batch, partition);
        if (rc == 0)
            remove_line(announced, NULL, announced->first);
    }
    CHECK(rc != ERR_LIMIT);
    return rc;
}

void announced_clear(struct announced *announced) {
    while (announced->first != NULL)
        remove_line(announced, NULL, announced->first);
}
