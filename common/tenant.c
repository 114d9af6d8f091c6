#include "common/tenant.h"

#include "common/clock.h"
#include "common/files.h"
#include "common/keys.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#define TENANT_FILE_BYTES_MAX (4u << 20)

struct tenant_table {
    size_t n_tenants;
    struct tenant *tenants; // ascending ids
};

// ---- rules -----------------------------------------------------------------------------------------------------------

static bool stream_name_valid(const char *name) {
    size_t len = strlen(name);
    return len >= 1 && len <= STREAM_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == len;
}

// jansson and the command line give bytes; what is shown to people later must be printable text.
static bool basis_valid(const char *basis) {
    size_t len = strlen(basis);
    if (len < 1 || len > EXEMPTION_BASIS_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)basis[i] < ' ' || basis[i] == 0x7f)
            return false;
    json_t *text = json_string(basis); // NULL where it is not UTF-8
    json_decref(text);
    return text != NULL;
}

static int streams_check(const struct tenant_version *version, struct err *err) {
    if (version->n_streams < 1 || version->n_streams > TENANT_STREAMS_MAX)
        return err_set(err, ERR_INVALID, "there must be 1 to %d streams", TENANT_STREAMS_MAX);
    for (size_t i = 0; i < version->n_streams; i++) {
        const struct stream *stream = &version->streams[i];
        if (!stream_name_valid(stream->name))
            return err_set(err, ERR_INVALID,
                           "the name of stream %u must have 1 to %d letters, digits, dots, dashes and underscores",
                           stream->number, STREAM_NAME_MAX);
        if (i > 0 && stream->number <= stream[-1].number)
            return err_set(err, ERR_INVALID, "stream numbers must ascend and differ: %u follows %u", stream->number,
                           stream[-1].number);
        for (size_t j = 0; j < i; j++)
            if (strcmp(stream->name, version->streams[j].name) == 0)
                return err_set(err, ERR_INVALID, "two streams are called %s", stream->name);
    }
    return 0;
}

// The same date a year later; 1 March after a 29 February.
static uint32_t day_year_later(uint32_t day) {
    char text[DAY_TEXT_SIZE], year[16];
    uint32_t later;
    day_format(day, text);
    snprintf(year, sizeof year, "%04d", (atoi(text) + 1) % 10000);
    memcpy(text, year, 4);
    return day_parse(text, &later) == 0 ? later : day + 366;
}

static bool has_stream(const struct tenant_version *version, const struct stream *stream) {
    const struct stream *found = tenant_stream(version, stream->number);
    return found != NULL && strcmp(found->name, stream->name) == 0;
}

// What ends or is renamed with version `at` has been there for long enough: streams that come and go with each mailing
// would be campaigns.
static int stream_lives_check(const struct tenant *tenant, size_t at, struct err *err) {
    const struct tenant_version *ending = &tenant->versions[at];
    char day[DAY_TEXT_SIZE];
    for (size_t i = 0; i < ending[-1].n_streams; i++) {
        const struct stream *stream = &ending[-1].streams[i];
        size_t first = at - 1;
        if (has_stream(ending, stream))
            continue;
        while (first > 0 && has_stream(&tenant->versions[first - 1], stream))
            first--;
        uint32_t may_end = tenant->versions[first].from_day + STREAM_LIFE_DAYS_MIN;
        if (ending->from_day >= may_end)
            continue;
        day_format(may_end, day);
        return err_set(err, ERR_INVALID, "stream %u=%s must live at least %d days: it can end or be renamed from %s on",
                       stream->number, stream->name, STREAM_LIFE_DAYS_MIN, day);
    }
    return 0;
}

