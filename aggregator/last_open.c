#include "aggregator/last_open_parts.h"

#include "aggregator/contact_hash.h"

#include <string.h>

#define SHARE_MAX 1024

int last_open_table_create(struct last_open_table **out, struct last_open_limit *limit) {
    CHECK(limit->contacts_max > 0);
    struct last_open_table *table = calloc(1, sizeof *table);
    if (table == NULL)
        return ERR_NOMEM;
    table->limit = limit;
    *out = table;
    return 0;
}

void last_open_table_free(struct last_open_table *table) {
    if (table == NULL)
        return;
    atomic_fetch_sub(&table->limit->taken, table->count + table->share);
    for (uint32_t i = 0; i < table->n_tenants; i++)
        free(table->tenants[i].buckets);
    bucket_pool_free(&table->pool);
    free(table->tenants);
    free(table->tenant_slots);
    free(table);
}

uint64_t last_open_count(const struct last_open_table *table) {
    return table->count;
}

uint64_t last_open_bytes(const struct last_open_table *table) {
    uint64_t bytes = sizeof *table + bucket_pool_bytes(&table->pool) + table->n_slots * sizeof *table->tenant_slots +
                     table->tenants_room * sizeof *table->tenants;
    for (uint32_t i = 0; i < table->n_tenants; i++)
        bytes += table->tenants[i].room * sizeof *table->tenants[i].buckets;
    return bytes;
}

// ---- tenants --------------------------------------------------------------------------------------------------------

static uint32_t tenant_slot(const struct last_open_table *table, uint32_t tenant) {
    uint32_t mask = table->n_slots - 1;
    uint32_t at = (tenant * 0x9e3779b1u) >> 7 & mask;
    while (table->tenant_slots[at] != 0 && table->tenants[table->tenant_slots[at] - 1].tenant != tenant)
        at = (at + 1) & mask;
    return at;
}

struct contacts *contacts_find(const struct last_open_table *table, uint32_t tenant) {
    if (table->n_slots == 0)
        return NULL;
    uint32_t place = table->tenant_slots[tenant_slot(table, tenant)];
    return place == 0 ? NULL : &table->tenants[place - 1];
}

uint64_t last_open_count_of(const struct last_open_table *table, uint32_t tenant) {
    const struct contacts *contacts = contacts_find(table, tenant);
    return contacts == NULL ? 0 : contacts->count;
}

static int tenant_slots_grow(struct last_open_table *table) {
    uint32_t larger = table->n_slots == 0 ? 8 : table->n_slots * 2;
    uint32_t *slots = calloc(larger, sizeof *slots);
    if (slots == NULL)
        return ERR_NOMEM;
    free(table->tenant_slots);
    table->tenant_slots = slots;
    table->n_slots = larger;
    for (uint32_t i = 0; i < table->n_tenants; i++)
        slots[tenant_slot(table, table->tenants[i].tenant)] = i + 1;
    return 0;
}

int contacts_obtain(struct last_open_table *table, uint32_t tenant, struct contacts **out) {
    *out = contacts_find(table, tenant);
    if (*out != NULL)
        return 0;
    if (table->n_tenants == table->tenants_room) {
        uint32_t room = table->tenants_room + table->tenants_room / 4 + 4;
        struct contacts *moved = realloc(table->tenants, room * sizeof *moved);
        if (moved == NULL)
            return ERR_NOMEM;
        table->tenants = moved;
        table->tenants_room = room;
    }
    if ((table->n_tenants + 1) * 2 > table->n_slots && tenant_slots_grow(table) != 0)
        return ERR_NOMEM;
    struct bucket *first = malloc(sizeof *first);
    if (first == NULL)
        return ERR_NOMEM;
    *first = (struct bucket){.ref = POOL_NONE};
    table->tenant_slots[tenant_slot(table, tenant)] = table->n_tenants + 1;
    *out = &table->tenants[table->n_tenants++];
    **out = (struct contacts){.tenant = tenant, .n_buckets = 1, .room = 1, .buckets = first};
    return 0;
}

// ---- memory of buckets ----------------------------------------------------------------------------------------------

static size_t bucket_units(size_t n, unsigned width) {
    size_t units = (n * width + sizeof(struct bucket_owner) + POOL_UNIT - 1) / POOL_UNIT;
    if (units > POOL_UNITS_MAX)
        units = (units + POOL_UNITS_MAX - 1) / POOL_UNITS_MAX * POOL_UNITS_MAX;
    return n == 0 ? 0 : units;
}

static void owner_set(const struct last_open_table *table, uint32_t ref, size_t units, struct bucket_owner owner) {
    memcpy(bucket_pool_at(&table->pool, ref) + units * POOL_UNIT - sizeof owner, &owner, sizeof owner);
}

