#include "aggregator/spool_items.h"

#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define INBOX_ENDING ".msg"

struct names {
    size_t n, room;
    char (*at)[SPOOL_ITEM_NAME_SIZE];
};

static bool name_wanted(enum spool_dir dir, const char *name) {
    uint64_t segment;
    size_t len = strlen(name);
    if (len >= SPOOL_ITEM_NAME_SIZE)
        return false;
    if (dir == SPOOL_SEALED)
        return sealed_name_parse(name, &segment);
    return name[0] != '.' && len > strlen(INBOX_ENDING) && strcmp(name + len - strlen(INBOX_ENDING), INBOX_ENDING) == 0;
}

static int names_add(struct names *names, const char *name) {
    if (names->n == names->room) {
        size_t room = names->room == 0 ? 64 : names->room * 2;
        void *at = names->room >= SPOOL_ITEMS_MAX ? NULL : realloc(names->at, room * sizeof *names->at);
        if (at == NULL)
            return names->room >= SPOOL_ITEMS_MAX ? ERR_LIMIT : ERR_NOMEM;
        names->at = at;
        names->room = room;
    }
    memcpy(names->at[names->n++], name, strlen(name) + 1);
    return 0;
}

static int names_ascend(const void *a, const void *b) {
    return strcmp(a, b);
}

static int names_list(const struct spool_items *items, enum spool_dir dir, struct names *names, struct err *err) {
    DIR *stream = opendir(items->dirs[dir]);
    if (stream == NULL)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot read the directory %s", items->dirs[dir]);
    int rc = 0;
    for (struct dirent *entry = readdir(stream); entry != NULL && rc == 0; entry = readdir(stream))
        if (name_wanted(dir, entry->d_name))
            rc = names_add(names, entry->d_name);
    closedir(stream);
    if (rc != 0)
        return err_set(err, rc, "%s holds more files than can be read", items->dirs[dir]);
    if (names->n > 1)
        qsort(names->at, names->n, sizeof names->at[0], names_ascend);
    return 0;
}

