// Disks in memory: the tenants' directory, the aggregators' release directories, what they set aside. And the noise, of
// which every draw is the same.
#include "sim.h"

#include "common/dir_watch.h"
#include "common/files.h"

#include <unistd.h>

// ---- tenants --------------------------------------------------------------------------------------------------------

static char basis[] = "the simulation's";

static struct tenant_version version_of(uint32_t from_day, bool has_basis, unsigned n_streams) {
    struct tenant_version version = {
        .from_day = from_day, .inactive_days = 180, .exemption_basis = has_basis ? basis : NULL, .n_streams = n_streams};
    for (unsigned i = 0; i < n_streams; i++) {
        version.streams[i].number = (uint16_t)(i + 1);
        snprintf(version.streams[i].name, sizeof version.streams[i].name, "stream-%u", i + 1);
    }
    return version;
}

static void tenant_add(struct sim_table *table, uint32_t id, uint32_t from_day) {
    struct tenant *tenant = &table->tenants[table->n++];
    tenant->id = id;
    tenant->n_versions = 1;
    tenant->versions = sim_alloc(sizeof *tenant->versions);
    tenant->versions[0] = version_of(from_day, !sim_chance(150), 1 + sim_below(2));
}

void disk_begin(void) {
    struct sim_table *table = sim_alloc(sizeof *table);
    uint32_t id = sim_below(1000);
    for (size_t t = 0; t < SIM_TENANTS; t++) {
        struct sim_tenant *tenant = &sim.tenants[t];
        id += 2 + sim_below(1000);
        tenant->id = id;
        tenant->partition = partition_of(id, sim.n_partitions);
        for (size_t c = 0; c < SIM_CONTACTS; c++)
            tenant->pseudonyms[c] = sim_random();
    }
    size_t n = 1 + sim_below(SIM_TENANTS - 1);
    for (size_t t = 0; t < n; t++)
        tenant_add(table, sim.tenants[t].id, sim.first_day + sim_below(3) - 1);
    sim.table = table;
}

// One more tenant, or one more stream of an old one, from tomorrow on.
void tenants_change(void) {
    struct sim_table *table = sim_copy(sim.table, sizeof *table);
    if (table->n < SIM_TENANTS && sim_chance(600)) {
        tenant_add(table, sim.tenants[table->n].id, sim_today() + sim_below(4) - 1);
    } else {
        struct tenant *tenant = &table->tenants[sim_below((uint32_t)table->n)];
        const struct tenant_version *last = &tenant->versions[tenant->n_versions - 1];
        if (last->n_streams == 3 || last->from_day > sim_today())
            return;
        struct tenant_version *versions = sim_alloc((tenant->n_versions + 1) * sizeof *versions);
        memcpy(versions, tenant->versions, tenant->n_versions * sizeof *versions);
        versions[tenant->n_versions++] =
            version_of(sim_today() + 1, last->exemption_basis != NULL, (unsigned)last->n_streams + 1);
        tenant->versions = versions;
    }
    sim.table = table;
    sim_trace("the tenants change");
    for (unsigned i = 0; i < sim.n_slots; i++)
        sim.slots[i].tenants_pending = sim.slots[i].alive;
}

int __wrap_tenant_table_load(struct tenant_table **table, const char *dir, struct err *err);
void __wrap_tenant_table_free(struct tenant_table *table);
size_t __wrap_tenant_table_count(const struct tenant_table *table);
const struct tenant *__wrap_tenant_table_at(const struct tenant_table *table, size_t index);
const struct tenant *__wrap_tenant_table_find(const struct tenant_table *table, uint32_t id);
int __wrap_dir_watch_start(struct dir_watch **watch, struct uv_loop_s *loop, const char *dir, dir_watch_fn changed,
                           void *arg, struct err *err);
void __wrap_dir_watch_stop(struct dir_watch *watch);

int __wrap_tenant_table_load(struct tenant_table **table, const char *dir, struct err *err) {
    (void)dir;
    (void)err;
    struct sim_table *copy = sim_copy(sim.table, sizeof *copy);
    for (size_t i = 0; i < copy->n; i++)
        copy->tenants[i].versions =
            sim_copy(copy->tenants[i].versions, copy->tenants[i].n_versions * sizeof *copy->tenants[i].versions);
    sim.current->table = sim.table;
    *table = (struct tenant_table *)copy;
    return 0;
}