int tenant_check(const struct tenant *tenant, struct err *err) {
    uint32_t changed_day = DAY_NONE;
    char day[DAY_TEXT_SIZE];
    if (tenant->n_versions < 1 || tenant->n_versions > TENANT_VERSIONS_MAX)
        return err_set(err, ERR_INVALID, "there must be 1 to %d versions", TENANT_VERSIONS_MAX);
    for (size_t i = 0; i < tenant->n_versions; i++) {
        const struct tenant_version *version = &tenant->versions[i];
        if (i > 0 && version->from_day <= version[-1].from_day)
            return err_set(err, ERR_INVALID, "the days of versions must ascend and differ");
        if (version->inactive_days != 90 && version->inactive_days != 180 && version->inactive_days != 365)
            return err_set(err, ERR_INVALID, "inactive_days must be 90, 180 or 365");
        if (version->exemption_basis != NULL && !basis_valid(version->exemption_basis))
            return err_set(err, ERR_INVALID, "exemption_basis must have 1 to %d bytes of printable UTF-8",
                           EXEMPTION_BASIS_MAX);
        int rc = streams_check(version, err);
        if (rc == 0 && i > 0)
            rc = stream_lives_check(tenant, i, err);
        if (rc != 0)
            return rc;
        if (i == 0 || version->inactive_days == version[-1].inactive_days)
            continue;
        if (changed_day != DAY_NONE && version->from_day < day_year_later(changed_day)) {
            day_format(day_year_later(changed_day), day);
            return err_set(err, ERR_INVALID, "inactive_days may change once in 12 months: next on %s", day);
        }
        changed_day = version->from_day;
    }
    return 0;
}

// ---- the file --------------------------------------------------------------------------------------------------------

// The member `name` of an object that has no others than `names`.
static int members_check(const json_t *object, const char *what, const char *const *names, size_t n, struct err *err) {
    const char *name;
    const json_t *value;
    if (!json_is_object(object))
        return err_set(err, ERR_INVALID, "%s must be an object", what);
    json_object_foreach((json_t *)object, name, value) {
        bool known = false;
        for (size_t i = 0; i < n && !known; i++)
            known = strcmp(name, names[i]) == 0;
        if (!known)
            return err_set(err, ERR_INVALID, "%s has an unknown member \"%.40s\"", what, name);
    }
    return 0;
}

static int integer_of(const json_t *object, const char *name, json_int_t max, json_int_t *value, struct err *err) {
    const json_t *member = json_object_get(object, name);
    if (!json_is_integer(member) || json_integer_value(member) < 0 || json_integer_value(member) > max)
        return err_set(err, ERR_INVALID, "\"%s\" must be a whole number from 0 to %lld", name, (long long)max);
    *value = json_integer_value(member);
    return 0;
}

static int stream_parse(const json_t *json, struct stream *stream, struct err *err) {
    static const char *const names[] = {"number", "name"};
    json_int_t number;
    int rc = members_check(json, "a stream", names, ARRAY_LEN(names), err);
    if (rc != 0 || (rc = integer_of(json, "number", UINT16_MAX, &number, err)) != 0)
        return rc;
    const char *name = json_string_value(json_object_get(json, "name"));
    if (name == NULL || strlen(name) > STREAM_NAME_MAX)
        return err_set(err, ERR_INVALID, "the \"name\" of stream %d must be a text of at most %d bytes", (int)number,
                       STREAM_NAME_MAX);
    stream->number = (uint16_t)number;
    memcpy(stream->name, name, strlen(name) + 1);
    return 0;
}