static int items_ascend(const void *a, const void *b) {
    const struct spool_item *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

static void item_left(const struct spool_items *items, struct spool_item *item, const char *what) {
    item->left = true;
    log_error("%s/%s %s: %s", items->dirs[item->dir], item->name, what, strerror(errno));
}

// What is damaged is kept for a person to look at, where nothing reads it again.
static void set_aside(struct spool_items *items, struct spool_item *item) {
    char path[PATH_SIZE], folder[PATH_SIZE], aside[PATH_SIZE];
    item->gone = true;
    items->corrupt++;
    if (path_join(path, items->dirs[item->dir], item->name, NULL) == 0 &&
        path_join(folder, items->dirs[item->dir], "corrupt", NULL) == 0 &&
        path_join(aside, folder, item->name, NULL) == 0 && dir_create(folder, 0700, NULL) == 0 && rename(path, aside) == 0)
        log_error("%s is damaged: it is set aside as %s and not counted", path, aside);
    else
        item_left(items, item, "is damaged, not counted, and cannot be set aside");
}

static int item_read(const struct spool_items *items, const struct spool_item *item, char **data, size_t *len,
                     struct err *err) {
    char path[PATH_SIZE];
    int rc = path_join(path, items->dirs[item->dir], item->name, err);
    return rc != 0 ? rc : file_read(path, item->dir == SPOOL_SEALED ? SEALED_BYTES_MAX : MESSAGE_BYTES_MAX, data, len, err);
}

// The partition of a new inbox file: it is small, and whoever asks for a partition's end must know.
static int inbox_partition(struct spool_items *items, struct spool_item *item, struct err *err) {
    char *data = NULL;
    size_t len, body_len;
    struct message_head head;
    const uint8_t *body;
    int rc = item_read(items, item, &data, &len, err);
    if (rc == ERR_NOT_FOUND)
        item->gone = true;
    else if (rc != 0 && rc != ERR_LIMIT)
        return rc; // perhaps its owner is not set yet
    else if (rc == ERR_LIMIT || message_decode_head((const uint8_t *)data, len, &head, &body, &body_len) != 0 ||
             head.partition >= items->partitions)
        set_aside(items, item);
    else
        item->partition = head.partition;
    free(data);
    return 0;
}

static int items_add(struct spool_items *items, enum spool_dir dir, const char *name, struct err *err) {
    if (items->n == items->room) {
        size_t room = items->room == 0 ? 64 : items->room * 2;
        struct spool_item *more = realloc(items->items, room * sizeof *more);
        if (more == NULL)
            return err_set(err, ERR_NOMEM, "no memory for the names in %s", items->dirs[dir]);
        items->items = more;
        items->room = room;
    }
    struct spool_item *item = &items->items[items->n];
    *item = (struct spool_item){.dir = dir, .partition = SPOOL_PARTITION_ALL};
    memcpy(item->name, name, strlen(name) + 1);
    if (dir == SPOOL_INBOX && inbox_partition(items, item, err) != 0)
        log_error("%s; next try at the next look", err->text); // one file must not stand in the way of all
    else
        items->n++;
    return 0;
}

static void item_vanished(struct spool_item *item) {
    item->gone = true;
    item->left = false;
}

// Both lists ascend: what only the directory has is new, what only we have is gone.
static int items_merge(struct spool_items *items, enum spool_dir dir, const struct names *names, struct err *err) {
    size_t known = 0, j = 0;
    struct spool_item **present = calloc(items->n + 1, sizeof *present);
    bool *fresh = calloc(names->n + 1, sizeof *fresh);
    int rc = present == NULL || fresh == NULL ? err_set(err, ERR_NOMEM, "no memory for the names in %s", items->dirs[dir]) : 0;
    for (size_t i = 0; rc == 0 && i < items->n; i++) {
        items->items[i].newest = false;
        if (items->items[i].dir == dir && (!items->items[i].gone || items->items[i].left))
            present[known++] = &items->items[i];
    }
    if (known > 1)
        qsort(present, known, sizeof *present, items_ascend);
    for (size_t i = 0; rc == 0 && i < names->n; i++) {
        while (j < known && strcmp(present[j]->name, names->at[i]) < 0)
            item_vanished(present[j++]);
        fresh[i] = j == known || strcmp(present[j]->name, names->at[i]) != 0;
        j += !fresh[i];
    }
    while (rc == 0 && j < known)
        item_vanished(present[j++]);
    for (size_t i = 0; rc == 0 && i < names->n; i++)
        if (fresh[i])
            rc = items_add(items, dir, names->at[i], err);
    free(present);
    free(fresh);
    return rc;
}

static void mark_newest(struct spool_items *items, const char *name) {
    for (size_t i = 0; i < items->n; i++)
        if (items->items[i].dir == SPOOL_SEALED)
            items->items[i].newest = strcmp(items->items[i].name, name) == 0;
}

// The edge makes and marks its directory; here only what it says is looked at.
static int mode_check(const struct spool_items *items, struct err *err) {
    char mark[PATH_SIZE];
    int rc = path_join(mark, items->dirs[SPOOL_SEALED], "openveil-mode", err);
    if (rc != 0)
        return rc;
    return access(mark, F_OK) == 0 ? dir_mark(items->dirs[SPOOL_SEALED], items->rehearsal, err) : 0;
}

int spool_items_scan(struct spool_items *items, struct err *err) {
    struct names names = {0};
    int rc = mode_check(items, err);
    if (rc == 0)
        rc = names_list(items, SPOOL_INBOX, &names, err);
    if (rc == ERR_NOT_FOUND) // nothing was imported yet
        rc = 0;
    if (rc == 0)
        rc = items_merge(items, SPOOL_INBOX, &names, err);
    names.n = 0;
    if (rc == 0)
        rc = names_list(items, SPOOL_SEALED, &names, err);
    if (rc == 0)
        rc = items_merge(items, SPOOL_SEALED, &names, err);
    if (rc == 0 && names.n > 0)
        mark_newest(items, names.at[names.n - 1]);
    free(names.at);
    return rc;
}

struct spool_item *spool_items_at(struct spool_items *items, uint64_t index) {
    CHECK(index < spool_items_end(items));
    return index < items->first ? NULL : &items->items[index - items->first];
}

bool spool_item_has(const struct spool_item *item, uint32_t partition) {
    return !item->gone && (item->partition == SPOOL_PARTITION_ALL || item->partition == partition);
}

// ---- contents --------------------------------------------------------------------------------------------------------

static int sealed_index(const struct spool_items *items, struct spool_loaded *loaded, size_t len, struct err *err) {
    struct sealed sealed;
    if (sealed_decode((const uint8_t *)loaded->data, len, &sealed, NULL) != 0)
        return ERR_CORRUPT;
    if (sealed.head.partitions != items->partitions)
        return err_set(err, ERR_REFUSED, "the spool in %s was written for %u partitions and [kafka] partitions says %u: it "
                       "is fixed", items->dirs[SPOOL_SEALED], sealed.head.partitions, items->partitions);
    if (sealed.head.rehearsal != items->rehearsal)
        return err_set(err, ERR_REFUSED, "the spool in %s holds segments of %s", items->dirs[SPOOL_SEALED],
                       sealed.head.rehearsal ? "a rehearsal" : "production");
    loaded->offsets[0] = (size_t)(sealed.messages - (const uint8_t *)loaded->data);
    for (uint32_t i = 0; i < items->partitions; i++)
        loaded->offsets[i + 1] = loaded->offsets[i] + sealed.message_len[i];
    CHECK(loaded->offsets[items->partitions] <= len);
    return 0;
}

static struct spool_loaded *loaded_place(struct spool_items *items) {
    struct spool_loaded *place = &items->loaded[0];
    for (size_t i = 1; i < SPOOL_LOADED_MAX; i++)
        if (items->loaded[i].used < place->used)
            place = &items->loaded[i];
    free(place->data);
    place->data = NULL;
    place->used = 0;
    return place;
}

static int item_load(struct spool_items *items, uint64_t index, struct spool_loaded **out, struct err *err) {
    struct spool_item *item = spool_items_at(items, index);
    size_t len = 0;
    for (size_t i = 0; i < SPOOL_LOADED_MAX; i++)
        if (items->loaded[i].data != NULL && items->loaded[i].index == index) {
            *out = &items->loaded[i];
            return 0;
        }
    if (item == NULL || item->gone)
        return ERR_NOT_FOUND;
    struct spool_loaded *loaded = loaded_place(items);
    int rc = item_read(items, item, &loaded->data, &len, err);
    loaded->index = index;
    loaded->partition = item->partition;
    loaded->offsets[0] = 0;
    loaded->offsets[1] = len;
    if (rc == 0 && item->dir == SPOOL_SEALED)
        rc = sealed_index(items, loaded, len, err);
    if (rc == 0) {
        *out = loaded;
        return 0;
    }
    free(loaded->data);
    loaded->data = NULL;
    if (rc == ERR_CORRUPT || rc == ERR_LIMIT)
        set_aside(items, item);
    else if (rc == ERR_NOT_FOUND)
        item->gone = true;
    return item->gone ? ERR_NOT_FOUND : rc;
}

int spool_items_message(struct spool_items *items, uint64_t index, uint32_t partition, const uint8_t **data, size_t *len,
                        struct err *err) {
    struct spool_loaded *loaded = NULL;
    CHECK(partition < items->partitions);
    int rc = item_load(items, index, &loaded, err);
    if (rc != 0)
        return rc;
    CHECK(loaded != NULL);
    loaded->used = ++items->clock;
    CHECK(loaded->partition == SPOOL_PARTITION_ALL || loaded->partition == partition);
    uint32_t at = loaded->partition == SPOOL_PARTITION_ALL ? partition : 0;
    *data = (const uint8_t *)loaded->data + loaded->offsets[at];
    *len = loaded->offsets[at + 1] - loaded->offsets[at];
    return 0;
}

void spool_items_remove(struct spool_items *items, uint64_t index) {
    char path[PATH_SIZE];
    struct spool_item *item = spool_items_at(items, index);
    CHECK(item != NULL && !item->gone && !item->newest);
    item->gone = true;
    if (path_join(path, items->dirs[item->dir], item->name, NULL) != 0 || (unlink(path) != 0 && errno != ENOENT))
        item_left(items, item, "is counted and cannot be removed");
}

void spool_items_forget(struct spool_items *items) {
    size_t n = 0;
    while (n < items->n && items->items[n].gone && !items->items[n].left)
        n++;
    if (n == 0)
        return;
    items->n -= n;
    items->first += n;
    memmove(items->items, items->items + n, items->n * sizeof items->items[0]);
    for (size_t i = 0; i < SPOOL_LOADED_MAX; i++)
        if (items->loaded[i].data != NULL && items->loaded[i].index < items->first) {
            free(items->loaded[i].data);
            items->loaded[i] = (struct spool_loaded){0};
        }
}

void spool_items_free(struct spool_items *items) {
    for (size_t i = 0; i < SPOOL_LOADED_MAX; i++)
        free(items->loaded[i].data);
    free(items->items);
    *items = (struct spool_items){0};
}