static void bucket_release(struct last_open_table *table, uint32_t ref, size_t units) {
    struct bucket_owner owner;
    if (units == 0 || !bucket_pool_release(&table->pool, units, ref))
        return;
    memcpy(&owner, bucket_pool_at(&table->pool, ref) + units * POOL_UNIT - sizeof owner, sizeof owner);
    CHECK(owner.tenant < table->n_tenants && owner.bucket < table->tenants[owner.tenant].n_buckets);
    table->tenants[owner.tenant].buckets[owner.bucket].ref = ref;
}

int place_resize(struct last_open_table *table, const struct contacts *contacts, struct place *place, size_t n) {
    struct bucket *bucket = place->bucket;
    size_t units = bucket_units(bucket->n, place->width), wanted = bucket_units(n, place->width);
    uint32_t old = bucket->ref, fresh = POOL_NONE;
    if (units == wanted)
        return 0;
    if (wanted > 0) {
        if (bucket_pool_take(&table->pool, wanted, &fresh) != 0)
            return ERR_NOMEM;
        const struct bucket_owner owner = {.tenant = (uint32_t)(contacts - table->tenants),
                                           .bucket = (uint32_t)(bucket - contacts->buckets)};
        if (units > 0)
            memcpy(bucket_pool_at(&table->pool, fresh), bucket_pool_at(&table->pool, old),
                   (n < bucket->n ? n : bucket->n) * place->width);
        owner_set(table, fresh, wanted, owner);
    }
    bucket->ref = fresh;
    bucket_release(table, old, units);
    place->bytes = bucket->ref == POOL_NONE ? NULL : bucket_pool_at(&table->pool, bucket->ref);
    return 0;
}

// ---- growth ---------------------------------------------------------------------------------------------------------

static int buckets_reserve(struct contacts *contacts) {
    if (contacts->n_buckets < contacts->room)
        return 0;
    uint32_t room = contacts->room + contacts->room / 8 + 1;
    struct bucket *moved = realloc(contacts->buckets, room * sizeof *moved);
    if (moved == NULL)
        return ERR_NOMEM;
    contacts->buckets = moved;
    contacts->room = room;
    return 0;
}

// A part of a split: entries from..to-1, one bit of the rest fewer, perhaps in fewer bytes.
static void entries_copy(uint8_t *to_bytes, unsigned to_width, const struct place *old, size_t from, size_t to) {
    const entry mask = ((entry)1 << (64 - old->bits - 1 + VALUE_BITS)) - 1;
    for (size_t i = from; i < to; i++)
        entry_write(to_bytes, to_width, i - from, entry_read(old->bytes, old->width, i) & mask);
}

// Splits the next bucket of the tenant. Its entries ascend, so the halves are its first and its last ones.
static int contacts_split(struct last_open_table *table, struct contacts *contacts) {
    if (contacts->n_buckets >= UINT32_MAX / 2 || buckets_reserve(contacts) != 0)
        return ERR_NOMEM;
    unsigned level = 31 - (unsigned)__builtin_clz(contacts->n_buckets);
    uint32_t number = contacts->n_buckets - (1u << level);
    struct place old = {.bucket = &contacts->buckets[number], .bits = level, .width = entry_width(level)};
    old.bytes = old.bucket->n == 0 ? NULL : bucket_pool_at(&table->pool, old.bucket->ref);
    old.rest = UINT64_C(1) << (63 - level);
    uint32_t n = old.bucket->n, low_n = (uint32_t)place_search(&old), refs[2] = {POOL_NONE, POOL_NONE};
    const uint32_t numbers[2] = {number, contacts->n_buckets}, counts[2] = {low_n, n - low_n};
    unsigned width = entry_width(level + 1);
    for (int half = 0; half < 2; half++) {
        size_t units = bucket_units(counts[half], width);
        if (units == 0)
            continue;
        if (bucket_pool_take(&table->pool, units, &refs[half]) != 0) {
            if (refs[0] != POOL_NONE && half == 1) // it was the last of its size: none moves
                CHECK(!bucket_pool_release(&table->pool, bucket_units(low_n, width), refs[0]));
            return ERR_NOMEM;
        }
        owner_set(table, refs[half], units,
                  (struct bucket_owner){.tenant = (uint32_t)(contacts - table->tenants), .bucket = numbers[half]});
        entries_copy(bucket_pool_at(&table->pool, refs[half]), width, &old, half == 0 ? 0 : low_n, half == 0 ? low_n : n);
    }
    uint32_t old_ref = old.bucket->ref;
    contacts->n_buckets++;
    for (int half = 0; half < 2; half++)
        contacts->buckets[numbers[half]] = (struct bucket){.ref = refs[half], .n = counts[half]};
    bucket_release(table, old_ref, bucket_units(n, old.width));
    return 0;
}

// ---- the limit ------------------------------------------------------------------------------------------------------