// Whoever still looks at it sees nonsense.
void __wrap_tenant_table_free(struct tenant_table *table) {
    struct sim_table *copy = (struct sim_table *)table;
    for (size_t i = 0; copy != NULL && i < copy->n; i++)
        memset(copy->tenants[i].versions, 0x5a, copy->tenants[i].n_versions * sizeof *copy->tenants[i].versions);
    if (copy != NULL)
        memset(copy, 0x5a, sizeof *copy);
}

size_t __wrap_tenant_table_count(const struct tenant_table *table) {
    return ((const struct sim_table *)table)->n;
}

const struct tenant *__wrap_tenant_table_at(const struct tenant_table *table, size_t index) {
    return &((const struct sim_table *)table)->tenants[index];
}

const struct tenant *__wrap_tenant_table_find(const struct tenant_table *table, uint32_t id) {
    const struct sim_table *all = (const struct sim_table *)table;
    for (size_t i = 0; i < all->n; i++)
        if (all->tenants[i].id == id)
            return &all->tenants[i];
    return NULL;
}

int __wrap_dir_watch_start(struct dir_watch **watch, struct uv_loop_s *loop, const char *dir, dir_watch_fn changed,
                           void *arg, struct err *err) {
    (void)loop;
    (void)dir;
    (void)err;
    *watch = NULL;
    sim.current->tenants_changed = changed;
    sim.current->tenants_arg = arg;
    return 0;
}

void __wrap_dir_watch_stop(struct dir_watch *watch) {
    (void)watch;
}

// ---- files ----------------------------------------------------------------------------------------------------------

int __wrap_release_publish(const char *dir, const struct release_record *release, struct err *err);
int __wrap_access(const char *path, int mode);
int __wrap_dir_create(const char *path, mode_t mode, struct err *err);
int __wrap_file_replace(const char *path, mode_t mode, const void *data, size_t len, struct err *err);

const struct sim_file *disk_find(const char *path) {
    for (size_t i = 0; i < sim.n_files; i++)
        if (strcmp(sim.files[i].path, path) == 0)
            return &sim.files[i];
    return NULL;
}

int __wrap_release_publish(const char *dir, const struct release_record *release, struct err *err) {
    struct sim_file file = {.len = release->line_len};
    char key[64];
    if (sim.current->dead || sim.disk_full)
        return err_set(err, ERR_IO, "the disk is full");
    release_key(release->tenant, (enum release_kind)release->kind, release->period_day, key);
    *strrchr(key, '/') = '-';
    snprintf(file.path, sizeof file.path, "%s/%s.json", dir, key);
    const struct sim_file *there = disk_find(file.path);
    if (there != NULL) {
        if (there->len != file.len || memcmp(there->bytes, release->line, file.len) != 0)
            sim_fail("%s is published a second time, with other bytes", file.path);
        return 0;
    }
    file.bytes = sim_copy(release->line, file.len);
    sim.files = sim_room(sim.files, sim.n_files, &sim.files_room, sizeof *sim.files);
    sim.files[sim.n_files++] = file;
    sim_trace("aggregator %u publishes %s", sim.current->number, file.path);
    return 0;
}

int __wrap_access(const char *path, int mode) {
    (void)mode;
    return disk_find(path) != NULL ? 0 : -1;
}

int __wrap_dir_create(const char *path, mode_t mode, struct err *err) {
    (void)path;
    (void)mode;
    (void)err;
    return 0;
}

int __wrap_file_replace(const char *path, mode_t mode, const void *data, size_t len, struct err *err) {
    (void)path;
    (void)mode;
    (void)data;
    (void)len;
    return sim.disk_full ? err_set(err, ERR_IO, "the disk is full") : 0;
}

// ---- noise ----------------------------------------------------------------------------------------------------------

// With nothing but ones every draw is 0 where epsilon is 1, and 1 where it is 1/2, 1/3, …
static int one(void *arg, uint64_t *word) {
    (void)arg;
    *word = 1;
    return 0;
}

static int noise_open(void *arg, struct noise_source *source, void **line) {
    (void)arg;
    if (!sim.calm && sim_chance(20))
        return ERR_LIMIT;
    *source = (struct noise_source){.word = one};
    *line = NULL;
    return 0;
}

static void noise_close(void *arg, void *line) {
    (void)arg;
    (void)line;
}

const struct noise_ops sim_noise = {.open = noise_open, .close = noise_close};