static int version_parse(const json_t *json, struct tenant_version *version, struct err *err) {
    static const char *const names[] = {"from", "inactive_days", "exemption_basis", "streams"};
    json_int_t days;
    int rc = members_check(json, "a version", names, ARRAY_LEN(names), err);
    if (rc != 0 || (rc = integer_of(json, "inactive_days", 365, &days, err)) != 0)
        return rc;
    version->inactive_days = (uint16_t)days;
    const char *from = json_string_value(json_object_get(json, "from"));
    if (from == NULL || day_parse(from, &version->from_day) != 0)
        return err_set(err, ERR_INVALID, "\"from\" must be a day YYYY-MM-DD");
    const json_t *basis = json_object_get(json, "exemption_basis");
    if (basis != NULL && !json_is_string(basis))
        return err_set(err, ERR_INVALID, "\"exemption_basis\" must be a text");
    if (basis != NULL && (version->exemption_basis = strdup(json_string_value(basis))) == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    const json_t *streams = json_object_get(json, "streams");
    if (!json_is_array(streams) || json_array_size(streams) > TENANT_STREAMS_MAX)
        return err_set(err, ERR_INVALID, "\"streams\" must be a list of at most %d", TENANT_STREAMS_MAX);
    version->n_streams = json_array_size(streams);
    for (size_t i = 0; i < version->n_streams; i++)
        if ((rc = stream_parse(json_array_get(streams, i), &version->streams[i], err)) != 0)
            return rc;
    return 0;
}

static int tenant_take(const json_t *json, uint32_t id, struct tenant *tenant, struct err *err) {
    static const char *const names[] = {"tenant", "own_contact_key", "versions"};
    json_int_t number;
    int rc = members_check(json, "the file", names, ARRAY_LEN(names), err);
    if (rc != 0 || (rc = integer_of(json, "tenant", UINT32_MAX, &number, err)) != 0)
        return rc;
    if (number != id)
        return err_set(err, ERR_INVALID, "the file's name and its \"tenant\" differ");
    tenant->id = id;
    const json_t *own = json_object_get(json, "own_contact_key");
    if (own != NULL && !json_is_boolean(own))
        return err_set(err, ERR_INVALID, "\"own_contact_key\" must be true or false");
    tenant->own_contact_key = json_is_true(own);
    const json_t *versions = json_object_get(json, "versions");
    size_t n = json_array_size(versions);
    if (n < 1 || n > TENANT_VERSIONS_MAX)
        return err_set(err, ERR_INVALID, "\"versions\" must be a list of 1 to %d", TENANT_VERSIONS_MAX);
    tenant->versions = calloc(n, sizeof *tenant->versions);
    if (tenant->versions == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    for (tenant->n_versions = 0; tenant->n_versions < n; tenant->n_versions++) {
        size_t i = tenant->n_versions;
        if ((rc = version_parse(json_array_get(versions, i), &tenant->versions[i], err)) != 0) {
            tenant->n_versions++; // what it has so far is freed with it
            return rc;
        }
    }
    return tenant_check(tenant, err);
}

static int tenant_path(char path[PATH_SIZE], const char *dir, uint32_t id, const char *ending, struct err *err) {
    char name[40];
    snprintf(name, sizeof name, "%u%s", id, ending);
    return path_join(path, dir, name, err);
}

int tenant_parse(struct tenant *tenant, uint32_t id, const char *name, const char *text, size_t len, struct err *err) {
    json_error_t where;
    struct err what;
    memset(tenant, 0, sizeof *tenant);
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    if (json == NULL)
        return err_set(err, ERR_INVALID, "%s: line %d: %s", name, where.line, where.text);
    int rc = tenant_take(json, id, tenant, &what);
    json_decref(json);
    if (rc == 0)
        return 0;
    tenant_free(tenant);
    return err_set(err, rc, "%s: %s", name, what.text);
}

static int tenant_load_file(struct tenant *tenant, const char *dir, uint32_t id, struct err *err) {
    char path[PATH_SIZE];
    char *text = NULL;
    size_t len;
    memset(tenant, 0, sizeof *tenant);
    int rc = tenant_path(path, dir, id, ".json", err);
    if (rc != 0 || (rc = file_read(path, TENANT_FILE_BYTES_MAX, &text, &len, err)) != 0)
        return rc;
    rc = tenant_parse(tenant, id, path, text, len, err);
    free(text);
    return rc;
}

int tenant_load(struct tenant *tenant, const char *dir, uint32_t id, struct err *err) {
    char path[PATH_SIZE];
    int rc = tenant_load_file(tenant, dir, id, err);
    if (rc == ERR_NOT_FOUND)
        return err_set(err, rc, "there is no tenant %u: openveil tenant add %u creates it", id, id);
    if (rc != 0 || !tenant->own_contact_key)
        return rc;
    if ((rc = tenant_path(path, dir, id, ".contact.key", err)) == 0)
        rc = key_file_read(path, tenant->contact_key, err);
    if (rc == ERR_NOT_FOUND) // of the key; the tenant itself is there
        rc = ERR_IO;
    if (rc != 0)
        tenant_free(tenant);
    return rc;
}

void tenant_free(struct tenant *tenant) {
    for (size_t i = 0; i < tenant->n_versions; i++)
        free(tenant->versions[i].exemption_basis);
    free(tenant->versions);
    bytes_wipe(tenant, sizeof *tenant);
}

static json_t *version_json(const struct tenant_version *version) {
    char from[DAY_TEXT_SIZE];
    day_format(version->from_day, from);
    json_t *json = json_pack("{s:s, s:i, s:s*, s:[]}", "from", from, "inactive_days", version->inactive_days,
                             "exemption_basis", version->exemption_basis, "streams");
    for (size_t i = 0; json != NULL && i < version->n_streams; i++) {
        json_t *stream = json_pack("{s:i, s:s}", "number", version->streams[i].number, "name", version->streams[i].name);
        if (json_array_append_new(json_object_get(json, "streams"), stream) != 0) {
            json_decref(json);
            json = NULL;
        }
    }
    return json;
}

json_t *tenant_json(const struct tenant *tenant) {
    json_t *json = json_pack("{s:I, s:b, s:[]}", "tenant", (json_int_t)tenant->id, "own_contact_key",
                             (int)tenant->own_contact_key, "versions");
    for (size_t i = 0; json != NULL && i < tenant->n_versions; i++)
        if (json_array_append_new(json_object_get(json, "versions"), version_json(&tenant->versions[i])) != 0) {
            json_decref(json);
            json = NULL;
        }
    return json;
}

int tenant_store(const struct tenant *tenant, const char *dir, bool create, struct err *err) {
    char path[PATH_SIZE], key_path[PATH_SIZE], *text = NULL;
    int rc = tenant_check(tenant, err);
    if (rc != 0 || (rc = dir_create(dir, 0755, err)) != 0 || (rc = tenant_path(path, dir, tenant->id, ".json", err)) != 0)
        return rc;
    if (create && access(path, F_OK) == 0)
        return err_set(err, ERR_EXISTS, "there is a tenant %u already", tenant->id);
    if (create && tenant->own_contact_key &&
        ((rc = tenant_path(key_path, dir, tenant->id, ".contact.key", err)) != 0 ||
         (rc = key_file_write(key_path, true, tenant->contact_key, err)) != 0))
        return rc;
    json_t *json = tenant_json(tenant);
    if (json != NULL)
        text = json_dumps(json, JSON_INDENT(2));
    json_decref(json);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    rc = create ? file_create(path, 0644, text, strlen(text), err) : file_replace(path, 0644, text, strlen(text), err);
    free(text);
    return rc;
}

int tenant_contact_key(const struct tenant *tenant, const struct keys *keys, uint8_t key[KEY_SIZE], struct err *err) {
    static const uint8_t none[KEY_SIZE];
    if (tenant->own_contact_key) {
        CHECK(memcmp(tenant->contact_key, none, KEY_SIZE) != 0); // a tenant of a table has it not
        memcpy(key, tenant->contact_key, KEY_SIZE);
        return 0;
    }
    if (!keys->has_contact)
        return err_set(err, ERR_NOT_FOUND, "[keys] dir holds no contact.key: run this where the contact key is kept");
    contact_key_derive(keys->contact, tenant->id, key);
    return 0;
}

// ---- look-ups --------------------------------------------------------------------------------------------------------

const struct tenant_version *tenant_version_on(const struct tenant *tenant, uint32_t day) {
    const struct tenant_version *found = NULL;
    for (size_t i = 0; i < tenant->n_versions && tenant->versions[i].from_day <= day; i++)
        found = &tenant->versions[i];
    return found;
}

const struct stream *tenant_stream(const struct tenant_version *version, uint16_t number) {
    for (size_t i = 0; i < version->n_streams; i++)
        if (version->streams[i].number == number)
            return &version->streams[i];
    return NULL;
}

// ---- all tenants -----------------------------------------------------------------------------------------------------

// The id in a name such as 7.json: 0; ERR_NOT_FOUND for a name that is not a tenant's at all.
static int tenant_name_parse(const char *name, uint32_t *id, struct err *err) {
    size_t len = strlen(name);
    char back[40];
    char *end;
    if (len < 5 || strcmp(name + len - 5, ".json") != 0 || name[0] == '.')
        return ERR_NOT_FOUND;
    unsigned long long number = strtoull(name, &end, 10);
    snprintf(back, sizeof back, "%llu.json", number);
    if (number > UINT32_MAX || strcmp(back, name) != 0)
        return err_set(err, ERR_INVALID, "%.200s is not called after a tenant's number, such as 7.json", name);
    *id = (uint32_t)number;
    return 0;
}

static int ids_ascend(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

// The ids of all files, ascending, to be freed by the caller; an absent directory has none.
static int ids_list(const char *dir, uint32_t **ids, size_t *n, struct err *err) {
    int rc = 0;
    size_t room = 0;
    *ids = NULL;
    *n = 0;
    DIR *stream = opendir(dir);
    if (stream == NULL)
        return errno == ENOENT ? 0 : err_errno(err, ERR_IO, "cannot read the directory %s", dir);
    for (struct dirent *entry = readdir(stream); entry != NULL && rc == 0; entry = readdir(stream)) {
        uint32_t id = 0;
        rc = tenant_name_parse(entry->d_name, &id, err);
        if (rc != 0) {
            rc = rc == ERR_NOT_FOUND ? 0 : rc;
            continue;
        }
        if (*n == room) {
            room = room == 0 ? 64 : room * 2;
            uint32_t *more = room > 2 * TENANTS_MAX ? NULL : realloc(*ids, room * sizeof *more);
            if (more == NULL)
                rc = err_set(err, ERR_LIMIT, "%s holds more than %d tenants", dir, TENANTS_MAX);
            else
                *ids = more;
        }
        if (rc == 0)
            (*ids)[(*n)++] = id;
    }
    closedir(stream);
    if (rc == 0 && *n > TENANTS_MAX)
        rc = err_set(err, ERR_LIMIT, "%s holds more than %d tenants", dir, TENANTS_MAX);
    if (rc == 0 && *n > 1)
        qsort(*ids, *n, sizeof **ids, ids_ascend);
    return rc;
}

int tenant_table_load(struct tenant_table **out, const char *dir, struct err *err) {
    uint32_t *ids = NULL;
    size_t n = 0;
    struct tenant_table *table = calloc(1, sizeof *table);
    int rc = table == NULL ? err_set(err, ERR_NOMEM, "no memory for the tenants") : ids_list(dir, &ids, &n, err);
    if (rc != 0)
        goto done;
    table->tenants = calloc(n + 1, sizeof *table->tenants);
    if (table->tenants == NULL) {
        rc = err_set(err, ERR_NOMEM, "no memory for the tenants");
        goto done;
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = tenant_load_file(&table->tenants[table->n_tenants], dir, ids[i], err);
        if (rc == 0)
            table->n_tenants++;
        else if (rc == ERR_NOT_FOUND) // removed since the directory was read
            rc = 0;
    }
done:
    free(ids);
    if (rc != 0) {
        tenant_table_free(table);
        table = NULL;
    }
    *out = table;
    return rc;
}

void tenant_table_free(struct tenant_table *table) {
    if (table == NULL)
        return;
    for (size_t i = 0; i < table->n_tenants; i++)
        tenant_free(&table->tenants[i]);
    free(table->tenants);
    free(table);
}

size_t tenant_table_count(const struct tenant_table *table) {
    return table->n_tenants;
}

const struct tenant *tenant_table_at(const struct tenant_table *table, size_t index) {
    CHECK(index < table->n_tenants);
    return &table->tenants[index];
}

const struct tenant *tenant_table_find(const struct tenant_table *table, uint32_t id) {
    size_t low = 0, high = table->n_tenants;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table->tenants[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < table->n_tenants && table->tenants[low].id == id ? &table->tenants[low] : NULL;
}