int share_reserve(struct last_open_table *table) {
    struct last_open_limit *limit = table->limit;
    if (table->share > 0)
        return 0;
    uint64_t wanted = limit->contacts_max / 65536;
    wanted = wanted > SHARE_MAX ? SHARE_MAX : wanted == 0 ? 1 : wanted;
    uint64_t taken = atomic_load(&limit->taken), more;
    do {
        if (taken >= limit->contacts_max)
            return ERR_LIMIT;
        more = limit->contacts_max - taken < wanted ? limit->contacts_max - taken : wanted;
    } while (!atomic_compare_exchange_weak(&limit->taken, &taken, taken + more));
    table->share = more;
    return 0;
}

// What erasing leaves goes back, so that another table can have it.
static void share_return(struct last_open_table *table) {
    if (++table->share < 2 * SHARE_MAX)
        return;
    atomic_fetch_sub(&table->limit->taken, SHARE_MAX);
    table->share -= SHARE_MAX;
}

// ---- contacts -------------------------------------------------------------------------------------------------------

bool last_open_get(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open *out) {
    const struct contacts *contacts = contacts_find(table, tenant);
    if (contacts == NULL)
        return false;
    struct place place = place_of(table, contacts, contact_hash(pseudonym));
    return place_get(&place, place_search(&place), out);
}

int last_open_put(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym, struct last_open value) {
    struct contacts *contacts;
    struct last_open before;
    uint64_t hash = contact_hash(pseudonym);
    int rc = contacts_obtain(table, tenant, &contacts);
    if (rc != 0)
        return rc;
    struct place place = place_of(table, contacts, hash);
    size_t at = place_search(&place);
    if (!place_get(&place, at, &before)) {
        if ((rc = share_reserve(table)) != 0)
            return rc;
        if (contacts->count >= (uint64_t)contacts->n_buckets * BUCKET_MEAN) {
            if ((rc = contacts_split(table, contacts)) != 0)
                return rc;
            place = place_of(table, contacts, hash);
            at = place_search(&place);
        }
        if ((rc = place_resize(table, contacts, &place, (size_t)place.bucket->n + 1)) != 0)
            return rc;
        memmove(place.bytes + (at + 1) * place.width, place.bytes + at * place.width, (place.bucket->n - at) * place.width);
        place.bucket->n++;
        contacts->count++;
        table->count++;
        table->share--;
    }
    entry_write(place.bytes, place.width, at, entry_make(place.rest, value));
    return 0;
}

int last_open_erase(struct last_open_table *table, uint32_t tenant, uint64_t pseudonym) {
    struct contacts *contacts = contacts_find(table, tenant);
    if (contacts == NULL)
        return 0;
    struct place place = place_of(table, contacts, contact_hash(pseudonym));
    size_t at = place_search(&place), left = place.bucket->n;
    struct last_open before;
    if (!place_get(&place, at, &before))
        return 0;
    CHECK(contacts->count > 0 && table->count > 0);
    left -= at + 1;
    memmove(place.bytes + at * place.width, place.bytes + (at + 1) * place.width, left * place.width);
    if (place_resize(table, contacts, &place, (size_t)place.bucket->n - 1) != 0) {
        memmove(place.bytes + (at + 1) * place.width, place.bytes + at * place.width, left * place.width);
        entry_write(place.bytes, place.width, at, entry_make(place.rest, before));
        return ERR_NOMEM;
    }
    place.bucket->n--;
    contacts->count--;
    table->count--;
    share_return(table);
    return 0;
}

// ---- walks ----------------------------------------------------------------------------------------------------------

// The first contact of the tenant from that hash on; `hash` moves on behind it, and wraps to 0 where the tenant ends.
static bool contacts_next(const struct last_open_table *table, const struct contacts *contacts, uint64_t *hash,
                          struct last_open_contact *contact) {
    do {
        struct place place = place_of(table, contacts, *hash);
        uint64_t begin = *hash - place.rest, span = UINT64_MAX >> place.bits;
        size_t at = place_search(&place);
        if (at < place.bucket->n) {
            entry there = entry_read(place.bytes, place.width, at);
            uint64_t found = begin + entry_rest(there);
            *contact = (struct last_open_contact){
                .tenant = contacts->tenant, .pseudonym = contact_unhash(found), .value = entry_value(there)};
            *hash = found + 1;
            return true;
        }
        *hash = begin + span + 1;
    } while (*hash != 0);
    return false;
}

bool last_open_next(const struct last_open_table *table, struct last_open_cursor *cursor,
                    struct last_open_contact *contact) {
    while (cursor->tenant < table->n_tenants) {
        bool found = contacts_next(table, &table->tenants[cursor->tenant], &cursor->hash, contact);
        cursor->tenant += cursor->hash == 0;
        if (found)
            return true;
    }
    return false;
}

bool last_open_next_of(const struct last_open_table *table, uint32_t tenant, struct last_open_cursor *cursor,
                       struct last_open_contact *contact) {
    const struct contacts *contacts = contacts_find(table, tenant);
    if (contacts == NULL || cursor->tenant != 0)
        return false;
    bool found = contacts_next(table, contacts, &cursor->hash, contact);
    cursor->tenant = cursor->hash == 0; // the end, for the next call
    return found;
}
